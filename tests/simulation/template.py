"""The world before its first day: made once by the real ceremony, requests and grants, and copied for every seed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from birthmark.adapters.engines.worker import BulkWorker
from birthmark.model.ids import OrderId
from birthmark.model.siteevents import SiteMode
from birthmark.shell.sites.accept import take_grant
from birthmark.shell.sites.admin import CaWishes, GrantWishes, take_in_site
from birthmark.shell.sites.setup import NewSite, create_site_workspace
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.workflow.orders.fulfil import Fulfilment
from birthmark.workflow.orders.order import NewOrder, create_order, serial_range
from birthmark.workflow.sites.site import assign_order, signing_ca
from support.stationworld import InlineEngine

__all__ = ["HQ", "SITES", "OrderPlan", "SitePlan", "build_template", "make_identities", "scratch_place"]

HQ = "hq"
STATIONS = ("line1", "line2")
KeyOrigin = Literal["injected", "device"]


@dataclass(frozen=True, slots=True)
class OrderPlan:
    """An order of a site: its name, the first of its serials, how many, where keys are born."""

    name: str
    first: str
    quantity: int
    origin: KeyOrigin

    @property
    def serials(self) -> tuple[str, ...]:
        return tuple(serial_range(self.first, self.quantity))


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A site, its mode, its prefix of certificate serials and its orders."""

    name: str
    mode: SiteMode
    prefix: str
    orders: tuple[OrderPlan, ...]


_INJECTED: KeyOrigin = "injected"
_BORN: KeyOrigin = "device"


def _site(name: str, mode: SiteMode, prefix: str, *orders: tuple[str, str, int, KeyOrigin]) -> SitePlan:
    return SitePlan(name, mode, prefix, tuple(OrderPlan(*order) for order in orders))


SITES = (
    _site("on-a", "online", "0201", ("on-a-i", "AI-01", 4, _INJECTED), ("on-a-b", "AB-01", 4, _BORN)),
    _site("on-b", "online", "0202", ("on-b-i", "BI-01", 3, _INJECTED), ("on-b-b", "BB-01", 3, _BORN)),
    _site("fab", "factory_ca", "0203", ("fab-i", "FI-01", 4, _INJECTED), ("fab-b", "FB-01", 5, _BORN)),
    _site("pool-a", "pool", "0204", ("lot-a", "PA-01", 4, _INJECTED), ("lot-b", "PB-01", 3, _INJECTED)),
    _site("pool-b", "pool", "0205", ("lot-c", "PC-01", 4, _INJECTED)),
)  # fmt: skip


def scratch_place() -> Path | None:
    """Return memory with a file system on it, where a sync costs nothing; None if there is none."""
    place = Path("/dev/shm")
    return place if os.access(place, os.W_OK) else None


@contextmanager
def build_template() -> Iterator[Path]:
    """Yield the directory of the world before its first day; it is removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="simulation-", dir=scratch_place()))
    try:
        world = root / "template"
        world.mkdir()
        make_workspace(world / HQ)
        for site in SITES:
            _join(world, site)
        with open_workspace(world / HQ) as hq:
            for site in SITES:
                for order in site.orders:
                    _order(hq, site, order)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _join(world: Path, site: SitePlan) -> None:
    """Let a site be born, taken in and accept its grant."""
    with open_workspace(world / HQ, publish=False) as hq:
        origin = hq.settings.origin
    new = NewSite(
        name=site.name,
        mode=site.mode,
        authority=origin,
        origin=f"{origin}/site/{site.name}",
        site_prefix=site.prefix,
        secret=f"file:{world / HQ / 'secrets' / 'passphrase'}",
        stations=STATIONS,
        ca=f"{site.name}-ca-1" if site.mode == "factory_ca" else None,
    )
    request = create_site_workspace(world / site.name, new, secrets=SecretsResolver())
    url = "https://hq.example:8443" if site.mode == "online" else None
    with open_workspace(world / HQ) as hq:
        grant = take_in_site(hq, request, GrantWishes(url=url), CaWishes()).data
    with open_workspace(world / site.name) as own:
        take_grant(own, grant, authority_vkey=None)


def _order(hq: Workspace, site: SitePlan, plan: OrderPlan) -> None:
    settings = hq.product("device")
    order = NewOrder(
        order=OrderId(plan.name),
        product="device",
        profile=hq.profile(settings.profile),
        key_algorithm=settings.key_algorithm,
        key_origin=plan.origin,
        ca=signing_ca(hq.records, site.name) or settings.ca,
        by=hq.by,
    )
    create_order(hq.ledger, order, plan.serials, clock=hq.clock)
    if plan.origin == "injected" and site.mode != "factory_ca":
        make_identities(hq, plan.name)
    assign_order(hq.ledger, hq.records, hq.records.order(plan.name), site.name, clock=hq.clock, by=hq.by)


def make_identities(workspace: Workspace, name: str) -> int:
    """Make the identities of an order in this process; return how many."""
    made: list[int] = []
    order: Any = workspace.records.order(name)
    permit = workspace.permits.for_order(order)
    worker = BulkWorker(workspace.permits.issuer(order.ca), permit, workspace.vault_recipient, workspace.entropy)
    fulfilment = Fulfilment(
        order,
        template=permit.template.template_hash.hex(),
        ledger=workspace.ledger,
        records=workspace.records,
        engine=InlineEngine(worker),
        clock=workspace.clock,
        depth=2,
    )
    fulfilment.run(made.append)
    return sum(made)
