"""Devices that lie, wrong devices, cloned and reused things: none passes, each is named and on record."""

from __future__ import annotations

import base64
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from birthmark.adapters.targets.proof import sign_proof
from birthmark.errors import BirthmarkError, DeviceFault, Refused, StationFault, Tampered, Unavailable
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.ports import Evidence, JournalRecord, Probe
from birthmark.wire.receipt import Handshake, open_receipt, verify_evidence
from birthmark.workflow.handout import stored_certificate
from support.devicepki import pool_credential
from support.fences import OPEN
from support.stationworld import BORN, POOLED, Factory, build_factory, events_of


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("attacks") / "factory")


@pytest.fixture
def factory(built: Factory, tmp_path: Path) -> Factory:
    return built.copy(tmp_path / "factory")


class Lying:
    """A target that does not do what it says, in one way."""

    def __init__(self, target: Any, lie: str) -> None:
        self._target, self._lie = target, lie

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def install(self, credential: Any, fence: Any) -> None:
        if self._lie != "stores nothing":
            self._target.install(credential, fence)

    def prove(self, challenge: bytes) -> Evidence:
        if self._lie == "stores nothing":
            return Evidence(b"", (), "signature", b"", None)
        good = self._target.prove(challenge)
        other = pool_credential("SN-0000")
        stray = ec.generate_private_key(ec.SECP256R1())
        lies: dict[str, Evidence] = {
            "other certificate": replace(good, certificate=other.certificate),
            "other chain": replace(good, chain=other.chain),
            "other key": replace(good, signature=sign_proof(stray, challenge)),
            "old challenge": replace(good, signature=self._target.prove(bytes(32)).signature),
            "signature without prefix": replace(good, signature=stray.sign(challenge, ec.ECDSA(_SHA256))),
            "no signature": replace(good, signature=None),
            "garbage": replace(good, signature=b"\x30\x80garbage"),
            "digest of nothing": replace(good, kind="digest", signature=None, key_digest=None),
            "digest of another key": replace(good, kind="digest", signature=None, key_digest=bytes(32)),
        }
        return lies[self._lie]


_SHA256 = SHA256()
LIES = {
    "stores nothing": "device.certificate.differs",
    "other certificate": "device.certificate.differs",
    "other chain": "device.chain.foreign",
    "other key": "device.key.differs",
    "old challenge": "device.key.differs",
    "signature without prefix": "device.key.differs",
    "no signature": "device.key.differs",
    "garbage": "device.key.differs",
    "digest of nothing": "device.key.differs",
    "digest of another key": "device.key.differs",
}


@pytest.mark.parametrize("device_serial", [POOLED[0], BORN[0]], ids=["pool", "born"])
@pytest.mark.parametrize("lie", list(LIES))
def test_lying_target_never_passes_and_ends_the_identity(factory: Factory, lie: str, device_serial: str) -> None:
    expected = LIES[lie]
    if device_serial == BORN[0] and lie.startswith("digest"):
        expected = "device.digest.unknown"  # a key that never was here has no digest to compare with
    with factory.line() as line:
        with pytest.raises((DeviceFault, Refused)) as caught:
            line.provision(device_serial, target=Lying(line.target(device_serial), lie))
        assert caught.value.code == expected
        assert line.records.device(device_serial).state is DeviceState.FAILED
        assert [v.code for v in events_of(line.ledger, device_serial) if isinstance(v, e.Failed)] == [expected]
        assert not line.journal.open_attempts()
        with pytest.raises(Refused) as again:
            line.provision(device_serial)
        assert again.value.code == "device.failed"


def test_digest_of_the_installed_key_is_evidence_where_it_cannot_sign(factory: Factory) -> None:
    with factory.line() as line:
        target = line.target(POOLED[0])
        kept: list[bytes] = []

        class Modem(Lying):
            def install(self, credential: Any, fence: Any) -> None:
                kept.append(credential.private_key.reveal())
                target.install(credential, OPEN)

            def prove(self, challenge: bytes) -> Evidence:
                return replace(
                    target.prove(challenge), kind="digest", signature=None, key_digest=sha256(kept[0]).digest()
                )

        outcome = line.provision(POOLED[0], target=Modem(target, ""))
        assert outcome.evidence == "digest"
        with pytest.raises(Refused) as caught:
            line.provision(POOLED[0], target=Modem(target, ""))
        assert caught.value.code == "device.digest.unknown"
        assert line.records.device(POOLED[0]).state is DeviceState.VERIFIED
        receipt = open_receipt(outcome.receipt, line.vkey())
        verify_evidence(receipt, stored_certificate(line.ledger, line.records.device(POOLED[0])))


