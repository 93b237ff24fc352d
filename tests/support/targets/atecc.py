"""Devices whose key lives in an ATECC608: the emulator, behind Microchip's own library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from birthmark.adapters.targets.atecc import AteccTarget
from birthmark.model.secret import Secret
from birthmark.testing.atecc608 import Atecc608
from support.targets.device import Device

__all__ = ["DEVICES", "chip_device", "open_target"]

OPTIONS = {
    "compressed": "layout=compressed&templates=templates",
    "der": "layout=der",
    "locked": "layout=compressed&templates=templates&lock=all&config=birthmark",
}


def open_target(root: Path, options: str) -> AteccTarget:
    """Return a target on the chip whose memory is ``root/chip.json``."""
    return AteccTarget(f"atecc:0?bus=emulator:chip.json&{options}", secrets=lambda _: Secret(b""), base=root)


_attached: list[tuple[Path, Atecc608]] = []


def _leave_buses(test: Path) -> None:
    """Take the chips of earlier tests off their buses: there are not enough for a whole run."""
    for directory, chip in _attached:
        if directory != test:
            chip.detach()
    _attached[:] = [one for one in _attached if one[0] == test]


def chip_device(kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    locked = kind == "locked"
    chip = Atecc608.create(root / "chip.json", locked=not locked, sync=False)
    _leave_buses(root.parent)
    chip.attach()
    _attached.append((root.parent, chip))

    def tell(lie: str) -> Callable[[], None]:
        def told() -> None:
            if lie == "stores nothing":
                chip.faults.loses_writes = True
            elif lie == "other certificate":
                chip.faults.shows[8 if kind == "der" else 10] = bytes(range(72))
            else:
                chip.faults.signs_with_another_key = True

        return told

    return Device(
        open=lambda: open_target(root, OPTIONS[kind]),
        snapshot=lambda: (bytes(chip.memory.config), bytes(chip.memory.otp), [bytes(one) for one in chip.memory.slots]),
        makes_key=True,
        identity=chip.serial,
        serial=chip.serial,
        replaces=not locked,
        chain_kept=1,
        lies={lie: tell(lie) for lie in ("stores nothing", "other certificate", "other key")},
    )


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    f"atecc-{kind}": partial(chip_device, kind) for kind in OPTIONS
}
