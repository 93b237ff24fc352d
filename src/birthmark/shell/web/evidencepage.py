"""The evidence report as a page: counted facts and the audit's verdict, in self-contained HTML or PDF."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from birthmark.errors import Misconfigured
from birthmark.shell.web.chart import COLOURS, columns_chart, stacked_bar
from birthmark.workflow.evidence.evidence import Evidence, Scope
from birthmark.workflow.evidence.evidencetable import AuditFacts, SeenLog, evidence_rows

if TYPE_CHECKING:
    from birthmark.adapters.audit.verify import Report

__all__ = ["page_pdf", "render_evidence"]

_LISTED = 50
_NEEDS = "Install the extra: pip install 'birthmark[report]'."


def render_evidence(
    found: Evidence,
    report: Report,
    scope: Scope,
    *,
    at: str,
    seen: tuple[SeenLog, ...] = (),
    unseen: tuple[str, ...] = (),
    vkey: str = "",
) -> str:
    """Return the page (HTML) for these facts. ``at``: when the audit ran (UTC text); the rest as in ``AuditFacts``.

    ``vkey``: the verifier key by which the head of the log was checked.
    """
    audit = AuditFacts(report.counts, report.errors, report.size, report.root, at, seen, unseen)
    template = _environment().get_template("evidence.html.j2")
    page: str = template.render(
        title=_title(found, scope),
        scope_text=_scope_text(scope),
        found=found,
        audit=audit,
        rows=evidence_rows(found, audit),
        headline=_headline(found, audit),
        colours=COLOURS,
        orders=[_order(fact) for fact in found.orders],
        chart=_chart(found),
        cas=[_ca(fact) for fact in found.cas],
        stations=_stations(found),
        operators=_operators(found),
        refusals=(found.rejections + found.failures).most_common(),
        findings=report.findings[:_LISTED],
        hidden=max(sum(report.totals.values()) - _LISTED, 0),
        software=report.software,
        vkey=vkey,
        warned=_warned(found),
    )
    return page


def _warned(found: Evidence) -> str:
    """Return what a reader of the verdict alone must not overlook: a record can be in order and tell of fraud."""
    against = sum(len(site.findings) for site in found.sites)
    stopped = [site.site for site in found.sites if site.stopped]
    parts = [f"{against:,} finding{'' if against == 1 else 's'} against sites on record"] if against else []
    return "; ".join(parts + ([f"stopped: {', '.join(stopped)}"] if stopped else []))


def page_pdf(html: str) -> bytes:
    """Return the page as PDF; nothing is fetched from anywhere."""
    try:
        from weasyprint import HTML
    except (ImportError, OSError) as problem:
        raise Misconfigured(
            "report.pdf", f"PDF cannot be made here: {problem}", hint=f"{_NEEDS} It needs Pango."
        ) from problem
    made: bytes = HTML(string=html, url_fetcher=_fetch_nothing).write_pdf()
    return made


def _fetch_nothing(url: str, *arguments: Any, **named: Any) -> Any:
    raise ValueError(f"a report refers to nothing outside itself: {url[:80]}")


def _environment() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as problem:
        raise Misconfigured("report.html", f"pages cannot be made here: {problem}", hint=_NEEDS) from problem
    loader = PackageLoader("birthmark.shell.web", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment


def _title(found: Evidence, scope: Scope) -> str:
    if len(scope.orders) == 1:
        return f"Lot {scope.orders[0]}"
    return f"Site {scope.site}" if scope.site else f"Production of {found.workspace}"


def _scope_text(scope: Scope) -> str:
    parts = []
    if scope.orders:
        parts.append("orders " + ", ".join(scope.orders))
    if scope.site:
        parts.append(f"site {scope.site}")
    if scope.since or scope.until:
        parts.append(f"{scope.since or 'the beginning'} to {scope.until or 'now'}")
    return "only " + "; ".join(parts) if parts else ""


def _headline(found: Evidence, audit: AuditFacts) -> list[tuple[str, int]]:
    keys = audit.counts.get("keys", 0)
    return [
        ("devices ordered", found.total("ordered")),
        ("verified on the line", found.total("verified")),
        ("signatures verified again", audit.counts.get("signatures", 0)),
        ("keys used twice", keys - audit.counts.get("distinct_keys", keys)),
    ]


def _order(fact: Any) -> dict[str, Any]:
    order, totals = fact.order, fact.totals
    parts = {name: getattr(totals, name) for name in COLOURS}
    equation = f"{totals.ordered:,} ordered = " + " + ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in parts.items() if count
    )
    about = f"{order.product}, profile {order.profile}, key {order.key_algorithm} {order.key_origin}"
    where = f", made at {fact.site}" if fact.site else ""
    from markupsafe import Markup

    bar = Markup(stacked_bar(parts, label=equation))  # noqa: S704  made of numbers and escaped names
    return {"name": order.order, "about": about + where, "bar": bar, "equation": equation}


def _chart(found: Evidence) -> Any:
    days = sorted({day for day, _ in found.by_day})
    if not days:
        return None
    from markupsafe import Markup

    series = {name: [found.by_day[day, name] for day in days] for name in ("verified", "failed")}
    return Markup(columns_chart(days, series, label="devices verified and failed by day"))  # noqa: S704  as above


def _ca(fact: Any) -> dict[str, str]:
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(fact.certificate)
    end = certificate.not_valid_after_utc
    ends = "for ever" if end.year == 9999 else f"to {end:%Y-%m-%d}"
    return {
        "name": fact.event.ca,
        "kind": fact.event.kind + (f" of {fact.event.site}" if fact.event.site else ""),
        "place": fact.event.key_scheme,
        "valid": f"{certificate.not_valid_before_utc:%Y-%m-%d} {ends}",
        "sha256": sha256(fact.certificate).hexdigest(),
    }


def _stations(found: Evidence) -> list[tuple[str, int, int, int]]:
    names = sorted({name for name, _ in found.by_station})
    counts = found.by_station
    return [(name, counts[name, "verified"], counts[name, "failed"], counts[name, "rejected"]) for name in names]


def _operators(found: Evidence) -> list[tuple[str, str]]:
    by_name: dict[str, Counter[str]] = {}
    for (name, tag), count in found.by_operator.items():
        by_name.setdefault(name, Counter())[tag] += count
    return [
        (name, ", ".join(f"{count:,} {tag.replace('_', ' ')}" for tag, count in counts.most_common()))
        for name, counts in sorted(by_name.items())
    ]
