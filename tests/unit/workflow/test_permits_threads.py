"""Heads are threads: what they open at once must be one thing."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from birthmark.workflow.orders.permits import Permits


def test_two_heads_that_open_a_ca_at_once_share_one_issuer() -> None:
    """A permit is bound to its issuer: with two of them the second head could not use the first one's permit."""
    both_are_inside = threading.Barrier(2, timeout=10)

    def open_slowly(ca: str) -> Any:
        both_are_inside.wait()
        return object()

    nothing: Any = None
    permits = Permits(
        ledger=nothing, records=nothing, issuer=open_slowly, profile=nothing, values=nothing, clock=nothing
    )
    with ThreadPoolExecutor(2) as heads:
        first, second = heads.map(permits.issuer, ["issuing", "issuing"])
    assert first is second


_FIRST_READERS = """
import sys, threading
from birthmark.pki.profile import load_preset, parse_profile
from birthmark.pki.templatefile import TemplateFile
from birthmark.errors import BirthmarkError
from importlib.resources import files
sys.setswitchinterval(1e-6)
text = files("birthmark.pki.presets").joinpath("tls-client.toml").read_bytes()
gate = threading.Barrier(8)
def read(number):
    gate.wait()
    for kind in ((TemplateFile.decode, b'{"profile":"{}"}'), (parse_profile, text)):
        try:
            kind[0](kind[1])
        except BirthmarkError:
            pass
threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_heads_that_read_the_first_template_at_once_do_not_bring_the_station_down() -> None:
    """msgspec learns a type when it is first read, and two threads that do so at once end the process (SIGSEGV)."""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", _FIRST_READERS], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
