"""A ceremony: one reviewed file makes root and issuing CAs, and leaves a signed transcript.

Order: refuse whatever exists; make each key; sign each certificate and check it; record all of them in one
transaction together with the transcript's hash; write transcript and certificates. A power cut before the transaction
leaves keys that nobody certified on record: the next run refuses to take them over (``key.exists``), an operator
destroys them and starts again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark import __version__
from birthmark.errors import Misconfigured, Refused
from birthmark.model.events import CaCreated, utc_text
from birthmark.pki.algorithms import spki_of
from birthmark.pki.chain import verify_chain
from birthmark.pki.issuer import Issuer, issue_ca_certificate
from birthmark.pki.lint import lint_certificate, refuse_findings
from birthmark.pki.profile import Profile
from birthmark.ports import Clock, Entropy, Keys, Ledger, Records
from birthmark.tlog.note import sign_note

__all__ = ["Ceremony", "CeremonyCa", "CeremonyResult", "CeremonyTools", "parse_ceremony", "run_ceremony"]

_FORMAT = "birthmark-ceremony/1"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CeremonyCa(_Part, frozen=True):
    """One CA to be made. ``values`` fill the profile's placeholders; ``key`` is a key URI."""

    name: str
    kind: Literal["root", "issuing"]
    profile: str
    key: str
    key_algorithm: str
    issuer: str | None = None
    values: dict[str, str] = {}


class Ceremony(_Part, frozen=True):
    """The whole input of a ceremony: what is reviewed is what is done."""

    format: str
    title: str
    ca: list[CeremonyCa]
    participants: list[str] = []


@dataclass(frozen=True, slots=True)
class CeremonyResult:
    """``certificates``: (CA name, DER); ``transcript``: signed note."""

    certificates: tuple[tuple[str, bytes], ...]
    transcript: bytes


@dataclass(frozen=True, slots=True)
class CeremonyTools:
    """What a ceremony works with."""

    ledger: Ledger
    records: Records
    keys: Callable[[str], Keys]
    profile: Callable[[str], Profile]
    log_key: Ed25519PrivateKey
    origin: str
    clock: Clock
    entropy: Entropy
    by: str


def parse_ceremony(data: bytes) -> Ceremony:
    """Return a ceremony file; unknown keys and disorder are ``Misconfigured("ceremony.*")``."""
    try:
        ceremony = msgspec.toml.decode(data, type=Ceremony)
    except (msgspec.MsgspecError, ValueError) as problem:
        raise Misconfigured(
            "ceremony.malformed",
            f"the ceremony file cannot be used: {problem}",
            hint="Keys: format, title, participants; [[ca]] name, kind, profile, key, key_algorithm, issuer, values.",
        ) from None
    if ceremony.format != _FORMAT or not ceremony.ca:
        raise Misconfigured(
            "ceremony.format",
            f"format {ceremony.format[:40]!r} with {len(ceremony.ca)} CAs is not a ceremony",
            hint=f'Write format = "{_FORMAT}" and at least one [[ca]].',
        )
    known: set[str] = set()
    for ca in ceremony.ca:
        if ca.name in known or (ca.kind == "root") != (ca.issuer is None):
            raise Misconfigured(
                "ceremony.order",
                f"CA {ca.name}: a name stands once, a root has no issuer, an issuing CA has one",
                hint="List the root first, then the CAs it signs.",
                ca=ca.name,
            )
        known.add(ca.name)
    return ceremony


def run_ceremony(ceremony: Ceremony, *, source: bytes, tools: CeremonyTools) -> CeremonyResult:
    """Make every CA of the ceremony. ``source``: the reviewed file, whose SHA-256 the transcript states."""
    for ca in ceremony.ca:
        if tools.records.ca(ca.name) is not None:
            raise Refused(
                "ceremony.ca.exists",
                f"CA {ca.name} is already on record",
                hint="A ceremony never replaces a CA: give the new one another name.",
                ca=ca.name,
            )
    now = tools.clock()
    made: dict[str, _MadeCa] = {}
    for ca in ceremony.ca:
        made[ca.name] = _make_ca(ca, made, now, tools)
    transcript = _transcript(ceremony, source, made, now, tools)
    digest = hashlib.sha256(transcript).hexdigest()
    with tools.ledger.transaction() as tx:
        for ca in ceremony.ca:
            event = CaCreated(
                at=utc_text(now),
                ca=ca.name,
                kind=ca.kind,
                key_scheme=ca.key.partition(":")[0],
                profile=ca.profile,
                cert_sha256=hashlib.sha256(made[ca.name].der).hexdigest(),
                transcript_sha256=digest,
                by=tools.by,
                issuer=ca.issuer,
            )
            tx.append(event, made[ca.name].der)
    return CeremonyResult(tuple((name, ca.der) for name, ca in made.items()), transcript)


