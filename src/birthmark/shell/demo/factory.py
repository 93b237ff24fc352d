"""What the demo does, without a word on the screen: a workspace, two orders, a line, and two attempts to cheat."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birthmark.errors import BirthmarkError
from birthmark.model.ids import OrderId
from birthmark.shell.demo.directory import write_secret
from birthmark.shell.demo.tokens import MAGAZINE, MODULE, make_tokens, use_tokens
from birthmark.shell.orders.bulk import default_processes, make_order
from birthmark.workflow.orders.order import NewOrder, create_order, serial_range

if TYPE_CHECKING:
    from birthmark.adapters.audit.verify import Report
    from birthmark.model.events import KeyOrigin
    from birthmark.shell.line.heads import StationHeads, Yield
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["Attempt", "Factory"]

LOT, LOT_SIZE = "lot-1", 1000
BORN_LOT = "lot-2"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that must not work: what was tried, and the error it met (None if it went through)."""

    tried: str
    error: BirthmarkError | None


class Factory:
    """The demo's factory in an open workspace."""

    def __init__(self, workspace: Workspace, directory: Path, *, tokens: int, files: int) -> None:
        self.workspace = workspace
        self.directory = directory.resolve()
        self.files = [f"th-{number:06}" for number in range(1, files + 1)]
        self.tokens = [f"se-{number:06}" for number in range(1, tokens + 1)]

    def order(self, lot: str, serials: Any, origin: KeyOrigin) -> int:
        """Put a lot on record."""
        settings = self.workspace.product("thermostat")
        order = NewOrder(
            order=OrderId(lot),
            product="thermostat",
            profile=self.workspace.profile(settings.profile),
            key_algorithm=settings.key_algorithm,
            key_origin=origin,
            ca=settings.ca,
            by=self.workspace.by,
        )
        return create_order(self.workspace.ledger, order, serials, clock=self.workspace.clock)

    def make_lot(self, progress: Callable[[int], None]) -> int:
        """Order and make 1,000 identities; order the devices that make their own keys."""
        self.order(LOT, serial_range("th-000001", LOT_SIZE), "injected")
        if self.tokens:
            self.order(BORN_LOT, self.tokens, "device")
        record = self.workspace.records.order(LOT)
        return make_order(self.workspace, record, processes=default_processes(), progress=progress)

    def place_devices(self) -> None:
        """Put empty devices on the line: a directory each, or a token each."""
        for device_serial in self.files:
            (self.directory / "devices" / device_serial).mkdir(parents=True)
        if self.tokens:
            pin = write_secret(self.directory / "pin")
            for number, labels in self._magazines():
                make_tokens(self.directory / "softhsm" / str(number), labels, pin)

    def _magazines(self) -> list[tuple[int, list[str]]]:
        firsts = range(0, len(self.tokens), MAGAZINE)
        return [(number, self.tokens[first : first + MAGAZINE]) for number, first in enumerate(firsts, 1)]

    @property
    def file_target(self) -> str:
        return f"files:{self.directory}/devices/{{device_serial}}"

    @property
    def token_target(self) -> str:
        pin = self.directory / "pin"
        return f"pkcs11:token={{device_serial}};object=identity?module-path={MODULE}&pin-source=file:{pin}"

    def run_line(self, heads: StationHeads, progress: Callable[[], None]) -> list[Yield]:
        """Provision every device with four heads, each proven by a mutual-TLS connection."""
        done = [self._run(heads, self.files, self.file_target, progress)]
        for number, labels in self._magazines():
            use_tokens(self.directory / "softhsm" / str(number))
            done.append(self._run(heads, labels, self.token_target, progress))
        return done

    def _run(self, heads: StationHeads, devices: list[str], target: str, progress: Callable[[], None]) -> Yield:
        return heads.run(devices, target, heads=4, handshake=True, result=lambda result: progress())

    def cheat(self, heads: StationHeads) -> list[Attempt]:
        """Try what an honest mistake or a thief would try."""
        first, second = self.files[0], f"th-{len(self.files) + 1:06}"
        twin = self.directory / "devices" / "twin" / first
        twin.mkdir(parents=True)
        clone = self.directory / "devices" / second
        shutil.copytree(self.directory / "devices" / first, clone)
        return [
            self._try(f"order {first} a second time", lambda: self.order("lot-3", [first], "injected")),
            self._try(f"a second device claims to be {first}", lambda: heads.provision(first, f"files:{twin}")),
            self._try(
                f"copy the certificate and key of {first} into {second}",
                lambda: heads.provision(second, self.file_target),
            ),
        ]

    def _try(self, tried: str, act: Callable[[], object]) -> Attempt:
        try:
            act()
        except BirthmarkError as problem:
            return Attempt(tried, problem)
        return Attempt(tried, None)

    def audit(self) -> Report:
        """Verify everything that is on record by the audit's own code."""
        from birthmark.adapters.audit.verify import verify_workspace

        self.workspace.publish()
        return verify_workspace(self.workspace.root, processes=1)
