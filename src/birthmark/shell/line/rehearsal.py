"""Rehearse the production path: the real engine, a throw-away workspace, a stand-in for the device.

The stand-in is made by the target itself (``ports.Rehearses``) or named by the caller. Of the real workspace only the
order, the profile and the product's settings are read: nothing is written to it, and no key of it is opened.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.durable import write_durably
from birthmark.errors import Refused
from birthmark.model.ids import OrderId, parse_device_serial
from birthmark.shell.line.heads import open_heads
from birthmark.shell.line.places import place_of
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.plugins import adapter
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.settingsparts import write_part
from birthmark.shell.workspace.settingstext import toml_key, toml_text
from birthmark.shell.workspace.wiring import Workspace, open_workspace

if TYPE_CHECKING:
    from birthmark.model.records import OrderRecord
    from birthmark.ports import Rehearsal
    from birthmark.shell.workspace.config import ProductSettings
    from birthmark.workflow.line.stationpost import Outcome, Progress

__all__ = ["RehearsalRequest", "Rehearsed", "rehearse"]

_ORDER = OrderId("rehearsal")
_UNUSED_PRODUCT = "rehearsal-unused"


@dataclass(frozen=True, slots=True)
class RehearsalRequest:
    """``target``: the production target. ``stand_in``: URI of a throw-away device, None lets the target make one."""

    device_serial: str
    target: str
    stand_in: str | None = None
    deadline_s: float | None = None
    handshake: bool = False


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What happened on the stand-in, and what the same run would do to the real device."""

    outcome: Outcome
    target: str
    rehearsal: Rehearsal

    def document(self) -> dict[str, object]:
        """Return it JSON-ready."""
        return {
            "target": self.target,
            "stand_in": self.rehearsal.target,
            "would_write": list(self.rehearsal.writes),
            "would_not_undo": list(self.rehearsal.irreversible),
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        told = [f"REHEARSED  {self.outcome.device_serial} on a stand-in; nothing real was touched or recorded"]
        told += [f"  production would {change}" for change in self.rehearsal.writes]
        told += [f"  production would {change}: THIS CANNOT BE UNDONE" for change in self.rehearsal.irreversible]
        if not self.rehearsal.irreversible:
            told.append("  production would burn and lock nothing")
        return told


def rehearse(
    root: Path, request: RehearsalRequest, *, progress: Callable[[Progress], None] = lambda progress: None
) -> Rehearsed:
    """Run the production path of one device on a stand-in; everything that was made for it is removed.

    Raises what the engine would at the real device; ``Refused``: ``rehearsal.impossible`` where the target has no
    stand-in, ``rehearsal.target`` if the named stand-in is the real device, ``device.unknown``.
    """
    from birthmark.adapters.targets.uri import expand_target_uri

    serial = parse_device_serial(request.device_serial)
    production = expand_target_uri(request.target, serial)
    directory = Path(tempfile.mkdtemp(prefix="birthmark-rehearsal-"))
    try:
        stand_in = _stand_in(production, request, directory)
        throw_away = directory / "rehearsal"
        order = _copy_product(root, serial, throw_away)
        with open_workspace(throw_away) as workspace:
            _make_identity(workspace, serial, order)
            with open_heads(workspace, deadline_s=request.deadline_s) as heads:
                outcome = heads.provision(serial, stand_in.target, handshake=request.handshake, progress=progress)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return Rehearsed(outcome, production, stand_in)


def _stand_in(production: str, request: RehearsalRequest, directory: Path) -> Rehearsal:
    from birthmark.adapters.targets.uri import expand_target_uri
    from birthmark.ports import Rehearsal, Rehearses

    if request.stand_in is not None:
        named = expand_target_uri(request.stand_in, request.device_serial)
        if _place(named) == _place(production):
            raise Refused(
                "rehearsal.target",
                "the stand-in is the production target itself",
                hint="Name a device that may be thrown away.",
                target=ascii(named[:200]),
            )
        return Rehearsal(named, (f"do to {production.partition('?')[0]} what was done to the stand-in",))
    kind = adapter("targets", production)
    if not isinstance(kind, Rehearses):
        scheme = production.partition(":")[0]
        raise Refused(
            "rehearsal.impossible",
            f"the target {scheme}: has no stand-in, it cannot be rehearsed by itself",
            hint="Name a throw-away device of the same kind with --rehearse-on.",
            target=ascii(production.partition("?")[0][:200]),
        )
    place = directory / "stand-in"
    place.mkdir(mode=0o700)
    return kind.rehearsal(production, device_serial=request.device_serial, directory=str(place))


def _place(uri: str) -> str:
    """Return where a target is, however it was spelled; nothing is opened."""
    return place_of(adapter("targets", uri)(uri, secrets=SecretsResolver(), base=Path.cwd()), uri)


def _copy_product(root: Path, device_serial: str, throw_away: Path) -> OrderRecord:
    """Make a workspace whose product has the settings and the profile of the device's order; return that order."""
    from birthmark.shell.workspace.config import load_settings
    from birthmark.shell.workspace.ledgers import open_ledger
    from birthmark.workflow.handout import known_device

    real = Workspace(root, load_settings(root), SecretsResolver())
    ledger = open_ledger(root, real.settings.ledger, secrets=real.secrets, clock=real.clock)
    try:
        order = ledger.records.order(known_device(ledger.records, device_serial).order)
    finally:
        ledger.close()
    assert order is not None, "a device stands in an order"  # noqa: S101
    settings = real.product(order.product)
    real.profile(order.profile)  # an unreadable one is named before anything is made
    profile = f"{order.profile}.toml"
    make_workspace(throw_away, product=_UNUSED_PRODUCT)
    write_durably(throw_away / "profiles" / profile, (root / "profiles" / profile).read_bytes(), mode=0o644)
    write_part(throw_away, "rehearsal", _product_table(order, settings))
    return order


def _product_table(order: OrderRecord, settings: ProductSettings) -> str:
    """Return the product as it is made, with the throw-away CA in place of its own."""
    values = "".join(f"{toml_key(name)} = {toml_text(value)}\n" for name, value in settings.values.items())
    table = f"products.{toml_key(order.product)}"
    return f"""[{table}]
profile = {toml_text(order.profile)}
ca = "issuing"
key_algorithm = {toml_text(order.key_algorithm)}
residency = {toml_text(settings.residency)}

[{table}.values]
{values}"""


def _make_identity(workspace: Workspace, device_serial: str, order: OrderRecord) -> None:
    """Order one device, and make its identity now if its key is not born in it."""
    from birthmark.shell.orders.bulk import make_order
    from birthmark.workflow.orders.order import NewOrder, create_order

    wanted = NewOrder(
        order=_ORDER,
        product=order.product,
        profile=workspace.profile(order.profile),
        key_algorithm=order.key_algorithm,
        key_origin="device" if order.key_origin == "device" else "injected",
        ca="issuing",
        by=workspace.by,
    )
    create_order(workspace.ledger, wanted, [device_serial], clock=workspace.clock)
    if wanted.key_origin == "injected":
        make_order(workspace, workspace.records.order(_ORDER), processes=1, progress=lambda made: None)
