"""What the configuration zone of an ATECC608 says of its slots, and what this program wants it to say.

Layout: data sheet, "Configuration zone". SlotConfig at 20, KeyConfig at 96, two octets a slot, low octet first.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FITTING_CONFIG", "SLOT_OCTETS", "Zone", "checksum", "with_fitting"]

SLOT_OCTETS = (*[36] * 8, 416, *[72] * 7)
"""Size of each of the sixteen slots."""

_OPEN = 0x55
_P256 = 4
_WRITABLE_FROM, _LOCK_OCTETS = 16, slice(84, 88)


@dataclass(frozen=True, slots=True)
class Zone:
    """The configuration zone, 128 octets."""

    octets: bytes

    @property
    def config_locked(self) -> bool:
        return self.octets[87] != _OPEN

    @property
    def data_locked(self) -> bool:
        return self.octets[86] != _OPEN

    def slot_locked(self, slot: int) -> bool:
        """Say whether a slot is locked on its own."""
        return not self._word(88) >> slot & 1

    def key_misfits(self, slot: int, *, lock: bool) -> list[str]:
        """Return what keeps this slot from holding a P-256 key that is made inside and signs. Empty: it fits."""
        slot_config, key_config = self._word(20 + 2 * slot), self._word(96 + 2 * slot)
        wrong = {
            "is no private P-256 key": not key_config & 1 or key_config >> 2 & 7 != _P256,
            "does not show its public key": not key_config & 2,
            "does not sign messages from outside": not slot_config & 1,
            "signs only with authorization or a random nonce": bool(key_config & 0xC0),
            "is not secret": not slot_config & 0x80,
            "does not make keys": not slot_config & 0x2000,
            "cannot be locked": lock and not key_config & 0x20,
        }
        return [f"slot {slot} {reason}" for reason, so in wrong.items() if so]

    def data_misfits(self, slot: int, *, lock: bool) -> list[str]:
        """Return what keeps this slot from being read and written in the clear. Empty: it fits."""
        slot_config, key_config = self._word(20 + 2 * slot), self._word(96 + 2 * slot)
        wrong = {
            "is for private keys": bool(key_config & 1),
            "cannot be read in the clear": bool(slot_config & 0xC0),
            "cannot be written in the clear": bool(slot_config & 0xF000),
            "cannot be locked": lock and not key_config & 0x20,
        }
        return [f"slot {slot} {reason}" for reason, so in wrong.items() if so]

    def _word(self, at: int) -> int:
        return int.from_bytes(self.octets[at : at + 2], "little")


def _fitting() -> bytes:
    config = bytearray(128)
    config[16] = 0xC0
    config[52:68] = bytes.fromhex("ffffffff00000000") * 2
    config[86:90] = bytes([_OPEN, _OPEN, 0xFF, 0xFF])
    for slot in range(16):
        slot_config, key_config = (0x2083, 0x0033) if slot < 8 else (0x0000, 0x003C)
        config[20 + 2 * slot : 22 + 2 * slot] = slot_config.to_bytes(2, "little")
        config[96 + 2 * slot : 98 + 2 * slot] = key_config.to_bytes(2, "little")
    return bytes(config)


FITTING_CONFIG = _fitting()
"""What ``config=birthmark`` writes from octet 16 on: slots 0 to 7 P-256 keys made inside that sign, 8 to 15 data."""


def with_fitting(octets: bytes) -> bytes:
    """Return the zone as it is after ``config=birthmark``: the factory's octets and the locks stay as they are."""
    changed = bytearray(octets[:_WRITABLE_FROM] + FITTING_CONFIG[_WRITABLE_FROM:])
    changed[_LOCK_OCTETS] = octets[_LOCK_OCTETS]
    changed[16] = octets[16]  # the address the chip answers at
    return bytes(changed)


def checksum(octets: bytes) -> int:
    """Return the CRC-16 that the chip compares before it locks: polynomial 0x8005, each octet from its lowest bit."""
    crc = 0
    for octet in octets:
        for bit in range(8):
            high = crc >> 15
            crc = (crc << 1) & 0xFFFF
            if (octet >> bit & 1) != high:
                crc ^= 0x8005
    return crc
