"""``birthmark register reconcile``: every difference between a cloud and the ledger by its name."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from birthmark.errors import Tampered
from birthmark.shell.cli.options import WorkspaceOption
from birthmark.shell.cli.screen import emit, say, table

__all__ = ["reconcile"]

_SHOWN = 100
_REPAIR_PAGE = 400


def reconcile(
    name: Annotated[str, typer.Argument(help="The cloud, as [clouds.NAME] in birthmark.toml.")],
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make missing and different devices due again; what is foreign stays as it is."),
    ] = False,
    workspace: WorkspaceOption = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="A JSON line each difference, a summary last.")] = False,
) -> None:
    """Compare what a cloud holds with the ledger, both ways: what is missing, foreign or different, by name."""
    from birthmark.shell.register.registration import chosen_clouds, open_register
    from birthmark.shell.workspace.wiring import open_workspace

    shown: list[list[str]] = []
    found, reopened = 0, 0
    waiting: list[str] = []
    with open_workspace(workspace) as opened:
        opened.publish()
        with open_register(opened, name, chosen_clouds(opened, [name])[name]) as known, known.compare() as comparison:
            known.fold.run()
            for one in comparison.run():
                found += 1
                if as_json:
                    print(json.dumps(asdict(one), sort_keys=True))
                elif len(shown) < _SHOWN:
                    shown.append([one.kind, one.name, one.what, one.state or ""])
                if repair and one.device_serial is not None:
                    waiting.append(one.device_serial)
                if len(waiting) >= _REPAIR_PAGE:
                    reopened += known.book.reopen(waiting)
                    waiting = []
            reopened += known.book.reopen(waiting) if waiting else 0
            counts = dict(comparison.counts)
    document = {"cloud": name, "differences": found, "reopened": reopened, **counts}
    if as_json:
        emit(document, "", as_json=True)
    else:
        _show(name, shown, found, counts)
        if reopened:
            say(f"{reopened:,} devices are due again.\nNext: birthmark register run {name}")
    if found > reopened:
        raise Tampered(
            "register.differences",
            f"{name} and the ledger differ in {found:,} records",
            hint="Find out who changed them. --repair tells the cloud again of missing and different ones; take foreign"
            " ones out by hand.",
            missing=counts.get("missing", 0),
            different=counts.get("different", 0),
            foreign=counts.get("foreign", 0),
        )


def _show(name: str, shown: list[list[str]], found: int, counts: dict[str, int]) -> None:
    if shown:
        emit({}, table("Differences", ["", "record", "what", "in the book"], shown), as_json=False)
    if found > len(shown):
        print(f"and {found - len(shown):,} more; --json lists all")
    print(
        f"{name}: {counts.get('held', 0):,} records, {counts.get('expected', 0):,} expected, "
        f"{counts.get('alike', 0):,} alike, {counts.get('waiting', 0):,} not told yet, {found:,} differences"
    )
