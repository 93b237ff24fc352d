"""On the last day the authority must know of its sites what is true of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from simulation.forger import EXPECTED
from simulation.template import HQ
from simulation.watch import Broken

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["compare"]

_SAME = {"installed", "verified", "failed", "scrapped"}
"""States that a site alone brings about; the authority takes them over as they are."""


def compare(world: World) -> None:
    """Compare the log of the authority with the logs of the sites; raise ``Broken`` where they contradict."""
    hq = world.watch.ledgers[HQ]
    for name in world.plans:
        watch = world.watch.ledgers[name]
        if name in world.suspects | world.copied:
            _suspect(world, name)
            continue
        size, root = hq.reported.get(name, (0, ""))
        if (size, root) != (watch.shown, watch.roots[watch.shown].hex()):
            raise Broken("heads are consistent", f"{name} shows {watch.shown} entries, the authority knows {size}")
        findings = [code for site, code in hq.findings if site == name]
        if findings:
            raise Broken("no finding without a fault", f"{name}: {findings}")
        for serial, device in watch.devices.items():
            known = hq.devices[serial].state
            # What the authority ended by itself stays as it says; the site could not know.
            if device.state in _SAME and known != device.state and not hq.devices[serial].is_ended_here:
                raise Broken("pictures are equal", f"{serial} is {device.state} at {name} and {known} at the authority")
    _conserved(world)


def _suspect(world: World, name: str) -> None:
    """A cheat is caught by a finding of a class that fits; an old copy by a fork, or it is the one that is known."""
    hq, watch = world.watch.ledgers[HQ], world.watch.ledgers[name]
    findings = {code for site, code in hq.findings if site == name}
    if name in world.cheats and not findings & EXPECTED:
        raise Broken("a cheat is caught", f"{name}: {sorted(findings)}")
    if name in world.copied:
        size, root = hq.reported.get(name, (0, ""))
        same = size <= watch.size and watch.roots[size].hex() == root
        if not same and "site.fork" not in findings:
            raise Broken("an old copy is caught", f"{name}: {sorted(findings)}")


def _conserved(world: World) -> None:
    """Every device of an order is somewhere."""
    for name, machine in world.machines.items():
        counts = Counter((device.order, device.state) for device in world.watch.ledgers[name].devices.values())
        records = machine.run(lambda workspace: workspace.records)
        for order in {order for order, _ in counts}:
            totals = records.totals(order)
            mine = {state: counts[order, state] for state in ("verified", "scrapped", "failed", "consigned", "pooled")}
            told = (totals.verified, totals.scrapped, totals.failed, totals.consigned, totals.stock)
            if tuple(mine.values()) != told or totals.ordered != sum(n for (o, _), n in counts.items() if o == order):
                raise Broken("conservation", f"{name} {order}: {mine}, told {totals}")
