"""The eFuses of an ESP32-C3, -C6, -H2 or -S3 in a file, as ``espefuse --virt --path-efuse-file`` keeps them.

The file is the register space of the controller (512 octets), last octet first. Fuses: technical reference manual,
chapter "eFuse Controller". A fuse goes from 0 to 1 and never back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from birthmark.errors import DeviceFault, Refused

__all__ = ["FUSE_CHIPS", "KEY_BLOCKS", "PURPOSES", "Fuses", "burnt_already", "read_fuses"]

FUSE_CHIPS = ("esp32c3", "esp32c6", "esp32h2", "esp32s3")
"""The chips whose fuses this module knows: they have this part of the layout in common."""

KEY_BLOCKS = range(6)

PURPOSES = {"USER": 0, "ECDSA_KEY": 1, "XTS_AES_128_KEY": 4, "HMAC_DOWN_DIGITAL_SIGNATURE": 7, "HMAC_UP": 8}
"""Purpose of a key block → value of its KEY_PURPOSE fuses. ``ECDSA_KEY``: ESP32-H2 only."""

_OCTETS = 512
_KEY_OCTETS = 32
_WRITE_PROTECT, _READ_PROTECT = 0x2C, 0x30
_PURPOSES_AT, _PURPOSE_SHIFT = 0x34, 24
_MAC = slice(0x44, 0x4A)
_FIRST_KEY = 0x9C
_PURPOSE_PROTECT_BIT, _KEY_PROTECT_BIT = 8, 23
_REVERSED = frozenset({"XTS_AES_128_KEY", "ECDSA_KEY"})
_BROKEN_BLOCK = 5
_FORCE_HARDWARE_K = (0x38, 1 << 18)
_H2_VERSION_AT = 0x50
_LAST_H2_WITHOUT_K = (1, 1)


@dataclass(frozen=True, slots=True)
class Fuses:
    """``memory``: the register space, first octet first. A read-protected key block reads as zeros."""

    memory: bytes = field(repr=False)

    @property
    def mac(self) -> str | None:
        """The factory MAC address, 12 upper-case hexadecimal digits; None if it was never burnt."""
        octets = self.memory[_MAC][::-1]
        return octets.hex().upper() if any(octets) else None

    def purpose(self, block: int) -> int:
        """Return the KEY_PURPOSE of a block, 0 to 15."""
        return self._word(_PURPOSES_AT, 8) >> _PURPOSE_SHIFT + 4 * block & 0xF

    def key(self, block: int) -> bytes | None:
        """Return the key in a block (32 octets) as it was given to ``burnt``; None if it is read-protected."""
        if self._word(_READ_PROTECT) >> block & 1:
            return None
        start = _FIRST_KEY + _KEY_OCTETS * block
        stored = self.memory[start : start + _KEY_OCTETS]
        return stored[::-1] if self.purpose(block) in {PURPOSES[name] for name in _REVERSED} else stored

    def is_blank(self, block: int) -> bool:
        """Say whether a key can still be burnt into the block."""
        protect = self._word(_WRITE_PROTECT)
        protected = protect >> _KEY_PROTECT_BIT + block & 1 or protect >> _PURPOSE_PROTECT_BIT + block & 1
        key = self.key(block)
        return not protected and self.purpose(block) == 0 and key is not None and not any(key)

    def burnt(self, block: int, key: bytes, purpose: str, *, read_protect: bool) -> Fuses:
        """Return the fuses after ``key`` (32 octets) was burnt, its purpose with it, and both were locked.

        ``Refused("target.efuse.burnt")`` if the block is not blank.
        """
        if not self.is_blank(block):
            raise burnt_already(self, block)
        if block == _BROKEN_BLOCK and purpose in _REVERSED:
            raise Refused(
                "target.efuse.block",
                f"key block {block} cannot be used for {purpose}: the hardware has a fault there",
                hint="Use another efuse-block=.",
                block=block,
            )
        memory = bytearray(self.memory)
        start = _FIRST_KEY + _KEY_OCTETS * block
        if not read_protect:
            memory[start : start + _KEY_OCTETS] = key[::-1] if purpose in _REVERSED else key
        _set(memory, _PURPOSES_AT, 8, PURPOSES[purpose] << _PURPOSE_SHIFT + 4 * block)
        _set(memory, _WRITE_PROTECT, 4, 1 << _KEY_PROTECT_BIT + block | 1 << _PURPOSE_PROTECT_BIT + block)
        if read_protect:
            _set(memory, _READ_PROTECT, 4, 1 << block)
        if purpose == "ECDSA_KEY" and self._h2_version() <= _LAST_H2_WITHOUT_K:
            # Until then the chip would take k from software, and a bad k gives the key away.
            _set(memory, _FORCE_HARDWARE_K[0], 4, _FORCE_HARDWARE_K[1])
        return Fuses(bytes(memory))

    def file(self) -> bytes:
        """Return the content of the file."""
        return self.memory[::-1]

    def _h2_version(self) -> tuple[int, int]:
        word = self._word(_H2_VERSION_AT)
        return word >> 21 & 0x3, word >> 18 & 0x7

    def _word(self, place: int, octets: int = 4) -> int:
        return int.from_bytes(self.memory[place : place + octets], "little")


def read_fuses(octets: bytes | None) -> Fuses:
    """Take the fuses from a file; no file: a chip on which nothing was burnt. ``DeviceFault("target.efuse.size")``."""
    if octets is None:
        return Fuses(bytes(_OCTETS))
    if len(octets) != _OCTETS:
        raise DeviceFault(
            "target.efuse.size",
            f"the file of the fuses has {len(octets)} octets instead of {_OCTETS}",
            hint="Name the file that `espefuse --virt --path-efuse-file` made for this chip.",
            octets=len(octets),
        )
    return Fuses(octets[::-1])


def burnt_already(fuses: Fuses, block: int) -> Refused:
    """Return the refusal to burn a second key into a block."""
    return Refused(
        "target.efuse.burnt",
        f"key block {block} of this chip was burnt for purpose {fuses.purpose(block)}, and that cannot be changed",
        hint="A locked chip keeps its identity; scrap it, or use another efuse-block= if the firmware knows it.",
        block=block,
        purpose=fuses.purpose(block),
    )


def _set(memory: bytearray, place: int, octets: int, ones: int) -> None:
    old = int.from_bytes(memory[place : place + octets], "little")
    memory[place : place + octets] = (old | ones).to_bytes(octets, "little")
