"""The objects of one identity in a TPM: where each is, and in which order they change (docs/targets/tpm2.md)."""

from __future__ import annotations

from cryptography import x509

from birthmark.adapters.targets.identity import MAX_CHAIN, Certificates
from birthmark.adapters.targets.tpm2.cells import TpmCells
from birthmark.adapters.targets.tpm2.keys import (
    TpmKey,
    WrappedKey,
    load_key,
    persistent_key,
    public_spki,
    wrapped_key,
)
from birthmark.adapters.targets.tpm2.link import TpmLink, binding
from birthmark.errors import DeviceFault
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import Fence

__all__ = ["CELLS", "TpmPlace"]

_CERTIFICATE, _CHAIN, _WAITING, _SERIAL = 0, 1, 1 + MAX_CHAIN, 2 + MAX_CHAIN
CELLS = 3 + MAX_CHAIN
"""NV indexes that one identity may use, from its first on."""


class TpmPlace:
    """Finds, writes and removes what belongs to one identity, over an open link. Without a fence it only reads."""

    def __init__(self, link: TpmLink, handle: int, nv: int, fence: Fence | None = None) -> None:
        self._link = link
        self._handle = handle
        self._nv = nv
        self._fence = fence
        self._cells = TpmCells(link, fence)

    def device_serial(self) -> bytes | None:
        """Return what the index of the device serial holds."""
        return self._cells.read(self._nv + _SERIAL)

    def certificate(self) -> bytes | None:
        """Return the device certificate (DER, parsed once), or None while there is none."""
        found = self._cells.read(self._nv + _CERTIFICATE)
        return found if found is not None and _is_certificate(found) else None

    def chain(self) -> tuple[bytes, ...]:
        """Return the chain (DER), issuing CA first; ``DeviceFault("target.certificate.damaged")`` for a gap."""
        found = [self._cells.read(self._nv + _CHAIN + place) for place in range(MAX_CHAIN)]
        while found and found[-1] is None:
            found.pop()
        chain = tuple(one for one in found if one is not None)
        if len(chain) != len(found) or not all(_is_certificate(one) for one in chain):
            raise DeviceFault(
                "target.certificate.damaged",
                "the chain in the TPM has a gap or holds something else than certificates",
                hint="Provision the device again as rework, with a new identity.",
                index=f"0x{self._nv + _CHAIN:08x}",
            )
        return chain

    def installed_key(self) -> TpmKey | None:
        """Return the key at the persistent handle."""
        return persistent_key(self._link, self._handle)

    def waiting_key(self) -> TpmKey | None:
        """Load the key that waits for its certificate; None if there is none that this TPM can open."""
        octets = self._cells.read(self._nv + _WAITING)
        wrapped = None if octets is None else wrapped_key(octets)
        return None if wrapped is None else load_key(self._link, wrapped)

    def keep_waiting(self, wrapped: WrappedKey) -> None:
        """Put a key that was just made where it waits."""
        self._cells.write(self._nv + _WAITING, wrapped.octets())

    def forget_waiting(self, spki: bytes) -> None:
        """Remove the key that waits if it is this one, or none at all: another one is somebody's next identity."""
        octets = self._cells.read(self._nv + _WAITING)
        wrapped = None if octets is None else wrapped_key(octets)
        if wrapped is None or public_spki(wrapped.public.publicArea) == spki:
            self._cells.remove(self._nv + _WAITING)

    def write(self, certificates: Certificates, key: TpmKey, *, waits: bool) -> None:
        """Install certificates for ``key``, which moves to the persistent handle if it ``waits``.

        The certificate goes first and comes last: without it there is no identity, whatever else is in the TPM.
        """
        wanted, chain = certificates.device_der, certificates.chain_der
        for one in (wanted, *chain):
            self._cells.check_fits(one)
        if waits or self._cells.read(self._nv + _CERTIFICATE) != wanted:
            self._cells.remove(self._nv + _CERTIFICATE)
        for place in range(MAX_CHAIN):
            if place < len(chain):
                self._cells.write(self._nv + _CHAIN + place, chain[place])
            else:
                self._cells.remove(self._nv + _CHAIN + place)
        if waits:
            self._move(key)
        self._cells.write(self._nv + _CERTIFICATE, wanted)
        self.forget_waiting(key.spki)

    def _move(self, key: TpmKey) -> None:
        owner = binding().ESYS_TR.OWNER
        old = self.installed_key()
        if old is not None:
            self._hold()
            self._link.esys.evict_control(owner, old.handle, self._handle)
        self._hold()
        self._link.esys.evict_control(owner, key.handle, self._handle)

    def _hold(self) -> None:
        if self._fence is None:
            raise RuntimeError("a TPM of a device is changed without a fence")
        self._fence.hold()


def _is_certificate(octets: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(octets)
    except UNREADABLE:
        return False
    return True
