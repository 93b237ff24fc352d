"""Who is let in: the workspace's own CA for TLS, its certificates, and the record of both.

The access CA signs stations, operators, approvers, auditors and the service itself, never a device. A certificate is on
record (``access_granted``) before it leaves; what lets a caller in is that record, so a withdrawn key is out at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from cryptography import x509

from birthmark.errors import Refused
from birthmark.model.events import AccessGranted, AccessWithdrawn, CaCreated, utc_text
from birthmark.model.ids import parse_station_id
from birthmark.model.siteevents import Role
from birthmark.model.siterecords import AccessRecord
from birthmark.pki.accessprofiles import access_ca_profile, client_profile, server_profile
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.pki.csr import Csr
from birthmark.pki.issuer import Issuer, issue_ca_certificate
from birthmark.pki.lint import Finding, lint_certificate
from birthmark.pki.profile import Profile
from birthmark.pki.template import compile_template
from birthmark.ports import Clock, Entropy, Ledger, Records, SiteRecords, Transaction

__all__ = [
    "ACCESS_CA",
    "DEFAULT_DAYS",
    "AccessTools",
    "AuthorityRecords",
    "SignedAccess",
    "access_issuer",
    "grant_access",
    "record_access",
    "sign_client",
    "sign_server",
    "withdraw_access",
]

ACCESS_CA = "access"
DEFAULT_DAYS = 730
_MAX_NAME = 64
"""X.520 ub-common-name."""


class AuthorityRecords(Records, SiteRecords, Protocol):
    """Reading both halves of the tables."""


@dataclass(frozen=True, slots=True)
class AccessTools:
    """What the access CA works with. ``key``: opens the CA's private key; one that was never certified is made first.

    ``origin``: of the workspace's log; it is the CA's name.
    """

    ledger: Ledger
    records: AuthorityRecords
    key: Callable[[], Any]
    key_scheme: str
    origin: str
    clock: Clock
    entropy: Entropy
    by: str


@dataclass(frozen=True, slots=True)
class SignedAccess:
    """A certificate (DER) that must not leave before ``record_access`` put it on record. ``spki``: DER."""

    name: str
    role: Role
    site: str | None
    certificate: bytes
    spki: bytes


def access_issuer(tools: AccessTools) -> Issuer:
    """Return the access CA, ready to sign; it is made and recorded if there is none.

    Power cut before the record: a key that nothing was signed with; the next call certifies it.
    ``Refused("access.ca.name")`` if another CA has its name.
    """
    record = tools.records.ca(ACCESS_CA)
    if record is not None and record.kind != "access":
        raise Refused(
            "access.ca.name",
            f"a CA of kind {record.kind} has the name {ACCESS_CA}, which the CA for TLS certificates needs",
            hint="Make a new workspace in whose ceremony no CA has that name.",
            kind=record.kind,
        )
    key = tools.key()
    certificate = _make_ca(tools, key) if record is None else record.certificate
    return Issuer(x509.load_der_x509_certificate(certificate), key)


def _make_ca(tools: AccessTools, key: Any) -> bytes:
    now, profile = tools.clock(), access_ca_profile()
    der = issue_ca_certificate(
        profile,
        subject_key=key.public_key(),
        issuer=None,
        self_key=key,
        cert_serial=_cert_serial(tools),
        not_before=now,
        values={"ca_name": _ca_name(tools.origin)},
        lint=lambda specimen, _: lint_certificate(specimen, issuer_der=specimen, profile=profile),
    )
    event = CaCreated(
        at=utc_text(now),
        ca=ACCESS_CA,
        kind="access",
        key_scheme=tools.key_scheme,
        profile=profile.name,
        cert_sha256=sha256(der).hexdigest(),
        transcript_sha256="",
        by=tools.by,
    )
    with tools.ledger.transaction() as tx:
        tx.append(event, der)
    return der


def _ca_name(origin: str) -> str:
    """Return a common name: the end of a long origin says more than its start."""
    return f"{origin} access"[-_MAX_NAME:]


def _cert_serial(tools: AccessTools) -> bytes:
    with tools.ledger.transaction() as tx:
        (prefix,) = tx.serial_prefixes(1)
    return prefix + tools.entropy(8)


def sign_client(
    tools: AccessTools, *, name: str, role: Role, csr: Csr, site: str | None = None, days: int = DEFAULT_DAYS
) -> SignedAccess:
    """Return the certificate of a caller for the key of its request.

    ``name``: SITE/STATION of a station, else a name without a stroke. Raises ``Refused``: ``access.name``, what
    ``Csr.check_against``, ``Issuer.prepare`` and ``Issuer.issue`` raise.
    """
    parse_station_id(name)
    if len(name) > _MAX_NAME or ("/" in name) != (role == "station"):
        raise Refused(
            "access.name",
            f"{name} cannot be the name of a certificate for the role {role}",
            hint=f"A station is SITE/STATION, anyone else one name; at most {_MAX_NAME} characters in all.",
            name=name,
            role=role,
        )
    profile = client_profile(days)
    csr.check_against(profile, name)
    return SignedAccess(name, role, site, _sign(tools, profile, name, csr.spki, csr.kind), csr.spki)


def sign_server(tools: AccessTools, *, hosts: Sequence[str], public_key: Any, days: int = DEFAULT_DAYS) -> SignedAccess:
    """Return the certificate of the workspace's service for DNS names and IP addresses; errors as ``sign_client``."""
    profile = server_profile(hosts, days)
    spki = spki_of(public_key)
    return SignedAccess(
        hosts[0], "server", None, _sign(tools, profile, hosts[0], spki, algorithm_of(public_key).name), spki
    )


