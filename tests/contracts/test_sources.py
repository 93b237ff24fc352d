"""The laws of ``ports.Source``, on the pool and on one-by-one issuance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from cryptography.x509.oid import NameOID

from birthmark.errors import BirthmarkError, Refused, Tampered
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.pki.algorithms import spki_of
from birthmark.pki.chain import verify_chain
from birthmark.ports import CredentialRequest, Source
from support.stationworld import BORN, POOLED, Factory, Line, build_factory, events_of


def make_csr(device_serial: str, key: Any = None, *, extension: x509.ExtensionType | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_serial)])
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    made = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return made.public_bytes(Encoding.DER)


@dataclass
class Case:
    line: Line
    source: Source
    devices: tuple[str, ...]
    csrs: dict[str, bytes]

    def request(self, device_serial: str, attempt: str = "attempt-0001") -> CredentialRequest:
        return CredentialRequest(attempt, "line-1", device_serial, self.csrs.get(device_serial))

    def code(self, request: CredentialRequest) -> str:
        with pytest.raises(BirthmarkError) as caught:
            self.source.obtain(request)
        return caught.value.code


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("sources") / "factory")


@pytest.fixture(params=["pool", "issue"])
def case(request: pytest.FixtureRequest, built: Factory, tmp_path: Path) -> Iterator[Case]:
    with built.copy(tmp_path / "factory").line() as line:
        if request.param == "pool":
            yield Case(line, line.source(), POOLED, {})
        else:
            csrs = {device_serial: make_csr(device_serial) for device_serial in (*BORN, "EL-9999")}
            yield Case(line, line.source(), BORN, csrs)


@pytest.fixture
def born(built: Factory, tmp_path: Path) -> Iterator[Line]:
    with built.copy(tmp_path / "factory").line() as line:
        yield line


class TestSource:
    def test_credential_is_whole_and_belongs_to_the_device(self, case: Case) -> None:
        got = case.source.obtain(case.request(case.devices[0]))
        assert got.device_serial == case.devices[0]
        path = verify_chain(got.certificate, got.chain[:-1], got.chain[-1:], at=case.line.clock(), purpose="client")
        assert path[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == case.devices[0]
        if got.private_key is not None:
            key = load_der_private_key(got.private_key.reveal(), None)
            assert spki_of(key.public_key()) == spki_of(path[0].public_key())

    def test_same_attempt_gets_the_same_answer_for_ever(self, case: Case) -> None:
        first, second = (case.source.obtain(case.request(case.devices[0])) for _ in range(2))
        assert (first.certificate, first.chain, first.intent, first.issued_seq) == (
            second.certificate, second.chain, second.intent, second.issued_seq,
        )  # fmt: skip
        if first.private_key is not None and second.private_key is not None:
            assert first.private_key.reveal() == second.private_key.reveal()

    def test_same_answer_after_a_restart(self, case: Case) -> None:
        first = case.source.obtain(case.request(case.devices[0]))
        again = case.line.source().obtain(case.request(case.devices[0]))
        assert first.certificate == again.certificate

    def test_same_attempt_for_another_device_is_refused(self, case: Case) -> None:
        case.source.obtain(case.request(case.devices[0]))
        assert case.code(case.request(case.devices[1])) == "attempt.reused"

    def test_second_attempt_for_a_served_device_is_refused(self, case: Case) -> None:
        case.source.obtain(case.request(case.devices[0]))
        code = case.code(case.request(case.devices[0], "attempt-0002"))
        assert code in ("pool.drawn", "device.has_identity")

    def test_every_refusal_is_on_record(self, case: Case) -> None:
        unknown = replace(case.request(case.devices[0]), device_serial="EL-9999")
        assert case.code(unknown) == "device.unknown"
        last = events_of(case.line.ledger)[-1]
        assert isinstance(last, e.Rejected)
        assert (last.code, last.device, last.attempt) == ("device.unknown", "EL-9999", "attempt-0001")

    @pytest.mark.parametrize("attempt", ["", "short", "x" * 65, "with space 1", "new\nline-1"])
    def test_malformed_attempt_is_refused(self, case: Case, attempt: str) -> None:
        assert case.code(case.request(case.devices[0], attempt)) == "attempt.id.malformed"

    def test_failed_and_scrapped_devices_get_nothing(self, case: Case) -> None:
        case.source.obtain(case.request(case.devices[0]))
        failed = e.Failed(at=e.utc_text(case.line.clock()), device=case.devices[0], station="line-1",
                          attempt="attempt-0001", code="device.test")  # fmt: skip
        with case.line.ledger.transaction() as tx:
            tx.append(failed)
        assert case.code(case.request(case.devices[0])) == "device.failed"
        assert case.code(case.request(case.devices[0], "attempt-0002")) == "device.failed"
        case.line.reworks().scrap(case.devices[0], reason="test", by="test")
        assert case.code(case.request(case.devices[0], "attempt-0003")) == "device.scrapped"

    def test_attempt_of_a_reworked_identity_is_over(self, case: Case) -> None:
        case.source.obtain(case.request(case.devices[0]))
        case.line.reworks().rework(case.devices[0], reason="test", by="test")
        assert case.code(case.request(case.devices[0])) == "attempt.superseded"


class TestPool:
    def test_erased_key_is_gone_also_for_its_attempt(self, born: Line) -> None:
        outcome = born.provision(POOLED[0])
        request = CredentialRequest(outcome.attempt, "line-1", POOLED[0])
        with pytest.raises(Refused) as caught:
            born.source().obtain(request)
        assert caught.value.code == "pool.erased"

    def test_erased_slot_of_an_undrawn_device_draws_nothing(self, born: Line) -> None:
        device = born.records.device(POOLED[0])
        with born.ledger.transaction() as tx:
            tx.vault.erase(device.intent, device.position)
        with pytest.raises(Refused) as caught:
            born.source().obtain(CredentialRequest("attempt-0001", "line-1", POOLED[0]))
        assert caught.value.code == "pool.erased"
        assert born.records.device(POOLED[0]).state is DeviceState.POOLED

    def test_device_whose_key_is_born_inside_is_not_in_the_pool(self, born: Line) -> None:
        with pytest.raises(Refused) as caught:
            born.source().obtain(CredentialRequest("attempt-0001", "line-1", BORN[0]))
        assert caught.value.code == "pool.born_in_device"

    def test_swapped_slots_in_the_vault_are_found(self, born: Line) -> None:
        """Two devices' sealed keys exchanged in the database."""
        database = born.ledger._database
        (slots, size) = database.execute("SELECT slots, slot_size FROM vault").fetchone()
        swapped = slots[size : 2 * size] + slots[:size] + slots[2 * size :]
        database.execute("UPDATE vault SET slots = ?", (swapped,))
        with pytest.raises(Tampered) as caught:
            born.source().obtain(CredentialRequest("attempt-0001", "line-1", POOLED[0]))
        assert caught.value.code == "vault.slot"


