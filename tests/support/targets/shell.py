"""Linux devices over a shell: a real `sh` on a pseudo terminal, and a real sshd on the loopback interface."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from birthmark.adapters.targets.shell import SerialTarget, SshTarget
from birthmark.model.secret import Secret
from support.lyingmedium import on_medium
from support.shellpty import ShellOnPty
from support.sshd import ssh_server
from support.targets.device import SERIAL, Device

__all__ = ["DEVICES"]


def _snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mode, path.read_bytes()) for path in directory.iterdir()}


def _device(directory: Path, options: str, open_target: Callable[[], SerialTarget | SshTarget]) -> Device:
    return Device(
        open=open_target,
        snapshot=lambda: _snapshot(directory),
        makes_key="key=born" in options,
        identity=SERIAL,
        evidence="signature" if "key=born" in options or "proof=openssl" in options else "digest",
    )


def serial_device(options: str, root: Path, _: pytest.MonkeyPatch) -> Device:
    directory = root / "identity"
    directory.mkdir()
    (directory / "device-id").write_text(f"{SERIAL}\n")
    (root / "bin").mkdir()
    shell = ShellOnPty(root, path=f"{root}/bin:{os.environ['PATH']}")
    shell.start()
    uri = f"serial:{shell.port}?dir={directory}{options}"
    device = _device(directory, options, lambda: SerialTarget(uri, secrets=lambda _: Secret(b""), base=root))
    lies = {"stores nothing": lambda: _program(root / "bin" / "mv", "exit 0")}
    if "key=born" in options:
        lies["other key"] = lambda: _program(root / "bin" / "openssl", _OTHER_KEY)
    device.lies = lies
    weakref.finalize(device, shell.close)
    return device


_OTHER_KEY = """[ "$1" = pkeyutl ] || exec /usr/bin/openssl "$@"
for last in "$@"; do :; done
/usr/bin/openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$0.key"
exec /usr/bin/openssl pkeyutl -sign -rawin -digest sha256 -inkey "$0.key" -in "$last"
"""


def _program(path: Path, text: str) -> None:
    """Put a program before the device's own one of this name."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@on_medium("identity")
def ssh_device(options: str, root: Path, _: pytest.MonkeyPatch) -> Device:
    directory = root / "identity"
    directory.mkdir()
    (directory / "device-id").write_text(f"{SERIAL}\n")
    server = ssh_server()
    uri = f"ssh:{server.address()}?dir={directory}&{server.options}{options}"
    return _device(directory, options, lambda: SshTarget(uri, secrets=lambda _: Secret(b""), base=root))


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    "serial-shell": partial(serial_device, ""),
    "serial-shell-born": partial(serial_device, "&key=born"),
    "ssh": partial(ssh_device, "&proof=openssl"),
    "ssh-born": partial(ssh_device, "&key=born"),
}
