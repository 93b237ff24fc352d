"""A POSIX shell on the device, over a serial line: scripts that run whole or not at all.

A script and what it prints are public or secret alike; it never stands on a command line that others can list.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from birthmark.adapters.targets.links.budget import garbled
from birthmark.adapters.targets.links.talk import Talk

__all__ = ["LineShell", "Ran", "Shell"]

_PIECE = 512
"""Characters of a script in one line: far below the 4,096 that a Linux terminal keeps of a line."""
_ANSWER = re.compile(r"bm([0-9a-f]{8}):([A-Za-z0-9+/=]*):([0-9a-f]{64})")
_GARBLED = "garbled"
_SYNC_S = 1.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a script: its exit status and what it printed."""

    status: int
    output: bytes


class Shell(Protocol):
    """Runs scripts of ours on the device.

    A script has to be one that may run twice: ``run`` repeats it while the link is to blame and the budget lasts.
    ``hold`` asks the fence, if there is one.
    """

    def run(self, script: str) -> Ran: ...

    def hold(self) -> None: ...


class LineShell:
    """A shell behind a serial line, logged in.

    Each script is carried in base64 and runs only with the right checksum; what it prints comes back the same way.
    """

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._is_quiet = False

    def hold(self) -> None:
        self._talk.hold()

    def run(self, script: str) -> Ran:
        return self._talk.persist(lambda: self._run(script), recover=self._recover)

    def _run(self, script: str) -> Ran:
        if not self._is_quiet:
            # Neither the echo nor a history file keeps what follows.
            self._expect(
                "unset HISTFILE; (set +o history) 2>/dev/null && set +o history; "
                "stty -echo 2>/dev/null; PS1=; PS2=; o=; "
            )
            self._is_quiet = True
        carried = base64.b64encode(script.encode()).decode()
        pieces = [carried[at : at + _PIECE] for at in range(0, len(carried), _PIECE)]
        for place, piece in enumerate(pieces):
            self._expect(f"b{place}='{piece}'; ")
        whole = "".join(f"$b{place}" for place in range(len(pieces)))
        digest = sha256(carried.encode()).hexdigest()
        found = self._expect(
            f'b="{whole}"; if [ "$(printf %s "$b" | sha256sum | cut -c1-64)" = {digest} ]; then '
            'o=$( { (eval "$(printf %s "$b" | base64 -d)") 2>/dev/null </dev/null; echo "x$?"; } '
            '| base64 | tr -d "\\n"); '
            f"else o={_GARBLED}; fi; {' '.join(f'b{place}=' for place in range(len(pieces)))} b=; "
        )
        if found == _GARBLED:
            raise garbled(self._talk.name, "a script on its way to the device")
        try:
            output, ended, status = base64.b64decode(found, validate=True).rpartition(b"x")
        except binascii.Error:
            output, ended, status = b"", b"", b""
        if not ended or not re.fullmatch(rb"[0-9]{1,3}\n", status):
            raise garbled(self._talk.name, "the answer of the shell")
        return Ran(int(status), output)

    def _expect(self, command: str) -> str:
        """Run one line and return the variable ``o``, guarded by its checksum.

        Each line is answered before the next one is sent: a console without flow control loses nothing. The mark is
        taken apart in the command, so that an echo is never mistaken for the answer.
        """
        mark = uuid.uuid4().hex[:8]
        answer = (
            f'printf "\\nbm%s:%s:%s\\n" "{mark[:4]}""{mark[4:]}" "$o" "$(printf %s "$o" | sha256sum | cut -c1-64)"; o='
        )
        self._talk.port.drain()
        self._talk.port.send(f"{command}{answer}\n".encode("ascii"), self._talk.patience())
        end = self._talk.listen(_ANSWER, self._talk.patience()).end
        if end[1] != mark or sha256(end[2].encode()).hexdigest() != end[3]:
            raise garbled(self._talk.name, "the answer of the shell")
        return end[2]

    def _recover(self) -> None:
        """Close whatever was left open, a quotation or a program that reads, and begin again."""
        self._is_quiet = False
        self._talk.hush()
        self._talk.port.send(b"\x03\n", _SYNC_S)
        self._talk.hush()
