"""A POSIX shell on the device by the OpenSSH client, which runs as a child process of the station."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
import uuid
from collections.abc import Sequence

from birthmark.adapters.targets.links.budget import RetryBudget, silent
from birthmark.adapters.targets.links.shells import Ran
from birthmark.errors import DeviceFault, StationFault, Unavailable
from birthmark.ports import Fence

__all__ = ["SshShell"]

_MOST_OUTPUT = 64 * 1024
_READ_OCTETS = 16 * 1024
_STOP_S = 1.0


class SshShell:
    """Implements ``links.shells.Shell``. ``command``: ssh with all its options and the destination.

    One connection serves until ``close``; a script that did not come to its end is run again over a new one. Raises
    ``StationFault("link.ssh.missing")``; ``Unavailable``: ``link.ssh.failed`` or ``link.silent``, and ``link.budget``
    when there were too many of them.
    """

    def __init__(
        self, command: Sequence[str], name: str, budget: RetryBudget, *, answer_s: float, fence: Fence | None
    ) -> None:
        self._command = command
        self._name = name
        self._budget = budget
        self._answer_s = answer_s
        self._fence = fence
        self._child: subprocess.Popen[bytes] | None = None

    def hold(self) -> None:
        if self._fence is None:
            raise RuntimeError("a device is changed without a fence")
        self._fence.hold()

    def run(self, script: str) -> Ran:
        while True:
            try:
                return self._run(script, self._patience())
            except Unavailable as problem:
                self.close()
                if not problem.code.startswith("link."):
                    raise
                self._budget.spend(problem)

    def close(self) -> None:
        """End the connection. Doing it twice is safe."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait(_STOP_S)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()

    def _patience(self) -> float:
        if self._fence is None:
            return self._answer_s
        if (left := self._fence.remaining()) <= 0:
            self._fence.hold()
        return min(self._answer_s, left)

    def _run(self, script: str, seconds: float) -> Ran:
        child = self._child = self._child or self._connect()
        mark = uuid.uuid4().hex.encode()
        # sh reads the script from its standard input: no argument list ever holds it.
        text = f"({script}\n) 2>/dev/null </dev/null\necho {mark.decode()}$?\n"
        form = re.compile(rb"(.*)" + mark + rb"([0-9]{1,3})\n", re.DOTALL)
        over, came = time.monotonic() + seconds, b""
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("a child without pipes")
        try:
            os.write(child.stdin.fileno(), text.encode())
        except BrokenPipeError:
            raise self._failed(child) from None
        while (left := over - time.monotonic()) > 0:
            ready, _, _ = select.select([child.stdout], [], [], left)
            if not ready:
                break
            data = os.read(child.stdout.fileno(), _READ_OCTETS)
            if not data:
                raise self._failed(child)
            came += data
            if (found := form.fullmatch(came)) is not None:
                return Ran(int(found[2]), found[1])
            if len(came) > _MOST_OUTPUT:
                raise DeviceFault(
                    "target.shell.flood",
                    f"the shell of {self._name} prints more than 64 KiB",
                    hint="Look what its login scripts print; they have to be silent.",
                    target=self._name,
                )
        raise silent(self._name, seconds)

    def _connect(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self._command, "sh"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except FileNotFoundError as problem:
            raise StationFault(
                "link.ssh.missing",
                "the OpenSSH client is not installed on this station",
                hint="Install the package openssh-client.",
            ) from problem

    def _failed(self, child: subprocess.Popen[bytes]) -> Unavailable:
        """Return what became of a connection that ended before its time."""
        ready = select.select([child.stderr], [], [], _STOP_S)[0] if child.stderr is not None else []
        said = os.read(ready[0].fileno(), _READ_OCTETS) if ready else b""
        return Unavailable(
            "link.ssh.failed",
            f"no session with {self._name}: {_reason(said)}",
            hint="Try `ssh` by hand with the same options; host key, user key and network have to be right.",
            status=child.poll(),
        )


def _reason(stderr: bytes) -> str:
    """Return the last line that ssh says, as plain ASCII."""
    lines = stderr[-400:].decode("ascii", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return ascii(said[-1][:200]) if said else "ssh says nothing"
