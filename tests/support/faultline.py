"""Run a program and strike at its N-th system call of one kind, through strace."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["KILL", "strike"]

KILL = "signal=SIGKILL"


def strike(program: Path, *arguments: str | Path, call: str, fault: str, when: int) -> tuple[bool, str]:
    """Run ``program`` with ``fault`` at its ``when``-th ``call``; return (was it struck, what it printed).

    ``fault``: ``KILL`` or ``error=EIO`` and the like. ``call`` may be an alternation of strace (``rename,unlink``):
    then each of the calls counts for itself.
    """
    # With --seccomp-bpf strace 6.1 does not deliver the signal.
    trace = program.parent / "trace"
    command = ["strace", "-f", "-qq", "-o", trace, "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:{fault}:when={when}", sys.executable, program, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    killed = ran.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    struck = killed or "(INJECTED)" in trace.read_text()
    if not killed and ran.returncode != 0:
        raise AssertionError(ran.stderr)
    return struck, ran.stdout
