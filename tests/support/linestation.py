"""A station with eight heads that works until its orders are done.

``python -m support.linestation WORKSPACE SOCKET DEVICES``: so many devices in each of its two orders.

It knows nothing but its workspace: killed at any moment and started again it goes on. A device that failed, or that
was turned away three times, goes to the bench: it is scrapped (one in forty) or wiped and reworked, with a reason.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

from birthmark.errors import DeviceFault, Refused, StationFault, Tampered
from birthmark.model.device import DeviceState
from birthmark.shell.line.heads import HeadResult, StationHeads, open_heads
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.workflow.line.rework import Rework
from birthmark.workflow.orders.order import serial_range
from support.farmtarget import ask_farm

__all__ = ["DEADLINE_S", "FIRST", "main"]

HEADS = 8
_AT_ONCE, _A_PASS = 500, 200
DEADLINE_S = 1.5
_STRIKES, _SCRAPPED = 3, 1 / 40
FIRST = {"injected": "PL-000001", "device": "BN-000001"}
"""Key origin → first device serial of its order."""
_FINISHED = frozenset({DeviceState.VERIFIED, DeviceState.SCRAPPED})


class Shift:
    """One life of the station process."""

    def __init__(self, workspace: Workspace, heads: StationHeads, socket: str) -> None:
        self._workspace, self._heads, self._socket = workspace, heads, socket
        self._strikes: Counter[str] = Counter()
        self._rework = Rework(
            ledger=workspace.ledger,
            records=workspace.records,
            permits=workspace.permits,
            recipient=workspace.vault_recipient,
            clock=workspace.clock,
            entropy=workspace.entropy,
        )

    def work(self, orders: dict[str, list[str]]) -> None:
        """Return when every device is verified or scrapped, and no attempt is open."""
        while any(self._unfinished(serials) for serials in orders.values()):
            for origin in orders:
                serials = self._unfinished(orders[origin])[:_A_PASS]
                for serial in serials:
                    if self._state(serial) is DeviceState.FAILED:
                        self._bench(serial)
                born = "&key=born" if origin == "device" else ""
                results: list[HeadResult] = []
                target = f"farm:{{device_serial}}?socket={self._socket}{born}"
                self._heads.run(serials, target, heads=HEADS, result=results.append)
                for result in results:
                    self._look_at(result)

    def _unfinished(self, serials: list[str]) -> list[str]:
        still_open = {record.device_serial for record in self._heads.post.journal.open_attempts()}
        unfinished = []
        for first in range(0, len(serials), _AT_ONCE):
            some = serials[first : first + _AT_ONCE]
            states = {serial: device.state for serial, device in self._workspace.records.devices(some).items()}
            unfinished += [serial for serial in some if states[serial] not in _FINISHED or serial in still_open]
        return unfinished

    def _state(self, serial: str) -> DeviceState:
        return DeviceState(self._workspace.records.device(serial).state)

    def _look_at(self, result: HeadResult) -> None:
        serial, error = result.device_serial, result.error
        if isinstance(error, StationFault | Tampered):
            raise error
        if error is not None and isinstance(error, DeviceFault | Refused):
            self._strikes[serial] += 1
        state = self._state(serial)
        # A rework that was killed between its two transactions leaves a device reserved: the bench does it again.
        half_reworked = state is DeviceState.RESERVED and isinstance(error, Refused) and error.code == "pool.not_made"
        if state is DeviceState.FAILED or half_reworked or self._strikes[serial] >= _STRIKES:
            self._strikes[serial] = 0
            self._bench(serial)

    def _bench(self, serial: str) -> None:
        state = self._state(serial)
        if state is DeviceState.SCRAPPED:
            return
        chance = random.Random(f"{serial} {self._workspace.records.device(serial).intent}")
        if state is DeviceState.FAILED and chance.random() < _SCRAPPED:
            self._rework.scrap(serial, reason="failed at the line", by="bench")
            return
        ask_farm(self._socket, op="wipe", device=serial)
        if state is not DeviceState.ORDERED and state is not DeviceState.POOLED:
            self._rework.rework(serial, reason="failed at the line", by="bench")


def main(root: str, socket: str, devices: str) -> None:
    """Work through both orders of the workspace."""
    orders = {origin: list(serial_range(first, int(devices))) for origin, first in FIRST.items()}
    with open_workspace(Path(root)) as workspace, open_heads(workspace, deadline_s=DEADLINE_S) as heads:
        Shift(workspace, heads, socket).work(orders)


if __name__ == "__main__":
    main(*sys.argv[1:])
