"""Matter devices: directories with factory data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from birthmark.adapters.targets.matter import MatterTarget
from support.lyingmedium import on_medium
from support.targets.device import Device
from support.targets.esp import no_secret

__all__ = ["DEVICES", "DIRECTORY", "PRODUCT", "SERIAL"]

DIRECTORY = "SN-0001"
SERIAL = "SN-0001 Mvid:FFF1 Mpid:8000"
"""The ids stand in the common name: the other way of the Matter core specification, 6.2.2."""

PRODUCT = """
vendor_id = 0xFFF1
product_id = 0x8000
vendor_name = "Test Vendor"
product_name = "Lamp"
hw_ver = 3
hw_ver_str = "rev C"
date = "2026-02-01"
iterations = 1000
"""


@on_medium(DIRECTORY)
def matter_device(options: str, root: Path, _: pytest.MonkeyPatch) -> Device:
    directory = root / DIRECTORY
    directory.mkdir()
    (root / "lamp.toml").write_text(PRODUCT)
    if "flash=" in options:
        (directory / "flash.bin").write_bytes(b"\x55" * 0x10000 + b"\xff" * 0x10000 + b"\xaa" * 0x10000)

    def snapshot() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mode, path.read_bytes()) for path in directory.iterdir()}

    return Device(
        open=lambda: MatterTarget(f"matter:{DIRECTORY}?product=lamp.toml&{options}", secrets=no_secret, base=root),
        snapshot=snapshot,
        makes_key=False,
        identity=DIRECTORY,
        serial=SERIAL,
        chain_kept=1,
    )


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    "matter-nrf": partial(matter_device, "layout=nrf"),
    "matter-nrf-bin": partial(matter_device, "layout=nrf&form=bin"),
    "matter-esp": partial(matter_device, "layout=esp"),
    "matter-esp-secure": partial(matter_device, "layout=esp&dac=secure-cert"),
    "matter-esp-flash": partial(matter_device, "dac=secure-cert&flash=flash.bin&offset=0x12000&dac-offset=0x10000"),
}
