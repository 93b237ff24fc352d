"""A device under test, as the laws of ``ports.Target`` see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from cryptography import x509

from birthmark.ports import Credential, Target
from support.devicepki import credential_for, pool_credential
from support.fences import OPEN

__all__ = ["SERIAL", "Device"]

SERIAL = "SN-0001"


@dataclass
class Device:
    """``open`` gives a target that remembers nothing; ``snapshot`` is all that the device holds, comparable.

    ``identity``: what the device says it is; ``serial``: the device serial in its certificates. ``evidence``: how it
    proves itself. ``attests``: it shows where its key lives. ``replaces``: a second identity can be installed over the
    first; where hardware locks forbid that, the second is refused by name and nothing changes. ``lies``: name of a lie
    → make the device tell it from now on (``stores nothing``: it acknowledges and stores not; ``other certificate``;
    ``other key``: it signs with another key); empty for the kinds in ``support/honestdevices.py`` alone.
    """

    open: Callable[[], Target]
    snapshot: Callable[[], object]
    makes_key: bool
    identity: str
    algorithm: str = "p256"
    serial: str = SERIAL
    evidence: Literal["signature", "digest", "jwt"] = "signature"
    attests: bool = False
    replaces: bool = True
    one_place: bool = False
    """Every device of this kind stands in the same place of a station, one after the other."""
    chain_kept: int | None = None
    """How many certificates of the chain the device keeps; None: all of them."""
    lies: Mapping[str, Callable[[], None]] = field(default_factory=lambda: MappingProxyType({}))

    def obtain(self, algorithm: str | None = None) -> Credential:
        """Return a credential as the workflow would get one for this device."""
        if not self.makes_key:
            return pool_credential(self.serial, algorithm or self.algorithm)
        request = x509.load_der_x509_csr(self.open().make_key(algorithm or self.algorithm, self.serial, OPEN))
        return credential_for(request.public_key(), self.serial)
