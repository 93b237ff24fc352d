"""The real server process over a workspace directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BIRTHMARK", "Running", "serving"]

BIRTHMARK = str(Path(sys.executable).parent / "birthmark")


@dataclass
class Running:
    """A server process."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def serving(
    workspace: Path, log: Path, *, environment: dict[str, str] | None = None, command: tuple[str, ...] = (),
    port: int = 0,
) -> Iterator[Running]:  # fmt: skip
    """Run ``birthmark serve`` (behind ``command``, if given) until the end of the block."""
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [*command, BIRTHMARK, "serve", "-C", str(workspace), "--port", str(port)],
            stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, **(environment or {})},
        )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    assert line.startswith("serving "), (line, log.read_text()[-3000:])
    try:
        yield Running(process, line.split()[1], log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        process.stdout.close()
