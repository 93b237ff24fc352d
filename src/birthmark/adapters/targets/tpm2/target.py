"""``ports.Target`` and ``ports.Attests`` on a TPM 2.0 (docs/targets/tpm2.md)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from birthmark.adapters.targets.identity import CHAIN_LENGTHS, certificates_of, mismatch, refuse_key
from birthmark.adapters.targets.proof import device_csr, sign_proof
from birthmark.adapters.targets.tpm2.endorsement import EK_KINDS, attest_key, find_endorsement, read_ek_roots
from birthmark.adapters.targets.tpm2.keys import TpmKey, check_public, create_key, signer
from birthmark.adapters.targets.tpm2.link import TpmLink, open_tpm
from birthmark.adapters.targets.tpm2.place import CELLS, TpmPlace
from birthmark.adapters.targets.tpm2.registration import TpmRegistration, read_registration
from birthmark.adapters.targets.tpm2.stream import parse_address
from birthmark.adapters.targets.tpm2.tls import TpmIdentity
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice, decoded, parse_target_uri
from birthmark.errors import DeviceFault, Misconfigured, Refused
from birthmark.pki.algorithms import algorithm_named, algorithm_of, certified_key, spki_of
from birthmark.ports import Attestation, Credential, Evidence, Fence, Probe, SecretsHandler

__all__ = ["Tpm2Target"]

_OPTIONS = ("tcti", "nv", "identity", "ek", "ek-roots", "chain", "timeout")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}")
_SECONDS = re.compile(r"[1-9][0-9]{0,3}")
_IDENTITY = re.compile(rb"[!-~]{1,64}")
_HANDLES = range(0x81000002, 0x81800000)
_INDEXES = range(0x01000000, 0x01C00000)
_FIRST_INDEX = "0x01800100"


class Tpm2Target:
    """Implements ``ports.Target`` and ``ports.Attests`` on ``tpm2:HANDLE?tcti=TCTI&ek-roots=PEM``.

    Every call opens a link of its own, so nothing is remembered between ``install`` and ``prove``. A power cut leaves
    the old identity, the new one, or a key without a certificate from which ``install`` (and ``make_key``) go on.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        del secrets  # hierarchies and keys have no password while the device is made
        parsed = parse_target_uri(uri, scheme="tpm2", options=_OPTIONS)
        self._name = uri
        self._handle = _number(parsed, decoded(uri, parsed.path), _HANDLES)
        self._where = f"tpm2:{parsed.options.get('tcti', '')}"
        self._address = parse_address(parsed.options.get("tcti", "device:/dev/tpmrm0"))
        self._nv = _number(parsed, parsed.options.get("nv", _FIRST_INDEX), _INDEXES)
        self._identity = choice(parsed, "identity", ("nv", "ek"))
        self._ek = choice(parsed, "ek", ("auto", *EK_KINDS))
        self._chain = choice(parsed, "chain", tuple(CHAIN_LENGTHS))
        self._patience = _seconds(parsed)
        roots = parsed.options.get("ek-roots")
        self._roots = None if roots is None else read_ek_roots(base / roots)

    @property
    def place(self) -> str:
        """The TPM: one handle is no place of its own."""
        return self._where

    def probe(self) -> Probe:
        """Return as the identity what the NV index says, or the SHA-256 of the endorsement key (``identity=ek``)."""
        with self._opened() as (link, place):
            certificate = place.certificate()
            identity = self._identity_of(link, place)
        return Probe(identity, certificate, makes_key=True, can_sign=True, attests=self._roots is not None)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        chosen = algorithm_named(algorithm)
        with self._opened(fence) as (link, place):
            key = self._waiting(place)
            if key is None:
                fence.hold()
                place.keep_waiting(create_key(link, chosen.name))
                key = place.waiting_key()
            if key is None:
                raise _not_kept(self._name)
            check_public(key, self._name)
            made = algorithm_of(load_der_public_key(key.spki))
            if made is not chosen:
                raise Refused(
                    "target.key.other_algorithm",
                    f"a {made.title} key already waits in {self._name}, not a {chosen.title} key",
                    hint="Finish the attempt that made it, or remove the NV index of the waiting key.",
                    target=self._name,
                    algorithm=made.name,
                )
            return device_csr(signer(link, key, self._name), device_serial)

    def install(self, credential: Credential, fence: Fence) -> None:
        refuse_key(credential)
        certificates = certificates_of(credential, chain=self._chain)
        with self._opened(fence) as (_, place):
            installed = place.installed_key()
            waits = installed is None or installed.spki != certificates.spki
            key = place.waiting_key() if waits else installed
            if key is None or key.spki != certificates.spki:
                raise mismatch(self._name, "the key born")
            check_public(key, self._name)
            place.write(certificates, key, waits=waits)

    def prove(self, challenge: bytes) -> Evidence:
        with self._opened() as (link, place):
            certificate = place.certificate()
            if certificate is None:
                raise DeviceFault(
                    "target.certificate.missing",
                    f"there is no certificate in {self._name}",
                    hint="Provision the device again.",
                    target=self._name,
                )
            key = place.installed_key()
            if key is None:
                raise DeviceFault(
                    "target.key.missing",
                    f"the certificate in {self._name} has no private key beside it",
                    hint="Provision the device again as rework, with a new identity.",
                    target=self._name,
                )
            check_public(key, self._name)
            if _certified_spki(certificate) != key.spki:
                raise mismatch(self._name, "the private key")
            signature = sign_proof(signer(link, key, self._name), challenge)
            return Evidence(certificate, place.chain(), "signature", signature, None)

    def attest(self, nonce: bytes) -> Attestation:
        """Show that the key is in the TPM whose maker stands in ``ek-roots``; see ``docs/targets/tpm2.md``."""
        if self._roots is None:
            raise Misconfigured(
                "target.tpm.roots",
                f"{self._name} names no makers of TPMs",
                hint="Add ek-roots=FILE with the root certificates of the makers.",
                target=self._name,
            )
        with self._opened() as (link, place):
            key = self._waiting(place) or place.installed_key()
            if key is None:
                raise DeviceFault(
                    "target.key.missing",
                    f"there is no key in {self._name}",
                    hint="Provision the device.",
                    target=self._name,
                )
            check_public(key, self._name)
            return attest_key(link, key, find_endorsement(link, self._ek), self._roots, nonce)

    def tls(self, chain: tuple[bytes, ...]) -> TpmIdentity:
        """Return the right to make TLS connections with the key in the TPM; ``chain`` (DER) is what it shows."""
        return TpmIdentity(self._name, self._address, self._handle, chain)

    def registration(self, registration_id: str) -> TpmRegistration:
        """Return what a cloud wants to know of this TPM; ``Misconfigured("target.tpm.registration")``."""
        with self._opened() as (link, _):
            return read_registration(link, registration_id, self._ek)

    def _waiting(self, place: TpmPlace) -> TpmKey | None:
        """Return the key that waits. One whose installation was cut just before the end waits no more."""
        key, installed = place.waiting_key(), place.installed_key()
        if key is None or installed is None or key.spki != installed.spki:
            return key
        certificate = place.certificate()
        return None if certificate is not None and _certified_spki(certificate) == key.spki else key

    def _identity_of(self, link: TpmLink, place: TpmPlace) -> str:
        if self._identity == "ek":
            return sha256(find_endorsement(link, self._ek).key.spki).hexdigest()
        found = place.device_serial()
        if found is None or _IDENTITY.fullmatch(found) is None:
            raise DeviceFault(
                "target.identity.malformed",
                f"the NV index of the device serial in {self._name} does not hold one",
                hint="Write it when the board is tested (docs/targets/tpm2.md), or say identity=ek.",
                target=self._name,
            )
        return found.decode("ascii")

    @contextmanager
    def _opened(self, fence: Fence | None = None) -> Iterator[tuple[TpmLink, TpmPlace]]:
        remaining = _clock(self._patience) if fence is None else fence.remaining
        if fence is not None:
            fence.hold()
        with open_tpm(self._address, remaining) as link:
            yield link, TpmPlace(link, self._handle, self._nv, fence)


def _clock(seconds: float) -> Callable[[], float]:
    end = time.monotonic() + seconds
    return lambda: end - time.monotonic()


def _certified_spki(certificate: bytes) -> bytes:
    return spki_of(certified_key(x509.load_der_x509_certificate(certificate)))


def _not_kept(name: str) -> DeviceFault:
    return DeviceFault(
        "target.key.not_kept",
        f"the TPM said that it keeps the key in {name}, and does not",
        hint="Take the device off the line: its TPM does not store what it acknowledges.",
        target=name,
    )


def _number(uri: TargetUri, text: str, allowed: range) -> int:
    number = int(text, 16) if _NUMBER.fullmatch(text) else -1
    last = number + (CELLS - 1 if allowed is _INDEXES else 0)
    if number not in allowed or last not in allowed:
        what = "nv" if allowed is _INDEXES else "handle"
        raise bad_option(uri, what, f"Use a number from 0x{allowed[0]:08x} to 0x{allowed[-1]:08x}.")
    return number


def _seconds(uri: TargetUri) -> float:
    text = uri.options.get("timeout", "60")
    if _SECONDS.fullmatch(text) is None:
        raise bad_option(uri, "timeout", "Use whole seconds, 1 to 9999.")
    return float(text)
