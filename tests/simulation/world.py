"""One world of one seed: machines, devices, sticks and what may go wrong, step by step."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from birthmark.errors import BirthmarkError, Tampered
from simulation.actors import ACTIONS, STEPS, Actors
from simulation.faults import PowerCut
from simulation.invariants import WorldWatch
from simulation.machine import Machine
from simulation.service import Service
from simulation.sticks import Mail
from simulation.template import HQ, SITES, SitePlan
from simulation.unit import Unit
from simulation.watch import Broken, LedgerWatch

__all__ = ["World"]

_CUTS = 0.2
"""How often the power of a machine goes during a step."""


class World:
    """The world of a seed. ``trouble`` is 0 on the last day, when everything is brought home."""

    def __init__(self, template: Path, place: Path, seed: int, *, trace: Callable[[str], None]) -> None:
        shutil.copytree(template, place)
        self.random = Random(seed)
        self.trouble = self.random.choice((0.1, 0.25, 0.4))
        self.today = datetime.now(UTC) + timedelta(minutes=1)
        self.plans: dict[str, SitePlan] = {plan.name: plan for plan in SITES}
        self.machines = {
            name: Machine(name, place / name, template / name, Random(self.random.random()), lambda: self.today)
            for name in (HQ, *self.plans)
        }
        self.service = Service(self.machines[HQ])
        self.mail = Mail(place / "sticks", self.random)
        self.copies = place / "copies"
        self.late: list[tuple[str, str, bytes]] = []
        self.watch = WorldWatch({name: LedgerWatch(name, machine.root) for name, machine in self.machines.items()})
        self.units = self._units()
        self.cheats: set[str] = set()
        self.suspects: set[str] = set()
        """Sites that may have cheated: whether a lie outlived the power cut in the middle of it, its ledger knows."""
        self.copied: set[str] = set()
        self.codes: Counter[str] = Counter()
        self.step = 0
        self._trace = trace
        self._touched: set[str] = set()
        self.actors = Actors(self)
        self.kind = self.random.choices(("honest", "forger", "restored"), (8, 1, 1))[0]
        self.victim = self.random.choice(SITES).name
        self.note(f"world kind={self.kind} victim={self.victim} trouble={self.trouble}")
        self.watch.look((), self.machines)

    def _units(self) -> list[Unit]:
        """Make the devices; some labels stand on two of them."""
        numbers, units = [0], []
        for plan in SITES:
            for order in plan.orders:
                for serial in order.serials:
                    copies = 2 if self.random.random() < 0.1 else 1
                    for copy in range(copies):
                        born = order.origin == "device"
                        units.append(Unit(serial, plan.name, copy, born=born, numbers=numbers))
        return units

    def live(self, steps: int = STEPS) -> None:
        """Let time pass, then bring everything home and look closely."""
        names, weights = [action.name for action in ACTIONS], [action.weight for action in ACTIONS]
        self.actors.send_orders()
        for self.step in range(1, steps + 1):
            self.today += timedelta(seconds=self.random.expovariate(1 / 600))
            name = self.random.choices(names, weights)[0]
            self.note(f"step {self.step} {name}")
            getattr(self.actors, name)()
            self.watch.look(self.units, sorted(self._touched))
            self._touched.clear()
        self.trouble = 0.0
        self.step += 1
        self.note("last day")
        self.actors.come_home()
        self.watch.look(self.units, self.machines)
        self.watch.look_closely(self.units)
        self.actors.compare()

    def note(self, text: str) -> None:
        """Write one line of the trace."""
        self._trace(text)

    def bad_luck(self) -> bool:
        return self.random.random() < self.trouble

    def command(self, name: str, what: str, run: Callable[[Any], Any], *, blames: bool = False) -> Any:
        """Give a command to a machine, power cuts included; return its result, None if there is none.

        ``blames``: the input is damaged, so an accusation (``Tampered``) is right.
        """
        machine = self.machines[name]
        self._touched |= {name, HQ}
        for fused in {name: machine, HQ: self.machines[HQ]}.values():
            fused.fuse.left = None
            if self.trouble and self.random.random() < _CUTS * (1 if fused is machine else 0.3):
                fused.fuse.left, fused.fuse.after = self.random.randint(1, 12), self.random.random() < 0.5
        result = None
        try:
            result = machine.run(run)
            outcome = "ok"
            if self.random.random() < 0.6 or not self.trouble:
                machine.publish()
        except PowerCut:
            machine.crash()
            outcome = "power cut"
        except BirthmarkError as error:
            outcome = error.code
            self._judge(name, error, blames=blames)
        self.codes[outcome] += 1
        self.note(f"  {name} {what}: {outcome}")
        for fused in (machine, self.machines[HQ]):
            fused.fuse.left = None
        return result

    def _judge(self, name: str, error: BirthmarkError, *, blames: bool) -> None:
        """Nobody may be accused, and nothing may break, without a fault that explains it."""
        if error.code == "pool.erased":
            raise Broken("a drawn key stays until its receipt", f"{name}: {error.message}") from error
        if isinstance(error, Tampered) and not blames and name not in self.copied | self.suspects:
            raise Broken("no accusation without a fault", f"{name}: {error.code}: {error.message}") from error

    def power_off(self, name: str) -> None:
        self.note(f"  power cut at {name}")
        self.machines[name].crash()

    def close(self) -> None:
        for machine in self.machines.values():
            machine.crash()
