"""``birthmark station``: give devices their identity on the line, one or many at once. Never asks, never prompts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from birthmark.errors import BirthmarkError, Misconfigured
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.seriallist import read_serials
from birthmark.shell.cli.stationshow import (
    failed_line,
    no_step,
    outcome_line,
    outcome_text,
    result_line,
    result_text,
    step_line,
    step_text,
    summary,
)

if TYPE_CHECKING:
    from birthmark.workflow.line.stationpost import Progress

__all__ = ["register"]

TargetOption = Annotated[
    str, typer.Option(help="Where the identity goes, for example files:out/{device_serial}; see docs/targets.md.")
]
StationOption = Annotated[str | None, typer.Option(help="Name of this station; default: the only one there is.")]
HandshakeOption = Annotated[
    bool, typer.Option("--handshake", help="Prove it with a real mutual-TLS connection as well.")
]
AttemptOption = Annotated[str | None, typer.Option(help="Your own id of this attempt; default: made and kept.")]
IdentityOption = Annotated[
    str | None, typer.Option(help="What the device calls itself, if neither its serial nor its vendor's id.")
]
CloudOption = Annotated[
    str | None, typer.Option(help="Name of a cloud of the settings that has to let the device in, for real.")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(min=0.001, max=86_400, help="Seconds for each device; default: deadline_s of the station's settings."),
]
LinesOption = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, one a step.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    station = typer.Typer(help="The line: install identities and prove them.", no_args_is_help=True)
    station.command("add")(add)
    station.command("provision")(provision)
    station.command("verify")(verify)
    station.command("run")(run)
    station.command("bind")(bind)
    station.command("adopt")(adopt)
    app.add_typer(station, name="station")


def add(
    name: Annotated[str, typer.Argument(help="Name of the station at its site.")],
    site: Annotated[str, typer.Option(help="The site it belongs to.")],
    csr: Annotated[Path, typer.Option(help="CSR of its TLS key, made by `birthmark site station`.")],
    vkey: Annotated[str, typer.Option(help="Verifier key of its receipts, as that command printed it.")],
    days: Annotated[int, typer.Option(min=1, max=7000, help="How many days its TLS certificate is valid.")] = 730,
    output: Annotated[Path | None, typer.Option(help="Put the site's new grant there as well.")] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At the authority: add a station to a site, or give a known one a certificate for a new TLS key."""
    from birthmark.adapters.received import read_received
    from birthmark.shell.cli.site import show_grant
    from birthmark.shell.sites.admin import grant_station
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        written = grant_station(opened, site, name, vkey=vkey, csr=read_received(csr), days=days)
    show_grant(written, output, [f"Station {site}/{name} is on record."], as_json)


