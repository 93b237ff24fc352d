"""``birthmark order``: say which devices shall exist, and make their identities."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from birthmark.errors import Misconfigured
from birthmark.model.preloadevents import KeyOrigin
from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, write_plan_only
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, facts, table
from birthmark.shell.cli.seriallist import read_serials

if TYPE_CHECKING:
    from birthmark.model.records import OrderRecord
    from birthmark.shell.orders.bulk import EngineChoice
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["register"]

_FOLLOWING = {
    "injected": "birthmark order make {order}",
    "device": "birthmark station provision …",
    "preloaded": "birthmark preload ingest …, then birthmark station bind …",
    "adopted": "birthmark station adopt …",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    orders = typer.Typer(help="Orders: which devices shall exist.", no_args_is_help=True)
    orders.command("create")(create)
    orders.command("assign")(assign)
    orders.command("make")(make)
    orders.command("show")(show)
    orders.command("list")(list_orders)
    app.add_typer(orders, name="order")


def create(
    name: Annotated[str, typer.Argument(help="Name of the order: lower-case letters, digits, hyphens.")],
    product: Annotated[str, typer.Option(help="A product of birthmark.toml.")],
    quantity: Annotated[int | None, typer.Option(help="How many devices, counted up from --first.")] = None,
    first: Annotated[str | None, typer.Option(help="First device serial, for example TH-000001.")] = None,
    devices: Annotated[str | None, typer.Option(help="File with one device serial a line, or - for stdin.")] = None,
    key_origin: Annotated[
        str, typer.Option(help="injected: keys made here; device: born in the device; preloaded; adopted.")
    ] = ("injected"),
    site: Annotated[
        str | None, typer.Option(help="Assign it to this site at once; a site's own CA then signs.")
    ] = None,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Record an order and its devices. Duplicate or malformed serials refuse it and are named."""
    from birthmark.model.ids import parse_order_id
    from birthmark.shell.authority.access import require_role
    from birthmark.shell.authority.approvals import require_approval
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.authority.rollover import require_current
    from birthmark.workflow.orders.order import NewOrder, create_order, order_facts
    from birthmark.workflow.sites.site import assign_order

    serials = list(_serials(quantity, first, devices))
    with open_workspace(workspace, publish=plan_only is None) as opened:
        require_role(opened, "authority")
        settings = opened.product(product)
        ca = settings.ca if site is None else _ca_at(opened, site) or settings.ca
        opened.ca_certificate(ca)
        require_current(opened.ledger, opened.records, ca)
        order = NewOrder(
            order=parse_order_id(name),
            product=product,
            profile=opened.profile(settings.profile),
            key_algorithm=settings.key_algorithm,
            key_origin=_key_origin(key_origin),
            ca=ca,
            by=opened.by,
        )
        facts = order_facts(order, serials, settings.values)
        if plan_only is not None:
            write_plan_only(opened, "order.create", facts, plan_only, as_json=as_json)
            return
        ledger = require_approval(opened, "order.create", facts, approval)
        count = create_order(ledger, order, serials, clock=opened.clock)
        if site is not None:
            assign_order(opened.ledger, opened.records, _order(opened, name), site, clock=opened.clock, by=opened.by)
    following = _FOLLOWING[key_origin].format(order=name)
    emit(
        {"order": name, "devices": count, "key_origin": key_origin},
        f"Order {name}: {count:,} devices on record.\nNext: {following}",
        as_json=as_json,
    )


def _ca_at(workspace: Workspace, site: str) -> str | None:
    """Return the CA with which a site signs for itself, None where it does not; a stopped site is refused."""
    from birthmark.workflow.sites.site import signing_ca, working_site

    return signing_ca(workspace.records, working_site(workspace.records, site).site)


def _serials(quantity: int | None, first: str | None, devices: str | None) -> Iterable[str]:
    from birthmark.workflow.orders.order import serial_range

    if devices is not None and quantity is None and first is None:
        return read_serials(devices)
    if devices is None and quantity is not None and first is not None:
        return serial_range(first, quantity)
    raise Misconfigured(
        "order.devices",
        "say which devices: --quantity with --first, or --devices",
        hint="For example: --quantity 1000 --first TH-000001.",
    )


