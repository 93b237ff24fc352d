"""Lines that lose and change octets: a pass within the retry budget or a named error, and never a wrong pass."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from birthmark.adapters.targets.nrf import NrfTarget
from birthmark.adapters.targets.shell import SerialTarget
from birthmark.adapters.targets.zephyr import ZephyrTarget
from birthmark.errors import BirthmarkError, DeviceFault, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports import Credential, Evidence
from birthmark.testing.modem import ModemSimulator
from birthmark.testing.ptydevice import NO_NOISE, Noise, PtyDevice
from birthmark.testing.zephyrshell import ZephyrShellSimulator
from birthmark.wire.jwtproof import jwt_holds
from support.devicepki import credential_for, pool_credential
from support.fences import OPEN
from support.shellpty import ShellOnPty

SERIAL, RETRIES = "SN-0001", 5
CHALLENGE = bytes(range(32))
Open = Callable[[float], Any]
Start = Callable[[Path], tuple[PtyDevice, Open]]
SHORT, LONG = 0.2, 10.0
"""Seconds for an answer: where silence is to be expected, and where it would be the machine that is slow."""


def a_modem(root: Path) -> tuple[PtyDevice, Open]:
    modem = ModemSimulator()
    (root / "anchors").write_text(f"{modem.anchor_line()}\n")
    uri = f"nrf:{modem.port}?anchors=anchors&retries={RETRIES}"
    return modem, lambda answer: NrfTarget(f"{uri}&answer-s={answer}", secrets=lambda _: Secret(b""), base=root)


def a_zephyr(root: Path) -> tuple[PtyDevice, Open]:
    shell = ZephyrShellSimulator()
    uri = f"zephyr:{shell.port}?retries={RETRIES}"
    return shell, lambda answer: ZephyrTarget(f"{uri}&answer-s={answer}", secrets=lambda _: Secret(b""), base=root)


def a_console(root: Path) -> tuple[PtyDevice, Open]:
    directory = root / "identity"
    directory.mkdir()
    (directory / "device-id").write_text(f"{SERIAL}\n")
    shell = ShellOnPty(root)
    uri = f"serial:{shell.port}?dir={directory}&retries={RETRIES}"
    return shell, lambda answer: SerialTarget(f"{uri}&answer-s={answer}", secrets=lambda _: Secret(b""), base=root)


STARTS: dict[str, Start] = {"modem": a_modem, "zephyr": a_zephyr, "console": a_console}


def provisioned(target: Any) -> tuple[Credential, Evidence]:
    """Do with a device what a station does with it."""
    probe = target.probe()
    if probe.makes_key:
        public_key = x509.load_der_x509_csr(target.make_key("p256", SERIAL, OPEN)).public_key()
        credential = credential_for(public_key, SERIAL)
        target.attest(bytes(32))
    else:
        credential = pool_credential(SERIAL)
    target.install(credential, OPEN)
    return credential, target.prove(CHALLENGE)


def holds(credential: Credential, evidence: Evidence) -> bool:
    if evidence.certificate != credential.certificate:
        return False
    if evidence.kind == "jwt":
        public_key = x509.load_der_x509_certificate(credential.certificate).public_key()
        return jwt_holds(public_key, CHALLENGE, evidence.signature or b"")
    assert credential.private_key is not None
    return evidence.key_digest == sha256(credential.private_key.reveal()).digest()


@pytest.mark.parametrize("kind", sorted(STARTS))
@pytest.mark.parametrize("rate", [2e-5, 2e-4, 1e-3])
def test_a_noisy_line_ends_in_a_pass_that_is_right_or_in_a_named_error(kind: str, rate: float, tmp_path: Path) -> None:
    ends: list[str] = []
    for seed in range(2):
        root = tmp_path / str(seed)
        root.mkdir()
        device, open_target = STARTS[kind](root)
        with device:
            device.set_noise(Noise(flip=rate, drop=rate / 2, seed=seed))
            target = open_target(LONG / 5 if rate == 2e-5 else SHORT)
            try:
                credential, evidence = provisioned(target)
            except (Unavailable, DeviceFault) as problem:
                ends.append(problem.code)
            else:
                # The proof came over the noisy line as well; it is the station that says pass, by the same rule.
                assert holds(credential, evidence), "never a wrong pass"
                ends.append("pass")
                device.set_noise(NO_NOISE)
                assert holds(credential, open_target(LONG).prove(CHALLENGE)), "what is in the device is what was proven"
            assert target.link_repeats <= RETRIES
    if rate == 2e-5:
        assert "pass" in ends, ends


@pytest.mark.parametrize("kind", sorted(STARTS))
def test_a_line_that_gets_better_is_gone_on_with(kind: str, tmp_path: Path) -> None:
    """After an end by noise the same call finishes what was begun, with the same key."""
    device, open_target = STARTS[kind](tmp_path)
    with device:
        device.set_noise(Noise(flip=5e-3, seed=7))
        with pytest.raises(BirthmarkError):
            provisioned(open_target(SHORT))
        device.set_noise(NO_NOISE)
        credential, evidence = provisioned(open_target(LONG))
        assert holds(credential, evidence)


@pytest.mark.parametrize("kind", sorted(STARTS))
def test_the_budget_that_was_spent_is_told(kind: str, tmp_path: Path) -> None:
    device, open_target = STARTS[kind](tmp_path)
    with device:
        device.set_noise(Noise(drop=1.0))
        with pytest.raises(Unavailable) as caught:
            open_target(SHORT).probe()
    assert caught.value.code == "link.budget"
    assert (caught.value.facts["spent"], caught.value.facts["limit"]) == (RETRIES, RETRIES)
    assert caught.value.facts["last"] == "link.silent"
