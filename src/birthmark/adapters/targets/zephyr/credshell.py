"""The shell commands ``cred`` and ``hwinfo`` of Zephyr (docs/targets/zephyr.md names the pages of their makers)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar

from birthmark.adapters.targets.links.budget import garbled
from birthmark.adapters.targets.links.talk import Talk
from birthmark.errors import DeviceFault, Unavailable

__all__ = ["CredShell"]

_T = TypeVar("_T")
_CHUNK = 48
"""Characters of base64 in one line; the shell's line buffer takes few more."""
_SYNC_S = 1.0
_SAME_AGAIN = 2
"""So often the same wrong thing may be found after a write; the next time it is the device and not the line."""
_PROMPT = r"(?:[a-z_]{1,16}:~\$ )?"
_LISTED = re.compile(rf"{_PROMPT}([0-9]{{1,10}}),([A-Z_]{{1,8}}),([A-Za-z0-9+/=]{{1,64}}|N/A),(-?[0-9]{{1,5}})")
_END_OF_LIST = re.compile(rf"{_PROMPT}([0-9]{{1,4}}) credentials found\.")
_STORED = re.compile(rf"{_PROMPT}(?:Stored ([0-9]{{1,3}}) bytes\.|(Not enough room) in credential buffer.*)")
_CLEARED = re.compile(rf"{_PROMPT}Credential buffer cleared\.")
_ADDED = re.compile(
    rf"{_PROMPT}(?:(Added) TLS credential of type .*|Failed to add TLS credential.*|Could not decode .*|"
    r"TLS credential with sectag .* already exists\.|Not enough heap.*|No reference slot.*|Please provide .*)"
)
_DELETED = re.compile(rf"{_PROMPT}(?:(Deleted|There is no) TLS credential .*|Deleting TLS credential .* failed .*)")
_GOT = re.compile(
    rf"{_PROMPT}(?:Credential buffer cleared\.|(There is no) TLS credential .*|"
    r"(The stored credential isn't|Could not|Not enough).*)"
)
_BASE64_LINE = re.compile(rf"{_PROMPT}([A-Za-z0-9+/]{{4,128}}={{0,2}})")
_HARDWARE = re.compile(rf"{_PROMPT}(?:ID: 0x([0-9a-fA-F]{{2,128}})|.*(not found|[Nn]o hwinfo|Failed|error).*)")


class CredShell:
    """Speaks with the shell behind ``talk``."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def identity(self) -> str:
        """Return the hardware id, lower-case hexadecimal, read twice."""

        def read() -> str:
            found = self._talk.ask("hwinfo devid", _HARDWARE).end[1]
            if found is None:
                raise DeviceFault(
                    "target.identity.unknown",
                    f"the device behind {self._talk.name} does not say its hardware id",
                    hint="Build its firmware with CONFIG_HWINFO_SHELL, so that `hwinfo devid` answers.",
                    link=self._talk.name,
                )
            return str(found).lower()

        return self._sure(lambda: self._talk.twice(read))

    def digest_of(self, sec_tag: int, kind: str) -> bytes | None:
        """Return the SHA-256 that the device lists for a credential, None if it has none; read twice."""

        def read() -> bytes | None:
            answer = self._talk.ask(f"cred list {sec_tag} {kind}", _END_OF_LIST)
            found = [match for line in answer.lines if (match := _LISTED.fullmatch(line)) is not None]
            if str(len(found)) != answer.end[1] or len(found) > 1:
                raise garbled(self._talk.name, "a list of credentials")
            if not found:
                return None
            if (int(found[0][1]), found[0][2]) != (sec_tag, kind):
                raise garbled(self._talk.name, "a list of other credentials")
            if found[0][4] != "0":
                raise DeviceFault(
                    "target.digest.unsupported",
                    f"the device behind {self._talk.name} makes no digest of a credential",
                    hint="Its credential store has to support digests: without them nothing is proven.",
                    link=self._talk.name,
                )
            digest = _decoded(found[0][3])
            if len(digest) != 32:
                raise garbled(self._talk.name, "a digest")
            return digest

        return self._sure(lambda: self._talk.twice(read))

    def read(self, sec_tag: int, kind: str) -> bytes | None:
        """Return a credential without the NUL that ends it, None if there is none. Never called for a private key."""

        def read() -> bytes | None:
            answer = self._talk.ask(f"cred get {sec_tag} {kind} bint", _GOT)
            if answer.end[1] is not None:
                return None
            lines = [match[1] for line in answer.lines if (match := _BASE64_LINE.fullmatch(line)) is not None]
            if answer.end[2] is not None:
                return b""
            return b"".join(_decoded(line) for line in lines)

        return self._sure(lambda: self._talk.twice(read))

    def write(self, sec_tag: int, kind: str, content: bytes, *, ended: bool) -> None:
        """Put a credential into the store, with a NUL at its end if ``ended``, and read its digest back.

        ``DeviceFault("target.write.not_kept")`` if the device shows the same wrong digest each time.
        """
        wanted = sha256(content + b"\0" * ended).digest()
        before: list[bytes | None] = []
        while True:
            if self.digest_of(sec_tag, kind) is not None:
                self.delete(sec_tag, kind)
            self._talk.hold()
            problem = self._fill(sec_tag, kind, content, ended=ended)
            found = self.digest_of(sec_tag, kind)
            if found == wanted:
                return
            if before.count(found) >= _SAME_AGAIN:
                raise DeviceFault(
                    "target.write.not_kept",
                    f"the device says that it stored credential {sec_tag}, type {kind}, and shows something else",
                    hint="Do not ship it; if it repeats with a good cable, its store is broken or full.",
                    sec_tag=sec_tag,
                    type=kind,
                )
            before.append(found)
            self._talk.budget.spend(problem)

    def delete(self, sec_tag: int, kind: str) -> None:
        """Remove a credential; it is gone on return."""
        self._talk.hold()
        self._sure(lambda: self._talk.ask(f"cred del {sec_tag} {kind}", _DELETED))

    def _fill(self, sec_tag: int, kind: str, content: bytes, *, ended: bool) -> Unavailable:
        """Send a credential; return what is wrong with the link, should it not be there afterwards."""
        text = base64.b64encode(content).decode()
        try:
            self._talk.ask("cred buf clear", _CLEARED)
            for at in range(0, len(text), _CHUNK):
                chunk = text[at : at + _CHUNK]
                answer = self._talk.ask(f"cred buf {chunk}", _STORED)
                if answer.end[2] is not None:
                    raise DeviceFault(
                        "target.store.full",
                        f"the credential buffer of the device behind {self._talk.name} is too small",
                        hint="Raise CONFIG_TLS_CREDENTIALS_SHELL_CRED_BUF_SIZE in its firmware, or use chain=issuing.",
                        link=self._talk.name,
                    )
                if answer.end[1] != str(len(chunk)):
                    return garbled(self._talk.name, "a piece of a credential")
            self._talk.ask(f"cred add {sec_tag} {kind} DEFAULT {'bint' if ended else 'bin'}", _ADDED)
        except Unavailable as problem:
            if problem.code not in ("link.silent", "link.garbled"):
                raise
            self._resync()
            return problem
        return garbled(self._talk.name, "the device took something else")

    def _sure(self, attempt: Callable[[], _T]) -> _T:
        return self._talk.persist(attempt, recover=self._resync)

    def _resync(self) -> None:
        """End whatever line the shell still has, and read what it says to that."""
        self._talk.hush()
        self._talk.port.send(b"\x03\r\n", _SYNC_S)
        self._talk.hush()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
