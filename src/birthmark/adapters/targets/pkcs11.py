"""The target ``pkcs11``: a key born in a token that never leaves it, and its certificate beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from birthmark.adapters.pkcs11_uri import parse_pkcs11_uri
from birthmark.adapters.targets.identity import CHAIN_LENGTHS, certificates_of, mismatch, refuse_key
from birthmark.adapters.targets.proof import device_csr, sign_proof
from birthmark.adapters.targets.tokenlink import TokenLink, open_token
from birthmark.adapters.targets.tokenplace import TokenPlace, check_attributes
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused
from birthmark.pki.algorithms import algorithm_named, algorithm_of, spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import Credential, Evidence, Fence, Probe, Rehearsal, SecretsHandler

__all__ = ["Pkcs11Target"]

_KEY_ID_OCTETS = 16


class Pkcs11Target:
    """Implements ``ports.Target`` on ``pkcs11:token=LABEL;object=NAME?module-path=PATH&pin-source=REFERENCE``.

    The device is called what its token is labelled. Every call opens a session of its own, so nothing is remembered
    between ``install`` and ``prove``. What the token cannot do is a ``StationFault("token.*")``.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        path, _, query = uri.partition("?")
        items = query.split("&")
        chains = [item.removeprefix("chain=") for item in items if item.startswith("chain=")]
        plain = "&".join(item for item in items if not item.startswith("chain="))
        parsed = parse_pkcs11_uri(f"{path}?{plain}", base=base)
        if parsed.label is None or len(chains) > 1 or not set(chains) <= set(CHAIN_LENGTHS):
            raise Misconfigured(
                "target.uri.option",
                "the target does not name an object, or says chain= in a way that is not known",
                hint="Add object=NAME, and chain=full or chain=issuing; see docs/targets.md.",
                target=ascii(path[:200]),
            )
        self._name = uri
        self._chain = chains[0] if chains else "full"
        self._uri = parsed
        self._object = parsed.label
        self._secrets = secrets

    @classmethod
    def rehearsal(cls, uri: str, *, device_serial: str, directory: str) -> Rehearsal:
        """``Rehearses``, by refusing: a token is made by its module, not by us. Name one with ``--rehearse-on``."""
        raise Refused(
            "rehearsal.impossible",
            f"there is no stand-in for a token: {uri.partition('?')[0][:200]} cannot be rehearsed by itself",
            hint="Make a token of the same label with SoftHSM2 and name it: --rehearse-on pkcs11:token=…",
            target=ascii(uri.partition("?")[0][:200]),
        )

    @property
    def place(self) -> str:
        """The token as its module shows it: two objects in it are still one device."""
        return f"pkcs11:{self._uri.module}:token={self._uri.token}"

    def probe(self) -> Probe:
        with self._opened() as (_, place):
            installed = place.certificate()
        return Probe(self._uri.token, None if installed is None else installed.value, makes_key=True, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        chosen = algorithm_named(algorithm)
        with self._opened(fence) as (link, place):
            key = place.waiting_key()
            if key is None:
                place.remove_orphans()
                fence.hold()
                key = link.generate(chosen.name, label=place.new_label, key_id=os.urandom(_KEY_ID_OCTETS))
                self._check_born(key)
            check_attributes(key, place.new_label)
            signer = link.signer(key)
            made = algorithm_of(signer.public_key())
            if made is not chosen:
                raise Refused(
                    "target.key.other_algorithm",
                    f"a {made.title} key already waits in {self._name}, not a {chosen.title} key",
                    hint="Finish the attempt that made it, or remove the waiting key from the token.",
                    target=self._name,
                    algorithm=made.name,
                )
            return device_csr(signer, device_serial)

    def install(self, credential: Credential, fence: Fence) -> None:
        refuse_key(credential)
        certificates = certificates_of(credential, chain=self._chain)
        with self._opened(fence) as (link, place):
            for key in place.private_keys():
                if _shows(link, key, certificates.spki):
                    check_attributes(key, self._object)
                    place.write(certificates, key)
                    return
            raise mismatch(self._name, "the key born")

    def prove(self, challenge: bytes) -> Evidence:
        with self._opened() as (link, place):
            installed = place.certificate()
            if installed is None:
                raise DeviceFault(
                    "target.certificate.missing",
                    f"there is no certificate {self._object} in the token",
                    hint="Provision the device again.",
                    object=self._object,
                )
            key = place.key_of(installed.key_id)
            if key is None:
                raise DeviceFault(
                    "target.key.missing",
                    f"the certificate {self._object} has no private key in the token",
                    hint="Provision the device again as rework, with a new identity.",
                    object=self._object,
                )
            check_attributes(key, self._object)
            signer = link.signer(key)
            if _spki_in(installed.value, self._object) != spki_of(signer.public_key()):
                raise mismatch(self._name, "the private key")
            signature = sign_proof(signer, challenge)
            return Evidence(installed.value, place.chain(), "signature", signature, None)

    def _check_born(self, key: Any) -> None:
        """A key that the token made extractable must not stay: nobody may ask for a certificate with it later."""
        try:
            check_attributes(key, self._object)
        except BirthmarkError:
            key.destroy()
            raise

    @contextmanager
    def _opened(self, fence: Fence | None = None) -> Iterator[tuple[TokenLink, TokenPlace]]:
        with open_token(self._uri, self._secrets(self._uri.pin_source)) as link:
            yield link, TokenPlace(link.session, self._object, fence)


def _shows(link: TokenLink, key: Any, spki: bytes) -> bool:
    """Say whether this key object has that public key. A key without any is not the one."""
    with suppress(Misconfigured):
        return spki_of(link.signer(key).public_key()) == spki
    return False


def _spki_in(certificate: bytes, name: str) -> bytes:
    try:
        return spki_of(x509.load_der_x509_certificate(certificate).public_key())
    except (*UNREADABLE, UnsupportedAlgorithm):
        raise DeviceFault(
            "target.certificate.damaged",
            f"the certificate object {name} does not hold a certificate",
            hint="Provision the device again as rework, with a new identity.",
            object=name,
        ) from None