@dataclass(frozen=True, slots=True)
class _MadeCa:
    der: bytes
    key: Any
    chain: tuple[x509.Certificate, ...]
    """Issuer first, root last."""


def _make_ca(ca: CeremonyCa, made: dict[str, _MadeCa], now: datetime, tools: CeremonyTools) -> _MadeCa:
    """Make key and certificate of one CA; the certificate is linted and its chain verified before it counts."""
    profile = tools.profile(ca.profile)
    issuer = _issuer(ca, made, tools)
    key: Any = tools.keys(ca.key).generate(ca.key, ca.key_algorithm)
    with tools.ledger.transaction() as tx:
        (prefix,) = tx.serial_prefixes(1)
    der = issue_ca_certificate(
        profile,
        subject_key=key.public_key(),
        issuer=issuer,
        self_key=key if issuer is None else None,
        cert_serial=prefix + tools.entropy(8),
        not_before=now,
        values=ca.values,
        lint=lambda specimen, issuer_der: lint_certificate(specimen, issuer_der=issuer_der, profile=profile),
    )
    ancestors = () if issuer is None else issuer.chain_der
    refuse_findings(lint_certificate(der, issuer_der=ancestors[0] if ancestors else der, profile=profile), profile)
    verify_chain(der, ancestors[:-1], ancestors[-1:] or (der,), at=now)
    return _MadeCa(der, key, tuple(x509.load_der_x509_certificate(member) for member in ancestors))


def _issuer(ca: CeremonyCa, made: dict[str, _MadeCa], tools: CeremonyTools) -> Issuer | None:
    if ca.issuer is None:
        return None
    if ca.issuer not in made:
        raise Misconfigured(
            "ceremony.issuer",
            f"CA {ca.name} is to be signed by {ca.issuer}, which this ceremony does not make before it",
            hint="List the issuer earlier in the same ceremony file.",
            ca=ca.name,
            issuer=ca.issuer,
        )
    above = made[ca.issuer]
    return Issuer(x509.load_der_x509_certificate(above.der), above.key, above.chain)


def _transcript(
    ceremony: Ceremony, source: bytes, made: dict[str, _MadeCa], now: datetime, tools: CeremonyTools
) -> bytes:
    """Return the signed record of what was done: a C2SP signed note by the key of the log."""
    lines = [
        "birthmark-transcript/1",
        f"title: {ceremony.title}",
        f"ceremony-file-sha256: {hashlib.sha256(source).hexdigest()}",
        f"at: {utc_text(now)}",
        f"software: birthmark {__version__}",
        f"operator: {tools.by}",
        *(f"participant: {name}" for name in ceremony.participants),
    ]
    for ca in ceremony.ca:
        certificate = x509.load_der_x509_certificate(made[ca.name].der)
        lines += [
            f"ca: {ca.name}",
            f"  kind: {ca.kind}, profile {ca.profile}, signed by {ca.issuer or 'itself'}",
            f"  key: {ca.key_algorithm}, kept in {ca.key.partition(':')[0]}",
            f"  spki-sha256: {hashlib.sha256(spki_of(certificate.public_key())).hexdigest()}",
            f"  certificate-sha256: {hashlib.sha256(made[ca.name].der).hexdigest()}",
            f"  subject: {certificate.subject.rfc4514_string()}",
            f"  serial: {certificate.serial_number:x}",
            f"  not-before: {utc_text(certificate.not_valid_before_utc)}",
            f"  not-after: {utc_text(certificate.not_valid_after_utc)}",
        ]
    text = "\n".join(line.replace("\n", " ") for line in lines) + "\n"
    return sign_note(text, tools.origin, tools.log_key).encode()
