"""Destroying the key of a CA, so that somebody else can believe it (CA/B BR 5.4.1, NIST SP 800-57 part 1, 8.3.4).

Order: refuse while an open order needs the key; open it and see that it is the CA's; write down, signed and durable,
that its destruction begins, with the objects that are there; destroy; see that it is gone; write the transcript with
the objects before and after; record ``ca_key_destroyed``.

Power cut before the note: nothing happened. Between the note and the record: the key is there, half overwritten or
gone, and the same ceremony goes on and destroys what is left. A key that is missing without such a note was taken away
by something else, and is refused by name (``ceremony.key.missing``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import cast

from cryptography import x509

from birthmark.errors import Misconfigured, Refused, StationFault
from birthmark.model.events import CaKeyDestroyed, decode_entry, utc_text
from birthmark.model.records import CaRecord
from birthmark.pki.algorithms import certified_key, spki_of
from birthmark.ports import DestroysKeys, Ledger
from birthmark.tlog.note import VerifierKey, open_note, public_octets
from birthmark.workflow.authority.camaking import CeremonyTools, key_title
from birthmark.workflow.authority.ceremonycheck import ABSENT, PlannedStep, destroying_row
from birthmark.workflow.authority.ceremonyfile import DestroyStep
from birthmark.workflow.authority.transcript import Occasion, sign_transcript

__all__ = ["KeyDestruction", "find_destruction"]


def find_destruction(ledger: Ledger, ca: str, first: int) -> bytes | None:
    """Return the transcript of the destruction of a CA's key, None if there is none. Reads the log from ``first``."""
    for _, entry in ledger.entries(first, ledger.head().size - first):
        if b'"type":"ca_key_destroyed"' not in entry.partition(b"\n")[0]:
            continue
        event, attachment = decode_entry(entry)
        if isinstance(event, CaKeyDestroyed) and event.ca == ca:
            return attachment
    return None


