"""Who is let in: a device's certificate as TLS has shown it, judged by the registry. Just-in-time registration.

Source: AWS IoT developer guide, "Register a client certificate when the client connects", "Just-in-time
provisioning". A certificate that is registered just now, or not active, does not get in; its next connection may.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from threading import RLock

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from moto.core.exceptions import JsonRESTError

from birthmark.pki.certread import UNREADABLE
from birthmark.testing.aws.certificates import add_certificate, issuers_of
from birthmark.testing.aws.refusal import Refusal
from birthmark.testing.aws.register import carry_out
from birthmark.testing.aws.registry import Authority, Certificate, Registry
from birthmark.testing.aws.templates import check_template, fill

__all__ = ["Admission"]

_PREFIX = "AWS::IoT::Certificate::"
_SUBJECT: Mapping[str, x509.ObjectIdentifier] = {
    "Country": NameOID.COUNTRY_NAME,
    "Organization": NameOID.ORGANIZATION_NAME,
    "OrganizationalUnit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "DistinguishedNameQualifier": NameOID.DN_QUALIFIER,
    "StateName": NameOID.STATE_OR_PROVINCE_NAME,
    "CommonName": NameOID.COMMON_NAME,
    "SerialNumber": NameOID.SERIAL_NUMBER,
}


class Admission:
    """``publish``: a topic and a payload for those who listen; ``hosts``: names of the data endpoint."""

    def __init__(
        self,
        registry: Callable[[], Registry],
        lock: RLock,
        hosts: Sequence[str],
        publish: Callable[[str, bytes], None],
    ) -> None:
        self._registry, self._lock, self._hosts, self._publish = registry, lock, hosts, publish

    def judge(self, chain: Sequence[bytes], server_name: str | None) -> Certificate | None:
        """Return the certificate if the device is let in. ``chain``: DER, its own first; ``server_name``: SNI."""
        if not chain:
            return None
        try:
            leaf = x509.load_der_x509_certificate(chain[0])
            _ = leaf.subject, leaf.issuer, leaf.extensions
        except UNREADABLE:
            return None
        if not leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc:
            return None
        named = server_name in self._hosts
        with self._lock:
            registry = self._registry()
            found = registry.certificates.get(sha256(chain[0]).hexdigest())
            if not isinstance(found, Certificate):
                self._meet(registry, leaf, named)
                return None
            if found.status == "PENDING_ACTIVATION":
                self._provision(registry, found)
                return None
            return found if self._active(found) and (named or found.mode != "SNI_ONLY") else None

    def active(self, certificate: Certificate) -> bool:
        """Say whether a certificate that was let in still is."""
        with self._lock:
            return self._active(certificate)

    def _active(self, certificate: Certificate) -> bool:
        held = self._registry().certificates.get(certificate.certificate_id)
        ended = certificate.ends is not None and certificate.ends < datetime.now(UTC)
        return held is certificate and certificate.status == "ACTIVE" and not ended

    def _meet(self, registry: Registry, leaf: x509.Certificate, named: bool) -> None:
        """Register the certificate of a known CA, if it is to be registered when it shows up first."""
        able = [one for one in issuers_of(registry, leaf) if one.status == "ACTIVE" and one.auto]
        able = [one for one in able if named or one.mode != "SNI_ONLY"]
        if not able:
            return
        authority, pem = able[0], leaf.public_bytes(Encoding.PEM).decode()
        made = add_certificate(registry, pem, "PENDING_ACTIVATION", authority.certificate_id, authority.mode)
        if not self._provision(registry, made):
            self._tell(registry, made, authority)

    def _tell(self, registry: Registry, made: Certificate, authority: Authority) -> None:
        now = int(time.time() * 1000)
        event = {
            "certificateId": made.certificate_id,
            "caCertificateId": authority.certificate_id,
            "timestamp": now,
            "certificateStatus": made.status,
            "awsAccountId": registry.account_id,
            "certificateRegistrationTimestamp": str(now),
        }
        self._publish(f"$aws/events/certificates/registered/{authority.certificate_id}", json.dumps(event).encode())

    def _provision(self, registry: Registry, certificate: Certificate) -> bool:
        """Run the template of the CA for a certificate; return whether there is one. A failure leaves it pending."""
        body = _template_of(registry, certificate)
        if body is None:
            return False
        try:
            carry_out(registry, fill(body, _parameters(body, certificate)), certificate)
        except (Refusal, JsonRESTError) as refusal:
            certificate.reason = str(refusal)
        return True


def _template_of(registry: Registry, certificate: Certificate) -> str | None:
    authority = registry.ca_certificates.get(certificate.ca_certificate_id or "")
    config = (authority.registration_config or {}) if isinstance(authority, Authority) else {}
    named = registry.templates.get(config.get("templateName", ""))
    if named is not None:
        return named.body if named.enabled else None
    return config.get("templateBody")


def _parameters(body: str, certificate: Certificate) -> dict[str, str]:
    """Return what the subject says, for the parameters that the template declares."""
    found = {f"{_PREFIX}Id": certificate.certificate_id}
    for name, oid in _SUBJECT.items():
        values = certificate.x509.subject.get_attributes_for_oid(oid)
        if values:
            found[_PREFIX + name] = str(values[0].value)
    return {name: found[name] for name in check_template(body).get("Parameters", {}) if name in found}
