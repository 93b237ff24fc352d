"""A device on the line: it keeps its key and what was installed whatever happens to the station."""

from __future__ import annotations

from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.adapters.targets.identity import certificates_of, mismatch, require_key
from birthmark.adapters.targets.proof import device_csr, sign_proof
from birthmark.errors import DeviceFault
from birthmark.pki.algorithms import spki_of
from birthmark.ports import Credential, Evidence, Fence, Probe
from simulation.faults import Fuse

__all__ = ["Unit"]


@cache
def _key(number: int) -> Any:
    """Return one of the keys that units of this process are born with: OpenSSL makes them, no seed can."""
    return ec.generate_private_key(ec.SECP256R1())


class Unit:
    """One physical device. Two units may carry the same label; ``copy`` tells them apart.

    ``fuse`` is that of the station: the power may go before or after the device wrote.
    """

    def __init__(self, device_serial: str, site: str, copy: int, *, born: bool, numbers: list[int]) -> None:
        self.device_serial = device_serial
        self.site = site
        self.uri = f"memory:{site}/{device_serial}/{copy}"
        self.born = born
        self.key: Any = None
        self.certificate: bytes | None = None
        self.fuse: Fuse | None = None
        self.trouble: str | None = None
        self._chain: tuple[bytes, ...] = ()
        self._next_key: Any = None
        self._numbers = numbers

    @property
    def spki(self) -> bytes | None:
        """The public key of what is installed."""
        return None if self.key is None else spki_of(self.key.public_key())

    def probe(self) -> Probe:
        self._may_break("probe")
        return Probe(self.device_serial, self.certificate, makes_key=self.born, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        self._may_break("make_key")
        if self._next_key is None:
            fence.hold()
            self._write(self._make)
        return device_csr(self._next_key, device_serial)

    def _make(self) -> None:
        self._numbers[0] += 1
        self._next_key = _key(self._numbers[0])

    def install(self, credential: Credential, fence: Fence) -> None:
        self._may_break("install")
        certificates = certificates_of(credential, chain="full")
        if self.born:
            held = self._next_key or self.key
            if held is None or spki_of(held.public_key()) != certificates.spki:
                raise mismatch(self.uri, "the key of the device")
        else:
            held = require_key(credential, certificates)
        fence.hold()
        self._write(lambda: self._take(held, credential))

    def _take(self, key: Any, credential: Credential) -> None:
        self.key, self._next_key = key, None
        self.certificate, self._chain = credential.certificate, credential.chain

    def prove(self, challenge: bytes) -> Evidence:
        self._may_break("prove")
        if self.certificate is None:
            raise DeviceFault("target.empty", "nothing is installed", hint="Provision the device.")
        return Evidence(self.certificate, self._chain, "signature", sign_proof(self.key, challenge), None)

    def holds_its_own(self) -> bool:
        """Say whether key and certificate are of one pair."""
        if self.certificate is None:
            return True
        return spki_of(x509.load_der_x509_certificate(self.certificate).public_key()) == self.spki

    def _write(self, do: Any) -> None:
        if self.fuse is None:
            do()
        else:
            self.fuse.act(do)

    def _may_break(self, step: str) -> None:
        if self.trouble == step:
            raise DeviceFault("target.broken", f"the device fails at {step}", hint="Take another device.")
