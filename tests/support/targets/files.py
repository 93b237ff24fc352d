"""Devices whose identity is files in a directory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from birthmark.adapters.targets.files import FilesTarget
from birthmark.model.secret import Secret
from support.lyingmedium import on_medium
from support.targets.device import SERIAL, Device

__all__ = ["DEVICES", "FILE_TARGETS"]

FILE_TARGETS = {
    "pem": "layout=pem&mode=0600",
    "der": "layout=der&mode=0640",
    "p12": "layout=p12&p12-secret=test:",
    "p12-legacy": "layout=p12&p12-secret=test:&p12-profile=legacy",
    "windows": "layout=windows&p12-secret=test:",
    "pem-born": "key=born",
    "der-born": "layout=der&key=born&mode=0400",
}


@on_medium(SERIAL)
def files_device(options: str, root: Path, _: pytest.MonkeyPatch) -> Device:
    directory = root / SERIAL
    directory.mkdir()

    def snapshot() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mode, path.read_bytes()) for path in directory.iterdir()}

    return Device(
        open=lambda: FilesTarget(f"files:{SERIAL}?{options}", secrets=lambda _: Secret(b"open sesame"), base=root),
        snapshot=snapshot,
        makes_key="key=born" in options,
        identity=SERIAL,
    )


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    f"files-{kind}": partial(files_device, options) for kind, options in FILE_TARGETS.items()
}