def provision(
    target: TargetOption,
    device_serial: Annotated[str | None, typer.Option(help="The scanned serial of the device.")] = None,
    identify: Annotated[bool, typer.Option("--identify", help="Scan nothing: ask the device for its serial.")] = False,
    attempt_id: AttemptOption = None,
    station: StationOption = None,
    handshake: HandshakeOption = False,
    cloud: CloudOption = None,
    deadline: DeadlineOption = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Try the whole production path on a stand-in; nothing real is touched.")
    ] = False,
    rehearse_on: Annotated[
        str | None, typer.Option(help="Rehearse on this throw-away device, where the target makes no stand-in itself.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> int:
    """Give one device its identity, read it back and prove it. The same command again is always safe."""
    from birthmark.shell.line.heads import open_heads
    from birthmark.shell.line.yields import not_to_be_shipped
    from birthmark.shell.workspace.wiring import open_workspace

    _require_one_way(device_serial, identify)
    show = step_line if as_json else step_text
    if rehearse or rehearse_on is not None:
        _rehearse(device_serial, target, rehearse_on, deadline, handshake, workspace, show, as_json=as_json)
        return 0
    began = time.monotonic()
    try:
        with (
            not_to_be_shipped(),
            open_workspace(workspace) as opened,
            open_heads(opened, station, deadline_s=deadline) as heads,
        ):
            asked = device_serial or heads.identify(target)
            outcome = heads.provision(
                asked, target, attempt=attempt_id, handshake=handshake, cloud=cloud, progress=show
            )
    except BirthmarkError as problem:
        if not as_json:
            raise
        failed_line(device_serial or "", problem, round((time.monotonic() - began) * 1000, 3))
        return problem.exit_code
    if as_json:
        outcome_line(outcome)
    else:
        print(outcome_text(outcome), flush=True)
    return 0


def verify(
    target: TargetOption,
    device_serial: Annotated[str, typer.Option(help="The scanned serial of the device.")],
    station: StationOption = None,
    handshake: HandshakeOption = False,
    cloud: CloudOption = None,
    deadline: DeadlineOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> int:
    """Prove again that a verified device holds its identity, and that its cloud lets it in; nothing is written."""
    from birthmark.shell.line.heads import open_heads
    from birthmark.shell.line.yields import not_to_be_shipped
    from birthmark.shell.workspace.wiring import open_workspace

    began = time.monotonic()
    try:
        with (
            not_to_be_shipped(),
            open_workspace(workspace) as opened,
            open_heads(opened, station, deadline_s=deadline) as heads,
        ):
            show = step_line if as_json else step_text
            outcome = heads.verify(device_serial, target, handshake=handshake, cloud=cloud, progress=show)
    except BirthmarkError as problem:
        if not as_json:
            raise
        failed_line(device_serial, problem, round((time.monotonic() - began) * 1000, 3), "verify")
        return problem.exit_code
    if as_json:
        outcome_line(outcome, "verify")
    else:
        print(outcome_text(outcome), flush=True)
    return 0


def bind(
    device_serial: Annotated[str, typer.Option(help="The scanned serial of the device.")],
    target: TargetOption,
    identity: IdentityOption = None,
    attempt_id: AttemptOption = None,
    station: StationOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> None:
    """Bind the identity that a vendor preloaded to a device: read, challenged, recorded; nothing is written to it."""
    _take_over("preloaded", device_serial, target, identity, attempt_id, station, workspace, as_json=as_json)


def adopt(
    device_serial: Annotated[str, typer.Option(help="The scanned serial of the device.")],
    target: TargetOption,
    identity: IdentityOption = None,
    attempt_id: AttemptOption = None,
    station: StationOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> None:
    """Adopt the identity that a device got elsewhere: its certificate is read, its key challenged, both recorded."""
    _take_over("adopted", device_serial, target, identity, attempt_id, station, workspace, as_json=as_json)


def _take_over(
    origin: Literal["preloaded", "adopted"],
    device_serial: str,
    target: str,
    identity: str | None,
    attempt_id: str | None,
    station: str | None,
    workspace: Path,
    *,
    as_json: bool,
) -> None:
    from birthmark.shell.line.heads import open_heads
    from birthmark.shell.workspace.wiring import open_workspace

    show = step_line if as_json else step_text
    with open_workspace(workspace) as opened, open_heads(opened, station) as heads:
        outcome = heads.take_over(origin, device_serial, target, identity=identity, attempt=attempt_id, progress=show)
    if as_json:
        outcome_line(outcome, "bind" if origin == "preloaded" else "adopt")
    else:
        print(outcome_text(outcome), flush=True)


def _require_one_way(device_serial: str | None, identify: bool) -> None:
    if (device_serial is None) != identify:
        raise Misconfigured(
            "station.device",
            "the device is named twice" if identify else "no device is named",
            hint="Give --device-serial with the scanned serial, or --identify to ask the device for it.",
        )


def _rehearse(
    device_serial: str | None,
    target: str,
    stand_in: str | None,
    deadline: float | None,
    handshake: bool,
    workspace: Path,
    show: Callable[[Progress], None],
    *,
    as_json: bool,
) -> None:
    from birthmark.shell.line.rehearsal import RehearsalRequest, rehearse

    if device_serial is None:
        raise Misconfigured(
            "rehearsal.device",
            "a rehearsal does not open the real device, so it cannot ask it for its serial",
            hint="Name the device with --device-serial.",
        )
    told = rehearse(
        workspace,
        RehearsalRequest(device_serial, target, stand_in, deadline_s=deadline, handshake=handshake),
        progress=show,
    )
    if as_json:
        outcome_line(told.outcome, rehearsed=told.document())
        return
    for line in told.lines():
        print(line, flush=True)


def run(
    devices: Annotated[str, typer.Option(help="File with one device serial a line, or - for stdin.")],
    target: TargetOption,
    heads: Annotated[int, typer.Option(min=1, max=64, help="How many devices at once.")] = 1,
    station: StationOption = None,
    handshake: HandshakeOption = False,
    cloud: CloudOption = None,
    deadline: DeadlineOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> int:
    """Work through many devices with several heads.

    A bad or slow device does not stop the others; the worst error decides the exit code. A fault of the station or a
    finding of tampering stops the line.
    """
    from birthmark.shell.line.heads import open_heads
    from birthmark.shell.line.yields import not_to_be_shipped
    from birthmark.shell.workspace.wiring import open_workspace

    _require_placeholder(target)
    waiting = read_serials(devices)
    with (
        not_to_be_shipped(),
        open_workspace(workspace) as opened,
        open_heads(opened, station, deadline_s=deadline) as shared,
    ):
        total = shared.run(
            waiting,
            target,
            heads=heads,
            handshake=handshake,
            cloud=cloud,
            progress=step_line if as_json else no_step,
            result=result_line if as_json else result_text,
        )
    summary(total, as_json=as_json)
    return 0 if total.worst is None else total.worst.exit_code


def _require_placeholder(target: str) -> None:
    if "{device_serial}" not in target:
        raise Misconfigured(
            "station.target.one",
            "all devices would go to the same target",
            hint="Put {device_serial} into the target.",
            target=target[:200],
        )
