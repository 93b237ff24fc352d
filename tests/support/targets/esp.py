"""ESP chips: directories with partitions, flash images and virtual fuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from birthmark.adapters.targets.esp import EspTarget
from birthmark.model.secret import Secret
from support.lyingmedium import on_medium
from support.targets.device import SERIAL, Device

__all__ = ["DEVICES", "FLASH_OCTETS", "esp_device", "no_secret"]

FLASH_OCTETS = 0x40000


def no_secret(reference: str) -> Secret:
    raise AssertionError(f"the target asked for the secret {reference}")


@on_medium(SERIAL)
def esp_device(options: str, root: Path, _: pytest.MonkeyPatch, *, algorithm: str = "p256") -> Device:
    directory = root / SERIAL
    directory.mkdir()
    if "flash=" in options:
        image = bytearray(bytes(range(256)) * (FLASH_OCTETS // 256))
        image[0xD000:0x18000] = b"\xff" * 0xB000
        (directory / "flash.bin").write_bytes(image)

    def snapshot() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mode, path.read_bytes()) for path in directory.iterdir()}

    return Device(
        open=lambda: EspTarget(f"esp:{SERIAL}?{options}", secrets=no_secret, base=root),
        snapshot=snapshot,
        makes_key=False,
        identity=SERIAL,
        algorithm=algorithm,
        replaces="efuse=" not in options or "read-protect=no" in options,
    )


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    "esp-secure-cert": partial(esp_device, "layout=secure-cert"),
    "esp-secure-cert-der": partial(esp_device, "encoding=der", algorithm="p384"),
    "esp-nvs": partial(esp_device, "layout=nvs"),
    "esp-nvs-encrypted": partial(esp_device, "layout=nvs-encrypted"),
    "esp-flash": partial(esp_device, "flash=flash.bin"),
    "esp-flash-nvs": partial(
        esp_device, "layout=nvs-encrypted&flash=flash.bin&offset=0x10000&keys-offset=0xF000&size=0x4000"
    ),
    "esp-ds": partial(esp_device, "key=ds&efuse=efuse.bin", algorithm="rsa2048"),
    "esp-ecdsa": partial(esp_device, "key=ecdsa&efuse=efuse.bin"),
    "esp-nvs-hmac": partial(esp_device, "layout=nvs-encrypted&key=hmac&efuse=efuse.bin"),
}
