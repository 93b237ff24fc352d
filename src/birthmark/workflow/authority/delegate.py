"""Delegation: an issuing CA whose key is born at a site gets its certificate, narrowed and on record.

The request proves that the sender holds the key; names, rights and times come from the profile and from here. A
delegated CA is never renewed: the next one has a new name and a new key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key

from birthmark.errors import Refused
from birthmark.model.events import CaCreated, utc_text
from birthmark.model.records import CaRecord
from birthmark.pki.algorithms import certified_key, spki_of
from birthmark.pki.chain import verify_chain
from birthmark.pki.csr import Csr
from birthmark.pki.delegation import DeviceNames, delegated_profile
from birthmark.pki.issuer import Issuer, issue_ca_certificate
from birthmark.pki.lint import lint_certificate, refuse_findings
from birthmark.pki.profile import Profile
from birthmark.ports import Transaction
from birthmark.workflow.authority.access import AccessTools

__all__ = ["DEFAULT_SIGNING_DAYS", "Delegation", "SignedCa", "delegate", "record_delegated", "sign_delegated"]

DEFAULT_SIGNING_DAYS = 90


@dataclass(frozen=True, slots=True)
class Delegation:
    """What is delegated. ``issuer``: name of the CA that signs; ``open_issuer`` opens it.

    ``values`` fill the placeholders of ``profile``; ``days``: how long the CA may sign, from now.
    """

    ca: str
    site: str
    csr: Csr
    key_scheme: str
    issuer: str
    open_issuer: Callable[[str], Issuer]
    profile: Profile
    values: Mapping[str, str]
    products: Sequence[DeviceNames]
    days: int = DEFAULT_SIGNING_DAYS
    constrained: bool = True


@dataclass(frozen=True, slots=True)
class SignedCa:
    """A CA certificate (DER) that must not leave before ``record_delegated`` put it on record."""

    wish: Delegation
    certificate: bytes


def sign_delegated(tools: AccessTools, wish: Delegation) -> SignedCa:
    """Return the certificate, linted and verified up to its root.

    Raises ``Refused``: ``site.ca.exists``, ``site.ca.key`` (the key of another CA), ``csr.*``, ``issuer.path_length``
    (the issuer has no room for a CA below), ``issuer.validity.nesting``, ``lint.findings``; ``Misconfigured``:
    ``site.ca.profile``, ``template.value.*``.
    """
    now = tools.clock()
    _require_new(tools.records.cas(), wish)
    profile = delegated_profile(wish.profile, wish.products, days=wish.days, now=now, constrained=wish.constrained)
    wish.csr.check_against(profile, "", values=wish.values)
    issuer = wish.open_issuer(wish.issuer)
    with tools.ledger.transaction() as tx:
        (prefix,) = tx.serial_prefixes(1)
    der = issue_ca_certificate(
        profile,
        subject_key=load_der_public_key(wish.csr.spki),
        issuer=issuer,
        cert_serial=prefix + tools.entropy(8),
        not_before=now,
        values=wish.values,
        lint=lambda specimen, issuer_der: lint_certificate(specimen, issuer_der=issuer_der, profile=profile),
    )
    refuse_findings(lint_certificate(der, issuer_der=issuer.chain_der[0], profile=profile), profile)
    verify_chain(der, issuer.chain_der[:-1], issuer.chain_der[-1:], at=now)
    return SignedCa(wish, der)


def record_delegated(tx: Transaction, signed: SignedCa, *, at: str, by: str, transcript_sha256: str) -> None:
    """Put the CA on record. ``transcript_sha256``: of the document that asked for it."""
    wish = signed.wish
    event = CaCreated(
        at=at,
        ca=wish.ca,
        kind="issuing",
        key_scheme=wish.key_scheme,
        profile=wish.profile.name,
        cert_sha256=sha256(signed.certificate).hexdigest(),
        transcript_sha256=transcript_sha256,
        by=by,
        issuer=wish.issuer,
        site=wish.site,
    )
    tx.append(event, signed.certificate)


def delegate(tools: AccessTools, wish: Delegation) -> bytes:
    """Sign one more CA for a site, put it on record and return it: now it may leave."""
    signed = sign_delegated(tools, wish)
    asked = sha256(wish.csr.der).hexdigest()
    with tools.ledger.transaction() as tx:
        record_delegated(tx, signed, at=utc_text(tools.clock()), by=tools.by, transcript_sha256=asked)
    return signed.certificate


def _require_new(known: Sequence[CaRecord], wish: Delegation) -> None:
    for record in known:
        if record.ca == wish.ca:
            raise Refused(
                "site.ca.exists",
                f"CA {wish.ca} is already on record",
                hint="A CA is never renewed: let the site make a new key under a new name.",
                ca=wish.ca,
            )
        certificate = x509.load_der_x509_certificate(record.certificate)
        if spki_of(certified_key(certificate)) == wish.csr.spki:
            raise Refused(
                "site.ca.key",
                f"the request for {wish.ca} brings the key of CA {record.ca}",
                hint="Let the site make a new key: no two CAs share one.",
                ca=wish.ca,
                known=record.ca,
            )
