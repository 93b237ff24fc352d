"""``birthmark site report`` and ``birthmark site ingest``: how the log of a site comes home."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured, Tampered
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, progress_bar, table

if TYPE_CHECKING:
    from birthmark.shell.sites.ingest import IngestResult
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["add_commands"]

_SHOWN = 50
_SAID = {
    "taken": "taken in",
    "old": "nothing new in it",
    "gap": "kept until the report before it comes",
    "fork": "refused: it contradicts what the site reported before",
}


def add_commands(site_app: typer.Typer) -> None:
    """Add the commands to the noun ``site``."""
    site_app.command("report")(report)
    site_app.command("ingest")(ingest)


def report(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The report file; an existing one is replaced.")
    ] = None,
    since: Annotated[int | None, typer.Option(help="How many entries of the log the authority has.")] = None,
    ack: Annotated[Path | None, typer.Option(help="The file `ack` of the authority, which says the same.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Send it to the authority's service.")] = False,
    station: Annotated[str | None, typer.Option(help="With --push: the station in whose name; default: the first.")] = (
        None
    ),
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write what the authority has not acknowledged, for a USB stick or its service: entries and the signed head."""
    from tempfile import TemporaryDirectory

    from birthmark.shell.sites.report import push_report, write_report_file
    from birthmark.shell.workspace.wiring import open_workspace

    if output is None and not push:
        raise Misconfigured("report.nowhere", "where shall the report go?", hint="Give --output FILE, --push or both.")
    with open_workspace(workspace) as opened, TemporaryDirectory(dir=opened.root, prefix=".report-") as place:
        size = opened.publish()
        start = _start(opened, since, ack)
        file = output or Path(place) / "report"
        with progress_bar("writing entries", total=max(0, size - start), quiet=as_json) as advance:
            header = write_report_file(opened, file, since=start, progress=advance)
        taken = push_report(opened, file, station=station) if push else None
    document: dict[str, object] = {"first": header.first, "size": header.size}
    lines = [f"{header.size - header.first:,} entries from {header.first:,} on"]
    if output is not None:
        document["report"] = str(output)
        lines[0] += f" are in {output}"
    if taken is None:
        lines.append(f"at the authority: birthmark site ingest {output}")
    else:
        document |= {"outcome": taken.outcome, "acknowledged": taken.acknowledged, "settled": taken.settled}
        lines.append(f"{_SAID[taken.outcome]}; the authority has {taken.acknowledged:,} entries of this site now")
    emit(document, "\n".join(lines), as_json=as_json)


def _start(workspace: Workspace, since: int | None, ack: Path | None) -> int:
    """Return from which entry on to report: as told, as the given acknowledgement says, or the last one kept here."""
    from birthmark.shell.sites.report import acknowledged_entries, stored_acknowledgement

    if since is not None and ack is not None:
        raise Misconfigured("report.since_twice", "both --since and --ack were given", hint="Give one of them.")
    if since is not None:
        return since
    known = ack or stored_acknowledgement(workspace)
    return 0 if known is None else acknowledged_entries(workspace, known)


def ingest(
    files: Annotated[list[Path], typer.Argument(help="Reports of any sites, in any order.")],
    processes: Annotated[int | None, typer.Option(help="Processes for signatures; default: one a processor.")] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Verify reports of sites, take them in, and settle what they say about the devices of their orders."""
    from birthmark.shell.sites.ingest import ingest_file
    from birthmark.shell.workspace.wiring import open_workspace

    if processes is not None and processes < 1:
        raise Misconfigured("ingest.processes", "this needs a process", hint="Give --processes 1 or more.")
    results: list[tuple[Path, IngestResult]] = []
    with open_workspace(workspace) as opened:
        for path in files:
            with _bars(path, quiet=as_json) as progress:
                results.append((path, ingest_file(opened, path, processes=processes, progress=progress)))
    _show(results, as_json=as_json)
    _raise_findings(results)


@contextmanager
def _bars(path: Path, *, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """Yield a function of (what, entries) that draws one bar for the whole way of a file."""
    total = 0 if quiet else _entries_in(path)
    with progress_bar(f"{path.name}: entries", total=3 * total, quiet=quiet) as advance:
        yield lambda what, count: advance(count)


def _entries_in(path: Path) -> int:
    from birthmark.errors import BirthmarkError
    from birthmark.wire.report import ReportReader

    try:
        with path.open("rb") as file:
            header = ReportReader(file.read).header
        return header.size - header.first
    except (OSError, BirthmarkError):
        return 0  # whoever reads it next says what is wrong with it


def _show(results: list[tuple[Path, IngestResult]], *, as_json: bool) -> None:
    documents = [_document(path, result) for path, result in results]
    rows = [
        [str(path), result.report.site, _SAID[result.report.outcome], f"{result.size:,}", f"{result.settled:,}",
         f"{len(result.findings):,}"]
        for path, result in results
    ]  # fmt: skip
    shown = table("reports", ["file", "site", "", "entries verified", "devices settled", "new findings"], rows)
    if as_json:
        emit({"reports": documents}, "", as_json=True)
        return
    emit({}, shown, as_json=False)
    found = [(result.report.site, item) for _, result in results for item in result.findings]
    if found:
        rows = [
            [site, item.code, item.device or "", item.station or "", "" if item.entry is None else f"{item.entry:,}",
             item.what]
            for site, item in found[:_SHOWN]
        ]  # fmt: skip
        title = f"findings ({len(found):,}, the first {_SHOWN})" if len(found) > _SHOWN else "findings"
        emit({}, table(title, ["site", "code", "device", "station", "entry", "what"], rows), as_json=False)
    acks = sorted({str(result.ack) for _, result in results})
    emit({}, "for the next stick to the site (birthmark site report --ack): " + ", ".join(acks), as_json=False)


def _document(path: Path, result: IngestResult) -> dict[str, object]:
    return {
        "file": str(path),
        "site": result.report.site,
        "outcome": result.report.outcome,
        "first": result.report.first,
        "size": result.report.size,
        "verified": result.size,
        "settled": result.settled,
        "waiting": result.waiting,
        "stopped": result.stopped,
        "ack": str(result.ack),
        "findings": [
            {"code": item.code, "what": item.what, "device": item.device, "station": item.station, "entry": item.entry}
            for item in result.findings
        ],
    }


def _raise_findings(results: list[tuple[Path, IngestResult]]) -> None:
    sites = sorted({result.report.site for _, result in results if result.findings})
    if sites:
        total = sum(len(result.findings) for _, result in results)
        raise Tampered(
            "site.findings",
            f"{total} findings about {', '.join(sites)}: nothing is handed to the site any more",
            hint="Look into each; `birthmark site resume` lets the site work again.",
            sites=sites,
        )
    forked = sorted({result.report.site for _, result in results if result.report.outcome == "fork"})
    if forked:
        raise Tampered(
            "site.forked",
            f"the log of {', '.join(forked)} split before, and this report is of the side that was refused",
            hint="Find the machine that wrote it; two of them have the keys of one site.",
            sites=forked,
        )
