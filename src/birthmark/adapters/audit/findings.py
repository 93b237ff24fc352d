"""What the audit may find: a closed catalogue of codes, each belonging to one invariant (docs/audit.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["CATALOGUE", "INVARIANTS", "LISTED_PER_CODE", "Finding", "Findings"]

INVARIANTS: Mapping[str, str] = {
    "I1": "every certificate serial is unique",
    "I2": "every key is unique",
    "I3": "a device has at most one live identity",
    "I4": "what was ordered is accounted for",
    "I5": "every signature was reserved before, with the same bytes",
    "I6": "what is durable is covered by a checkpoint",
    "I7": "the log only grows, and everything in it is under the signed head",
    "I8": "a pooled key is drawn once and erased after use",
    "I9": "replaying the log rebuilds the tables",
    "I10": "an attempt id is used once",
    "I11": "every certificate was signed by its CA, for its device, within the CA's life",
    "I12": "what came home from a site is what the site's own log says, and stays within what was handed to it",
    "I13": "who is let in and what was approved is signed by those who may, once",
    "I14": "no cloud lets a device in before it was verified",
}

_ERROR, _WARNING, _INFO = "error", "warning", "info"

CATALOGUE: Mapping[str, tuple[str, str, str]] = {
    "audit.access.certificate": (
        "I13",
        _ERROR,
        "the certificate of an access is not the one granted, or not of an access CA",
    ),
    "audit.approval.alone": ("I13", _ERROR, "an operator approved alone what he carried out"),
    "audit.approval.expired": ("I13", _ERROR, "a plan was used when it did not count"),
    "audit.approval.missing": ("I13", _ERROR, "an act that needs approvals has none of exactly that act"),
    "audit.approval.plan": ("I13", _ERROR, "what was approved is not what its event names"),
    "audit.approval.reused": ("I13", _ERROR, "an approved plan was used twice"),
    "audit.approval.threshold": ("I13", _ERROR, "a command ran with too few approvals"),
    "audit.attempt.double": ("I10", _ERROR, "two requests carry one attempt id"),
    "audit.bundle.count": ("I4", _ERROR, "a bundle does not hold as many devices as it says"),
    "audit.bundle.leftovers": ("I8", _ERROR, "leftovers of a closed order were not erased"),
    "audit.bundle.manifest": ("I12", _ERROR, "a manifest is not that of its event and authority"),
    "audit.ca.basic_constraints": ("I11", _ERROR, "a CA certificate does not say that it is one"),
    "audit.ca.destroyed": ("I11", _ERROR, "something was signed after the CA's key was destroyed or handed over"),
    "audit.ca.file": ("I9", _WARNING, "the CA file of the workspace is not the certificate on record"),
    "audit.ca.hash": ("I11", _ERROR, "a CA certificate is not the one its event names"),
    "audit.ca.issuer": ("I11", _ERROR, "the issuer of a CA certificate is unknown or has another name"),
    "audit.ca.key_usage": ("I11", _ERROR, "a CA certificate may not sign certificates"),
    "audit.ca.malformed": ("I11", _ERROR, "a CA certificate cannot be read"),
    "audit.ca.path_length": (
        "I11",
        _ERROR,
        "a CA is below one that allows none, or a site could make further CAs",
    ),
    "audit.ca.signature": ("I11", _ERROR, "the signature of a CA certificate is wrong"),
    "audit.ca.transcript": ("I11", _ERROR, "the transcript of a key destruction is not the one its event names"),
    "audit.ca.validity": ("I11", _ERROR, "a CA certificate lives longer than its issuer"),
    "audit.certificate.ca": ("I11", _ERROR, "a device certificate claims to be a CA"),
    "audit.certificate.issuer": ("I11", _ERROR, "the certificate names another issuer than its CA"),
    "audit.certificate.key": ("I5", _ERROR, "the key in the certificate is not the reserved one"),
    "audit.certificate.malformed": ("I11", _ERROR, "the certificate cannot be read"),
    "audit.certificate.name": ("I11", _ERROR, "the device serial is not where the template has it"),
    "audit.certificate.serial": ("I5", _ERROR, "the certificate serial is not the reserved one"),
    "audit.certificate.template": (
        "I11",
        _ERROR,
        "the certificate is not its template filled with the device's values",
    ),
    "audit.certificate.validity": ("I11", _ERROR, "the certificate is valid outside the life of its CA"),
    "audit.checkpoint.behind": ("I7", _WARNING, "the published checkpoint is older than the last signed one"),
    "audit.checkpoint.fork": ("I7", _ERROR, "two signed heads of one size differ"),
    "audit.checkpoint.malformed": ("I7", _ERROR, "the checkpoint cannot be read"),
    "audit.checkpoint.missing": ("I7", _ERROR, "a head was signed but there is no checkpoint file"),
    "audit.checkpoint.origin": ("I7", _ERROR, "the checkpoint belongs to another log"),
    "audit.checkpoint.rollback": ("I7", _ERROR, "a signed head covers entries that the ledger does not have"),
    "audit.checkpoint.root": ("I7", _ERROR, "the ledger's entries do not hash to the signed root"),
    "audit.checkpoint.signature": ("I7", _ERROR, "the signature of the checkpoint is wrong"),
    "audit.clock.back": ("I9", _WARNING, "the clock went back between two entries"),
    "audit.conservation": ("I4", _ERROR, "an order is not accounted for"),
    "audit.device.certificate": ("I11", _ERROR, "what was installed is not the certificate of the device"),
    "audit.device.double": ("I3", _ERROR, "a device serial was ordered twice"),
    "audit.device.state": ("I3", _ERROR, "an event does not follow from the state of the device"),
    "audit.device.two_live": ("I3", _ERROR, "a device got an identity while it had a live one"),
    "audit.device.unknown": ("I9", _ERROR, "an event names a device that nobody ordered"),
    "audit.entry.canonical": ("I9", _ERROR, "an entry is not in canonical form"),
    "audit.entry.gap": ("I7", _ERROR, "the ledger lacks entries"),
    "audit.entry.hash": ("I7", _ERROR, "a stored leaf hash is not that of its entry"),
    "audit.entry.malformed": ("I9", _ERROR, "an entry is not an event"),
    "audit.entry.unlawful": ("I9", _ERROR, "an entry contradicts earlier ones"),
    "audit.entry.unpublished": ("I6", _INFO, "entries wait for the next checkpoint"),
    "audit.fold.access": ("I9", _ERROR, "table access differs from the log"),
    "audit.fold.approval": ("I9", _ERROR, "table approval differs from the log"),
    "audit.fold.approvers": ("I9", _ERROR, "table approvers differs from the log"),
    "audit.fold.assignment": ("I9", _ERROR, "table assignment differs from the log"),
    "audit.fold.attempt": ("I9", _ERROR, "table attempt differs from the log"),
    "audit.fold.bundle": ("I9", _ERROR, "table bundle differs from the log"),
    "audit.fold.ca": ("I9", _ERROR, "table ca differs from the log"),
    "audit.fold.certificate": ("I9", _ERROR, "table certificate differs from the log"),
    "audit.fold.chunk": ("I9", _ERROR, "table chunk differs from the log"),
    "audit.fold.device": ("I9", _ERROR, "table device differs from the log"),
    "audit.fold.finding": ("I9", _ERROR, "table finding differs from the log"),
    "audit.fold.head": ("I9", _ERROR, "table head differs from the log"),
    "audit.fold.meta": ("I9", _ERROR, "table meta differs from the log"),
    "audit.fold.order": ("I9", _ERROR, "table order differs from the log"),
    "audit.fold.preload": ("I9", _ERROR, "table preload differs from the log"),
    "audit.fold.preload_file": ("I9", _ERROR, "table preload_file differs from the log"),
    "audit.fold.revoked": ("I9", _ERROR, "table revoked differs from the log"),
    "audit.fold.settled": ("I9", _ERROR, "table settled differs from the log"),
    "audit.fold.site": ("I9", _ERROR, "table site differs from the log"),
    "audit.fold.site_key": ("I9", _ERROR, "table site_key differs from the log"),
    "audit.fold.station": ("I9", _ERROR, "table station differs from the log"),
    "audit.fold.template": ("I9", _ERROR, "table template differs from the log"),
    "audit.fold.vendor_ca": ("I9", _ERROR, "table vendor_ca differs from the log"),
    "audit.intent.abandoned": ("I5", _ERROR, "a certificate was issued for an abandoned intent"),
    "audit.intent.incomplete": ("I5", _ERROR, "a chunk was signed in part or out of order"),
    "audit.intent.missing": ("I5", _ERROR, "a certificate has no earlier reservation"),
    "audit.intent.reused": ("I5", _ERROR, "two certificates were issued for one reservation"),
    "audit.key.double": ("I2", _ERROR, "one key was reserved twice"),
    "audit.key.run": ("I9", _WARNING, "a key index file is missing or damaged"),
    "audit.ledger.unreadable": ("I9", _ERROR, "the ledger file is damaged"),
    "audit.mirror.ahead": ("I12", _WARNING, "the mirrored log of a site has more entries than were taken in"),
    "audit.mirror.entry": ("I12", _ERROR, "what was settled is not what the site's log says"),
    "audit.mirror.missing": (
        "I12",
        _WARNING,
        "there is no mirror of a site's log, so what it reported cannot be checked",
    ),
    "audit.pool.drawn_twice": ("I8", _ERROR, "a pooled key was handed out twice"),
    "audit.possession.certificate": (
        "I11",
        _ERROR,
        "a proof of possession is not the certificate that was intended, or not of its CA",
    ),
    "audit.possession.intent": ("I5", _ERROR, "a proof of possession without an intent of its own before it"),
    "audit.preload.certificate": ("I11", _ERROR, "a device was bound with another certificate than its chip has"),
    "audit.preload.clone": ("I2", _ERROR, "one preloaded chip was bound to two devices"),
    "audit.preload.id": ("I2", _ERROR, "two chips of a vendor have one id"),
    "audit.preload.issuer": ("I11", _ERROR, "a preloaded identity was signed by a CA that is not its vendor's"),
    "audit.preload.manifest": ("I4", _ERROR, "a manifest of a vendor was not taken in whole"),
    "audit.preload.origin": ("I3", _ERROR, "a device got an identity from elsewhere than its order says"),
    "audit.preload.quota": ("I4", _ERROR, "a vendor signed more identities than it may"),
    "audit.preload.unknown": ("I5", _ERROR, "a device was bound to a chip that was not preloaded before"),
    "audit.receipt.hash": ("I11", _ERROR, "a receipt is not the one its event names"),
    "audit.receipt.names": ("I11", _ERROR, "a receipt speaks of another device or certificate"),
    "audit.receipt.proof": ("I11", _ERROR, "a receipt does not prove that the device has its key"),
    "audit.receipt.signature": ("I11", _ERROR, "a receipt is not signed by its station"),
    "audit.registered.early": ("I14", _ERROR, "a cloud was told to let a device in that was never verified"),
    "audit.registered.lines": ("I14", _ERROR, "what a cloud was told does not stand in its entry as it should"),
    "audit.serial.double": ("I1", _ERROR, "one certificate serial was reserved twice"),
    "audit.signature": ("I11", _ERROR, "the CA did not sign this certificate"),
    "audit.site.drawn_here": ("I12", _ERROR, "an identity that a site makes was drawn elsewhere"),
    "audit.site.grant": ("I12", _ERROR, "a grant is not that of its event and authority"),
    "audit.site.head": ("I12", _ERROR, "a head of a site's log is not signed by it, or does not grow"),
    "audit.site.key": ("I2", _ERROR, "a site settled a device with another key than its certificate has"),
    "audit.site.request": ("I12", _ERROR, "a request is not that of its event and site"),
    "audit.site.signed_here": ("I12", _ERROR, "an identity that a site signs for itself was signed here"),
    "audit.tbs.differs": ("I5", _ERROR, "the signed bytes are not the reserved ones"),
    "audit.template.malformed": ("I11", _ERROR, "a template cannot be read"),
    "audit.tile.mismatch": ("I7", _ERROR, "a tile or entry bundle differs from the ledger"),
    "audit.tile.missing": ("I7", _ERROR, "a tile or entry bundle is missing"),
    "audit.tile.root": ("I7", _ERROR, "the tiles do not hash to the signed root"),
    "audit.tile.unexpected": ("I7", _WARNING, "a file in the log is not one of its tiles"),
    "audit.vault.copy": ("I8", _WARNING, "a copy of a key that a site used lies in the vault"),
    "audit.vault.drawn_not_erased": ("I8", _ERROR, "a used key still lies in the vault"),
    "audit.vault.missing": ("I8", _ERROR, "a pooled key is not in the vault"),
    "audit.vault.undrawn_erased": ("I8", _ERROR, "a pooled key was erased without a record"),
    "audit.witness.behind": ("I7", _INFO, "entries came after the head that witnesses saw"),
    "audit.witness.quorum": ("I7", _ERROR, "too few witnesses of the policy saw a head of a log"),
    "audit.witness.rewritten": ("I7", _ERROR, "a log does not hold what witnesses saw of it"),
    "audit.witness.signature": (
        "I7",
        _ERROR,
        "a head that is shown or cosigned is not signed as the policy says, or its log is not in the policy",
    ),
    "audit.witness.stale": ("I7", _ERROR, "what witnesses saw of a log is older than the auditor allows"),
}
"""Code to (invariant, severity, what it means)."""

LISTED_PER_CODE = 100
"""Findings beyond this many of one code are counted, not listed: a damaged page must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One deviation: ``what`` happened, ``where`` it is to be seen (entry, tile path, table row, file)."""

    code: str
    what: str
    where: str
    device_serial: str | None = None

    @property
    def invariant(self) -> str:
        """The invariant that does not hold."""
        return CATALOGUE[self.code][0]

    @property
    def severity(self) -> str:
        """``error``, ``warning`` or ``info``."""
        return CATALOGUE[self.code][1]

    def document(self) -> dict[str, str | None]:
        """Return the finding as a JSON-ready object."""
        return {
            "invariant": self.invariant,
            "code": self.code,
            "severity": self.severity,
            "what": self.what,
            "where": self.where,
            "device_serial": self.device_serial,
        }


class Findings:
    """Collects findings: all are counted by code, the first ones of each code are kept."""

    __slots__ = ("kept", "totals")

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.totals: Counter[str] = Counter()

    def add(self, code: str, what: str, where: str, device_serial: str | None = None) -> None:
        """Take in one finding."""
        self.totals[code] += 1
        if self.totals[code] <= LISTED_PER_CODE:
            self.kept.append(Finding(code, what, where, device_serial))

    def merge(self, other: Findings) -> None:
        """Take in what another process found."""
        self._keep(other.kept)
        self.totals.update(other.totals)

    def _keep(self, found: Iterable[Finding]) -> None:
        kept = Counter(finding.code for finding in self.kept)
        for finding in found:
            kept[finding.code] += 1
            if kept[finding.code] <= LISTED_PER_CODE:
                self.kept.append(finding)