def test_wrong_device_in_the_fixture_is_not_written_to(factory: Factory) -> None:
    with factory.line() as line:
        wrong = line.target(POOLED[1])
        with pytest.raises(DeviceFault) as caught:
            line.provision(POOLED[0], target=wrong)
        assert caught.value.code == "device.identity.mismatch"
        assert list((factory.root / "out" / POOLED[1]).iterdir()) == []
        assert line.records.device(POOLED[0]).state is DeviceState.POOLED
        assert line.journal.last(POOLED[0]) is None
        assert [type(v) for v in events_of(line.ledger, POOLED[0])] == [e.Issued, e.Rejected]
        assert line.provision(POOLED[0]).outcome == "pass"


def test_cloned_certificate_on_a_second_device_is_refused(factory: Factory) -> None:
    with factory.line() as line:
        line.provision(POOLED[0])
        clone = factory.root / "out" / POOLED[1]
        line.target(POOLED[1])
        for file in (factory.root / "out" / POOLED[0]).iterdir():
            shutil.copy2(file, clone)
        with pytest.raises(DeviceFault) as caught:
            line.provision(POOLED[1])
        assert caught.value.code == "device.certificate.foreign"
        assert line.records.device(POOLED[1]).state is DeviceState.POOLED


def test_second_unit_with_the_serial_of_a_verified_one_is_refused(factory: Factory) -> None:
    """A perfect copy, key included, that calls itself by the same serial."""
    with factory.line() as line:
        line.provision(POOLED[0])
        copy = factory.root / "copy" / POOLED[0]
        shutil.copytree(factory.root / "out" / POOLED[0], copy)
        uri = f"files:copy/{POOLED[0]}"
        with pytest.raises(Refused) as caught:
            line.provision(POOLED[0], target=line.target(POOLED[0], uri), uri=uri)
        assert caught.value.code == "device.elsewhere"


def test_verified_device_that_lost_its_identity_is_not_passed_again(factory: Factory) -> None:
    with factory.line() as line:
        line.provision(POOLED[0])
        for file in (factory.root / "out" / POOLED[0]).iterdir():
            file.unlink()
        with pytest.raises(BirthmarkError):
            line.provision(POOLED[0])
        assert line.records.device(POOLED[0]).state is DeviceState.VERIFIED


def test_running_again_is_success_without_a_new_identity(factory: Factory) -> None:
    with factory.line() as line:
        first = line.provision(BORN[0])
        size = line.ledger.head().size
        second = line.provision(BORN[0])
        assert (first.outcome, second.outcome) == ("pass", "already")
        assert (first.cert_sha256, first.cert_serial) == (second.cert_sha256, second.cert_serial)
        assert line.ledger.head().size == size
        assert second.receipt is None


@pytest.mark.parametrize(
    ("device_serial", "uri", "code"),
    [
        ("SN-9999", None, "device.unknown"),
        (POOLED[0], f"files:out/{POOLED[0]}?key=born", "station.key_origin"),
        (BORN[0], f"files:out/{BORN[0]}", "station.key_origin"),
        ("SN 1", None, "device.serial.malformed"),
        ("SN-1\n", None, "device.serial.malformed"),
        ("S" * 65, None, "device.serial.malformed"),
    ],
)
def test_refusals_before_anything_is_written(factory: Factory, device_serial: str, uri: str | None, code: str) -> None:
    with factory.line() as line:
        known = device_serial if device_serial in (*POOLED, *BORN) else POOLED[3]
        with pytest.raises(Refused) as caught:
            line.provision(device_serial, target=line.target(known, uri))
        assert caught.value.code == code
        if code != "device.serial.malformed":
            assert events_of(line.ledger, device_serial)[-1].code == code
        assert not line.journal.open_attempts()


