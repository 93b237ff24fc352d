"""``birthmark demo``: the whole job on one screen, in half a minute."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Tampered
from birthmark.shell.cli.telling import indent, say

if TYPE_CHECKING:
    from rich.console import Console

    from birthmark.adapters.audit.verify import Report
    from birthmark.shell.demo.factory import Attempt, Factory
    from birthmark.shell.line.heads import Yield

__all__ = ["register"]

_DEVICES = 100


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    app.command("demo")(demo)


def demo(
    directory: Annotated[Path, typer.Option(help="Where the demo's factory is made; an earlier demo is replaced.")] = (
        Path("demo-workspace")
    ),
) -> None:
    """Make a CA, 1,000 identities and a line of 4 heads; provision 100 devices, try to cheat, audit it all."""
    from rich.console import Console

    from birthmark.shell.demo.directory import prepare_directory
    from birthmark.shell.demo.factory import Factory
    from birthmark.shell.demo.tokens import softhsm_is_here
    from birthmark.shell.throwaway import make_workspace
    from birthmark.shell.workspace.wiring import open_workspace

    console = Console(highlight=False)
    began = time.monotonic()
    console.print("\n[bold]birthmark[/]: every device its own identity, and proof of it\n")
    prepare_directory(directory)
    make_workspace(directory / "factory", product="thermostat")
    say(
        console,
        "Who vouches for the devices",
        "A root and an issuing certificate authority (CA), made from one reviewed file. What the CA signs, servers "
        "can trust. The record of this ceremony is signed.",
    )
    with open_workspace(directory / "factory") as workspace:
        tokens = _DEVICES // 2 if softhsm_is_here() else 0
        factory = Factory(workspace, directory, tokens=tokens, files=_DEVICES - tokens)
        _make(console, factory)
        attempts = _run(console, factory)
        report = factory.audit()
        _audit(console, report)
        _birth_record(console, factory)
    _next(console, directory, time.monotonic() - began)
    if report.errors or any(attempt.error is None for attempt in attempts):
        raise Tampered("demo.failed", "the demo found what must not be", hint="Read the findings above.")


def _make(console: Console, factory: Factory) -> None:
    from birthmark.shell.cli.screen import progress_bar
    from birthmark.shell.demo.factory import LOT_SIZE

    say(
        console,
        f"{LOT_SIZE:,} identities, made ahead",
        "An identity is a private key, which stays secret, and a certificate, which says whose key it is. Every device "
        "gets its own. Keys are sealed as soon as they are made, and what will be signed is on record first.",
    )
    with progress_bar("  making identities", total=LOT_SIZE, quiet=False) as advance:
        factory.make_lot(advance)
    console.print()


def _run(console: Console, factory: Factory) -> list[Attempt]:
    from birthmark.shell.cli.screen import progress_bar
    from birthmark.shell.line.heads import open_heads

    born = (
        f"{len(factory.tokens)} in secure elements (SoftHSM2) that make their own key"
        if factory.tokens
        else "no secure elements, since SoftHSM2 is not installed"
    )
    say(
        console,
        f"A line of 4 heads, {_DEVICES} devices",
        f"{len(factory.files)} devices with a file system get an identity from the pool; {born}. Each must prove "
        "itself: it signs a random challenge with the key that was installed, then opens an encrypted connection to a "
        "server that trusts only this CA (mutual TLS). Only then it passes.",
    )
    factory.place_devices()
    with open_heads(factory.workspace) as heads:
        with progress_bar("  provisioning", total=_DEVICES, quiet=False) as advance:
            runs = factory.run_line(heads, lambda: advance(1))
        console.print(f"\n  {_yield(runs)}\n")
        say(console, "Trying to cheat", "What an honest mistake or a thief would try:")
        attempts = factory.cheat(heads)
    for attempt in attempts:
        verdict = "[bold red]went through[/]" if attempt.error is None else "[green]refused[/]"
        reason = "" if attempt.error is None else f"{attempt.error.message} [dim]{attempt.error.code}[/]"
        console.print(f"  {verdict}  {attempt.tried}")
        indent(console, reason, 11)
    console.print()
    return attempts


def _yield(runs: list[Yield]) -> str:
    passed = sum(run.passed for run in runs)
    failed = sum(sum(run.codes.values()) for run in runs)
    seconds = sum(run.seconds for run in runs)
    failures = ", ".join(f"{code} ×{count}" for run in runs for code, count in run.codes.items())
    style = "green" if not failed else "red"
    return f"[{style}]{passed} passed, {failed} failed[/] in {seconds:.1f} s {failures}"


def _audit(console: Console, report: Report) -> None:
    from rich.table import Table

    say(console, "The audit", "Code of its own re-checks everything: every hash, every signature, every table.")
    counts = report.counts
    rows = [
        ("events in the log", f"{report.size:,}"),
        ("signatures verified", f"{counts.get('signatures', 0):,}"),
        ("devices with the key of another", f"{counts.get('keys', 0) - counts.get('distinct_keys', 0)}"),
        ("receipts of stations verified", f"{counts.get('receipts', 0):,}"),
        ("sealed keys erased after use", f"{counts.get('erased_keys', 0):,}"),
        ("violations", f"{report.errors}"),
    ]
    made = Table(show_header=False, box=None, padding=(0, 2))
    for name, value in rows:
        made.add_row(f"  {name}", value)
    console.print(made)
    for finding in report.findings[:10]:
        console.print(f"  [red]{finding.code}[/] {finding.what} ({finding.where})")
    console.print()


def _birth_record(console: Console, factory: Factory) -> None:
    from birthmark.shell.cli.device import birth_record

    device_serial = factory.tokens[0] if factory.tokens else factory.files[0]
    say(console, f"The birth record of {device_serial}", "Everything that ever happened to it, in order:")
    for line in birth_record(factory.workspace, device_serial):
        indent(console, line)
    console.print()


def _next(console: Console, directory: Path, seconds: float) -> None:
    root = directory / "factory"
    console.print(f"[bold]Done in {seconds:.1f} s.[/] The factory is in {directory}. Look around:\n")
    for command in (
        f"birthmark order list -C {root}",
        f"birthmark device show th-000001 --history -C {root}",
        f"birthmark audit prove th-000001 -o th-000001.proof -C {root}",
        f"birthmark audit verify {root}",
        "birthmark plan          # then your own: the decision guide",
    ):
        console.print(f"  {command}")
    console.print()
