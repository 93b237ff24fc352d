"""Devices that are images: a base, and what is made of it for one device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from birthmark.adapters.targets.image import ImageTarget
from birthmark.model.secret import Secret
from support.imagebases import make_base
from support.lyingmedium import on_medium
from support.targets.device import SERIAL, Device

__all__ = ["DEVICES", "IMAGE_TARGETS", "image_device"]

IMAGE_TARGETS = {
    "bin": "format=bin&offset=0x8000&size=0x4000",
    "bin-full": "format=bin&offset=0x8000&size=0x4000&write=full",
    "hex": "format=hex&offset=0x08010000&size=0x2000",
    "littlefs": "format=littlefs&offset=0x8000&size=0x10000",
    "fat": "format=fat&path=/identity",
    "ext4": "format=ext4&path=/etc/identity&owner=1000:1000",
    "ext4-full": "format=ext4&path=/etc/identity&layout=der&mode=0400&write=full",
    "ubi": "format=ubi&offset=0x8000&size=0x40000&block=0x4000&page=512&path=/etc/identity",
    "squashfs": "format=squashfs&offset=0x8000&size=0x4000&path=/etc/identity",
}


@on_medium("out")
def image_device(kind: str, root: Path, _: pytest.MonkeyPatch) -> Device:
    directory = root / "out"
    directory.mkdir()
    options = IMAGE_TARGETS[kind]
    make_base(root / "base", options.partition("&")[0].removeprefix("format="))

    def snapshot() -> dict[str, tuple[int, bytes]]:
        files = (path for path in directory.rglob("*") if path.is_file())
        return {str(path.relative_to(directory)): (path.stat().st_mode, path.read_bytes()) for path in files}

    return Device(
        open=lambda: ImageTarget(
            f"image:out/{SERIAL}.img?base=base&{options}", secrets=lambda _: Secret(b""), base=root
        ),
        snapshot=snapshot,
        makes_key=False,
        identity=SERIAL,
    )


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    f"image-{kind}": partial(image_device, kind) for kind in IMAGE_TARGETS
}