def test_attempt_id_of_another_device_is_refused(factory: Factory) -> None:
    with factory.line() as line:
        used = line.provision(POOLED[0], attempt="attempt-0001").attempt
        with pytest.raises(Refused) as caught:
            line.provision(POOLED[1], attempt=used)
        assert caught.value.code == "attempt.reused"
        assert line.provision(POOLED[1]).outcome == "pass"


def test_other_attempt_id_while_one_is_under_way_is_refused(factory: Factory) -> None:
    with factory.line() as line:
        line.journal.record(JournalRecord("attempt-0001", POOLED[0], "installing", line.uri(POOLED[0])))
        with pytest.raises(Refused) as caught:
            line.provision(POOLED[0], attempt="attempt-0002")
        assert caught.value.code == "attempt.other"
        assert line.provision(POOLED[0]).attempt == "attempt-0001"


def test_half_written_device_is_not_finished_on_another_one(factory: Factory) -> None:
    with factory.line() as line:
        line.journal.record(JournalRecord("attempt-0001", POOLED[0], "installing", "files:out/elsewhere"))
        with pytest.raises(Refused) as caught:
            line.provision(POOLED[0])
        assert caught.value.code == "device.elsewhere"


def test_station_that_cannot_store_its_trace_passes_nothing(factory: Factory) -> None:
    class Full:
        def __init__(self, ledger: Any) -> None:
            self._ledger, self.left = ledger, 1

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ledger, name)

        def transaction(self) -> Any:
            self.left -= 1
            if self.left < 0:
                raise StationFault("ledger.full", "the disk is full", hint="Free disk space.")
            return self._ledger.transaction()

    with factory.line() as line:
        with pytest.raises(StationFault) as caught:
            line.provision(POOLED[0], ledger=Full(line.ledger))
        assert caught.value.code == "ledger.full"
        assert line.records.device(POOLED[0]).state is DeviceState.DRAWN
        assert [record.step for record in line.journal.open_attempts()] == ["installing"]
        assert line.provision(POOLED[0]).outcome == "pass"


@pytest.mark.parametrize("family", [StationFault, Unavailable])
def test_fault_of_the_station_ends_no_identity(factory: Factory, family: type[BirthmarkError]) -> None:
    with factory.line() as line:

        def broken() -> Handshake:
            raise family("handshake.test", "no server", hint="Start it.")

        with pytest.raises(family):
            line.provision(POOLED[0], handshake=broken)
        assert line.records.device(POOLED[0]).state is DeviceState.DRAWN
        assert line.provision(POOLED[0]).outcome == "pass"


def test_handshake_with_another_certificate_fails_the_device(factory: Factory) -> None:
    def stranger() -> Handshake:
        return Handshake(peer_cert_sha256="00" * 32, tls_version="TLSv1.3", cipher="X")

    with factory.line() as line:
        with pytest.raises(DeviceFault) as caught:
            line.provision(POOLED[0], handshake=stranger)
        assert caught.value.code == "device.handshake.peer"
        assert line.records.device(POOLED[0]).state is DeviceState.FAILED


def test_key_taken_from_one_device_gets_no_second_certificate(factory: Factory) -> None:
    """Keys are unique: a born key that was copied to a second device is found when it asks."""
    with factory.line() as line:
        line.provision(BORN[0])
        line.target(BORN[1])
        key = factory.root / "out" / BORN[0] / "device.key"
        (factory.root / "out" / BORN[1] / "device.key.new").write_bytes(key.read_bytes())
        (factory.root / "out" / BORN[1] / "device.key.new").chmod(0o600)
        with pytest.raises(Refused) as caught:
            line.provision(BORN[1])
        assert caught.value.code == "key.reused"
        assert line.records.device(BORN[1]).state is DeviceState.ORDERED


def test_rework_gives_a_new_identity_and_revokes_the_old(factory: Factory) -> None:
    with factory.line() as line:
        for device_serial in (POOLED[0], BORN[0]):
            old = line.provision(device_serial)
            line.reworks().rework(device_serial, reason="board replaced", by="tester")
            assert line.records.is_revoked(bytes.fromhex(old.cert_serial))
            new = line.provision(device_serial)
            assert new.outcome == "pass"
            assert new.cert_serial != old.cert_serial
            receipts = [open_receipt(one.receipt, line.vkey()) for one in (old, new)]
            assert receipts[0].spki_sha256 != receipts[1].spki_sha256


