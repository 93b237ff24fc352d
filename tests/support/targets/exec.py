"""Devices behind a vendor's program: the example in Go, compiled once a session."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote

import pytest

from birthmark.adapters.targets.exec import ExecTarget
from birthmark.model.secret import Secret
from support.golog import find_go
from support.targets.device import SERIAL, Device

__all__ = ["DEVICES", "example_program"]

_SOURCE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "exec-program"


@cache
def example_program() -> Path:
    """Return the compiled example."""
    place = Path(tempfile.mkdtemp(prefix="birthmark-exec-"))
    environment = {
        **os.environ, "GOCACHE": str(place / "cache"), "GO111MODULE": "on", "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0",
    }  # fmt: skip
    command = [find_go(), "build", "-o", str(place / "acme-install"), "."]
    subprocess.run(command, cwd=_SOURCE, env=environment, check=True)
    return place / "acme-install"


def exec_device(born: bool, root: Path, _: pytest.MonkeyPatch) -> Device:
    directory = root / SERIAL
    directory.mkdir()
    told: list[str] = []

    def opened() -> ExecTarget:
        words = [*(["-born"] if born else []), *(["-lie", f"'{told[-1]}'"] if told else []), f"'{directory}'"]
        uri = f"exec:{example_program()}?args={quote(' '.join(words))}"
        return ExecTarget(uri, secrets=lambda _: Secret(b""), base=root)

    def lying(lie: str) -> Callable[[], None]:
        return lambda: told.append(lie)

    return Device(
        open=opened,
        snapshot=lambda: {path.name: path.read_bytes() for path in directory.iterdir()},
        makes_key=born,
        identity=SERIAL,
        lies={lie: lying(lie) for lie in ("stores nothing", "other certificate", "other key")},
    )


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    "exec": partial(exec_device, False),
    "exec-born": partial(exec_device, True),
}
