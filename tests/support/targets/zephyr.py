"""Devices with the TLS credentials shell of Zephyr: the simulator of ``birthmark.testing`` on a pseudo terminal."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.zephyr import ZephyrTarget
from birthmark.model.secret import Secret
from birthmark.testing.zephyrshell import ZephyrShellSimulator
from support.devicepki import pool_credential
from support.targets.device import SERIAL, Device

__all__ = ["DEVICES", "zephyr_device", "zephyr_target"]


def zephyr_target(shell: ZephyrShellSimulator, root: Path, options: str = "") -> ZephyrTarget:
    uri = f"zephyr:{shell.port}?answer-s=2{options}"
    return ZephyrTarget(uri, secrets=lambda _: Secret(b""), base=root)


def zephyr_device(root: Path, _: pytest.MonkeyPatch) -> Device:
    shell = ZephyrShellSimulator()
    shell.start()
    other = pool_credential(SERIAL)
    assert other.private_key is not None
    pem = x509.load_der_x509_certificate(other.certificate).public_bytes(Encoding.PEM)
    key = other.private_key.reveal()
    device = Device(
        open=lambda: zephyr_target(shell, root),
        snapshot=lambda: dict(shell.store),
        makes_key=False,
        identity=shell.hardware_id,
        evidence="digest",
        chain_kept=1,
        lies={
            "stores nothing": lambda: setattr(shell.faults, "stores_nothing", True),
            "other certificate": lambda: setattr(shell.faults, "stores", ("SERV", pem + b"\0")),
            "other key": lambda: setattr(shell.faults, "stores", ("PK", key)),
        },
    )
    weakref.finalize(device, shell.close)
    return device


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {"zephyr": zephyr_device}
