"""``birthmark bench``: measure the product beside a floor in the same run, and print the ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.shell.cli.options import JsonOption
from birthmark.shell.cli.screen import emit, progress_bar, table

__all__ = ["register"]

ParentOption = Annotated[
    Path, typer.Option(help="Directory on the disk to measure; a throw-away workspace goes there.")
]
LedgerOption = Annotated[
    str | None, typer.Option(help="An empty database, like postgres:dbname=bench; default: a file below --parent.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    bench = typer.Typer(help="Measure the product beside a floor in the same run.", no_args_is_help=True)
    bench.command("issue")(issue)
    bench.command("station")(station)
    bench.command("line")(line)
    bench.command("serve")(serve)
    bench.command("audit")(audit)
    bench.command("bundle")(bundle)
    bench.command("ingest")(ingest)
    bench.command("ray")(ray)
    bench.command("image")(image)
    bench.command("register")(registration)
    app.add_typer(bench, name="bench")


def issue(
    count: Annotated[int, typer.Option(help="How many identities.")] = 100_000,
    profile: Annotated[str, typer.Option(help="Preset of the certificates.")] = "idevid",
    processes: Annotated[int | None, typer.Option(help="Worker processes; default: one a processor.")] = None,
    ledger: LedgerOption = None,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Identities per second durable in the ledger, against P-256 key generation plus one signature."""
    from birthmark.shell.bench.issue import bench_issue
    from birthmark.shell.orders.bulk import default_processes

    with progress_bar("making identities", total=count, quiet=as_json) as advance:
        workers = processes or default_processes()
        result = bench_issue(count, preset=profile, processes=workers, parent=parent, progress=advance, ledger=ledger)
    _show(result, as_json=as_json)


def station(
    heads: Annotated[int | None, typer.Option(help="Heads at once; default: 1 and 8, one after the other.")] = None,
    count: Annotated[int, typer.Option(help="How many devices.")] = 400,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Station transactions per second without a device link, beside the same fsyncs and signatures alone."""
    from birthmark.shell.bench.station import bench_station

    for number in [heads] if heads is not None else [1, 8]:
        _show(bench_station(number, count, parent=parent), as_json=as_json)


def line(
    heads: Annotated[int, typer.Option(min=1, max=64, help="Heads at once.")] = 8,
    link_ms: Annotated[int, typer.Option(min=0, max=60_000, help="Milliseconds of device link for each device.")] = 100,
    count: Annotated[int, typer.Option(min=1, help="How many devices.")] = 800,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Devices per second of heads with a simulated device link, and the engine's share told from the device's."""
    from birthmark.shell.bench.line import bench_line

    _show(bench_line(heads, link_ms, count, parent=parent), as_json=as_json)


def serve(
    clients: Annotated[int | None, typer.Option(help="Connections at once; default: 1, then 16.")] = None,
    count: Annotated[int, typer.Option(help="How many certificates for each number of clients.")] = 4_000,
    ledger: LedgerOption = None,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Certificates per second from the service over mutual TLS, against verifying a CSR and signing alone."""
    from birthmark.shell.bench.serve import bench_serve

    for result in bench_serve([clients] if clients is not None else [1, 16], count, parent=parent, ledger=ledger):
        _show(result, as_json=as_json)


def audit(
    count: Annotated[int, typer.Option(help="How many logged identities.")] = 100_000,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Full verification of logged identities, against one SHA-256 and one P-256 verification each."""
    from birthmark.shell.bench.audit import bench_audit

    _show(bench_audit(count, parent=parent), as_json=as_json)


def bundle(
    count: Annotated[int, typer.Option(help="How many identities.")] = 100_000,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Identities per second sealed for a site and opened there, against the same octets hashed, sealed and stored."""
    from birthmark.shell.bench.bundle import bench_bundle

    with progress_bar("making identities", total=count, quiet=as_json) as advance:
        result = bench_bundle(count, parent=parent, progress=advance)
    _show(result, as_json=as_json)


def ingest(
    sites: Annotated[int, typer.Option(help="How many sites; the ledger grows with each.")] = 10,
    receipts: Annotated[int, typer.Option(help="Receipts in the report of each site.")] = 1000,
    rows: Annotated[int, typer.Option(help="Devices in the ledger before the second half of the reports.")] = 0,
    processes: Annotated[int | None, typer.Option(help="Processes for signatures; default: one a processor.")] = None,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Receipts of sites verified and settled, against one Ed25519 and one P-256 verification and a SHA-256 each."""
    from birthmark.shell.bench.ingest import bench_ingest

    with progress_bar("ingesting receipts", total=sites * receipts, quiet=as_json) as advance:
        result = bench_ingest(sites, receipts, parent=parent, rows=rows, processes=processes, progress=advance)
    _show(result, as_json=as_json)


def ray(
    count: Annotated[int, typer.Option(help="How many identities an order.")] = 600,
    key_algorithm: Annotated[str, typer.Option(help="Key algorithm of the devices.")] = "rsa2048",
    profile: Annotated[str, typer.Option(help="Preset of the certificates.")] = "tls-client",
    workers: Annotated[int, typer.Option(help="Workers, of either engine.")] = 2,
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster; default: start one here.")] = None,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Identities per second with keys from a Ray cluster, beside as many processes of this machine."""
    from birthmark.shell.bench.ray import bench_ray

    result = bench_ray(
        count, preset=profile, key_algorithm=key_algorithm, workers=workers, address=address, parent=parent
    )
    _show(result, as_json=as_json)


def image(
    heads: Annotated[
        int | None, typer.Option(min=1, max=64, help="Images at once, and copies as well; default: 1, then 8.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 1000,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Images per second from one base of 16 MiB, durable, against copying the base."""
    from birthmark.shell.bench.image import bench_image

    for number in [heads] if heads is not None else [1, 8]:
        _show(bench_image(count, number, parent=parent), as_json=as_json)


def registration(
    count: Annotated[int, typer.Option(min=2, help="How many devices.")] = 100_000,
    cloud: Annotated[str, typer.Option(help="dps: the emulated service; export: a directory of files.")] = "dps",
    reconcile: Annotated[bool, typer.Option("--reconcile", help="Compare all records afterwards.")] = False,
    parent: ParentOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Devices per minute told to an emulated cloud, against what its limits allow; killed in the middle."""
    from birthmark.shell.bench.register import bench_register

    with progress_bar("making devices", total=count, quiet=as_json) as advance:
        result = bench_register(count, parent=parent, cloud=cloud, reconcile=reconcile, making=advance)
    _show(result, as_json=as_json)


def _show(result: dict[str, object], *, as_json: bool) -> None:
    rows = [[name, "–" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)]
            for name, value in result.items()]  # fmt: skip
    emit(result, table(f"bench {result['bench']}", ["", ""], rows), as_json=as_json)
