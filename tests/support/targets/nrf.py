"""Devices that are cellular modems: the simulator of ``birthmark.testing`` on a pseudo terminal."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.nrf import NrfTarget
from birthmark.model.secret import Secret
from birthmark.testing.modem import ModemSimulator
from support.devicepki import pool_credential
from support.targets.device import SERIAL, Device

__all__ = ["DEVICES", "modem_device", "modem_target"]


def modem_target(modem: ModemSimulator, root: Path, options: str = "") -> NrfTarget:
    """Return a target for a modem, with its maker's list of identity keys."""
    (root / "anchors").write_text(f"{modem.anchor_line()}\n")
    uri = f"nrf:{modem.port}?anchors=anchors&answer-s=2{options}"
    return NrfTarget(uri, secrets=lambda _: Secret(b""), base=root)


def modem_device(root: Path, _: pytest.MonkeyPatch) -> Device:
    modem = ModemSimulator()
    modem.start()
    device = Device(
        open=lambda: modem_target(modem, root),
        snapshot=lambda: modem.store,
        makes_key=True,
        identity=modem.imei,
        evidence="jwt",
        attests=True,
        chain_kept=1,
        lies={
            "stores nothing": lambda: setattr(modem.faults, "stores_nothing", True),
            "other certificate": lambda: setattr(modem.faults, "stores", _another()),
            "other key": lambda: setattr(modem.faults, "signs_with_another_key", True),
        },
    )
    weakref.finalize(device, modem.close)
    return device


def _another() -> str:
    certificate = x509.load_der_x509_certificate(pool_credential(SERIAL).certificate)
    return certificate.public_bytes(Encoding.PEM).decode()


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {"nrf": modem_device}