def _sign(tools: AccessTools, profile: Profile, name: str, spki: bytes, key_algorithm: str) -> bytes:
    issuer, now = access_issuer(tools), tools.clock()
    example = profile.device_serial.example if profile.device_serial else None

    def lint(der: bytes, issuer_der: bytes) -> list[Finding]:
        return lint_certificate(der, issuer_der=issuer_der, profile=profile, device_serial=example)

    template = compile_template(
        profile, issuer_certificate=issuer.certificate, not_before=now, product_values={}, key_algorithm=key_algorithm
    )
    permit = issuer.prepare(template, now=now, lint=lint)
    return issuer.issue(permit, cert_serial=_cert_serial(tools), device_serial=name.encode("ascii"), spki=spki)


def record_access(tx: Transaction, signed: SignedAccess, *, at: str, by: str) -> None:
    """Let the key in. ``Refused("ledger.exists")``: it is known already, let in or withdrawn."""
    event = AccessGranted(
        at=at,
        name=signed.name,
        role=signed.role,
        spki_sha256=sha256(signed.spki).hexdigest(),
        cert_sha256=sha256(signed.certificate).hexdigest(),
        by=by,
        site=signed.site,
    )
    tx.append(event, signed.certificate)


def grant_access(tools: AccessTools, signed: SignedAccess) -> SignedAccess:
    """Put one certificate on record and return it: now it may leave."""
    with tools.ledger.transaction() as tx:
        record_access(tx, signed, at=utc_text(tools.clock()), by=tools.by)
    return signed


def withdraw_access(tools: AccessTools, name: str, *, reason: str) -> list[AccessRecord]:
    """Withdraw every key of ``name`` (or the one key with this SPKI SHA-256); return them.

    ``Refused("access.unknown")`` if none of that name is let in.
    """
    found = [
        record
        for record in tools.records.accesses()
        if name in (record.name, record.spki_sha256) and record.withdrawn is None
    ]
    if not found:
        raise Refused(
            "access.unknown",
            f"no certificate of {name[:80]} is let in",
            hint="`birthmark access list` shows who is.",
            name=ascii(name[:80]),
        )
    with tools.ledger.transaction() as tx:
        for record in found:
            at = utc_text(tools.clock())
            tx.append(AccessWithdrawn(at=at, spki_sha256=record.spki_sha256, reason=reason, by=tools.by))
    return found