class TestIssue:
    def obtain(self, line: Line, csr: bytes | None, device_serial: str = BORN[0], attempt: str = "attempt-0001") -> Any:
        return line.source()._issue.obtain(CredentialRequest(attempt, "line-1", device_serial, csr))

    def refused(
        self, line: Line, csr: bytes | None, device_serial: str = BORN[0], attempt: str = "attempt-0001"
    ) -> str:
        with pytest.raises(Refused) as caught:
            self.obtain(line, csr, device_serial, attempt)
        return caught.value.code

    def test_same_attempt_with_another_key_is_refused(self, born: Line) -> None:
        self.obtain(born, make_csr(BORN[0]))
        assert self.refused(born, make_csr(BORN[0])) == "attempt.reused"

    def test_crash_after_the_reservation_signs_exactly_what_was_reserved(self, born: Line) -> None:
        source, csr = born.source()._issue, make_csr(BORN[0])
        request = CredentialRequest("attempt-0001", "line-1", BORN[0], csr)
        source._reserve(source._issuing.examine(request, born.records.device(BORN[0]), None))
        assert born.records.device(BORN[0]).state is DeviceState.RESERVED
        assert self.refused(born, csr, attempt="attempt-0002") == "device.reserved"
        assert self.refused(born, make_csr(BORN[0])) == "attempt.reused"
        got = self.obtain(born, csr)
        intent = born.records.intent(got.intent)
        tbs = x509.load_der_x509_certificate(got.certificate).tbs_certificate_bytes
        assert sha256(tbs).digest() == intent.records[40:]
        assert len(born.records.intents("issued")) == 2

    def test_request_without_a_csr_or_for_a_pooled_device_is_refused(self, born: Line) -> None:
        assert self.refused(born, None) == "issue.csr.missing"
        assert self.refused(born, make_csr(POOLED[0]), POOLED[0]) == "issue.key_origin"

    @pytest.mark.parametrize(
        ("csr", "code"),
        [
            (make_csr("EL-0001"), "csr.name"),
            (make_csr("EL-0000", extension=x509.BasicConstraints(ca=True, path_length=None)), "csr.asks_ca"),
            (make_csr("EL-0000", ec.generate_private_key(ec.SECP384R1())), "issue.key_algorithm"),
            (make_csr("EL-0000", ec.derive_private_key(7, ec.SECP256R1())), "csr.key.weak"),
            (make_csr("EL-0000")[:-4] + bytes(4), "csr.signature"),
            (b"", "csr.malformed"),
            (b"\x30\x00", "csr.malformed"),
        ],
        ids=["other name", "wants to be a CA", "other algorithm", "weak key", "bad signature", "empty", "no request"],
    )
    def test_request_that_asks_for_more_than_it_may_is_refused(self, born: Line, csr: bytes, code: str) -> None:
        assert self.refused(born, csr) == code
        assert born.records.device(BORN[0]).state is DeviceState.ORDERED
        assert events_of(born.ledger, BORN[0])[-1].code == code

    def test_key_of_another_device_is_refused(self, born: Line) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.obtain(born, make_csr(BORN[0], key))
        assert self.refused(born, make_csr(BORN[1], key), BORN[1], "attempt-0002") == "key.reused"
        assert born.records.device(BORN[1]).state is DeviceState.ORDERED

    def test_template_is_admitted_once_and_used_again_after_a_restart(self, built: Factory, tmp_path: Path) -> None:
        factory = built.copy(tmp_path / "again")
        for number in range(3):
            with factory.line() as line:
                self.obtain(line, make_csr(BORN[number]), BORN[number], f"attempt-000{number}")
                admitted = [event for event in events_of(line.ledger) if isinstance(event, e.TemplateAdmitted)]
        assert len(admitted) == 1
