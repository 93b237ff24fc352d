"""The evidence table: what regimes ask for, answered from counted facts. One row a requirement; rows are data.

The requirements are retold from the sources they name; clauses that could not be read in full are marked so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from cryptography import x509

from birthmark.workflow.evidence.evidence import Evidence

__all__ = ["AuditFacts", "Row", "SeenLog", "evidence_rows"]

Verdict = Literal["shown", "attention", "absent"]
_NEVER = 9999
_RETAIN = timedelta(days=2 * 365)
"""After the last certificate ends (CA/Browser Forum Baseline Requirements 5.4.3)."""


@dataclass(frozen=True, slots=True)
class SeenLog:
    """The newest head of a log that witnesses cosigned: its entries, those that came ``since``, and who saw it when.

    ``trusted``: a policy of the auditor names them, and their cosignatures hold; else these are names and no more.
    """

    log: str
    size: int
    since: int
    witnesses: tuple[tuple[str, str], ...]
    trusted: bool


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """What the independent audit found: ``counts`` as in its report, ``errors`` violations, where and when it ran.

    ``seen``: what witnesses cosigned; ``unseen``: what is wrong with it, a sentence each.
    """

    counts: Mapping[str, int]
    errors: int
    size: int
    root: str
    at: str
    seen: tuple[SeenLog, ...] = ()
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement. ``shown``: the facts answer it; ``attention``: not as they should; ``absent``: nothing does."""

    number: str
    requirement: str
    source: str
    answer: str
    verdict: Verdict


_ORIGINS = {
    "injected": "ahead of time, sealed at birth",
    "device": "inside the device",
    "preloaded": "in the chip, by its vendor",
    "adopted": "elsewhere, before the device came here",
}
_Answer = Callable[[Evidence, AuditFacts], tuple[str, Verdict]]


def evidence_rows(found: Evidence, audit: AuditFacts) -> list[Row]:
    """Return the table for these facts."""
    return [
        Row(number, requirement, source, *answer(found, audit))
        for number, (requirement, source, answer) in _TABLE.items()
    ]


