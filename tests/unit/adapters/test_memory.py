"""The memory of a process is its own: not that of the one that started it, and known after it is gone."""

from __future__ import annotations

import subprocess
import sys

from birthmark.adapters.memory import peak_mb, watched_children

BIG = 200
SMALL = "from birthmark.adapters.memory import peak_mb; print(peak_mb())"
TRAP = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
PARENT = f"""
import subprocess, sys
held = b"x" * ({BIG} << 20)
for program in sys.argv[1:]:
    subprocess.run([sys.executable, "-c", program], check=True)
"""


def test_a_small_process_is_small_whoever_started_it() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT, SMALL, TRAP], capture_output=True, text=True, check=True)
    small, trap = map(float, done.stdout.split())
    assert 1 < small < BIG
    assert trap > BIG, "this is why ru_maxrss is not asked"


def test_what_children_needed_is_known_when_they_are_gone() -> None:
    program = f"import time; held = b'x' * ({BIG} << 20); time.sleep(0.4)"
    with watched_children() as told:
        for _ in range(2):
            assert subprocess.run([sys.executable, "-c", program], check=True).returncode == 0
    assert BIG < told() < 2 * BIG, "one after the other is not both at once"


def test_a_process_that_is_gone_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert peak_mb(process.pid) == 0
    assert peak_mb() > 1
