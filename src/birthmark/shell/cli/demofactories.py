"""``birthmark demo-factories``: an authority and three factories that it does not have to trust, on a few screens."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import BirthmarkError, Tampered
from birthmark.shell.cli.telling import indent, plain_table, say

if TYPE_CHECKING:
    from rich.console import Console

    from birthmark.adapters.audit.verify import Report
    from birthmark.shell.demo.factories import Factories, Site
    from birthmark.shell.sites.ingest import IngestResult

__all__ = ["register"]

_MODES = {
    "online": ("always", "the authority, at once"),
    "factory_ca": ("never", "a CA of its own, for 90 days"),
    "pool": ("never", "the authority, ahead of time"),
}
"""Mode → when it needs a network, who signs its certificates."""
_SAID = {"taken": "taken in", "fork": "refused: another log", "old": "nothing new", "gap": "waits"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo-factories")(demo_factories)


def demo_factories(
    directory: Annotated[Path, typer.Option(help="Where everything is made; an earlier demo is replaced.")] = (
        Path("demo-factories")
    ),
) -> None:
    """Run an authority and three factories: online, with a CA of its own, with a sealed pool. Two of them cheat."""
    from rich.console import Console

    from birthmark.shell.demo.directory import prepare_directory
    from birthmark.shell.demo.factories import FACTORIES, Factories
    from birthmark.shell.demo.tokens import softhsm_is_here

    console = Console(highlight=False)
    began = time.monotonic()
    console.print("\n[bold]birthmark[/]: factories that you need not trust\n")
    prepare_directory(directory)
    factories = Factories(directory, tokens=softhsm_is_here())
    factories.found_authority()
    with factories.service() as url:
        _meet(console, factories, url)
        _send(console, factories)
        copy = _make(console, factories)
    results = _come_home(console, factories, copy)
    refusal = _caught(console, factories, results)
    _conservation(console, factories)
    reports = _audit(console, factories)
    with console.status("writing the evidence report"):
        evidence = factories.write_evidence()
    _next(console, directory, evidence, time.monotonic() - began)
    stopped = [result.report.site for result in results if result.findings]
    if any(report.errors for report in reports) or refusal is None or stopped != [site.name for site in FACTORIES[1:]]:
        raise Tampered("demo.failed", "the demo found what must not be", hint="Read the findings above.")


def _meet(console: Console, factories: Factories, url: str) -> None:
    from birthmark.shell.demo.factories import FACTORIES

    where = "in a secure element (SoftHSM2)" if factories.tokens else "in an encrypted file"
    say(
        console,
        "One authority, three factories",
        "The authority owns the root certificate and decides what may be made. Every factory makes its own secret keys "
        f"(fab-b keeps the key of its certificate authority, CA, {where}) and asks to be let in. Request and grant are "
        f"small public files on a stick. The authority's service runs at {url}.",
    )
    rows = []
    for site in FACTORIES:
        asked = factories.join(site)
        network, signs = _MODES[site.mode]
        rows.append([site.name, network, signs, f"{asked[:4]} {asked[4:8]}"])
    plain_table(console, ["factory", "network", "who signs", "by telephone: request"], rows)


def _send(console: Console, factories: Factories) -> None:
    from birthmark.shell.cli.screen import progress_bar
    from birthmark.shell.demo.factories import FACTORIES

    say(
        console,
        "Orders go out",
        "Each factory gets a bundle: the list of devices it may make, and nothing beyond. Only fab-c's holds private "
        "keys, sealed so that only fab-c can open them (with a method that quantum computers do not break).",
    )
    rows = []
    made = sum(site.ordered for site in FACTORIES if site.mode == "pool")
    with progress_bar("  making identities", total=made, quiet=False) as advance:
        for site in FACTORIES:
            manifest = factories.send_order(site, advance)
            size = (factories.stick / f"{site.order}.bundle").stat().st_size
            holds = f"{manifest.devices} sealed identities" if site.mode == "pool" else "a list of devices"
            rows.append([site.name, site.order, f"{manifest.quantity}", holds, f"{size:,}"])
    plain_table(console, ["factory", "order", "devices", "the bundle holds", "octets"], rows)


def _make(console: Console, factories: Factories) -> str:
    """Run the lines, then the night; return the name of the copied machine."""
    from birthmark.shell.cli.screen import progress_bar
    from birthmark.shell.demo import cheats
    from birthmark.shell.demo.factories import FACTORIES

    _, fab_b, fab_c = FACTORIES
    say(
        console,
        "The lines run",
        "The same station works in all three: only where the identity comes from differs. A device passes when it has "
        "signed a challenge with the key that was installed and made an encrypted connection (mutual TLS).",
    )
    copy = cheats.copy_machine(factories, fab_c)
    for site in FACTORIES:
        with progress_bar(f"  {site.name}", total=site.made, quiet=False) as advance:
            passed = factories.provision(site, site.serials[: site.made], _one(advance))
        indent(console, f"{site.name}: [green]{passed} passed[/], {_devices_of(factories, site)}")
    console.print()
    say(
        console,
        "At night",
        f"fab-c restored a copy of its machine elsewhere and gives {cheats.TWINS} identities to a second device each. "
        f"fab-b holds a CA, so it makes {cheats.NIGHT_DEVICES} devices more than anybody ordered. Both work: whoever "
        "owns the machine can do as he likes with it. Can he bring it home?",
    )
    twins, extra = cheats.make_twins(factories, fab_c, copy), cheats.night_shift(factories, fab_b)
    indent(console, f"fab-c: [red]{twins} twins[/]    fab-b: [red]{extra} devices too many[/]")
    console.print()
    return copy


def _one(advance: Callable[[int], None]) -> Callable[[], None]:
    return lambda: advance(1)


def _devices_of(factories: Factories, site: Site) -> str:
    if site.mode == "online" and factories.tokens:
        return "secure elements that made their own key; each certificate came over the network"
    if site.key_origin == "device":
        by = "the factory's own CA" if site.mode == "factory_ca" else "the authority"
        return f"devices that made their own key; {by} signed"
    return "devices that got an identity out of the sealed box; its copy of the key is erased"


def _come_home(console: Console, factories: Factories, copy: str) -> list[IngestResult]:
    from birthmark.shell.demo.factories import FACTORIES

    say(
        console,
        "Sticks come home",
        "A factory's record is a log that can only grow, signed by the factory. Its report is that log: nothing in it "
        "can be changed or taken back once the authority has seen it. The authority checks every entry.",
    )
    rows, results = [], []
    for machine in (*(site.name for site in FACTORIES), copy):
        result = factories.ingest(factories.report(machine))
        results.append(result)
        rows.append([machine, f"{result.report.size:,}", _SAID[result.report.outcome], f"{result.settled}",
                     f"{len(result.findings)}"])  # fmt: skip
    plain_table(console, ["machine", "entries", "report", "devices settled", "findings"], rows)
    return results


def _caught(console: Console, factories: Factories, results: list[IngestResult]) -> BirthmarkError | None:
    """Show the findings; return what the authority answers when a stopped factory shall get more."""
    from birthmark.shell.demo import cheats
    from birthmark.shell.demo.factories import FACTORIES

    say(console, "Caught, by name", "What contradicts the record is a finding, and the first one stops the factory.")
    rows = [row for result in results for row in _finding_rows(result)]
    plain_table(console, ["factory", "finding", "devices", "what"], rows)
    refusal = cheats.try_next_order(factories, FACTORIES[2])
    if refusal is None:
        indent(console, "fab-c asks for its bundle again: [bold red]went through[/]")
    else:
        indent(console, f"fab-c asks for its bundle again: [green]refused[/] [dim]{refusal.code}[/]")
    console.print()
    return refusal


def _finding_rows(result: IngestResult) -> list[list[str]]:
    """Return a row for each kind of finding, with all devices that it names."""
    from birthmark.shell.cli.screen import visible

    devices: dict[tuple[str, str], list[str]] = {}
    for item in result.findings:
        devices.setdefault((item.code, item.what), []).extend([item.device] if item.device else [])
    return [
        [result.report.site, code, "\n".join(sorted(named)) or "–", visible(what)]
        for (code, what), named in devices.items()
    ]


def _conservation(console: Console, factories: Factories) -> None:
    from birthmark.shell.demo.factories import FACTORIES

    erased = factories.forget_copies(FACTORIES[2])
    say(
        console,
        "Where every device is",
        "Ordered is verified plus everything else, always; consigned means still sealed at the factory, for all the "
        f"authority knows. It erased its own sealed copies of the {erased} keys that arrived.",
    )
    columns = ("ordered", "verified", "open", "consigned", "failed", "scrapped")
    rows = []
    with factories.authority() as workspace:
        for site in FACTORIES:
            totals = workspace.records.totals(site.order)
            stopped = "stopped" if workspace.records.site(site.name).stopped else "working"
            rows.append([site.name, *(f"{getattr(totals, column)}" for column in columns), stopped])
    plain_table(console, ["factory", *columns, ""], rows)


def _audit(console: Console, factories: Factories) -> list[Report]:
    from birthmark.shell.demo.factories import FACTORIES

    say(
        console,
        "The audit",
        "Code of its own re-checks all four records: every hash, every signature, every table, and the copies of the "
        "factories' logs. What was found above is on record, so the record is in order.",
    )
    reports, rows = [], []
    for name in ("authority", *(site.name for site in FACTORIES)):
        report = factories.audit(name)
        reports.append(report)
        counts = report.counts
        rows.append([name, f"{report.size:,}", f"{counts.get('signatures', 0):,}", f"{counts.get('receipts', 0):,}",
                     f"{report.errors}"])  # fmt: skip
        for finding in report.findings[:5]:
            indent(console, f"[red]{finding.code}[/] {finding.what} ({finding.where})")
    plain_table(console, ["record of", "events", "signatures verified", "receipts verified", "violations"], rows)
    return reports


def _next(console: Console, directory: Path, evidence: list[Path], seconds: float) -> None:
    console.print(f"[bold]Done in {seconds:.1f} s.[/] The evidence report, for whoever has to sign for it:\n")
    for path in evidence:
        console.print(f"  {directory / path.name}")
    console.print("\nLook around:\n")
    hq = directory / "authority"
    for command in (
        f"birthmark site list -C {hq}",
        f"birthmark site show fab-c -C {hq}",
        f"birthmark device show c-000001 --history -C {hq}",
        f"birthmark audit verify {hq}",
        f"birthmark audit export {hq} -o {directory / 'evidence'}",
        "birthmark plan          # then your own: the decision guide",
    ):
        console.print(f"  {command}")
    console.print()
