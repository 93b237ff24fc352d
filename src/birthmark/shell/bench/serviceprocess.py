"""The real service in a process of its own, for benches and the demo."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from birthmark.errors import StationFault

__all__ = ["running_service"]


@contextmanager
def running_service(
    root: Path, *, log: Path, processors: set[int] | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run ``birthmark serve`` for the workspace ``root`` at a free port; yield the port and the process.

    ``processors``: the only ones it may run on. What it says on stderr goes to ``log``; it is ended in order.
    ``StationFault("serve.process")`` if it does not start.
    """
    command = [sys.executable, "-m", "birthmark.shell.cli.main", "serve", "-C", str(root), "--port", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file)
    if processors is not None:
        os.sched_setaffinity(process.pid, processors)
    try:
        line = b"" if process.stdout is None else process.stdout.readline()
        if not line.startswith(b"serving "):
            raise StationFault(
                "serve.process",
                f"the service did not start: {log.read_text()[-500:]}",
                hint=f"Read {log.name}; another program may hold the address.",
                path=str(log),
            )
        yield int(line.strip().rpartition(b":")[2]), process
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
