"""Power cuts of an ATECC608 at each command that changes it: the same identity comes out, and never two live keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from birthmark.adapters.targets.atecc import AteccTarget
from birthmark.adapters.targets.proof import proof_message
from birthmark.errors import BirthmarkError, DeviceFault, Unavailable
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.ports import Credential
from birthmark.testing.atecc608 import Atecc608
from support.devicepki import credential_for
from support.fences import OPEN
from support.targets.atecc import OPTIONS, open_target

WRITE, LOCK, GENKEY = 0x12, 0x17, 0x40
CHALLENGE = bytes(32)


class Line:
    """A station and an authority that issues once for each key that a CSR was seen of."""

    def __init__(self, root: Path, kind: str) -> None:
        root.mkdir()
        self.chip = Atecc608.create(root / "chip.json", locked=kind != "locked", sync=False)
        self.chip.attach()
        self.root = root
        self.kind = kind
        self.issued: dict[bytes, Credential] = {}

    def target(self) -> AteccTarget:
        return open_target(self.root, OPTIONS[self.kind])

    def provision(self) -> Credential:
        installed = self.target().probe().certificate
        for credential in self.issued.values():
            if credential.certificate == installed:
                return self.install(credential)
        request = x509.load_der_x509_csr(self.target().make_key("p256", self.chip.serial, OPEN))
        spki = spki_of(request.public_key())
        if spki not in self.issued:
            self.issued[spki] = credential_for(request.public_key(), self.chip.serial)
        return self.install(self.issued[spki])

    def install(self, credential: Credential) -> Credential:
        self.target().install(credential, OPEN)
        evidence = self.target().prove(CHALLENGE)
        assert evidence.certificate == credential.certificate
        key = x509.load_der_x509_certificate(evidence.certificate).public_key()
        assert evidence.signature is not None
        assert algorithm_of(key).verify(key, evidence.signature, proof_message(CHALLENGE))
        return credential

    def restart(self) -> None:
        self.chip.faults.dies_before = self.chip.faults.dies_after = None
        self.chip.power_on()


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Callable[[str], Line]]:
    made: list[Line] = []

    def make(kind: str) -> Line:
        for line in made:
            line.chip.detach()
        made.append(Line(tmp_path / f"line-{len(made)}", kind))
        return made[-1]

    yield make
    for line in made:
        line.chip.detach()


@pytest.mark.parametrize(
    ("kind", "opcodes"), [("compressed", {WRITE, GENKEY}), ("der", {GENKEY}), ("locked", {LOCK, GENKEY})]
)
def test_a_power_cut_at_each_change_of_the_chip_ends_in_the_same_identity(
    lines: Callable[[str], Line], kind: str, opcodes: set[int]
) -> None:
    whole = lines(kind)
    whole.provision()
    moments = [number for number, opcode in enumerate(whole.chip.opcodes) if opcode in opcodes]
    assert len(moments) >= 6
    if os.environ.get("BIRTHMARK_FAULTS") != "all":
        moments = [*moments[:4], *moments[4::3]]
    for moment in moments:
        for fault in ("dies_before", "dies_after"):
            line = lines(kind)
            setattr(line.chip.faults, fault, moment)
            with pytest.raises(Unavailable) as caught:
                line.provision()
            assert caught.value.code == "atecc.silent"
            line.restart()
            installed = line.provision()
            assert len(line.issued) == 1, f"a second key was asked for after {fault}={moment}"
            assert list(line.issued.values()) == [installed]
            assert line.target().probe().certificate == installed.certificate


def test_a_chip_without_power_is_not_called_bad(lines: Callable[[str], Line]) -> None:
    line = lines("compressed")
    line.provision()
    line.chip.faults.dies_before = line.chip.commands
    for call in (line.target().probe, lambda: line.target().prove(CHALLENGE)):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "atecc.silent"
    line.restart()
    assert line.target().probe().certificate is not None


def test_answers_that_come_garbled_are_asked_for_again(lines: Callable[[str], Line]) -> None:
    line = lines("compressed")
    credential = line.provision()
    line.chip.faults.corrupt = 2
    assert line.target().prove(CHALLENGE).certificate == credential.certificate
    assert line.chip.faults.corrupt == 0


def test_a_key_whose_answer_was_lost_is_not_made_twice_and_never_asked_with(lines: Callable[[str], Line]) -> None:
    """GenKey is done and the power goes: the record says that no key counts, the next run makes another."""
    line = lines("compressed")
    whole = lines("compressed")
    whole.provision()
    genkeys = [number for number, opcode in enumerate(whole.chip.opcodes) if opcode == GENKEY]
    line.chip.attach()
    line.chip.faults.dies_after = genkeys[2]
    with pytest.raises(Unavailable):
        line.provision()
    lost = bytes(line.chip.memory.slots[0])
    assert any(lost)
    assert line.issued == {}
    line.restart()
    line.provision()
    assert bytes(line.chip.memory.slots[0]) != lost


def test_a_chip_that_does_not_keep_its_key_asks_for_nothing(lines: Callable[[str], Line]) -> None:
    line = lines("compressed")
    line.chip.faults.loses_writes = True
    with pytest.raises(DeviceFault) as caught:
        line.target().make_key("p256", line.chip.serial, OPEN)
    assert caught.value.code == "atecc.not_stored"


def test_a_chip_that_signs_with_another_key_makes_no_valid_request(lines: Callable[[str], Line]) -> None:
    line = lines("compressed")
    line.chip.faults.signs_with_another_key = True
    request = line.target().make_key("p256", line.chip.serial, OPEN)
    assert not x509.load_der_x509_csr(request).is_signature_valid


def test_a_torn_record_is_a_chip_without_identity(lines: Callable[[str], Line]) -> None:
    line = lines("compressed")
    line.provision()
    line.chip.memory.slots[8][20] ^= 1
    assert line.target().probe().certificate is None
    with pytest.raises(BirthmarkError) as caught:
        line.target().prove(CHALLENGE)
    assert caught.value.code == "target.certificate.missing"


@pytest.mark.parametrize("status", [0x03, 0x07, 0x08])
def test_a_chip_that_fails_its_own_tests_keeps_the_key_that_waits(lines: Callable[[str], Line], status: int) -> None:
    """No answer about the key is not "no key": nothing is made over one that was asked with."""
    line = lines("compressed")
    request = line.target().make_key("p256", line.chip.serial, OPEN)
    before = bytes(line.chip.memory.slots[0])
    line.chip.faults.answers[GENKEY] = status
    with pytest.raises(DeviceFault) as caught:
        line.target().make_key("p256", line.chip.serial, OPEN)
    assert (caught.value.code, bytes(line.chip.memory.slots[0])) == ("atecc.refused", before)
    line.chip.faults.answers.clear()
    again = x509.load_der_x509_csr(line.target().make_key("p256", line.chip.serial, OPEN))
    assert spki_of(again.public_key()) == spki_of(x509.load_der_x509_csr(request).public_key())
