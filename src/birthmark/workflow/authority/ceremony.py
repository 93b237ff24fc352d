"""A ceremony: one reviewed file makes, delegates, replaces and destroys CA keys, and leaves signed transcripts.

Order: rehearse everything and refuse what cannot work; make each key and certificate; write the transcript; record all
CAs in one transaction with the transcript's hash; write the certificates; then destroy, key by key, each with a
transcript and a record of its own (``keydestruction``).

Power cut before the transaction: keys that nobody certified on record, and perhaps a transcript that the log does not
know, which counts for nothing; the next run refuses to take such a key over (``key.exists``), people destroy it and
start again. After it: the CAs are there, all of them; the same ceremony run again writes what is missing and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from birthmark.errors import Refused
from birthmark.model.events import CaCreated, utc_text
from birthmark.pki.algorithms import certified_key, spki_of
from birthmark.workflow.authority.camaking import CaMaker, CeremonyTools, MadeCa, key_title
from birthmark.workflow.authority.ceremonycheck import PlannedStep, Rehearsal, making_rows
from birthmark.workflow.authority.ceremonyfile import Ceremony, parse_ceremony
from birthmark.workflow.authority.keydestruction import KeyDestruction
from birthmark.workflow.authority.rollover import created_event
from birthmark.workflow.authority.transcript import Occasion, recorded_part, sign_transcript

__all__ = [
    "Ceremony",
    "CeremonyResult",
    "CeremonyTools",
    "check_ceremony",
    "parse_ceremony",
    "run_ceremony",
]


@dataclass(frozen=True, slots=True)
class CeremonyResult:
    """``certificates``: (CA name, DER); ``destroyed``: CA names; ``transcripts``: (file name, signed note)."""

    certificates: tuple[tuple[str, bytes], ...]
    destroyed: tuple[str, ...]
    transcripts: tuple[tuple[str, bytes], ...]


def check_ceremony(ceremony: Ceremony, *, source: bytes, tools: CeremonyTools) -> list[PlannedStep]:
    """Rehearse what is left to do; return a row for each act. Nothing is written and no key of ours signs.

    Raises ``Refused("ceremony.done")`` if nothing is left, and everything that the steps raise.
    """
    rows: list[PlannedStep] = []
    destruction = KeyDestruction(tools, _occasion(ceremony, source, (), tools))
    made_before = _made_before(ceremony, source, tools)
    if made_before is None:
        rehearsal = Rehearsal(tools, tools.clock())
        for step in ceremony.making:
            rows += making_rows(step, rehearsal.make(step))
    left = [step for step in ceremony.destroying if destruction.done(step) is None]
    rows += [destruction.check(step) for step in left]
    unwritten = any(tools.kept(f"{name}.pem") is None for name, _ in made_before or ())
    if not rows and not unwritten:
        raise Refused(
            "ceremony.done",
            "every step of this ceremony is done and on record",
            hint="A ceremony is held once: write another file for what is to be done next.",
        )
    return rows


def run_ceremony(
    ceremony: Ceremony, *, source: bytes, tools: CeremonyTools, approved: tuple[str, ...] = ()
) -> CeremonyResult:
    """Hold the ceremony, or what is left of it. ``source``: the reviewed file, whose SHA-256 the transcripts state."""
    check_ceremony(ceremony, source=source, tools=tools)
    now = tools.clock()
    occasion = _occasion(ceremony, source, approved, tools)
    transcripts: list[tuple[str, bytes]] = []
    certificates = _made_before(ceremony, source, tools)
    if certificates is None:
        name, transcript, made = _make_all(ceremony, occasion, now, tools)
        certificates = tuple((ca.name, ca.der) for ca in made)
        transcripts.append((name, transcript))
    destruction = KeyDestruction(tools, occasion)
    destroyed = []
    for step in ceremony.destroying:
        if destruction.done(step) is None:
            transcripts.append(destruction.carry_out(step, now))
            destroyed.append(step.ca)
    return CeremonyResult(certificates, tuple(destroyed), tuple(transcripts))


def _occasion(ceremony: Ceremony, source: bytes, approved: tuple[str, ...], tools: CeremonyTools) -> Occasion:
    return Occasion(ceremony.title, sha256(source).hexdigest(), tools.by, ceremony.participants, approved)


def _transcript_name(ceremony: Ceremony) -> str:
    return f"transcript-{ceremony.making[0].name}.txt"


def _made_before(ceremony: Ceremony, source: bytes, tools: CeremonyTools) -> tuple[tuple[str, bytes], ...] | None:
    """Return the CAs (name, DER) if an earlier run of this very file recorded them; None if they are to be made."""
    if not ceremony.making:
        return ()
    first = tools.records.ca(ceremony.making[0].name)
    transcript = tools.kept(_transcript_name(ceremony))
    if first is None or transcript is None:
        return None
    part, digest = recorded_part(transcript)
    line = f"ceremony-file-sha256: {sha256(source).hexdigest()}".encode()
    if created_event(tools.ledger, first.seq).transcript_sha256 != digest or line not in part.splitlines():
        return None
    maker = CaMaker(tools, tools.clock())
    records = [tools.records.ca(name) for step in ceremony.making for name in maker.names(step)]
    return tuple((record.ca, record.certificate) for record in records if record is not None)


def _make_all(
    ceremony: Ceremony, occasion: Occasion, now: datetime, tools: CeremonyTools
) -> tuple[str, bytes, list[MadeCa]]:
    maker = CaMaker(tools, now)
    made = [ca for step in ceremony.making for ca in maker.make(step)]
    lines = [*occasion.lines(utc_text(now)), *(line for ca in made for line in _told(ca))]
    transcript = sign_transcript(lines, origin=tools.origin, key=tools.log_key)
    name, digest = _transcript_name(ceremony), sha256(transcript).hexdigest()
    tools.keep(name, transcript)
    with tools.ledger.transaction() as tx:
        for ca in made:
            tx.append(_event(ca, digest, utc_text(now), tools.by), ca.der)
    return name, transcript, made


def _event(ca: MadeCa, transcript_sha256: str, at: str, by: str) -> CaCreated:
    return CaCreated(
        at=at,
        ca=ca.name,
        kind=ca.kind,
        key_scheme=ca.key_scheme,
        profile=ca.profile,
        cert_sha256=sha256(ca.der).hexdigest(),
        transcript_sha256=transcript_sha256,
        by=by,
        issuer=ca.issuer,
        site=ca.site,
        replaces=ca.replaces,
    )


def _told(ca: MadeCa) -> list[str]:
    """Return the lines of a transcript about one CA."""
    certificate = ca.certificate
    told = [
        f"ca: {ca.name}",
        "  before: not on record",
        f"  kind: {ca.kind}, profile {ca.profile}, signed by {ca.issuer or 'itself'}",
        f"  key: {key_title(certificate)}, kept in {ca.key_scheme}",
        f"  spki-sha256: {sha256(spki_of(certified_key(certificate))).hexdigest()}",
        f"  certificate-sha256: {sha256(ca.der).hexdigest()}",
        f"  subject: {certificate.subject.rfc4514_string()}",
        f"  serial: {certificate.serial_number:x}",
        f"  not-before: {utc_text(certificate.not_valid_before_utc)}",
        f"  not-after: {utc_text(certificate.not_valid_after_utc)}",
    ]
    told += [f"  delegated-to: site {ca.site}"] if ca.site else []
    return told + ([f"  replaces: {ca.replaces}, which takes no new orders"] if ca.replaces else [])
