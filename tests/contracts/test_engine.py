"""The laws of ``ports.Engine``, for workers in processes and for the one that other tests use in their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from birthmark.errors import Misconfigured, Refused, StationFault
from birthmark.model.events import Issued, decode_entry
from birthmark.pki.derread import read_der, read_members
from birthmark.ports import Engine, MadeChunk, MakeTask, SignedChunk, SignTask
from birthmark.tlog.tiles import decode_entries
from birthmark.wire.vault import open_slot
from support.bulkline import BulkCa, failing_worker
from support.ledger import AT, serials
from support.raycluster import running_cluster

PREFIX = bytes.fromhex("0102") + bytes(6)
KINDS: dict[str, Callable[[BulkCa], Engine]] = {"inline": BulkCa.inline, "processes": lambda ca: ca.processes(2)}


@pytest.fixture(scope="module")
def ca() -> BulkCa:
    return BulkCa.make()


@pytest.fixture(params=[*KINDS, "ray"])
def engine(request: pytest.FixtureRequest, ca: BulkCa) -> Iterator[Engine]:
    if request.param == "ray":
        # Workers of Ray take seconds to start: those who do not close it share one.
        yield request.getfixturevalue("ray_engine")
        return
    with closing(KINDS[request.param](ca)) as made:
        yield made


@pytest.fixture(scope="module")
def ray_engine(ca: BulkCa) -> Iterator[Engine]:
    """An engine in a Ray cluster of this machine that it finds running and leaves running."""
    from birthmark.adapters.engines.ray import RayEngine

    with running_cluster(), closing(RayEngine.open(ca.start(), workers=2, address=None)) as made:
        yield made


def task(number: int, names: list[str]) -> MakeTask:
    return MakeTask(number, PREFIX[:7] + bytes([number]), "\n".join(names).encode(), len(names))


def collect(engine: Engine, count: int) -> list[MadeChunk | SignedChunk]:
    found: list[MadeChunk | SignedChunk] = []
    while len(found) < count:
        found += engine.results()
    return sorted(found, key=lambda result: result.task)


class TestEngine:
    def test_what_is_made_is_what_is_signed(self, ca: BulkCa, engine: Engine):
        names = ["a", "SN-1", "x" * 64, *serials("DEVICE", 9)]
        engine.make(task(5, names))
        (made,) = collect(engine, 1)
        assert isinstance(made, MadeChunk)
        engine.sign(SignTask(5, intent=77, at=AT))
        (signed,) = collect(engine, 1)
        assert isinstance(signed, SignedChunk)
        issuer = x509.load_der_x509_certificate(ca.certificate)
        entries = decode_entries(signed.entries)
        assert signed.leaf_hashes == b"".join(sha256(b"\0" + entry).digest() for entry in entries)
        assert len(entries) == len(names)
        for place, (name, entry) in enumerate(zip(names, entries, strict=True)):
            event, der = decode_entry(entry)
            assert event == Issued(at=AT, device=name, intent=77)
            certificate = x509.load_der_x509_certificate(der)
            certificate.verify_directly_issued_by(issuer)
            random, spki_hash, tbs_hash = _record(made, place)
            spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert certificate.serial_number.to_bytes(16, "big") == PREFIX[:7] + b"\x05" + random
            assert sha256(spki).digest() == spki_hash
            assert sha256(read_members(read_der(der))[0].whole).digest() == tbs_hash
            slot = made.sealed.slots[place * made.sealed.slot_size : (place + 1) * made.sealed.slot_size]
            opened = open_slot(ca.vault_key, made.sealed.encapsulated, slot, place, spki_hash)
            public = load_der_private_key(opened.reveal(), None).public_key()
            assert public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki

    def test_nothing_is_signed_before_it_was_asked_for(self, engine: Engine):
        for number in range(3):
            engine.make(task(number, serials("A", 2)))
        assert all(isinstance(result, MadeChunk) for result in collect(engine, 3))
        engine.sign(SignTask(1, intent=1, at=AT))
        (signed,) = collect(engine, 1)
        assert isinstance(signed, SignedChunk)
        assert signed.task == 1

    def test_no_key_and_no_random_serial_comes_twice(self, engine: Engine):
        for number in range(4):
            engine.make(task(number, serials("A", 16)))
        records = b"".join(made.records for made in collect(engine, 4) if isinstance(made, MadeChunk))
        parts = [records[at : at + 40] for at in range(0, len(records), 72)]
        assert len({part[:8] for part in parts}) == len({part[8:] for part in parts}) == 64

    @pytest.mark.parametrize("names", [b"", b"a\nb\nc", b"a\n", b"a\nb c", b"a\n\xff", b"a\n" + b"x" * 65, b'a\n"'])
    def test_a_task_that_does_not_name_its_devices_is_refused(self, engine: Engine, names: bytes):
        engine.make(MakeTask(1, PREFIX, names, 2))
        with pytest.raises(Refused, match=r"engine\.task\.malformed"):
            collect(engine, 1)

    def test_more_work_than_fits_into_a_pipe(self, engine: Engine):
        names = [f"{number:064}" for number in range(512)]
        for number in range(24):
            engine.make(task(number, names))
        results = collect(engine, 24)
        assert [result.task for result in results] == list(range(24))

    def test_closing_twice_is_safe(self, engine: Engine):
        engine.make(task(1, serials("A", 3)))
        engine.close()
        engine.close()


def _record(made: MadeChunk, place: int) -> tuple[bytes, bytes, bytes]:
    record = made.records[72 * place : 72 * place + 72]
    return record[:8], record[8:40], record[40:]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestProcesses:
    @pytest.mark.parametrize("moment", ["idle", "at work"])
    def test_a_worker_that_is_killed(self, ca: BulkCa, moment: str):
        with closing(ca.processes(2)) as engine:
            for number in range(4 if moment == "at work" else 0):
                engine.make(task(number, serials("A", 512)))
            os.kill(engine.pids[1], signal.SIGKILL)
            with pytest.raises(StationFault, match=r"engine\.worker\.died"):
                collect(engine, 5)
        assert not any(map(_alive, engine.pids))

    def test_all_workers_killed_before_they_are_asked(self, ca: BulkCa):
        with closing(ca.processes(1)) as engine:
            os.kill(engine.pids[0], signal.SIGKILL)
            with pytest.raises(StationFault, match=r"engine\.worker\.died"):
                _ask_until_it_fails(engine)

    def test_a_defect_in_a_worker_tells_no_secret(self, ca: BulkCa):
        with pytest.raises(StationFault) as caught:
            ca.processes(2, failing_worker)
        assert caught.value.code == "engine.worker.failed"
        assert caught.value.facts == {"exception": "ValueError"}
        assert ca.key.hex()[:20] not in str(caught.value.document())
        assert repr(ca.key)[2:12] not in str(caught.value.document())

    def test_what_a_worker_refuses_at_its_start_is_told_by_name(self, ca: BulkCa):
        other = BulkCa(ca.certificate, BulkCa.make().key, ca.template, ca.vault_key)
        with pytest.raises(Misconfigured, match=r"issuer\.key\.mismatch"):
            other.processes(2)

    def test_no_worker_outlives_the_engine(self, ca: BulkCa):
        engine = ca.processes(2)
        engine.make(task(1, serials("A", 512)))
        engine.close()
        assert not any(map(_alive, engine.pids))

    def test_no_secret_stands_in_a_process_list(self, ca: BulkCa):
        with closing(ca.processes(1)) as engine:
            for name in ("cmdline", "environ"):
                with open(f"/proc/{engine.pids[0]}/{name}", "rb") as file:
                    content = file.read()
                assert ca.key not in content
                assert ca.key.hex().encode() not in content
            assert ca.key.hex() not in repr(engine)


def _ask_until_it_fails(engine: Engine) -> None:
    for number in range(100):
        engine.make(task(number, serials("A", 512)))
    collect(engine, 100)
