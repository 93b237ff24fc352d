"""The signatures in a site's entries: receipts, and certificates of its own CA. Pure, so that any process can do it.

Cases go to other processes by the hundred: they are structures that pickle without running Python code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import sha256

import msgspec

from birthmark.errors import BirthmarkError
from birthmark.pki.certread import open_parts
from birthmark.pki.sigcheck import SIGNATURES, verify_signature
from birthmark.pki.template import Template
from birthmark.wire.receipt import open_receipt, verify_evidence

__all__ = ["CertificateCase", "CheckMap", "ReceiptCase", "check_proofs"]


class ReceiptCase(msgspec.Struct, frozen=True):
    """What a ``verified`` or ``admitted`` entry says, and what its receipt must fit.

    ``vkey``: that of the station on record at the authority, None if it has none; ``certificate``: that of the device
    at that moment, None if it has none; ``key_origin``: as its order at the authority says, None if there is no such
    order, which is a finding of its own; ``service``: kind of the cloud that an ``admitted`` entry names.
    """

    receipt: bytes
    receipt_sha256: str
    origin: str
    station: str
    attempt: str
    device: str
    evidence: str
    key_origin: str | None
    vkey: str | None
    certificate: bytes | None
    service: str | None = None


class CertificateCase(msgspec.Struct, frozen=True):
    """A certificate that a site signed, and what must be in it. ``ca_spki``: key of the delegated CA (DER)."""

    certificate: bytes
    template: bytes
    ca_spki: bytes
    device: str
    cert_serial: bytes
    spki_sha256: bytes
    tbs_sha256: bytes


Case = ReceiptCase | CertificateCase
CheckMap = Callable[
    [Callable[[Sequence[Case]], list[str | None]], Iterable[Sequence[Case]]], Iterable[list[str | None]]
]
"""``map``, or one that lets other processes do the work; it may begin before its result is asked for."""


def check_proofs(cases: Sequence[Case]) -> list[str | None]:
    """Return for each case what is wrong with it, None for a good one."""
    return [_check_receipt(case) if isinstance(case, ReceiptCase) else _check_certificate(case) for case in cases]


def _check_receipt(case: ReceiptCase) -> str | None:
    if case.vkey is None:
        return f"station {case.station} is not on record"
    if case.certificate is None:
        return "the device has no certificate"
    if sha256(case.receipt).hexdigest() != case.receipt_sha256:
        return "the receipt is not the one that the entry names"
    try:
        receipt = open_receipt(case.receipt, case.vkey)
        verify_evidence(receipt, case.certificate)
    except BirthmarkError as problem:
        return problem.message
    if case.service is not None and (not receipt.cloud or receipt.cloud.service != case.service):
        return "the receipt does not say that this cloud let the device in"
    key_origin = receipt.key_origin if case.key_origin is None else case.key_origin
    expected = (case.origin, case.station, case.attempt, case.device, case.evidence, key_origin)
    found = (
        receipt.origin, receipt.station, receipt.attempt, receipt.device_serial, receipt.evidence, receipt.key_origin,
    )  # fmt: skip
    return None if found == expected else "the receipt speaks of something else than its entry"


def _check_certificate(case: CertificateCase) -> str | None:
    try:
        parts = open_parts(case.certificate)
        values = _template(case.template).read(parts.tbs)
    except BirthmarkError as problem:
        return problem.message
    if values.device_serial != case.device.encode():
        return "the certificate names another device"
    if values.cert_serial != case.cert_serial or sha256(parts.tbs).digest() != case.tbs_sha256:
        return "the certificate is not the one that was reserved"
    if sha256(values.spki).digest() != case.spki_sha256:
        return "the certificate holds another key than was reserved"
    kind = SIGNATURES.get(parts.algorithm)
    good = kind is not None and parts.same_algorithm and parts.parameters == kind.parameters
    if kind is None or not good or not verify_signature(kind, case.ca_spki, parts.signature, parts.tbs):
        return "the certificate is not signed by the CA that was delegated to the site"
    return None


@lru_cache(maxsize=16)
def _template(body: bytes) -> Template:
    return Template.from_bytes(body)
