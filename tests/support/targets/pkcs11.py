"""Devices that are PKCS#11 tokens: SoftHSM2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from birthmark.adapters.pkcs11_module import pkcs11_module
from birthmark.adapters.targets.pkcs11 import Pkcs11Target
from birthmark.model.secret import Secret
from support.devicetoken import make_token, start_tokens, token_objects
from support.opteeshim import optee_module
from support.softhsm import MODULE, PIN
from support.targets.device import Device

__all__ = ["DEVICES", "token_device"]


def token_device(algorithm: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    start_tokens(root / "tokens", monkeypatch)
    label = f"SN-{uuid4().hex[:16]}"
    make_token(label)
    uri = f"pkcs11:token={label};object=idevid?module-path={MODULE}&pin-source=test:"
    return Device(
        open=lambda: Pkcs11Target(uri, secrets=lambda _: Secret(PIN.encode()), base=Path()),
        snapshot=lambda: token_objects(label),
        makes_key=True,
        identity=label,
        algorithm=algorithm,
    )


def optee_device(root: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    module = optee_module()
    device = token_device("p256", root, monkeypatch)
    pkcs11_module(module).stop()
    uri = f"pkcs11:token={device.identity};object=idevid?module-path={module}&pin-source=test:"
    return replace(device, open=lambda: Pkcs11Target(uri, secrets=lambda _: Secret(PIN.encode()), base=Path()))


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    **{f"pkcs11-{algorithm}": partial(token_device, algorithm) for algorithm in ("p256", "p384", "rsa2048", "ed25519")},
    "pkcs11-optee-shim": optee_device,
}