def _key_origin(text: str) -> KeyOrigin:
    for known in get_args(KeyOrigin):
        if text == known:
            origin: KeyOrigin = known
            return origin
    raise Misconfigured(
        "order.key_origin.unknown",
        f"no key origin {text!r}",
        hint="Use injected, device, preloaded or adopted.",
    )


def make(
    name: Annotated[str, typer.Argument(help="Name of the order.")],
    processes: Annotated[int | None, typer.Option(help="Workers; default: one a processor of this machine.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second to a service that signs; see its CA.")] = None,
    engine: Annotated[str, typer.Option(help="Who makes the keys: processes (here) or ray (a cluster).")] = "processes",
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster, like 10.0.0.1:6379; default: start one here.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Make every identity of the order that is still open. Safe to kill and to repeat at any instant."""
    from birthmark.shell.orders.bulk import EngineChoice, default_processes
    from birthmark.shell.workspace.wiring import open_workspace

    choice = EngineChoice(engine, address)

    with open_workspace(workspace) as opened:
        order = _order(opened, name)
        made = _make_with_progress(opened, order, processes or default_processes(), rate, choice, quiet=as_json)
        totals = opened.records.totals(name)
    emit(
        {"order": name, "made": made, "stock": totals.stock, "open": totals.open},
        f"Order {name}: {made:,} identities made, {totals.stock:,} in stock, {totals.open:,} open.\n"
        f"Next: birthmark station provision --device-serial SERIAL --target files:out/SERIAL",
        as_json=as_json,
    )


def assign(
    name: Annotated[str, typer.Argument(help="Name of the order.")],
    site: Annotated[str, typer.Option(help="The one site where its devices are made.")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Give an order to a site: its devices are made there and nowhere else, and its quantity is the site's quota."""
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.sites.site import assign_order

    with open_workspace(workspace) as opened:
        order = _order(opened, name)
        mode = assign_order(opened.ledger, opened.records, order, site, clock=opened.clock, by=opened.by)
    emit(
        {"order": name, "site": site, "mode": mode, "devices": order.quantity},
        f"Order {name}: its {order.quantity:,} devices are made at site {site}, mode {mode}.\n"
        f"Next: birthmark bundle seal --order {name} --site {site}",
        as_json=as_json,
    )


def _make_with_progress(
    workspace: Workspace,
    order: OrderRecord,
    processes: int,
    rate: float | None,
    choice: EngineChoice,
    *,
    quiet: bool,
) -> int:
    from birthmark.shell.cli.screen import progress_bar
    from birthmark.shell.orders.bulk import make_order
    from birthmark.shell.orders.procurement import procure_order

    open_now = workspace.records.totals(order.order).open
    with progress_bar("making identities", total=open_now, quiet=quiet) as advance:
        if workspace.is_external(order.ca):
            return procure_order(workspace, order, processes=processes, rate=rate, progress=advance)
        return make_order(workspace, order, processes=processes, choice=choice, progress=advance)


def _order(workspace: Workspace, name: str) -> OrderRecord:
    order: OrderRecord | None = workspace.records.order(name)
    if order is None:
        raise Misconfigured(
            "order.unknown",
            f"there is no order {name}",
            hint="`birthmark order list` shows all; `birthmark order create` makes one.",
            order=name,
        )
    return order


def show(
    name: Annotated[str, typer.Argument(help="Name of the order.")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Show where the devices of an order stand."""
    import msgspec

    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        order, totals = _order(opened, name), opened.records.totals(name)
        assigned = opened.records.assignment(name)
    document = {**msgspec.to_builtins(order), **msgspec.to_builtins(totals)}
    if assigned is not None:
        document |= {"site": assigned.site, "mode": assigned.mode}
    emit(document, facts(f"Order {name}", document), as_json=as_json)


def list_orders(workspace: WorkspaceOption = Path(), as_json: JsonOption = False) -> None:
    """List all orders."""
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        rows = [(order, opened.records.totals(order.order)) for order in opened.records.orders()]
    columns = ["order", "product", "devices", "open", "stock", "in\nprogress", "verified", "failed", "scrapped"]
    cells = [
        [o.order, o.product, *map(str, (o.quantity, t.open, t.stock, t.in_progress, t.verified, t.failed, t.scrapped))]
        for o, t in rows
    ]
    emit({"orders": [o.order for o, _ in rows]}, table("Orders", columns, cells), as_json=as_json)
