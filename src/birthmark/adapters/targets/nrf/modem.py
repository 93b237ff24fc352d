"""A modem at work: AT commands and their answers (3GPP TS 27.007; Nordic's AT command reference for the others)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from birthmark.adapters.targets.links.budget import garbled
from birthmark.adapters.targets.links.talk import Talk
from birthmark.errors import DeviceFault, Unavailable

__all__ = ["CERTIFICATE", "KEY", "NOTE", "Modem", "Stored"]

CERTIFICATE, KEY, NOTE = 1, 2, 4
"""Types of credentials in ``%CMNG``: client certificate, client private key, PSK identity (any ASCII text)."""

_END = re.compile(r"(OK)|ERROR|\+CME ERROR: ?([0-9]{1,5})")
_IMEI = re.compile(r"[0-9]{15}")
_LISTED = re.compile(r'%CMNG: ?([0-9]{1,10}),([0-9]{1,2}),"([0-9A-Fa-f]{64})"')
_READ = re.compile(r'%CMNG: ?([0-9]{1,10}),([0-9]{1,2}),"([0-9A-Fa-f]{64})","(.*)"', re.DOTALL)
_NOT_FOUND = 513
_SYNC_S = 1.0
_SAME_AGAIN = 2
"""So often the same wrong thing may be found after a write; the next time it is the device and not the line."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A credential as the modem reads it out, line ends as LF. ``digest``: SHA-256 of what was once written."""

    digest: bytes
    content: str

    def is_whole(self) -> bool:
        """Say whether the content has its digest, in one of the spellings that tools write."""
        bare = self.content.removesuffix("\n")
        spellings = (self.content, bare, self.content.replace("\n", "\r\n"), bare.replace("\n", "\r\n"))
        return self.digest in {sha256(text.encode()).digest() for text in spellings}


