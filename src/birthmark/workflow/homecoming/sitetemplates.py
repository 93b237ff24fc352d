"""Templates that a site admitted for itself, and the certificates that the authority signed earlier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from cryptography import x509

from birthmark.errors import BirthmarkError
from birthmark.model.records import DeviceRecord, IntentRecord
from birthmark.pki.algorithms import certified_key, spki_of
from birthmark.pki.certread import UNREADABLE, open_parts
from birthmark.pki.profile import Profile
from birthmark.pki.sigcheck import SIGNATURES, verify_signature
from birthmark.pki.template import Template
from birthmark.ports import SiteReplica
from birthmark.workflow.handout import record_of
from birthmark.workflow.homecoming.siteauthority import OwnRecord
from birthmark.workflow.homecoming.siteproofs import CertificateCase

__all__ = ["SiteTemplates"]

_Opened = tuple[bytes, bytes]
"""Template and key (SubjectPublicKeyInfo, DER) of the delegated CA that it is for."""


class SiteTemplates:
    """Checks a template once for each order; ``profile`` and ``values`` are what was granted to the site."""

    def __init__(
        self,
        own: OwnRecord,
        replica: SiteReplica,
        *,
        ca_certificate: Callable[[str], bytes | None],
        profile: Callable[[str], Profile],
        values: Callable[[str], Mapping[str, str]],
    ) -> None:
        self._own = own
        self._replica = replica
        self._ca_certificate = ca_certificate
        self._profile = profile
        self._values = values
        self._faults: dict[tuple[str, str], str | None] = {}
        self._opened: dict[str, _Opened] = {}

    def fault(self, template: str, order: str) -> str | None:
        """Return why the site may not sign with this template for the order, None if it may."""
        key = (template, order)
        if key not in self._faults:
            self._faults[key] = self._find_fault(template, order)
        return self._faults[key]

    def _find_fault(self, template: str, order: str) -> str | None:
        record = self._replica.records.template(template)
        made = self._own.order(order)
        if record is None or made is None:
            return "its template is not on record"
        try:
            opened = Template.from_bytes(record.body)
            profile = self._profile(made.profile)
        except BirthmarkError as problem:
            return problem.message
        ca = self._own.delegated.get(opened.file.issuer_certificate)
        if ca is None:
            return "its template is for a CA that was not delegated to the site"
        issuer = x509.load_der_x509_certificate(ca)
        granted = self._values(made.product)
        expected = {name: granted[name] for name in profile.placeholders() if name in granted}
        if opened.template_hash.hex() != template or opened.profile_hash != profile.profile_hash():
            return f"its template is not of the profile {made.profile} that was granted"
        if opened.key_algorithm.name != made.key_algorithm or dict(opened.file.product_values) != expected:
            return "its template has another key algorithm or other values than were granted"
        if not _within(opened.not_before, opened.not_after, issuer):
            return "its template makes certificates that outlive the CA of the site"
        self._opened[template] = (record.body, spki_of(certified_key(issuer)))
        return None

    def case(self, certificate: bytes, device: str, intent: IntentRecord, position: int) -> CertificateCase | None:
        """Return what is to be checked of a certificate that the site signed; None if its template has a fault."""
        if self.fault(intent.template, intent.order) is not None:
            return None
        template, ca_spki = self._opened[intent.template]
        cert_serial, spki_sha256, tbs_sha256 = record_of(intent, position)
        return CertificateCase(
            certificate=certificate,
            template=template,
            ca_spki=ca_spki,
            device=device,
            cert_serial=cert_serial,
            spki_sha256=spki_sha256,
            tbs_sha256=tbs_sha256,
        )

    def is_own(self, certificate: bytes, device: DeviceRecord) -> bool:
        """Say whether the authority's CA signed ``certificate`` for the device, whatever identity it has today."""
        order = self._own.order(device.order)
        ca = None if order is None else self._ca_certificate(order.ca)
        if ca is None:
            return False
        try:
            parts = open_parts(certificate)
            kind = SIGNATURES.get(parts.algorithm)
            key = spki_of(certified_key(x509.load_der_x509_certificate(ca)))
        except (BirthmarkError, *UNREADABLE):
            return False
        serial = device.device_serial.encode()
        named = bytes([len(serial)]) + serial in parts.tbs  # with its DER length: no part of a longer serial
        return named and kind is not None and verify_signature(kind, key, parts.signature, parts.tbs)


def _within(not_before: datetime, not_after: datetime, issuer: x509.Certificate) -> bool:
    start, end = (moment.astimezone(UTC) for moment in (not_before, not_after))
    return issuer.not_valid_before_utc <= start and end <= issuer.not_valid_after_utc
