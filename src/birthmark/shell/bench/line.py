"""``bench line``: heads with a simulated device link, the engine's share of each device told from the device's."""

from __future__ import annotations

import time
from pathlib import Path

from birthmark.adapters.memory import peak_mb
from birthmark.ports import Credential, Evidence, Fence, Probe
from birthmark.shell.bench.station import NullTarget, make_pool
from birthmark.shell.line.heads import open_heads
from birthmark.shell.line.yields import percentile
from birthmark.shell.throwaway import throw_away_workspace

__all__ = ["LinkedTarget", "bench_line"]

_PROBE, _INSTALL, _PROVE = 0.2, 0.5, 0.3
"""How the link is shared out: a look, a write, a look with a signature."""


class LinkedTarget(NullTarget):
    """A device in memory behind a link that takes ``link_ms`` for everything together."""

    def __init__(self, device_serial: str, link_ms: float) -> None:
        super().__init__(device_serial)
        self._link_s = link_ms / 1000

    def probe(self) -> Probe:
        time.sleep(self._link_s * _PROBE)
        return super().probe()

    def install(self, credential: Credential, fence: Fence) -> None:
        time.sleep(self._link_s * _INSTALL)
        fence.hold()
        super().install(credential, fence)

    def prove(self, challenge: bytes) -> Evidence:
        time.sleep(self._link_s * _PROVE)
        return super().prove(challenge)


def bench_line(heads: int, link_ms: int, count: int, *, parent: Path) -> dict[str, object]:
    """Work ``count`` devices through the heads of one station as ``station run`` does; everything is durable.

    The floor is what the links alone allow: heads / link. ``engine_*_ms``: of one device, everything but its link and
    its own signature: two commits, three lines of the journal, a slot opened, checks, a receipt, and the wait for the
    other heads. ``device_*_ms``: its link, its signature, and the wait for a processor to make it.
    """
    with throw_away_workspace(parent) as workspace:
        devices = make_pool(workspace, count)
        with open_heads(workspace, open_target=lambda uri, serial: LinkedTarget(serial, link_ms)) as line:
            total = line.run(devices, "linked:{device_serial}", heads=heads)
    if total.worst is not None:
        raise total.worst
    rate = total.passed / total.seconds
    floor = None if link_ms == 0 else heads * 1000 / link_ms
    shares = {
        f"{whose}_p{share}_ms": percentile(values, share)
        for whose, values in (("engine", total.engine_ms), ("device", total.device_ms))
        for share in (50, 99)
    }
    return {
        "bench": "line",
        "heads": heads,
        "link_ms": link_ms,
        "count": total.passed,
        "rate": round(rate, 1),
        "floor": floor,
        "ratio": None if floor is None else round(rate / floor, 3),
        **shares,
        "peak_mb": round(peak_mb()),
    }