class Modem:
    """Speaks with the modem behind ``talk``."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def connect(self) -> str:
        """Wake the line and return the IMEI; its check digit and a second reading guard it."""
        for command in ("AT", "AT+CMEE=1"):
            # The first one may end a line that was left half said.
            self._talk.persist(partial(self._certain, command), recover=self._resync)
        return self._talk.persist(self._imei, recover=self._resync)

    def silence_radio(self) -> None:
        """Go to flight mode: the store takes nothing while the modem is active."""
        self._talk.hold()
        self._certain("AT+CFUN=4")

    def digest_of(self, sec_tag: int, kind: int) -> bytes | None:
        """Return the SHA-256 that the modem lists for a credential; None if it has none."""

        def read() -> bytes | None:
            lines = self._certain(f"AT%CMNG=1,{sec_tag},{kind}", absent=_NOT_FOUND)
            found = [match for line in lines if (match := _LISTED.fullmatch(line)) is not None]
            if len(found) != len([line for line in lines if line.startswith("%CMNG")]) or len(found) > 1:
                raise garbled(self._talk.name, "a list of credentials")
            if found and (int(found[0][1]), int(found[0][2])) != (sec_tag, kind):
                raise garbled(self._talk.name, "a list of other credentials")
            return bytes.fromhex(found[0][3]) if found else None

        return self._talk.persist(lambda: self._talk.twice(read), recover=self._resync)

    def read(self, sec_tag: int, kind: int) -> Stored | None:
        """Return a credential that may be read, None if there is none; its own digest guards it."""

        def read() -> Stored | None:
            lines = self._certain(f"AT%CMNG=2,{sec_tag},{kind}", absent=_NOT_FOUND)
            match = _READ.search("\n".join(lines))
            if match is None:
                return None
            if (int(match[1]), int(match[2])) != (sec_tag, kind):
                raise garbled(self._talk.name, "another credential")
            return Stored(bytes.fromhex(match[3]), match[4])

        def checked() -> Stored | None:
            found = read()
            if found is not None and found.is_whole():
                return found
            return self._talk.twice(read)

        return self._talk.persist(checked, recover=self._resync)

    def write(self, sec_tag: int, kind: int, content: str) -> None:
        """Put a credential into the store and read its digest back; ``DeviceFault("target.write.not_kept")``."""
        wanted = sha256(content.encode()).digest()
        before: list[bytes | None] = []
        while True:
            if self.digest_of(sec_tag, kind) is not None:
                self.delete(sec_tag, kind)
            self._talk.hold()
            try:
                self._say(f'AT%CMNG=0,{sec_tag},{kind},"{content}"')
                problem = garbled(self._talk.name, "the modem took something else")
            except Unavailable as unclear:
                if unclear.code != "link.silent":
                    raise
                problem = unclear
                self._resync()
            except DeviceFault as refusal:
                if before.count(None) >= _SAME_AGAIN:
                    raise
                problem = garbled(self._talk.name, "the modem refused the write")
                problem.__cause__ = refusal
            found = self.digest_of(sec_tag, kind)
            if found == wanted:
                return
            if before.count(found) >= _SAME_AGAIN:
                raise _not_kept(sec_tag, kind)
            before.append(found)
            self._talk.budget.spend(problem)

    def delete(self, sec_tag: int, kind: int) -> None:
        """Remove a credential; it is gone on return."""
        self._talk.hold()
        self._certain(f"AT%CMNG=3,{sec_tag},{kind}", absent=_NOT_FOUND)

    def make_key(self, sec_tag: int, subject: str, usage: str) -> str:
        """Let the modem make a P-256 key; return what it says. Never repeated here: a second one is refused (519)."""
        self._talk.hold()
        lines = self._say(f'AT%KEYGEN={sec_tag},2,0,"{subject}","{usage}"')
        return self._quoted(lines, "%KEYGEN")

    def token(self, challenge: bytes) -> str:
        """Return an attestation token for ``challenge`` (16 octets)."""
        return self._signed(f'AT%ATTESTTOKEN="{challenge.hex()}"', "%ATTESTTOKEN")

    def jwt(self, sec_tag: int, subject: str, audience: str) -> str:
        """Return a JSON Web Token that the private key in ``sec_tag`` signed (modem firmware 1.3 and later)."""
        return self._signed(f'AT%JWT=0,0,"{subject}","{audience}",{sec_tag},2', "%JWT")

    def _signed(self, command: str, name: str) -> str:
        return self._talk.persist(lambda: self._quoted(self._certain(command), name), recover=self._resync)

    def _imei(self) -> str:
        def read() -> str:
            found = [line.strip('"') for line in self._certain("AT+CGSN") if _IMEI.fullmatch(line.strip('"'))]
            if len(found) != 1 or not _luhn(found[0]):
                raise garbled(self._talk.name, "an IMEI")
            return found[0]

        return self._talk.twice(read)

    def _quoted(self, lines: Sequence[str], name: str) -> str:
        found = [line for line in lines if line.startswith(name)]
        match = re.fullmatch(rf'{name}: ?"([A-Za-z0-9_.-]{{1,8192}})"', found[0]) if len(found) == 1 else None
        if match is None:
            raise garbled(self._talk.name, f"the answer to {name}")
        return match[1]

    def _certain(self, command: str, *, absent: int | None = None) -> Sequence[str]:
        """Say a command that may be said twice: what was refused may have been garbled on its way."""
        try:
            return self._say(command, absent=absent)
        except DeviceFault:
            return self._say(command, absent=absent)

    def _say(self, command: str, *, absent: int | None = None) -> Sequence[str]:
        """Return the lines of the answer; none for the error ``absent``; else ``DeviceFault("target.modem.error")``."""
        answer = self._talk.ask(command, _END)
        if answer.end[1] is not None:
            return answer.lines
        code = None if answer.end[2] is None else int(answer.end[2])
        if absent is not None and code == absent:
            return ()
        name = re.match(r"AT[%+]?[A-Z]*", command)
        raise DeviceFault(
            "target.modem.error",
            f"the modem refuses {'AT' if name is None else name[0]}" + ("" if code is None else f" with error {code}"),
            hint="See the error numbers in docs/targets/nrf.md; nothing counts as written that was not read back.",
            command="AT" if name is None else name[0],
            error=code,
        )

    def _resync(self) -> None:
        """Get out of a command that the modem still waits to end: a quotation mark may have been lost."""
        self._talk.hush()
        for text in ("AT", '"', "AT"):
            try:
                # Whatever is answered shows that no quotation is open; one mark more would open it.
                self._talk.ask_within(text, _END, _SYNC_S)
                break
            except Unavailable as problem:
                if problem.code != "link.silent":
                    raise
        self._talk.hush()


def _luhn(imei: str) -> bool:
    doubled = [int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(imei)]
    return sum(number // 10 + number % 10 for number in doubled) % 10 == 0


def _not_kept(sec_tag: int, kind: int) -> DeviceFault:
    return DeviceFault(
        "target.write.not_kept",
        f"the device says that it stored credential {sec_tag}, type {kind}, and shows something else",
        hint="Do not ship it; if it repeats with a good cable, its store is broken.",
        sec_tag=sec_tag,
        type=kind,
    )
