"""A real `sh` on a pseudo terminal, behind a line that may be bad: a Linux device with a serial console."""

from __future__ import annotations

import os
import pty
import signal
import threading
from pathlib import Path

from birthmark.testing.ptydevice import NO_NOISE, Noise, PtyDevice

__all__ = ["ShellOnPty"]


class ShellOnPty(PtyDevice):
    """Starts `sh -i` with a terminal of its own, as a login on a console has one."""

    def __init__(self, home: Path, *, noise: Noise = NO_NOISE, path: str | None = None) -> None:
        super().__init__(noise=noise)
        self._pid, self._shell = pty.fork()
        if self._pid == 0:
            os.chdir(home)
            environment = {"PATH": path or os.environ["PATH"], "HOME": str(home), "TERM": "dumb"}
            os.execvpe("sh", ["sh", "-i"], environment)  # noqa: S606
        self._back = threading.Thread(target=self._forward, daemon=True)
        self._back.start()

    def received(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._shell, data) :]

    def _forward(self) -> None:
        try:
            while data := os.read(self._shell, 4096):
                self.send(data)
        except OSError:
            return

    def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._back.join()
            os.close(self._shell)
        super().close()
