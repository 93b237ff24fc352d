"""How an identity comes into an ESP chip and out again: with its key in flash, or locked by the fuses."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

from cryptography import x509

from birthmark.adapters.targets.esp.efuse import PURPOSES, burnt_already
from birthmark.adapters.targets.esp.forms import Held, PlainForm
from birthmark.adapters.targets.esp.fusefile import FuseFile
from birthmark.adapters.targets.esp.locks import Lock
from birthmark.adapters.targets.esp.memory import DeviceMemory, Region
from birthmark.adapters.targets.identity import Certificates, mismatch
from birthmark.errors import DeviceFault
from birthmark.pki.algorithms import spki_of

__all__ = ["IdentityPlace", "LockedIdentity", "PlainIdentity"]


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


class LockedIdentity:
    """Only the peripheral of this one chip can use the private key.

    Burning the fuses comes last and is the commit point. Cut before it: nothing opens the partition, the fuses are
    blank, and the same call begins anew. Cut after it: done.
    """

    def __init__(
        self,
        name: str,
        memory: DeviceMemory,
        region: Region,
        fuses: FuseFile,
        block: int,
        lock: Lock,
        *,
        read_protect: bool,
    ) -> None:
        self._name = name
        self._memory = memory
        self._region = region
        self._fuses = fuses
        self._block = block
        self._lock = lock
        self._read_protect = read_protect

    def certificate(self) -> x509.Certificate | None:
        with suppress(DeviceFault):
            return self._lock.certificate(self._partition(), self._fuse_key())
        return None

    def install(self, key: Any, certificates: Certificates) -> None:
        block, fuses = self._block, self._fuses.read()
        if self._holds(certificates):
            self._memory.write({self._region: self._memory.read(self._region) or b""})
            return
        blank = fuses.is_blank(block)
        fuse_key = self._lock.fuse_key(key, None if blank else fuses.key(block))
        if not blank and (fuses.purpose(block), fuses.key(block)) != (PURPOSES[self._lock.purpose], fuse_key):
            raise burnt_already(fuses, block)
        held = Held(certificates.device, certificates.chain, key)
        partition = self._lock.seal(held, fuse_key)
        if not blank:
            self._memory.write({self._region: partition})
            return
        # What can be refused is refused before anything is written, and written before anything is burnt.
        burnt = fuses.burnt(block, fuse_key, self._lock.purpose, read_protect=self._read_protect)
        self._memory.write({self._region: partition})
        self._fuses.prepare(block, fuse_key)
        self._fuses.burn(burnt)

    def read(self) -> Held:
        partition = self._partition()
        _check_private(self._name, self._memory, self._region)
        if self._fuses.read().purpose(self._block) != PURPOSES[self._lock.purpose]:
            raise DeviceFault(
                "target.efuse.blank",
                f"key block {self._block} of {self._name} was not burnt for {self._lock.purpose}",
                hint="Provision the device again.",
                block=self._block,
            )
        held = self._lock.open(partition, self._fuse_key())
        if spki_of(held.key.public_key()) != spki_of(held.device.public_key()):
            raise mismatch(self._name, "the private key")
        return held

    def _partition(self) -> bytes:
        partition = self._memory.read(self._region)
        if partition is None or not partition.strip(b"\xff"):
            raise _missing(self._name)
        return partition

    def _fuse_key(self) -> bytes:
        """Return what the peripheral uses: a locked block is seen by the silicon alone."""
        return self._fuses.read().key(self._block) or self._fuses.sealed_key(self._block)

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
