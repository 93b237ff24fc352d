"""What an ATECC608 keeps without power: its configuration, OTP and data zones (data sheet, "EEPROM memory")."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birthmark.adapters.durable import write_durably

__all__ = ["OPEN_CONFIG", "SLOT_OCTETS", "Memory", "new_memory", "read_memory", "write_memory"]

SLOT_OCTETS = (*[36] * 8, 416, *[72] * 7)
"""Size of each of the sixteen slots."""

_FORMAT = "birthmark-atecc608/1"
_CONFIG_OCTETS, _OTP_OCTETS = 128, 64
_MOST_OCTETS = 16 * 1024
_REVISION = bytes.fromhex("00006003")
_LOCK_VALUE, _LOCK_CONFIG = 86, 87
_OPEN, _LOCKED = 0x55, 0x00


def _open_config() -> bytes:
    config = bytearray(_CONFIG_OCTETS)
    config[16] = 0xC0
    config[52:68] = bytes.fromhex("ffffffff00000000") * 2
    config[_LOCK_VALUE : _LOCK_CONFIG + 1] = bytes([_OPEN, _OPEN])
    config[88:90] = b"\xff\xff"
    for slot in range(16):
        slot_config, key_config = (0x2083, 0x0033) if slot < 8 else (0x0000, 0x003C)
        config[20 + 2 * slot : 22 + 2 * slot] = slot_config.to_bytes(2, "little")
        config[96 + 2 * slot : 98 + 2 * slot] = key_config.to_bytes(2, "little")
    return bytes(config)


OPEN_CONFIG = _open_config()
"""Slots 0 to 7: P-256 private keys made inside that sign what comes from outside. Slots 8 to 15: data in the clear.
Every slot can be locked on its own. No zone is locked; the serial number is filled in by ``new_memory``."""


@dataclass(slots=True)
class Memory:
    """The zones. ``slots``: content of each slot; a private key is the scalar in the last 32 of its 36 octets."""

    config: bytearray
    otp: bytearray
    slots: list[bytearray]

    @property
    def serial(self) -> bytes:
        """The nine octets of the chip's serial number."""
        return bytes(self.config[0:4] + self.config[8:13])

    @property
    def config_locked(self) -> bool:
        return self.config[_LOCK_CONFIG] != _OPEN

    @property
    def data_locked(self) -> bool:
        return self.config[_LOCK_VALUE] != _OPEN

    def slot_config(self, slot: int) -> int:
        """SlotConfig of a slot, 16 bits."""
        return int.from_bytes(self.config[20 + 2 * slot : 22 + 2 * slot], "little")

    def key_config(self, slot: int) -> int:
        """KeyConfig of a slot, 16 bits."""
        return int.from_bytes(self.config[96 + 2 * slot : 98 + 2 * slot], "little")

    def slot_locked(self, slot: int) -> bool:
        """Say whether the slot was locked on its own."""
        return not int.from_bytes(self.config[88:90], "little") >> slot & 1

    def lock_config(self) -> None:
        self.config[_LOCK_CONFIG] = _LOCKED

    def lock_data(self) -> None:
        self.config[_LOCK_VALUE] = _LOCKED

    def lock_slot(self, slot: int) -> None:
        mask = int.from_bytes(self.config[88:90], "little") & ~(1 << slot)
        self.config[88:90] = mask.to_bytes(2, "little")


def new_memory(serial: bytes, config: bytes = OPEN_CONFIG, *, locked: bool = True) -> Memory:
    """Return the memory of a chip from the factory: ``locked`` says whether both zones are.

    ``serial``: nine octets. ``ValueError`` if a size is wrong.
    """
    if len(serial) != 9 or len(config) != _CONFIG_OCTETS:
        raise ValueError("a serial number has 9 octets, a configuration 128")
    own = bytearray(config)
    own[0:4], own[4:8], own[8:13], own[13:16] = serial[:4], _REVISION, serial[4:], bytes([0x61, 0x01, 0x00])
    memory = Memory(own, bytearray(_OTP_OCTETS), [bytearray(size) for size in SLOT_OCTETS])
    if locked:
        memory.lock_config()
        memory.lock_data()
    return memory


def write_memory(path: Path, memory: Memory, *, sync: bool) -> None:
    """Replace the file by this memory, mode 0600: the old one or the new one, whatever happens in between.

    Without ``sync`` that holds for the death of the process only, not for a loss of power of the machine.
    """
    document = {
        "format": _FORMAT,
        "config": memory.config.hex(),
        "otp": memory.otp.hex(),
        "slots": [slot.hex() for slot in memory.slots],
    }
    data = json.dumps(document, indent=1).encode()
    if sync:
        write_durably(path, data, mode=0o600)
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(0o600, exist_ok=False)
    temporary.write_bytes(data)
    temporary.replace(path)


def read_memory(path: Path) -> Memory:
    """Return what ``write_memory`` wrote; ``ValueError`` if the file is none."""
    with path.open("rb") as file:
        data = file.read(_MOST_OCTETS + 1)
    try:
        document: Any = json.loads(data)
        config, otp = (bytearray.fromhex(document[name]) for name in ("config", "otp"))
        slots = [bytearray.fromhex(text) for text in document["slots"]]
        sizes = (len(config), len(otp), tuple(map(len, slots)))
        good = document["format"] == _FORMAT and sizes == (_CONFIG_OCTETS, _OTP_OCTETS, SLOT_OCTETS)
    except (ValueError, TypeError, KeyError, RecursionError):
        good = False
    if not good or len(data) > _MOST_OCTETS:
        raise ValueError(f"{path} is not the memory of an emulated ATECC608")
    return Memory(config, otp, slots)
