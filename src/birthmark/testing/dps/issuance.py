"""Certificate issuance as Azure Device Registry does it: a root, an issuing CA for each policy, CSRs in registrations.

Shapes: Azure REST API specifications, Device Provisioning Services data plane, device models of 2025-07-01-preview
(``csr``: base64 of DER; ``issuedCertificateChain``: leaf, issuing CA, root). What a leaf holds besides the common name
and the key, and the codes of refusals, are our reading (docs/testing-dps.md).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from birthmark.pki.certread import UNREADABLE
from birthmark.testing.dps.answers import Problem
from birthmark.testing.dps.enrollments import Enrollment

__all__ = ["DeviceRegistry"]

_MAX_CSR = 8192
_CA_DAYS = 3650
_SKEW = timedelta(hours=1)
"""Devices wake up with a slow clock."""


class DeviceRegistry:
    """The CAs of one namespace, made now; their keys live in this process only. ``policies``: name → days of a leaf."""

    def __init__(self, policies: Mapping[str, int]) -> None:
        self.policies = dict(policies)
        root_key, name = ec.generate_private_key(ec.SECP384R1()), _name("Emulated Device Registry root")
        self.root = _ca(name, name, root_key.public_key(), 1).sign(root_key, hashes.SHA384())
        self._issuing: dict[str, tuple[x509.Certificate, ec.EllipticCurvePrivateKey]] = {}
        for policy in self.policies:
            key = ec.generate_private_key(ec.SECP256R1())
            builder = _ca(_name(f"Emulated Device Registry {policy}"), name, key.public_key(), 0)
            authority = _issued_by(self.root)
            self._issuing[policy] = (
                builder.add_extension(authority, critical=False).sign(root_key, hashes.SHA384()),
                key,
            )

    def chain_pem(self, policy: str) -> str:
        """Return the issuing CA of a policy and the root (PEM): what users of its certificates have to know."""
        chain = (self._issuing[policy][0], self.root)
        return "".join(one.public_bytes(Encoding.PEM).decode() for one in chain)

    def issue(self, enrollment: Enrollment, registration_id: str, csr: object) -> tuple[bytes, ...]:
        """Return leaf, issuing CA and root (DER). What is no request for this device is ``Problem`` 400014.

        The same request twice gets two certificates: the service promises nothing else.
        """
        request = _read(csr)
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if len(names) != 1 or str(names[0].value).lower() != registration_id.lower():
            raise Problem(400014, "The common name of the csr is not the registrationId.")
        policy = str(enrollment.extra.get("credentialPolicyName"))
        if policy not in self._issuing:
            raise Problem(400015, "The enrolment names no credential policy of this namespace.")
        certificate, key = self._issuing[policy]
        leaf = _leaf(request, registration_id, certificate, self.policies[policy]).sign(key, hashes.SHA256())
        return tuple(one.public_bytes(Encoding.DER) for one in (leaf, certificate, self.root))


def _read(text: object) -> x509.CertificateSigningRequest:
    wrong = Problem(400014, "The csr is not base64 of a PKCS #10 request that its key signed.")
    if not isinstance(text, str) or len(text) > _MAX_CSR:
        raise wrong
    try:
        request = x509.load_der_x509_csr(base64.b64decode(text, validate=True))
        good = request.is_signature_valid and isinstance(
            request.public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey
        )
    except (UnsupportedAlgorithm, *UNREADABLE):
        raise wrong from None
    if not good:
        raise wrong
    return request


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, days: int, path: int | None) -> x509.CertificateBuilder:
    now, ca = datetime.now(UTC), path is not None
    usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _ca(subject: x509.Name, issuer: x509.Name, key: Any, path: int) -> x509.CertificateBuilder:
    return _builder(subject, issuer, key, _CA_DAYS, path)


def _leaf(
    request: x509.CertificateSigningRequest, registration_id: str, issuer: x509.Certificate, days: int
) -> x509.CertificateBuilder:
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    built = _builder(_name(registration_id), issuer.subject, request.public_key(), days, None)
    return built.add_extension(purpose, critical=False).add_extension(_issued_by(issuer), critical=False)
