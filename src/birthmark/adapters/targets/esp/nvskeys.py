"""The keys of an encrypted NVS partition: AES-256-XTS, in a partition of their own.

Format: ESP-IDF programming guide, "NVS Encryption". On a device that partition is protected by flash encryption.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from hmac import digest

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from birthmark.errors import DeviceFault

__all__ = ["KEYS_OCTETS", "XTS_OCTETS", "NvsKeys", "decode_keys", "hmac_keys"]

KEYS_OCTETS = 4096
"""Size of the partition of the keys."""

_DATA_SEED = bytes.fromhex("5A5ABEAE") * 8
_TWEAK_SEED = bytes.fromhex("A5A5DECE") * 8

XTS_OCTETS = 64
"""Two AES-256 keys: for the data, then for the tweak."""


@dataclass(frozen=True, slots=True)
class NvsKeys:
    """``octets``: 64, secret."""

    octets: bytes = field(repr=False)

    def encrypt(self, entry: bytes, offset: int) -> bytes:
        """Encrypt one entry (32 octets) that stands ``offset`` octets from the start of the partition."""
        encryptor = self._cipher(offset).encryptor()
        return encryptor.update(entry) + encryptor.finalize()

    def decrypt(self, entry: bytes, offset: int) -> bytes:
        """Undo ``encrypt``."""
        decryptor = self._cipher(offset).decryptor()
        return decryptor.update(entry) + decryptor.finalize()

    def partition(self) -> bytes:
        """Return the whole partition that holds the keys."""
        crc = zlib.crc32(self.octets, 0xFFFFFFFF).to_bytes(4, "little")
        return (self.octets + crc).ljust(KEYS_OCTETS, b"\xff")

    def _cipher(self, offset: int) -> Cipher[modes.XTS]:
        return Cipher(algorithms.AES(self.octets), modes.XTS(offset.to_bytes(16, "little")))


def decode_keys(partition: bytes) -> NvsKeys | None:
    """Return the keys in a partition, None if it is erased; ``DeviceFault("target.nvs.keys")`` if it is damaged."""
    if not partition.strip(b"\xff"):
        return None
    keys = NvsKeys(partition[:XTS_OCTETS])
    halves = {keys.octets[: XTS_OCTETS // 2], keys.octets[XTS_OCTETS // 2 :]}
    if len(partition) != KEYS_OCTETS or keys.partition() != partition or len(halves) == 1:
        raise DeviceFault(
            "target.nvs.keys",
            "the partition with the NVS keys is damaged",
            hint="Erase it and provision the device again as rework, with a new identity.",
        )
    return keys


def hmac_keys(fuse_key: bytes) -> NvsKeys:
    """Return the keys that the HMAC peripheral makes of a key in the fuses."""
    return NvsKeys(digest(fuse_key, _DATA_SEED, "sha256") + digest(fuse_key, _TWEAK_SEED, "sha256"))