def _uniqueness(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    keys, distinct = audit.counts.get("keys", 0), audit.counts.get("distinct_keys", 0)
    text = (
        f"{audit.counts.get('devices', 0):,} devices on record, {keys:,} keys reserved, {distinct:,} distinct, "
        f"{keys - distinct:,} duplicates; {audit.counts.get('certificates', 0):,} certificates with serials that the "
        f"audit found to be unique. {_generators(found)}"
    )
    return text, "shown" if keys == distinct and audit.errors == 0 else "attention"


def _generators(found: Evidence) -> str:
    """Say where keys come from, and no more than is known: a device's own generator is the device's secret."""
    origins = {fact.order.key_origin for fact in found.orders}
    texts = ["Keys made ahead of time come from OpenSSL's generator; none is derived from a serial."]
    if origins - {"injected"}:
        texts.append("Of keys made elsewhere this record shows that they differ, not how they were made.")
    return " ".join(texts if "injected" in origins else texts[1:])


def _elsewhere(found: Evidence, what: str) -> str:
    """Say what a site's own log holds and this one does not; nothing without sites."""
    return f" {what} at sites stand in the logs of the sites." if found.sites else ""


def _storage(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    if not found.by_target:
        here = "by stations of this place " if found.sites else ""
        return f"Nothing was installed {here}in this period.{_elsewhere(found, 'Installations')}", "absent"
    places = ", ".join(f"{count:,} by {name}" for name, count in found.by_target.most_common())
    proofs = ", ".join(f"{count:,} by {name}" for name, count in found.by_proof.most_common())
    clouds = "".join(f"; let into {name} before leaving: {count:,}" for name, count in found.by_cloud.most_common())
    return f"Installed {places}; proven {proofs or 'not at all'}, each read back from the device{clouds}.", "shown"


def _life_cycle(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    origins = " and ".join(_ORIGINS[origin] for origin in sorted({fact.order.key_origin for fact in found.orders}))
    algorithms = ", ".join(sorted({fact.order.key_algorithm for fact in found.orders}))
    text = (
        f"Parameter: device private key ({algorithms or 'none'}); generated: {origins or 'nowhere'}; "
        "provisioned: station, read back and challenged; protection until then: HPKE-sealed vault."
    )
    return text, "shown" if found.orders else "absent"


def _process(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    versions = ", ".join(sorted({version for _, version in found.software}))
    profiles = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted(found.profiles.items()))
    text = f"Software {versions}; profiles by hash: {profiles or 'none used'}; validated by the audit of this report."
    return text, "shown" if found.profiles else "absent"


def _records(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    operators = ", ".join(sorted({name for name, _ in found.by_operator})) or "none"
    stations = ", ".join(sorted({name for name, _ in found.by_station})) or "none"
    text = (
        f"{found.entries:,} events, each with UTC time, number, subject and outcome; operators: {operators}; "
        f"stations: {stations}.{_elsewhere(found, 'Stations and operators')}"
    )
    return text, "shown" if found.entries else "absent"


def _coverage(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    occurred = len(found.by_type)
    text = f"{occurred} types of events occurred; {len(found.silent_types)} exist and did not: "
    return text + (", ".join(found.silent_types) or "none") + ".", "shown"


def _retention(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    ends = [x509.load_der_x509_certificate(ca.certificate).not_valid_after_utc for ca in found.cas]
    if not ends:
        return "No CA is on record.", "absent"
    last = max(ends)
    if last.year >= _NEVER:
        names = ", ".join(ca.event.ca for ca, end in zip(found.cas, ends, strict=True) if end.year >= _NEVER)
        return f"Never ends: {names}. Keep the record for the life of the devices, ten years at the least.", "attention"
    return f"The last CA ends {last:%Y-%m-%d}; keep the record at least until {last + _RETAIN:%Y-%m-%d}.", "shown"


def _ceremonies(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    ours = [ca.event for ca in found.cas if ca.event.kind in ("root", "issuing")]
    texts = [f"{ca.ca} ({ca.kind}, key in {ca.key_scheme}, transcript {ca.transcript_sha256[:12]})" for ca in ours]
    approved = f"{len(found.approvals):,} commands ran under approvals."
    return ("; ".join(texts) or "No CA was made") + f". {approved}", "shown" if ours else "absent"


def _lint(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    if not found.linters:
        return "No template was admitted in this period.", "absent"
    accepted = ", ".join(f"{code} ({count})" for code, count in found.accepted_findings.most_common())
    return (
        f"Linted before signing by {'; '.join(found.linters)}. Accepted by the profiles: {accepted or 'nothing'}.",
        "shown",
    )


def _keys(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    refused = {code: n for code, n in found.rejections.items() if code.startswith(("key.", "csr."))}
    text = ", ".join(f"{code} ({n})" for code, n in refused.items()) or "none"
    return f"Weak, published and reused keys are refused before anything is signed. Refused requests: {text}.", "shown"


def _monitored(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    text = (
        f"Full verification {audit.at}: {audit.size:,} entries, root {audit.root[:16]}…, {audit.errors:,} violations."
    )
    return text, "shown" if audit.errors == 0 else "attention"


def _witnesses(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    texts = list(audit.unseen)
    for log in audit.seen:
        names = ", ".join(f"{name} at {at}" for name, at in log.witnesses) or "nobody, since none is asked for"
        what = f"{log.log}: a head of {log.size:,} entries was cosigned by {names}"
        trusted = "" if log.trusted else "; not verified, as no policy says who these are"
        texts.append(f"{what}{trusted}; {log.since:,} entries came after it.")
    if not texts:
        return (
            "Nobody: no cosigned head was shown. Who holds the key of the log could show others another log.",
            "absent",
        )
    good = not audit.unseen and all(log.trusted and log.witnesses for log in audit.seen)
    return " ".join(texts), "shown" if good else "attention"


def _destruction(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    if not found.destroyed:
        return "No CA key was destroyed.", "absent"
    return "; ".join(f"{ca} on {at[:10]} by {by}" for at, ca, by in found.destroyed) + ".", "shown"


def _reconciliation(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    names = ("open", "stock", "consigned", "in_progress", "verified", "failed", "scrapped")
    ordered = found.total("ordered")
    parts = " + ".join(f"{found.total(name):,} {name.replace('_', ' ')}" for name in names)
    erased = sum(found.erasures.values())
    even = ordered == sum(found.total(name) for name in names)
    text = f"{ordered:,} ordered = {parts}. {erased:,} sealed keys erased on record."
    return text, "shown" if even and ordered else "attention" if ordered else "absent"


def _end_of_status(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    texts: list[str] = []
    worst: Verdict = "shown"
    for ca in found.cas:
        if ca.event.kind != "issuing":
            continue
        end = x509.load_der_x509_certificate(ca.certificate).not_valid_after_utc
        if end.year >= _NEVER:
            worst = "attention"
            texts.append(
                f"{ca.event.ca}: never ends; somebody must revoke it when its status is not maintained any more"
            )
        else:
            texts.append(f"{ca.event.ca}: status until {end:%Y-%m-%d}")
    return "; ".join(texts) or "No issuing CA.", worst if texts else "absent"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _sites(found: Evidence, audit: AuditFacts) -> tuple[str, Verdict]:
    if not found.sites:
        return "No other site works for this authority.", "absent"
    bad = sum(len(site.findings) for site in found.sites)
    texts = [
        f"{site.site} ({site.mode}): {site.reported:,} entries verified, {_counted(len(site.findings), 'finding')}"
        + (f", stopped: {site.stopped}" if site.stopped else "")
        for site in found.sites
    ]
    return "; ".join(texts) + ".", "attention" if bad else "shown"


_TABLE: dict[str, tuple[str, str, _Answer]] = {
    "1": (
        "Each device has parameters of its own, made so that an attack on one is none on the class",
        "ETSI EN 303 645 5.4-4; EN 18031-1",
        _uniqueness,
    ),
    "2": ("A hard-coded identity resists tampering", "ETSI EN 303 645 5.4-2", _storage),
    "3": ("Critical parameters are managed over their life", "ETSI EN 303 645 5.5-8 (IXIT 10)", _life_cycle),
    "6": (
        "Production and its validation are described",
        "EU 2024/2847 (CRA) annex VII 2(c)",
        _process,
    ),
    "8": ("A record has time, person and description", "CA/B BR 5.4.1; IEC 62443-4-2 CR 2.8", _records),
    "9": ("What must be recorded is recorded", "CA/B BR 5.4.1", _coverage),
    "10": ("Records are kept", "CA/B BR 5.4.3; CRA article 13(13)", _retention),
    "11": ("CA keys are made in witnessed ceremonies", "CA/B BR 6.1.1.1", _ceremonies),
    "12": ("Certificates are linted before they are signed", "CA/B BR 4.3.1.2", _lint),
    "13": ("Weak and compromised keys are refused", "CA/B BR 6.1.1.3", _keys),
    "14": ("The integrity of the log is monitored", "CA/B NSR 3.1.2, 3.2.3", _monitored),
    "W": ("Others have seen the log and would see it change", "c2sp.org/tlog-witness", _witnesses),
    "15": ("Destroyed keys have a record", "CA/B BR 5.4.1; ETSI EN 319 411-1 6.2.10", _destruction),
    "16": (
        "Personalised units are reconciled, data erased",
        "GSMA FS.17 (SAS-UP); PCI card production",
        _reconciliation,
    ),
    "20": ("Status information has an end, planned", "RFC 5280 4.1.2.5", _end_of_status),
    "S": ("Sites are accounted for", "reconciliation over all sites", _sites),
}
