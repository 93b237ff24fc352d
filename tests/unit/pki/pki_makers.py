"""Hierarchies for tests, and the tools that judge them."""

from __future__ import annotations

import functools
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.pki.algorithms import ALGORITHMS, spki_of
from birthmark.pki.issuer import Issuer, issue_ca_certificate
from birthmark.pki.lint import lint_certificate
from birthmark.pki.profile import Profile, load_preset
from birthmark.pki.template import Template, compile_template

NOW = datetime(2025, 1, 1, 2, 7, 54, tzinfo=UTC)
"""In the past, since certtool judges by the clock of the machine."""
VALUES = {"maker": "Acmé & Söhne", "hw_type": "1.3.6.1.4.1.32473.1", "vid": "FFF1", "pid": "8000", "pen": "32473"}
SERIAL = bytes(range(0x41, 0x51))


@functools.cache
def key(algorithm: str, number: int = 0) -> Any:
    """Return a key that is the same whenever a test asks for that number."""
    return ALGORITHMS[algorithm].generate()


def no_lint(certificate: bytes, issuer: bytes) -> list[Any]:
    return []


def real_lint(profile: Profile, values: dict[str, str]) -> Any:
    def lint(certificate: bytes, issuer: bytes) -> Any:
        example = profile.device_serial.example if profile.device_serial else None
        return lint_certificate(certificate, issuer_der=issuer, profile=profile, device_serial=example, values=values)

    return lint


@functools.cache
def ca(preset: str, algorithm: str, above: Issuer | None = None, lint: bool = False) -> Issuer:
    profile, values = load_preset(preset), VALUES | {"ca_name": f"{preset} {algorithm}"}
    private = key(algorithm, 1 if above is None else 2)
    der = issue_ca_certificate(
        profile,
        subject_key=private.public_key(),
        issuer=above,
        self_key=private if above is None else None,
        cert_serial=SERIAL,
        not_before=NOW,
        values=values,
        lint=real_lint(profile, values) if lint else no_lint,
    )
    chain = () if above is None else (above.certificate,)
    return Issuer(x509.load_der_x509_certificate(der), private, chain)


def hierarchy(leaf: str, algorithm: str) -> Issuer:
    """Return the issuing CA for a leaf preset, below its root."""
    root, issuing = ("matter-paa", "matter-pai") if leaf.startswith("matter") else ("root-ca", "issuing-ca")
    return ca(issuing, algorithm, ca(root, algorithm, None, True), True)


def template(leaf: str, algorithm: str = "p256", issuer_algorithm: str = "p256") -> Template:
    return compile_template(
        load_preset(leaf),
        issuer_certificate=hierarchy(leaf, issuer_algorithm).certificate,
        not_before=NOW,
        product_values=VALUES,
        key_algorithm=algorithm,
    )


def values_for(algorithm: str, device_serial: bytes = b"sn0000000042") -> tuple[bytes, bytes, bytes, bytes]:
    spki = spki_of(key(algorithm).public_key())
    return SERIAL, device_serial, spki, ALGORITHMS[algorithm].key_id(spki)


def write_pem(path: Path, *certificates: bytes | x509.Certificate) -> str:
    """Write certificates (DER or objects) as PEM and return the path."""
    loaded = (x509.load_der_x509_certificate(each) if isinstance(each, bytes) else each for each in certificates)
    path.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in loaded))
    return str(path)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


class FaultyTokenKey(ec.EllipticCurvePrivateKey):
    """A token that shows one key and signs with another object.

    What would take the key out of it, or do anything else with it, a token does not offer: ``NotImplementedError``.
    """

    def __init__(self, shown: ec.EllipticCurvePrivateKey, used: ec.EllipticCurvePrivateKey) -> None:
        self._shown, self._used = shown, used
        self.calls = 0

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        self.calls += 1
        return self._used.sign(data, signature_algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._shown.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._shown.curve

    @property
    def key_size(self) -> int:
        return self._shown.key_size

    def exchange(self, *_: Any) -> bytes:
        raise NotImplementedError

    def private_numbers(self) -> Any:
        raise NotImplementedError

    def private_bytes(self, *_: Any) -> bytes:
        raise NotImplementedError

    def __copy__(self) -> FaultyTokenKey:
        return self

    def __deepcopy__(self, memo: Any) -> FaultyTokenKey:
        return self
