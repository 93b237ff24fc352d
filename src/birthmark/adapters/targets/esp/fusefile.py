"""Virtual fuses in a file of the device: the rehearsal of an act that cannot be undone."""

from __future__ import annotations

from dataclasses import dataclass

from birthmark.adapters.targets.directory import Directory, Permissions
from birthmark.adapters.targets.esp.efuse import KEY_BLOCKS, Fuses, read_fuses

__all__ = ["FuseFile"]

_KEY_OCTETS = 32
_PRIVATE = Permissions(0o600)


@dataclass(frozen=True, slots=True)
class FuseFile:
    """Virtual fuses in ``file``, and beside it what the silicon alone would see.

    A read-protected block is zeros in the vendor's file, as it is for the software of a real chip. The peripheral still
    uses the key in it; ``FILE.silicon`` (mode 0600, six blocks of 32 octets) stands for that, and for nothing else.
    """

    directory: Directory
    file: str

    def read(self) -> Fuses:
        found = self.directory.read(self.file)
        return read_fuses(None if found is None else found.data)

    def sealed_key(self, block: int) -> bytes:
        """Return the key that the peripheral of the chip would use."""
        return self._silicon()[_KEY_OCTETS * block : _KEY_OCTETS * (block + 1)]

    def prepare(self, block: int, key: bytes) -> None:
        """Keep what is about to be burnt. Nothing irreversible yet."""
        silicon = bytearray(self._silicon())
        silicon[_KEY_OCTETS * block : _KEY_OCTETS * (block + 1)] = key
        self.directory.write(f"{self.file}.silicon", bytes(silicon), _PRIVATE)

    def burn(self, fuses: Fuses) -> None:
        """The irreversible act: one, under the fence, whole or not at all."""
        self.directory.write(self.file, fuses.file(), _PRIVATE)

    def _silicon(self) -> bytes:
        found = self.directory.read(f"{self.file}.silicon")
        octets = len(KEY_BLOCKS) * _KEY_OCTETS
        return bytes(octets) if found is None or len(found.data) != octets else found.data
