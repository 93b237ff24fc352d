"""What people and stations do, one action a step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from shutil import copy, copytree, rmtree
from typing import TYPE_CHECKING, Any

from birthmark.shell.line.heads import StationHeads, open_heads
from birthmark.shell.sites.bundles import manifest_path, open_for_site, seal_for_site
from birthmark.shell.sites.ingest import ingest_file
from birthmark.shell.sites.report import acknowledged_entries, write_report_file
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.line.receive import ReceivingSource
from birthmark.workflow.line.rework import Rework
from birthmark.workflow.line.station import ProvisionRequest, provision
from simulation.service import StationLine
from simulation.sticks import Stick
from simulation.template import HQ, SITES, OrderPlan, SitePlan, make_identities
from simulation.unit import Unit
from simulation.watch import Broken

if TYPE_CHECKING:
    from simulation.world import World

__all__ = ["ACTIONS", "STEPS", "Action", "Actors"]

STEPS = 60


@dataclass(frozen=True, slots=True)
class Action:
    """``name``: the method of ``Actors``; ``weight``: how often it is done."""

    name: str
    weight: int


ACTIONS = (
    Action("provision", 40),
    Action("seal", 9),
    Action("make", 4),
    Action("report", 10),
    Action("deliver", 26),
    Action("rework", 3),
    Action("scrap", 2),
    Action("late_request", 2),
    Action("change_clock", 3),
    Action("restart", 2),
    Action("cheat", 3),
    Action("copy_disk", 2),
    Action("restore_disk", 2),
)


class Actors:
    """Everybody who acts in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self._acks: dict[str, Path] = {}
        self._since: dict[str, int] = {}
        self._passed: set[str] = set()

    # The line.

    def provision(self) -> None:
        """A station of any site gets a device into its fixture."""
        world = self._world
        known = [unit for unit in world.units if unit.device_serial in world.watch.ledgers[unit.site].devices]
        self.provision_unit(self._random.choice(known if known and self._random.random() < 0.95 else world.units))

    def provision_unit(self, unit: Unit) -> None:
        world, site = self._world, unit.site
        station = self._random.choice(("line1", "line2"))
        steps = ("probe", "make_key", "install", "prove")
        unit.trouble = self._random.choice(steps) if world.trouble and self._random.random() < 0.06 else None
        unit.fuse = world.machines[site].fuse

        def work(workspace: Workspace) -> Any:
            with open_heads(workspace, station) as heads:
                source = heads.source
                if world.plans[site].mode == "online":
                    source = self._online(workspace, heads, site, station)
                request = ProvisionRequest(unit.device_serial, unit.uri)
                return provision(heads.post, request, target=unit, source=source, fence=heads.fence())

        outcome = world.command(site, f"{station} {unit.uri}", work)
        unit.fuse = None
        if outcome is not None:
            self._passed.add(unit.uri)
            world.watch.promise(site, unit.device_serial, outcome.cert_sha256)

    def _online(self, workspace: Workspace, heads: StationHeads, site: str, station: str) -> ReceivingSource:
        world = self._world
        line = StationLine(
            world.service,
            site,
            station,
            random=self._random,
            bad=world.bad_luck,
            late=world.late,
            down=lambda: world.power_off(HQ),
            note=lambda text: world.note(f"  {text}"),
        )
        return ReceivingSource(
            authority=line,
            ledger=heads.post.ledger,
            records=workspace.records,
            vault_key=lambda: workspace.vault_key,
            chain_of=workspace.chain,
            profile=workspace.profile,
            values=lambda product: workspace.product(product).values,
            clock=workspace.clock,
        )

    def late_request(self) -> None:
        """A request arrives that nobody waits for any more."""
        world = self._world
        if world.late:
            site, station, body = world.late.pop(0)
            world.command(HQ, f"late request of {site}", lambda workspace: world.service.answer(site, station, body))

    # Orders.

    def send_orders(self) -> None:
        """Most orders leave on the first day."""
        for site in SITES:
            for order in site.orders:
                if self._random.random() < 0.7:
                    self.seal_order(site, order)

    def seal(self) -> None:
        """The authority seals an order for its site, perhaps once more."""
        site = self._random.choice(SITES)
        self.seal_order(site, self._random.choice(site.orders))

    def seal_order(self, site: SitePlan, order: OrderPlan) -> None:
        place = self._world.machines[HQ].root / "out"
        place.mkdir(exist_ok=True)
        output = place / f"{order.name}.bundle"

        def work(workspace: Workspace) -> Any:
            return seal_for_site(
                workspace,
                order=order.name,
                site=site.name,
                suite="mlkem768-x25519",
                recipient=None,
                output=output,
                progress=lambda count: None,
            )

        if self._world.command(HQ, f"seal {order.name}", work) is not None:
            stick = self._world.mail.place()
            files = tuple(Path(copy(file, stick)) for file in (output, manifest_path(output)))
            self._world.mail.post(Stick("bundle", HQ, site.name, order.name, files))

    def make(self) -> None:
        """The site that signs for itself makes the identities of an order."""
        self._world.command("fab", "make fab-i", lambda workspace: _make(workspace, "fab-i"))

    def rework(self) -> None:
        """Somebody ends an identity and wants another."""
        self._end_identity("rework")

    def scrap(self) -> None:
        """Somebody destroys a unit."""
        self._end_identity("scrap")

    def _end_identity(self, what: str) -> None:
        unit = self._random.choice(self._world.units)
        where = "fab" if unit.site == "fab" else self._random.choice((HQ, unit.site))

        def work(workspace: Workspace) -> Any:
            rework = Rework(
                ledger=workspace.ledger,
                records=workspace.records,
                permits=workspace.permits,
                recipient=workspace.vault_recipient,
                clock=workspace.clock,
                entropy=workspace.entropy,
            )
            return getattr(rework, what)(unit.device_serial, reason="simulation", by="simulation")

        self._world.command(where, f"{what} {unit.device_serial}", work)

    # Sticks.

    def report(self) -> None:
        """A site writes a report: from what was acknowledged, from where it left off, or of everything."""
        site = self._random.choice(SITES).name
        self.report_of(site, self._random.choice(("ack", "since", "all")))

    def report_of(self, site: str, since: str) -> None:
        output = self._world.mail.place() / f"{site}.report"

        def work(workspace: Workspace) -> Any:
            workspace.publish()
            start = 0
            if since == "ack" and site in self._acks:
                start = acknowledged_entries(workspace, self._acks[site])
            elif since == "since":
                start = min(self._since.get(site, 0), workspace.publication.publish())
            return write_report_file(workspace, output, since=start)

        header = self._world.command(site, f"report {since}", work)
        if header is not None:
            self._since[site] = header.size
            self._world.mail.post(Stick("report", site, HQ, "", (output,)))

    def deliver(self) -> None:
        """A stick arrives, or does not."""
        world = self._world
        if not world.mail.waiting:
            return
        taken = world.mail.take(sorted(world.machines), trouble=world.trouble)
        if taken is None:
            world.note("  lost")
            return
        stick, fate = taken
        world.note(f"  {stick.kind} of {stick.sender} {stick.order} to {stick.to}: {fate}")
        self._arrives(stick, fate)

    def _arrives(self, stick: Stick, fate: str) -> None:
        astray = fate == "wrong door" or not stick.is_whole
        if stick.kind == "report" and stick.to == HQ:
            self._ingest(stick)
        elif stick.kind == "bundle" and stick.to != HQ:
            self._open(stick, astray=astray)
        elif stick.kind == "ack" and stick.to != HQ:
            self._keep_ack(stick)

    def _ingest(self, stick: Stick) -> None:
        (file,) = stick.files
        result = self._world.command(
            HQ, f"ingest {stick.sender}", lambda workspace: ingest_file(workspace, file), blames=not stick.is_whole
        )
        if result is None:
            return
        told = ", ".join(sorted({finding.code for finding in result.findings}))
        self._world.note(f"  {result.report.outcome} {result.settled} settled {told}")
        suspects = self._world.suspects | self._world.copied
        if (result.findings or result.report.outcome == "fork") and stick.sender not in suspects:
            what = [(finding.code, finding.device, finding.what) for finding in result.findings]
            raise Broken("no finding without a fault", f"{stick.sender}: {result.report.outcome} {what}")
        place = self._world.mail.place()
        self._world.mail.post(Stick("ack", HQ, stick.sender, "", (Path(copy(result.ack, place)),)))

    def _open(self, stick: Stick, *, astray: bool) -> None:
        bundle, manifest = stick.files

        def work(workspace: Workspace) -> Any:
            return open_for_site(workspace, bundle=bundle, manifest=manifest, key=None, progress=lambda count: None)

        self._world.command(stick.to, f"open {stick.order}", work, blames=astray)

    def _keep_ack(self, stick: Stick) -> None:
        """Keep an acknowledgement if it is one of this site and not older."""
        site = stick.to
        since: list[int] = []

        def work(workspace: Workspace) -> None:
            workspace.publish()
            since.append(acknowledged_entries(workspace, stick.files[0]))

        self._world.command(site, "ack", work, blames=not stick.is_whole)
        if since:
            self._acks[site] = stick.files[0]

    # Accidents.

    def change_clock(self) -> None:
        """The clock of a machine jumps, forwards or backwards."""
        machine = self._world.machines[self._random.choice(sorted(self._world.machines))]
        machine.skew = timedelta(hours=self._random.choice((-30, -2, -0.02, 0, 0.5, 9, 50)))
        self._world.note(f"  {machine.name} is off by {machine.skew}")

    def restart(self) -> None:
        """A machine is switched off between two commands."""
        self._world.power_off(self._random.choice(sorted(self._world.machines)))

    def copy_disk(self) -> None:
        """Somebody keeps a copy of a site's disk."""
        world = self._world
        if world.kind == "restored":
            world.machines[world.victim].crash()
            rmtree(world.copies, ignore_errors=True)
            copytree(world.machines[world.victim].root, world.copies)

    def restore_disk(self) -> None:
        """The copy is put in place: the site forgets what it did since."""
        world = self._world
        if world.kind == "restored" and world.copies.exists():
            world.copied.add(world.victim)
            world.machines[world.victim].restore(world.copies)
            world.watch.forget(world.victim)
            world.note(f"  {world.victim} is an older copy now")

    def cheat(self) -> None:
        """The people of a site write into its ledger what did not happen."""
        world = self._world
        if world.kind == "forger":
            from simulation.forger import forge

            def begun() -> None:
                world.suspects.add(world.victim)

            if world.command(world.victim, "cheat", lambda workspace: forge(workspace, self._random, begun)):
                world.cheats.add(world.victim)

    # The last day.

    def come_home(self) -> None:
        """All sticks arrive, what is left is done without trouble, and everybody reports."""
        world = self._world
        for machine in world.machines.values():
            machine.crash()
            machine.skew = timedelta()
        world.today += timedelta(days=3)
        while world.late:
            self.late_request()
        self._deliver_all()
        for site in SITES:
            for order in site.orders:
                # A site that lost power while it opened a bundle has the order already, and not its identities.
                if site.mode == "pool" or order.serials[0] not in world.watch.ledgers[site.name].devices:
                    self.seal_order(site, order)
        self._deliver_all()
        for unit in world.units:
            if unit.uri not in self._passed:
                self.provision_unit(unit)
        self.cheat()
        for site in SITES:
            self.report_of(site.name, "all")
        self._deliver_all()

    def _deliver_all(self) -> None:
        while self._world.mail.waiting:
            self.deliver()

    def compare(self) -> None:
        """The authority's picture is that of the sites."""
        from simulation.picture import compare

        compare(self._world)


def _make(workspace: Workspace, order: str) -> int | None:
    return make_identities(workspace, order) if workspace.records.order(order) is not None else None
