"""Devices that are PKCS#11 tokens: SoftHSM2, the same with the quirks of OP-TEE, and a TPM (libtpm2-pkcs11)."""

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
from support.swtpm import power_on
from support.targets.device import SERIAL, Device
from support.tpmtoken import TPM_MODULE, TpmToken

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


def tpm_token_device(root: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    token = TpmToken(root, SERIAL)
    power_on(token.tpm, monkeypatch)
    uri = f"pkcs11:token={SERIAL};object=idevid?module-path={TPM_MODULE}&pin-source=test:"

    def opened() -> Pkcs11Target:
        for name, value in token.environment.items():
            monkeypatch.setenv(name, value)
        pkcs11_module(TPM_MODULE).stop()
        return Pkcs11Target(uri, secrets=lambda _: Secret(PIN.encode()), base=Path())

    return Device(open=opened, snapshot=token.objects, makes_key=True, identity=SERIAL, one_place=True)


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    **{f"pkcs11-{algorithm}": partial(token_device, algorithm) for algorithm in ("p256", "p384", "rsa2048", "ed25519")},
    "pkcs11-optee-shim": optee_device,
    "pkcs11-tpm2": tpm_token_device,
}
