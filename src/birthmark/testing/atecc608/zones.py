"""Reading and writing the zones of an ATECC608, as far as its configuration lets one (data sheet, "Read", "Write")."""

from __future__ import annotations

from birthmark.testing.atecc608.faults import Faults
from birthmark.testing.atecc608.memory import SLOT_OCTETS, Memory

__all__ = ["CommandError", "Zones"]

_PARSE, _EXECUTION = 0x03, 0x0F
_CONFIG, _OTP, _DATA = 0, 1, 2
_WORD, _BLOCK = 4, 32
_FACTORY_OCTETS = range(16)
_LOCK_OCTETS = range(84, 88)

Snapshot = tuple[bytes, bytes, tuple[bytes, ...]]


class CommandError(Exception):
    """The chip says no. ``status``: its answer of one octet."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status 0x{status:02x}")
        self.status = status


class Zones:
    """The two commands on the zones. Encrypted reads and writes are not there: slots that ask for them refuse."""

    def __init__(self, memory: Memory, faults: Faults) -> None:
        self._memory = memory
        self._faults = faults

    def copy(self) -> Snapshot:
        memory = self._memory
        return bytes(memory.config), bytes(memory.otp), tuple(map(bytes, memory.slots))

    def restore(self, kept: Snapshot) -> None:
        self._memory.config[:], self._memory.otp[:] = kept[0], kept[1]
        for slot, content in zip(self._memory.slots, kept[2], strict=True):
            slot[:] = content

    def read(self, mode: int, param: int, data: bytes) -> bytes:
        """Return 4 or 32 octets. Data and OTP are closed until the data zone is locked."""
        if mode & ~0x83:
            raise CommandError(_PARSE)
        zone, size = mode & 3, _BLOCK if mode & 0x80 else _WORD
        if zone == _DATA:
            slot, offset = self._data_place(param, size)
            self._require_readable(slot)
            shown = self._faults.shows.get(slot)
            kept = bytes(self._memory.slots[slot]) if shown is None else shown.ljust(SLOT_OCTETS[slot], b"\0")
            return kept[offset : offset + size]
        content = self._zone(zone)
        offset = _linear_place(param, size, len(content))
        if zone == _OTP and not self._memory.data_locked:
            raise CommandError(_EXECUTION)
        return bytes(content[offset : offset + size])

    def write(self, mode: int, param: int, data: bytes) -> None:
        """Write 4 or 32 octets in the clear."""
        zone, size = mode & 3, _BLOCK if mode & 0x80 else _WORD
        if mode & ~0x83 or len(data) != size:
            raise CommandError(_PARSE)
        if zone == _DATA:
            slot, offset = self._data_place(param, size)
            self._require_writable(slot)
            self._memory.slots[slot][offset : offset + size] = data
            return
        content = self._zone(zone)
        offset = _linear_place(param, size, len(content))
        if zone == _CONFIG:
            touched = range(offset, offset + size)
            if self._memory.config_locked or any(one in touched for one in (*_FACTORY_OCTETS, *_LOCK_OCTETS)):
                raise CommandError(_EXECUTION)
        elif not self._memory.config_locked or self._memory.data_locked:
            raise CommandError(_EXECUTION)
        content[offset : offset + size] = data

    def _zone(self, zone: int) -> bytearray:
        if zone not in (_CONFIG, _OTP):
            raise CommandError(_PARSE)
        return self._memory.config if zone == _CONFIG else self._memory.otp

    def _data_place(self, param: int, size: int) -> tuple[int, int]:
        slot, offset = param >> 3 & 15, (param >> 8) * _BLOCK + (0 if size == _BLOCK else (param & 7) * _WORD)
        if offset + size > SLOT_OCTETS[slot]:
            raise CommandError(_PARSE)
        return slot, offset

    def _require_readable(self, slot: int) -> None:
        config = self._memory.slot_config(slot)
        private = self._memory.key_config(slot) & 1
        if not self._memory.data_locked or private or config & 0xC0:
            raise CommandError(_EXECUTION)

    def _require_writable(self, slot: int) -> None:
        memory = self._memory
        always = not memory.slot_config(slot) & 0xF000
        if not memory.config_locked or memory.key_config(slot) & 1 or memory.slot_locked(slot):
            raise CommandError(_EXECUTION)
        if memory.data_locked and not always:
            raise CommandError(_EXECUTION)


def _linear_place(param: int, size: int, octets: int) -> int:
    offset = (param >> 3 & 31) * _BLOCK + (0 if size == _BLOCK else (param & 7) * _WORD)
    if param >> 8 or offset + size > octets:
        raise CommandError(_PARSE)
    return offset
