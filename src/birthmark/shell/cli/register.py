"""``birthmark register``: clouds are told of devices, and asked what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured, Refused
from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, write_plan_only
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.registercompare import reconcile
from birthmark.shell.cli.registerreport import follow_runs, show_estimate, show_runs
from birthmark.shell.cli.screen import emit, table

if TYPE_CHECKING:
    from birthmark.shell.register.runs import CloudRun

__all__ = ["register"]

NameArgument = Annotated[str, typer.Argument(help="The cloud, as [clouds.NAME] in birthmark.toml.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    group = typer.Typer(help="Tell clouds and registries of devices, and compare what they hold.", no_args_is_help=True)
    group.command("plan")(plan)
    group.command("prepare")(prepare)
    group.command("run")(run)
    group.command("reconcile")(reconcile)
    group.command("parked")(parked)
    app.add_typer(group, name="register")


def plan(
    name: Annotated[str | None, typer.Argument(help="The cloud, as [clouds.NAME] in birthmark.toml.")] = None,
    cloud: Annotated[str | None, typer.Option(help="A cloud URI, in place of a name; no workspace is needed.")] = None,
    devices: Annotated[
        int | None, typer.Option(min=0, max=1_000_000_000, help="How many devices; default: those that are due.")
    ] = None,
    authorities: Annotated[
        int | None,
        typer.Option(min=0, max=1000, help="How many issuing CAs; default: those on record, 1 with --cloud."),
    ] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Say how many calls and minutes a registration will take, and what stands in its way; nothing is sent."""
    from birthmark.shell.register.plan import plan_for_name, plan_for_uri

    if (name is None) == (cloud is None):
        raise Misconfigured(
            "register.plan.cloud",
            "a plan is for one cloud",
            hint="Give the name of a cloud of this workspace, or --cloud URI.",
        )
    if name is not None:
        made = plan_for_name(workspace, name, devices=devices, authorities=authorities)
    elif devices is not None:
        made = plan_for_uri(cloud or "", base=workspace, devices=devices, authorities=authorities)
    else:
        raise Misconfigured(
            "register.plan.devices",
            "nobody knows how many devices this cloud would be told of",
            hint="Say it with --devices N.",
        )
    show_estimate(made, as_json=as_json)
    if made.estimate.obstacles:
        raise Refused(
            "register.plan.obstacles",
            f"{made.cloud} cannot be told of {made.devices:,} devices like this",
            hint=made.estimate.obstacles[0].hint,
            codes=[one.code for one in made.estimate.obstacles],
        )


def prepare(
    name: NameArgument,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Make our CAs known to a cloud and prove that we have their keys, with the groups and policies that it needs."""
    from birthmark.shell.authority.possession import ACTION, possession, possession_facts
    from birthmark.shell.register.registration import chosen_clouds, open_register
    from birthmark.shell.workspace.wiring import open_workspace

    with (
        open_workspace(workspace, publish=plan_only is None) as opened,
        open_register(opened, name, chosen_clouds(opened, [name])[name]) as known,
    ):
        cloud, cas = known.cloud.name, [one.name for one in known.authorities()]
        if plan_only is not None:
            write_plan_only(opened, ACTION, possession_facts(cloud, cas), plan_only, as_json=as_json)
            return
        lines = known.prepare(possession(opened, cloud=cloud, cas=cas, approval=approval))
    text = "\n".join([*lines, f"Next: birthmark register run {name}"])
    emit({"cloud": name, "prepared": lines}, text, as_json=as_json)


def run(
    names: Annotated[list[str] | None, typer.Argument(help="The clouds; default: all of birthmark.toml.")] = None,
    patience: Annotated[
        float, typer.Option(min=0, max=1440, help="Minutes to go on when a cloud gives no answer at all.")
    ] = 10.0,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Tell clouds of every device that was verified or ended since they were told last; each at its own pace."""
    from birthmark.shell.register.registration import chosen_clouds
    from birthmark.shell.register.runs import run_clouds
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        clouds = chosen_clouds(opened, names or [])
        with follow_runs(list(clouds), quiet=as_json) as progress:
            runs = run_clouds(opened, clouds, patience_s=patience * 60, progress=progress)
    show_runs(runs, as_json=as_json)
    _raise_worst(runs)


def _raise_worst(runs: list[CloudRun]) -> None:
    problems = [one.problem for one in runs if one.problem is not None]
    if problems:
        raise problems[0]
    waiting = [one for one in runs if one.parked]
    if waiting:
        raise Refused(
            "register.parked",
            f"{sum(one.parked for one in waiting):,} devices are parked: a cloud will not take them",
            hint=f"`birthmark register parked {waiting[0].name}` says which and why.",
            clouds=[one.name for one in waiting],
        )


def parked(
    name: NameArgument,
    retry: Annotated[bool, typer.Option("--retry", help="Make all of them due again.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show so many at most.")] = 100,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """List devices that a cloud would not take, with the reason; or let the next run try them again."""
    from birthmark.shell.register.registration import chosen_clouds, open_register
    from birthmark.shell.workspace.wiring import open_workspace

    with (
        open_workspace(workspace, publish=False) as opened,
        open_register(opened, name, chosen_clouds(opened, [name])[name]) as known,
    ):
        total = known.book.counts()["parked"]
        devices = known.book.parked("", limit)
        reopened = known.book.reopen(None) if retry else 0
    document = {
        "cloud": name,
        "parked": total,
        "reopened": reopened,
        "devices": [
            {
                "device_serial": one.device_serial,
                "entry": one.revision,
                "tries": one.tries,
                "code": one.code,
                "detail": one.detail,
                "hint": one.hint,
            }
            for one in devices
        ],
    }
    if retry:
        emit(document, f"{reopened:,} devices are due again.\nNext: birthmark register run {name}", as_json=as_json)
        return
    rows = [[one.device_serial, f"{one.revision:,}", one.code, one.detail, one.hint] for one in devices]
    title = f"{total:,} devices are parked" if total else f"No device of {name} is parked"
    emit(document, table(title, ["device", "entry", "code", "what", "what to do"], rows), as_json=as_json)
