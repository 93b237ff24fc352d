"""A Zephyr device with the TLS credentials shell, as far as a production line sees one; its limits: docs/testing.md."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from birthmark.testing.ptydevice import NO_NOISE, Noise, PtyDevice

__all__ = ["ZephyrFaults", "ZephyrShellSimulator"]

_PROMPT = b"uart:~$ "
_BUFFER = 4096
_WIDTH = 64
_SHORT = {"CA_CERT": "CA", "SERVER_CERT": "SERV", "PRIVATE_KEY": "PK", "PRE_SHARED_KEY": "PSK"}
_KINDS = frozenset(_SHORT.values())


@dataclass
class ZephyrFaults:
    """What this device does wrong, each until it is set back.

    ``add_fails``: nothing can be added. ``stores_nothing``: additions are acknowledged and forgotten. ``stores``: kind
    → this content is stored instead of the one that was sent. ``no_digest``: the store makes no digests.
    ``no_identity``: there is no command ``hwinfo``. ``echo``: what is typed comes back.
    """

    add_fails: bool = False
    stores_nothing: bool = False
    stores: tuple[str, bytes] | None = None
    no_digest: bool = False
    no_identity: bool = False
    echo: bool = True


class ZephyrShellSimulator(PtyDevice):
    """Answers ``hwinfo devid`` and ``cred`` with ``buf``, ``buf clear``, ``add``, ``del``, ``get`` and ``list``.

    ``hardware_id``: hexadecimal. ``store``: (sec_tag, kind) → octets. ``lines``: what was typed, without contents.
    """

    def __init__(self, *, hardware_id: str = "0f1e2d3c4b5a6978", noise: Noise = NO_NOISE) -> None:
        super().__init__(noise=noise)
        self.hardware_id = hardware_id
        self.faults = ZephyrFaults()
        self.store: dict[tuple[int, str], bytes] = {}
        self.lines: list[str] = []
        self._typed = b""
        self._buffer = b""

    def received(self, data: bytes) -> None:
        """A line ends with CR or LF; Ctrl-C drops what was typed."""
        for octet in data:
            if octet == 3:
                self._typed = b""
            elif octet not in (10, 13):
                self._typed += bytes((octet,))
            elif self._typed:
                line, self._typed = self._typed.decode("latin-1"), b""
                echo = line.encode("latin-1") + b"\r\n" if self.faults.echo else b""
                said = "".join(f"{text}\r\n" for text in self._answer(line))
                self.send(echo + said.encode("latin-1") + _PROMPT)

    def _answer(self, line: str) -> list[str]:
        words = line.split()
        self.lines.append(" ".join(words[:2]))
        match words:
            case ["hwinfo", "devid"] if not self.faults.no_identity:
                return [f"Length: {len(self.hardware_id) // 2}", f"ID: 0x{self.hardware_id}"]
            case ["cred", "buf", "clear"]:
                self._buffer = b""
                return ["Credential buffer cleared."]
            case ["cred", "buf", chunk]:
                return self._fill(chunk)
            case ["cred", "add", tag, kind, _, form] if tag.isdigit():
                return self._add(int(tag), _SHORT.get(kind, kind), form)
            case ["cred", "del", tag, kind] if tag.isdigit():
                gone = self.store.pop((int(tag), _SHORT.get(kind, kind)), None)
                start = "Deleted TLS credential" if gone is not None else "There is no TLS credential"
                return [f"{start} with sectag {tag} and type {kind}."]
            case ["cred", "get", tag, kind, form] if tag.isdigit():
                return self._get(int(tag), _SHORT.get(kind, kind), form)
            case ["cred", "list", tag, kind] if tag.isdigit():
                return self._list(int(tag), _SHORT.get(kind, kind))
        return [f"{words[0] if words else ''}: command not found"]

    def _fill(self, chunk: str) -> list[str]:
        if len(self._buffer) + len(chunk) >= _BUFFER:
            self._buffer = b""
            return ["Not enough room in credential buffer for provided data.", "Credential buffer cleared."]
        self._buffer += chunk.encode("latin-1")
        return [f"Stored {len(chunk)} bytes."]

    def _add(self, tag: int, kind: str, form: str) -> list[str]:
        typed, self._buffer = self._buffer, b""
        if kind not in _KINDS or form not in ("bin", "bint") or not typed:
            return ["Please provide a credential to add."]
        if (tag, kind) in self.store:
            return [f"TLS credential with sectag {tag} and type {kind} already exists."]
        try:
            content = base64.b64decode(typed, validate=True) + b"\0" * (form == "bint")
        except binascii.Error:
            return ["Could not decode input from base64, error: -22"]
        if self.faults.add_fails:
            return [f"Failed to add TLS credential with sectag {tag} and type {kind}. Error: -12"]
        if not self.faults.stores_nothing:
            other = self.faults.stores
            self.store[tag, kind] = other[1] if other is not None and other[0] == kind else content
        return [f"Added TLS credential of type {kind}, sectag {tag}, and length {len(content)} bytes."]

    def _get(self, tag: int, kind: str, form: str) -> list[str]:
        content = self.store.get((tag, kind))
        if content is None:
            return [f"There is no TLS credential with sectag {tag} and type {kind}."]
        if form == "bint":
            if not content.endswith(b"\0"):
                return ["The stored credential isn't NULL-terminated, but a NULL-terminated format was specified."]
            content = content[:-1]
        width = _WIDTH // 4 * 3
        pieces = [content[at : at + width] for at in range(0, len(content), width)]
        return [*(base64.b64encode(piece).decode() for piece in pieces), "Credential buffer cleared."]

    def _list(self, tag: int, kind: str) -> list[str]:
        content = self.store.get((tag, kind))
        if content is None:
            return ["0 credentials found."]
        digest = base64.b64encode(sha256(content).digest()).decode()
        shown = "ERROR,-134" if self.faults.no_digest else f"{digest},0"
        return [f"{tag},{kind},{shown}", "1 credentials found."]
