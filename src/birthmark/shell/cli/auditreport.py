"""``birthmark audit report``: the evidence of a lot, a site or a period as a page for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.options import JsonOption
from birthmark.shell.cli.screen import emit, progress_bar
from birthmark.shell.cli.witnessing import CosignedOption, PolicyOption, WithinOption, read_demand

__all__ = ["report"]


def report(
    directory: Annotated[Path, typer.Argument(help="The workspace directory; nothing in it is changed.")] = Path(),
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; .html, or .pdf with --pdf.")] = Path(
        "evidence.html"
    ),
    order: Annotated[list[str] | None, typer.Option(help="Only this order; may be given again.")] = None,
    site: Annotated[str | None, typer.Option(help="Only what this site makes.")] = None,
    since: Annotated[str | None, typer.Option(help="From this day on, UTC: 2026-11-01.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this day, UTC.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write a PDF instead of HTML.")] = False,
    policy: PolicyOption = None,
    cosigned: CosignedOption = None,
    within: WithinOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify everything, then write a report that answers the auditor's table of evidence. Violations are shown too."""
    from birthmark.adapters.durable import write_durably
    from birthmark.shell.web.evidencefile import read_evidence
    from birthmark.shell.web.evidencepage import page_pdf
    from birthmark.workflow.evidence.evidence import Scope

    scope = Scope(tuple(order or ()), site, _day(since), _day(until))
    read = read_evidence(
        directory,
        scope,
        demand=read_demand(policy, cosigned, within),
        bar=lambda total: progress_bar("reading events", total=total, quiet=as_json),
    )
    found, verdict, html = read.found, read.verdict, read.html
    if scope.orders and len(found.orders) < len(set(scope.orders)):
        raise Misconfigured(
            "report.order",
            "not every order that the report shall be about is on record",
            hint="`birthmark order list` shows all.",
            orders=sorted(set(scope.orders)),
        )
    path = output.with_suffix(".pdf") if pdf else output
    write_durably(path, page_pdf(html) if pdf else html.encode(), mode=0o644)
    emit(
        {"path": str(path), "events": found.entries, "orders": len(found.orders), "violations": verdict.errors},
        f"Evidence report: {path} ({found.entries:,} events, {len(found.orders)} orders, "
        f"{verdict.errors:,} violations).\nNext: read it; `birthmark audit verify` lists every finding.",
        as_json=as_json,
    )


def _day(text: str | None) -> str | None:
    from datetime import date

    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat() + "T00:00:00.000Z"
    except ValueError:
        raise Misconfigured(
            "report.day", f"{text[:40]!r} is no day", hint="Write it as 2026-11-25.", day=ascii(text[:40])
        ) from None
