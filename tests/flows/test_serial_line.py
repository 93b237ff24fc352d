"""Whole stories over a line: a modem, a Zephyr device and a Linux device get their identity; bad ones do not."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.audit.receipts import ReceiptCase, receipt_fault
from birthmark.adapters.targets.nrf import NrfTarget
from birthmark.adapters.targets.shell import SerialTarget
from birthmark.adapters.targets.zephyr import ZephyrTarget
from birthmark.errors import BirthmarkError, DeviceFault
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.model.secret import Secret
from birthmark.testing.modem import ModemSimulator
from birthmark.testing.zephyrshell import ZephyrShellSimulator
from birthmark.wire.receipt import open_receipt, verify_evidence
from birthmark.workflow.handout import stored_certificate
from support.shellpty import ShellOnPty
from support.stationworld import BORN, ORIGIN, POOLED, STATION, Factory, build_factory, events_of


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("serial") / "factory")


@pytest.fixture
def factory(built: Factory, tmp_path: Path) -> Factory:
    return built.copy(tmp_path / "factory")


@pytest.fixture
def modem() -> Iterator[ModemSimulator]:
    with ModemSimulator() as modem:
        assert isinstance(modem, ModemSimulator)
        yield modem


def modem_target(modem: ModemSimulator, factory: Factory, serial: str = BORN[0]) -> NrfTarget:
    (factory.root / "anchors").write_text(f"{modem.anchor_line()}\n")
    (factory.root / "map").write_text(f"{modem.imei} {serial}\n")
    uri = f"nrf:{modem.port}?anchors=anchors&map=map&answer-s=2"
    return NrfTarget(uri, secrets=lambda _: Secret(b""), base=factory.root)


def test_a_modem_passes_and_its_receipt_convinces_reader_and_audit(factory: Factory, modem: ModemSimulator) -> None:
    modem.faults.csr_null = True
    with factory.line() as line:
        outcome = line.provision(BORN[0], target=modem_target(modem, factory), uri=f"nrf:{modem.port}")
        assert (outcome.outcome, outcome.evidence, outcome.link_repeats) == ("pass", "jwt", 0)
        assert "attest" in dict(outcome.steps)
        assert outcome.receipt is not None
        device = line.records.device(BORN[0])
        assert device is not None
        certificate = stored_certificate(line.ledger, device)
        receipt = open_receipt(outcome.receipt, line.vkey())
        verify_evidence(receipt, certificate)
        assert receipt.attestation.kind == "nrf-keygen"  # type: ignore[union-attr]
        statement = base64.b64decode(receipt.attestation.statement)  # type: ignore[union-attr]
        assert statement.count(b"\n") == 2
        (verified,) = [event for event in events_of(line.ledger, BORN[0]) if isinstance(event, e.Verified)]
        assert verified.evidence == "jwt"
        case = ReceiptCase(
            origin=ORIGIN,
            station=STATION,
            attempt=outcome.attempt,
            device_serial=BORN[0],
            evidence="jwt",
            receipt_sha256=sha256(outcome.receipt).hexdigest(),
            vkey=line.vkey(),
            certificate=certificate,
        )
        assert receipt_fault(outcome.receipt, case) is None
        again = line.provision(BORN[0], target=modem_target(modem, factory), uri=f"nrf:{modem.port}")
        assert again.outcome == "already"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("keygen_digest", "target.keygen.damaged"),
        ("keygen_signature", "target.attestation.signature"),
        ("stores_nothing", "target.write.not_kept"),
        ("write_error", "target.modem.error"),
        ("signs_with_another_key", "device.key.differs"),
    ],
)
def test_a_bad_modem_never_passes(factory: Factory, modem: ModemSimulator, fault: str, code: str) -> None:
    setattr(modem.faults, fault, True)
    with factory.line() as line:
        with pytest.raises(BirthmarkError) as caught:
            line.provision(BORN[0], target=modem_target(modem, factory), uri=f"nrf:{modem.port}")
        assert isinstance(caught.value, DeviceFault)
        assert caught.value.code in (code, "target.write.not_kept")
        device = line.records.device(BORN[0])
        assert device is not None
        assert device.state is not DeviceState.VERIFIED
        assert not [event for event in events_of(line.ledger, BORN[0]) if isinstance(event, e.Verified)]


def test_the_wrong_modem_gets_nothing(factory: Factory, modem: ModemSimulator) -> None:
    with factory.line() as line:
        target = modem_target(modem, factory, BORN[1])
        with pytest.raises(DeviceFault) as caught:
            line.provision(BORN[0], target=target, uri=f"nrf:{modem.port}")
    assert caught.value.code == "device.identity.mismatch"
    assert modem.store == {}


def test_a_zephyr_device_passes_with_the_digest_of_its_key(factory: Factory) -> None:
    with ZephyrShellSimulator() as shell, factory.line() as line:
        assert isinstance(shell, ZephyrShellSimulator)
        (factory.root / "map").write_text(f"{shell.hardware_id} {POOLED[0]}\n")
        uri = f"zephyr:{shell.port}?map=map&answer-s=2"
        target = ZephyrTarget(uri, secrets=lambda _: Secret(b""), base=factory.root)
        outcome = line.provision(POOLED[0], target=target, uri=f"zephyr:{shell.port}")
        assert (outcome.outcome, outcome.evidence) == ("pass", "digest")


@pytest.mark.parametrize(
    ("serial", "option", "evidence"), [(BORN[0], "&key=born", "signature"), (POOLED[0], "", "digest")]
)
def test_a_linux_device_passes_over_its_console(
    factory: Factory, tmp_path: Path, serial: str, option: str, evidence: str
) -> None:
    directory: Any = tmp_path / "identity"
    directory.mkdir()
    (directory / "device-id").write_text(f"{serial}\n")
    with ShellOnPty(tmp_path) as shell, factory.line() as line:
        uri = f"serial:{shell.port}?dir={directory}{option}"
        target = SerialTarget(uri, secrets=lambda _: Secret(b""), base=tmp_path)
        outcome = line.provision(serial, target=target, uri=uri)
    assert (outcome.outcome, outcome.evidence) == ("pass", evidence)
