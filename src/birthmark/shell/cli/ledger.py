"""``birthmark ledger``: look at the log of events, and rebuild the tables from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, only_planned
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, progress_bar, table, visible

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    ledger = typer.Typer(help="The log of events and its tables.", no_args_is_help=True)
    ledger.command("replay")(replay)
    ledger.command("events")(events)
    ledger.command("export")(export)
    app.add_typer(ledger, name="ledger")


def replay(workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """Rebuild every table from the log alone and compare: the tables must be exactly what the events say."""
    from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        size = opened.ledger.head().size
        with progress_bar("replaying", total=size, quiet=as_json) as advance:
            tables = replay_ledger(opened.ledger, progress=advance)
    rows = [[name, f"{count:,}"] for name, count in tables.items()]
    text = table(f"{size:,} entries rebuild every table exactly", ["table", "rows"], rows)
    emit({"entries": size, "tables": tables}, text, as_json=as_json)


def export(
    sqlite: Annotated[Path, typer.Option(help="The new file, a ledger of docs/formats/ledger.md.")],
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Copy the ledger, sealed keys included, into one SQLite file: `birthmark audit verify` reads such a file."""
    from birthmark.adapters.ledgers.sqlite.export import export_ledger
    from birthmark.shell.workspace.wiring import open_workspace

    facts = {"recipient": str(sqlite), "what": "the ledger with all sealed keys"}
    with open_workspace(workspace, publish=False) as opened:
        if only_planned(opened, "private.export", facts, approval, plan_only, as_json=as_json):
            return
        size = opened.ledger.head().size
        with progress_bar("copying", total=size, quiet=as_json) as advance:
            tables = export_ledger(opened.ledger, sqlite, progress=advance)
    text = (
        f"{size:,} entries and their tables are in {visible(str(sqlite))}.\n"
        "Next: put it at ledger/ledger.db beside log/ and ca/ of the workspace, and run `birthmark audit verify` there."
    )
    emit({"file": str(sqlite), "entries": size, "tables": tables}, text, as_json=as_json)


def events(
    first: Annotated[int, typer.Option(help="Number of the first entry.")] = 0,
    count: Annotated[int, typer.Option(help="How many.")] = 20,
    workspace: WorkspaceOption = Path(),
) -> None:
    """Print entries of the log: number, event, and the size of what is attached."""
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        for seq, entry in opened.ledger.entries(first, count):
            head, _, attachment = entry.partition(b"\n")
            print(f"{seq}\t{visible(head.decode())}\t{len(attachment)}")