def test_attempt_that_was_reworked_meanwhile_does_not_come_back(factory: Factory) -> None:
    with factory.line() as line:

        def broken() -> Handshake:
            raise StationFault("handshake.test", "no server", hint="Start it.")

        with pytest.raises(StationFault):
            line.provision(POOLED[0], handshake=broken)
        old = line.journal.open_attempts()[0].attempt
        line.reworks().rework(POOLED[0], reason="board replaced", by="tester")
        assert line.provision(POOLED[0]).attempt != old


def test_scrapped_device_gets_nothing(factory: Factory) -> None:
    with factory.line() as line:
        for device_serial in (POOLED[0], BORN[0]):
            line.reworks().scrap(device_serial, reason="burnt", by="tester")
            with pytest.raises(Refused) as caught:
                line.provision(device_serial)
            assert caught.value.code == "device.scrapped"
            with pytest.raises(Refused):
                line.reworks().rework(device_serial, reason="again", by="tester")
        with line.ledger.transaction() as tx:
            device = line.records.device(POOLED[0])
            assert tx.vault.read(device.intent, device.position) is None


@pytest.mark.parametrize("moved", [timedelta(days=-3), timedelta(days=9000)], ids=["before", "after"])
def test_clock_outside_the_life_of_the_ca_issues_nothing(factory: Factory, moved: timedelta) -> None:
    factory.clock = lambda: datetime.now(UTC) + moved
    with factory.line() as line:
        with pytest.raises((Refused, Tampered)) as caught:
            line.provision(BORN[0])
        assert caught.value.code in ("issuer.not_yet_valid", "issuer.expired")
        assert line.records.device(BORN[0]).state is DeviceState.ORDERED
        with pytest.raises((StationFault, Tampered)) as pooled:
            line.provision(POOLED[0])
        assert pooled.value.code in ("station.clock", "chain.expired")


def test_clock_that_ran_back_ends_no_identity(factory: Factory) -> None:
    factory.clock = lambda: datetime.now(UTC) - timedelta(days=3)
    with factory.line() as line, pytest.raises(StationFault, match=r"station\.clock"):
        line.provision(POOLED[0])
    factory.clock = lambda: datetime.now(UTC)
    with factory.line() as line:
        begun = line.journal.open_attempts()[0].attempt
        assert line.records.device(POOLED[0]).state is DeviceState.DRAWN
        assert line.provision(POOLED[0]).attempt == begun


def test_receipt_is_on_record_and_anybody_can_check_it(factory: Factory) -> None:
    with factory.line() as line:
        outcome = line.provision(POOLED[0])
        event = next(v for v in events_of(line.ledger, POOLED[0]) if isinstance(v, e.Verified))
        assert event.receipt_sha256 == sha256(outcome.receipt).hexdigest()
        receipt = open_receipt(outcome.receipt, line.vkey())
        verify_evidence(receipt, stored_certificate(line.ledger, line.records.device(POOLED[0])))
        assert [step.name for step in receipt.steps] == ["probe", "obtain", "install", "prove", "verify"]


def test_private_key_appears_nowhere_but_in_the_device(factory: Factory) -> None:
    """Neither ledger, journal nor receipt hold it, sealed slot apart, and that one is erased."""
    with factory.line() as line:
        outcome = line.provision(POOLED[0])
    pem = (factory.root / "out" / POOLED[0] / "device.key").read_text()
    der = base64.b64decode("".join(pem.splitlines()[1:-1]))
    scalar = der[36:68]
    for file in factory.root.rglob("*"):
        if file.is_file() and "out" not in file.parts:
            assert scalar not in file.read_bytes(), file
    assert scalar.hex() not in repr(outcome)


def test_probe_of_an_unreadable_certificate_is_a_foreign_one(factory: Factory) -> None:
    with factory.line() as line:
        target = line.target(POOLED[0])

        class Odd(Lying):
            def probe(self) -> Probe:
                return Probe(POOLED[0], b"\x30\x03\x02\x01\x01", makes_key=False, can_sign=True)

        with pytest.raises(DeviceFault) as caught:
            line.provision(POOLED[0], target=Odd(target, ""))
        assert caught.value.code == "device.certificate.foreign"
