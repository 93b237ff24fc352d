"""How an identity comes into an ESP chip and out again: with its key in flash, or locked by the fuses."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.directory import Directory, Permissions
from birthmark.adapters.targets.esp.ds import ds_context, open_rsa_key, seal_rsa_key
from birthmark.adapters.targets.esp.efuse import KEY_BLOCKS, PURPOSES, Fuses, burnt_already, read_fuses
from birthmark.adapters.targets.esp.forms import (
    Held,
    PlainForm,
    certificate_entries,
    damaged,
    read_certificates,
)
from birthmark.adapters.targets.esp.memory import DeviceMemory, Region
from birthmark.adapters.targets.esp.securecert import DS_CONTEXT, DS_DATA, Tlv, decode_secure_cert, encode_secure_cert
from birthmark.adapters.targets.identity import Certificates, mismatch
from birthmark.errors import DeviceFault
from birthmark.pki.algorithms import spki_of

__all__ = ["DsIdentity", "FuseFile", "IdentityPlace", "Locking", "PlainIdentity"]

_PURPOSE = "HMAC_DOWN_DIGITAL_SIGNATURE"
_KEY_OCTETS = 32
_IV_OCTETS = 16
_PRIVATE = Permissions(0o600)


class IdentityPlace(Protocol):
    """``certificate`` writes nothing and is None where none can be read; ``read`` raises ``DeviceFault`` instead.

    ``install``: the key was already found to be that of the certificate.
    """

    def certificate(self) -> x509.Certificate | None: ...

    def install(self, key: Any, certificates: Certificates) -> None: ...

    def read(self) -> Held: ...


class PlainIdentity:
    """The private key stands in flash as it is, or encrypted by NVS. One write is the commit point."""

    def __init__(self, name: str, memory: DeviceMemory, form: PlainForm) -> None:
        self._name = name
        self._memory = memory
        self._form = form

    def certificate(self) -> x509.Certificate | None:
        with suppress(DeviceFault):
            held = self._form.decode(self._found())
            return None if held is None else held.device
        return None

    def install(self, key: Any, certificates: Certificates) -> None:
        wanted = Held(certificates.device, certificates.chain, key)
        self._memory.write(self._form.encode(wanted, self._found()))

    def read(self) -> Held:
        held = self._form.decode(self._found())
        if held is None:
            raise _missing(self._name)
        _check_private(self._name, self._memory, *self._form.regions)
        if spki_of(held.key.public_key()) != spki_of(held.device.public_key()):
            raise mismatch(self._name, "the private key")
        return held

    def _found(self) -> dict[Region, bytes | None]:
        return {region: self._memory.read(region) for region in self._form.regions}


@dataclass(frozen=True, slots=True)
class FuseFile:
    """Virtual fuses in a file of the device, and beside it what the silicon alone would see.

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


@dataclass(frozen=True, slots=True)
class Locking:
    """Which chip, which key block, and whether software can read the key afterwards."""

    chip: str
    block: int
    read_protect: bool


class DsIdentity:
    """The private key is encrypted under a key in the fuses: only the RSA peripheral of this one chip can use it.

    Burning that key comes last and is the commit point. Cut before it: the partition cannot be opened, the fuses are
    blank, and the same call begins anew with another key. Cut after it: done.
    """

    def __init__(
        self, name: str, memory: DeviceMemory, region: Region, encoding: Encoding, fuses: FuseFile, locking: Locking
    ) -> None:
        self._name = name
        self._memory = memory
        self._region = region
        self._encoding = encoding
        self._fuses = fuses
        self._locking = locking

    def certificate(self) -> x509.Certificate | None:
        with suppress(DeviceFault):
            return self._parts()[0]
        return None

    def install(self, key: Any, certificates: Certificates) -> None:
        chip, block = self._locking.chip, self._locking.block
        fuses = self._fuses.read()
        if self._holds(certificates):
            self._memory.write({self._region: self._memory.read(self._region) or b""})
            return
        blank = fuses.is_blank(block)
        fuse_key = os.urandom(_KEY_OCTETS) if blank else fuses.key(block)
        if fuse_key is None or (not blank and fuses.purpose(block) != PURPOSES[_PURPOSE]):
            raise burnt_already(fuses, block)
        data = seal_rsa_key(key, fuse_key, os.urandom(_IV_OCTETS), chip)
        held = Held(certificates.device, certificates.chain, None)
        context = Tlv(DS_CONTEXT, ds_context(block, key.key_size))
        partition = encode_secure_cert((Tlv(DS_DATA, data), context, *certificate_entries(held, self._encoding)))
        if blank:
            self._fuses.prepare(block, fuse_key)
        self._memory.write({self._region: partition})
        if blank:
            self._fuses.burn(fuses.burnt(block, fuse_key, _PURPOSE, read_protect=self._locking.read_protect))

    def read(self) -> Held:
        device, chain, data = self._parts()
        _check_private(self._name, self._memory, self._region)
        block, fuses = self._locking.block, self._fuses.read()
        if fuses.purpose(block) != PURPOSES[_PURPOSE]:
            raise DeviceFault(
                "target.efuse.blank",
                f"key block {block} of {self._name} was not burnt for digital signatures",
                hint="Provision the device again.",
                block=block,
            )
        fuse_key = fuses.key(block) or self._fuses.sealed_key(block)
        return Held(device, chain, open_rsa_key(data, fuse_key, device.public_key(), self._locking.chip))

    def _parts(self) -> tuple[x509.Certificate, tuple[x509.Certificate, ...], bytes]:
        entries = decode_secure_cert(self._memory.read(self._region) or b"")
        if not entries:
            raise _missing(self._name)
        device, chain = read_certificates(entries[2:], self._encoding)
        bits = getattr(device.public_key(), "key_size", 0)
        if entries[1] != Tlv(DS_CONTEXT, ds_context(self._locking.block, bits)) or entries[0].kind != DS_DATA:
            raise damaged()
        return device, chain, entries[0].data

    def _holds(self, certificates: Certificates) -> bool:
        with suppress(DeviceFault):
            held = self.read()
            return (held.device, held.chain) == (certificates.device, certificates.chain)
        return False


def _check_private(name: str, memory: DeviceMemory, *regions: Region) -> None:
    if not all(memory.is_private(region) for region in regions):
        raise DeviceFault(
            "target.key.mode",
            f"a file of {name} that holds a private key has not mode 0600",
            hint="Check who else writes there, then provision the device again.",
            target=name,
        )


def _missing(name: str) -> DeviceFault:
    return DeviceFault(
        "target.key.missing",
        f"there is no identity in {name}",
        hint="Provision the device again.",
        target=name,
    )