@dataclass(frozen=True, slots=True)
class KeyDestruction:
    """Destroys the keys that a ceremony names."""

    tools: CeremonyTools
    occasion: Occasion

    def done(self, step: DestroyStep) -> bytes | None:
        """Return the transcript on record if this key is destroyed already."""
        return find_destruction(self.tools.ledger, step.ca, self._record(step.ca).seq)

    def check(self, step: DestroyStep) -> PlannedStep:
        """Refuse what cannot or must not be destroyed; return the row for people."""
        record = self._record(step.ca)
        self._require_unneeded(step.ca)
        uri = self.tools.key_uri(step.ca)
        keys = self._destroyer(uri)
        if self._begun(record) is None:
            self._require_key(record, uri)
        return destroying_row(step, uri.partition(":")[0], tuple(keys.inventory(uri)))

    def carry_out(self, step: DestroyStep, now: datetime) -> tuple[str, bytes]:
        """Destroy one key; return name and content of the transcript."""
        self.check(step)
        record, uri = self._record(step.ca), self.tools.key_uri(step.ca)
        keys = self._destroyer(uri)
        begun = self._begun(record)
        if begun is None:
            begun = self._begin(step, record, list(keys.inventory(uri)), now)
        method = keys.destroy(uri)
        self._require_gone(step.ca, uri)
        lines = [*begun.splitlines()[1:], f"destroyed-at: {utc_text(now)}", f"  method: {method}"]
        lines += [f"  after: {name}" for name in keys.inventory(uri)] or ["  after: nothing"]
        transcript = sign_transcript(
            ["birthmark-transcript/2", *lines], origin=self.tools.origin, key=self.tools.log_key
        )
        name = f"transcript-{step.ca}-destroyed.txt"
        self.tools.keep(name, transcript)
        event = CaKeyDestroyed(
            at=utc_text(now), ca=step.ca, transcript_sha256=sha256(transcript).hexdigest(), by=self.tools.by
        )
        with self.tools.ledger.transaction() as tx:
            self._require_unneeded(step.ca)
            tx.append(event, transcript)
        return name, transcript

    def _begin(self, step: DestroyStep, record: CaRecord, before: list[str], now: datetime) -> str:
        certificate = x509.load_der_x509_certificate(record.certificate)
        lines = self.occasion.lines(utc_text(now))
        lines += [
            f"destroy: {step.ca}",
            f"  key: {key_title(certificate)}, kept in {self.tools.key_uri(step.ca).partition(':')[0]}",
            f"  spki-sha256: {_spki_hash(certificate)}",
            f"  reason: {step.reason}",
            f"  other-copies: {step.copies}",
            *(f"  before: {name}" for name in before),
        ]
        note = sign_transcript(lines, origin=self.tools.origin, key=self.tools.log_key)
        self.tools.keep(_begun_name(step.ca), note)
        return note.partition(b"\n\n")[0].decode()

    def _begun(self, record: CaRecord) -> str | None:
        """Return what the log's key signed when the destruction of this key began."""
        note = self.tools.kept(_begun_name(record.ca))
        if note is None:
            return None
        text, _ = open_note(note, [VerifierKey(self.tools.origin, public_octets(self.tools.log_key))])
        spki = _spki_hash(x509.load_der_x509_certificate(record.certificate))
        lines = text.splitlines()
        return text if f"destroy: {record.ca}" in lines and f"  spki-sha256: {spki}" in lines else None

    def _record(self, ca: str) -> CaRecord:
        record = self.tools.records.ca(ca)
        if record is None or record.site is not None or record.kind == "external":
            raise Refused(
                "ceremony.key.foreign",
                f"the key of {ca} is not ours to destroy",
                hint="Name a CA on record whose key this workspace holds.",
                ca=ca,
            )
        return record

    def _require_unneeded(self, ca: str) -> None:
        records = self.tools.records
        waiting = [o.order for o in records.orders() if o.ca == ca and records.totals(o.order).open > 0]
        if waiting:
            raise Refused(
                "ceremony.key.needed",
                f"{len(waiting)} orders still wait for signatures of {ca}",
                hint="Make them, or scrap their devices, first: `birthmark order list`.",
                ca=ca,
                orders=waiting[:20],
            )

    def _require_key(self, record: CaRecord, uri: str) -> None:
        try:
            key = self.tools.keys(uri).open(uri)
        except Misconfigured as problem:
            if problem.code not in ABSENT:
                raise
            raise Refused(
                "ceremony.key.missing",
                f"the key of {record.ca} is not at its place, and no ceremony has begun to destroy it",
                hint="Find out who took it away and where it is; only then destroy what there is.",
                ca=record.ca,
            ) from None
        certificate = x509.load_der_x509_certificate(record.certificate)
        if spki_of(key.public_key()) != spki_of(certified_key(certificate)):
            raise Refused(
                "ceremony.key.other",
                f"the key at the place of {record.ca} is another one",
                hint="Mend birthmark.toml, so that it names the key that is meant.",
                ca=record.ca,
            )

    def _require_gone(self, ca: str, uri: str) -> None:
        try:
            self.tools.keys(uri).open(uri)
        except Misconfigured as problem:
            if problem.code in ABSENT:
                return
            raise
        raise StationFault(
            "ceremony.key.remains",
            f"the key of {ca} can still be opened after it was destroyed",
            hint="Stop: keep the token, and ask its vendor how its objects are removed.",
            ca=ca,
        )

    def _destroyer(self, uri: str) -> DestroysKeys:
        keys = self.tools.keys(uri)
        if not isinstance(keys, DestroysKeys):
            raise Refused(
                "key.destroy.unsupported",
                f"keys of the kind {uri.partition(':')[0]} are destroyed where they are kept",
                hint="Destroy it there, with that service's own record.",
                scheme=uri.partition(":")[0],
            )
        return cast(DestroysKeys, keys)


def _begun_name(ca: str) -> str:
    return f"transcript-{ca}-destroying.txt"


def _spki_hash(certificate: x509.Certificate) -> str:
    return sha256(spki_of(certified_key(certificate))).hexdigest()
