"""Workers of a Ray cluster die, lie and leave traces: no identity lost, nothing forged signed, no key found."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from birthmark.adapters.engines.foreign import check_chunk
from birthmark.adapters.engines.ray import RayEngine
from birthmark.adapters.engines.worker import ChunkMaker, PreparedChunk
from birthmark.errors import Tampered
from birthmark.ports import MadeChunk, MakeTask, SealedChunk, SignedChunk, SignTask
from birthmark.tlog.tiles import decode_entries
from birthmark.wire.vault import VaultRecipient, open_slot
from support.bulkline import BulkCa
from support.ledger import AT, serials
from support.raycluster import running_cluster, session_directory

PREFIX = bytes.fromhex("0102") + bytes(6)


@pytest.fixture(scope="module")
def ca() -> BulkCa:
    return BulkCa.make()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    with running_cluster():
        yield session_directory()


def task(number: int, count: int = 512) -> MakeTask:
    names = "\n".join(serials(f"D{number}", count)).encode()
    return MakeTask(number, PREFIX[:7] + bytes([number]), names, count)


def by_signal(engine: RayEngine) -> bool:
    """Kill a worker that lives; one that was killed just now may still be listed."""
    for pid in engine.pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def by_ray(engine: RayEngine) -> bool:
    ray.kill(engine._workers[0].actor)
    return True


def make_and_sign(engine: RayEngine, chunks: int, lose: Callable[[RayEngine], bool]) -> set[bytes]:
    """Make and sign chunks as an order does; lose a worker after each of the first two; return the certificates."""
    for number in range(chunks):
        engine.make(task(number))
    entries: set[bytes] = set()
    signed = losses = 0
    while signed < chunks:
        for result in engine.results():
            if isinstance(result, SignedChunk):
                signed += 1
                entries.update(decode_entries(result.entries))
                continue
            assert isinstance(result, MadeChunk)
            if losses < 2:
                losses += lose(engine)
            engine.sign(SignTask(result.task, intent=result.task, at=AT))
    assert losses == 2
    return entries


@pytest.mark.parametrize("lose", [by_signal, by_ray])
def test_lost_workers_cost_no_identity_and_are_replaced(ca: BulkCa, cluster: Path, lose: Callable[[RayEngine], bool]):
    with closing(RayEngine.open(ca.start(), workers=2, address=None)) as engine:
        before = set(engine.pids)
        assert len(make_and_sign(engine, 12, lose)) == 12 * 512
        assert len(engine.pids) == 2
        assert set(engine.pids) != before


def files_with(directory: Path, needles: set[bytes]) -> list[Path]:
    """Return the files in and below ``directory`` in which one of ``needles`` stands."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            found += [path for needle in needles if needle in content]
    return found


def forms(secret: bytes) -> set[bytes]:
    return {secret, secret.hex().encode(), repr(secret)[2:-1].encode()}


def object_store() -> bytes:
    """Return everything in the shared memory of the object store, as it is mapped into this process."""
    content = b""
    with Path("/proc/self/maps").open() as maps, Path("/proc/self/mem").open("rb") as memory:
        for line in maps:
            if "plasma" in line:
                first, last = (int(part, 16) for part in line.split()[0].split("-"))
                memory.seek(first)
                content += memory.read(last - first)
    return content


def device_secrets(ca: BulkCa, made: MadeChunk) -> set[bytes]:
    """Return every 16th private key of a chunk, in the forms in which it could stand in a file."""
    secrets: set[bytes] = set()
    sealed = made.sealed
    for place in range(0, 512, 16):
        slot = sealed.slots[place * sealed.slot_size : (place + 1) * sealed.slot_size]
        record = made.records[72 * place : 72 * place + 72]
        pkcs8 = open_slot(ca.vault_key, sealed.encapsulated, slot, place, record[8:40]).reveal()
        # The 32 octets of the scalar (RFC 5915) stand at 36 in this PKCS#8; the public half may be anywhere.
        secrets |= forms(pkcs8) | forms(pkcs8[36:68])
    return secrets


def test_no_private_key_is_in_what_ray_keeps(ca: BulkCa, cluster: Path):
    """Device keys and the CA key: logs and session files, and the object store."""
    with closing(RayEngine.open(ca.start(), workers=1, address=None)) as engine:
        engine.make(task(1))
        (made,) = engine.results()
        assert isinstance(made, MadeChunk)
        secrets = forms(ca.key) | device_secrets(ca, made)
        store = object_store()
        # What is searched is really what the workers sent: their public records are there.
        assert made.records[:72] in store
        assert not [secret for secret in secrets if secret in store]
        assert files_with(cluster, secrets) == []
        assert files_with(cluster, {b"canary-not-there"}) == []
        del store
        gc.collect()


def test_what_ray_spills_to_disk_holds_no_private_key(ca: BulkCa, cluster: Path):
    """A store that is too small is emptied into files; the chunk comes back whole from there."""
    with closing(RayEngine.open(ca.start(), workers=1, address=None)) as engine:
        engine.make(task(1))
        ray.wait(list(engine._under_way), num_returns=1, fetch_local=False)
        ballast = [ray.put(os.urandom(16 << 20)) for _ in range(14)]
        spilled = [path for path in cluster.rglob("*") if path.is_file() and "spilled" in str(path.parent)]
        assert spilled
        (made,) = engine.results()
        assert isinstance(made, MadeChunk)
        secrets = forms(ca.key) | device_secrets(ca, made)
        assert any(made.records[:72] in path.read_bytes() for path in spilled), "the chunk itself was spilled"
        assert not [path for path in spilled for content in [path.read_bytes()] if any(s in content for s in secrets)]
        del ballast
        gc.collect()


@pytest.fixture(scope="module")
def honest(ca: BulkCa) -> PreparedChunk:
    maker = ChunkMaker(ca.template, VaultRecipient(ca.vault_key.recipient().public), os.urandom)
    return maker.make(task(1, 3))


def swapped(chunk: PreparedChunk) -> PreparedChunk:
    return replace(chunk, tbs=[chunk.tbs[1], chunk.tbs[0], chunk.tbs[2]])


def with_records(change: Callable[[bytes], bytes]) -> Callable[[PreparedChunk], PreparedChunk]:
    return lambda chunk: replace(chunk, made=replace(chunk.made, records=change(chunk.made.records)))


def with_sealed(**change: Any) -> Callable[[PreparedChunk], PreparedChunk]:
    return lambda chunk: replace(chunk, made=replace(chunk.made, sealed=replace(chunk.made.sealed, **change)))


def with_ca_bit(chunk: PreparedChunk) -> PreparedChunk:
    """A certificate with other octets outside the holes of the template."""
    tbs = chunk.tbs[0]
    at = tbs.index(bytes.fromhex("551d0f")) + 12
    return replace(chunk, tbs=[tbs[:at] + bytes([tbs[at] ^ 4]) + tbs[at + 1 :], *chunk.tbs[1:]])


FORGERIES: dict[str, Callable[[PreparedChunk], PreparedChunk]] = {
    "certificates in another order": swapped,
    "one certificate less": lambda chunk: replace(chunk, tbs=chunk.tbs[:2]),
    "octets outside the holes": with_ca_bit,
    "no certificate at all": lambda chunk: replace(chunk, tbs=[b"", *chunk.tbs[1:]]),
    "another key on record": with_records(lambda records: records[:8] + bytes(32) + records[40:]),
    "another serial on record": with_records(lambda records: bytes(8) + records[8:]),
    "another TBS on record": with_records(lambda records: records[:40] + bytes(32) + records[72:]),
    "a record less": with_records(lambda records: records[:-72]),
    "a slot less": with_sealed(slots=b""),
    "slots of another size": with_sealed(slot_size=1),
    "a capsule that is none": with_sealed(encapsulated=b"x"),
    "another task": lambda chunk: replace(chunk, made=replace(chunk.made, task=2)),
}


@pytest.mark.parametrize("forgery", list(FORGERIES))
def test_a_worker_that_lies_gets_no_signature(ca: BulkCa, honest: PreparedChunk, forgery: str):
    with pytest.raises(Tampered, match=r"engine\.chunk\.forged"):
        check_chunk(ca.template, task(1, 3), FORGERIES[forgery](honest))


def test_a_worker_that_does_not_lie_passes_whatever_hashes_it_claims(ca: BulkCa, honest: PreparedChunk):
    claimed = replace(honest, tbs_hashes=[bytes(32)] * 3, device_serials=[b"x"] * 3)
    checked = check_chunk(ca.template, task(1, 3), claimed)
    assert checked.tbs_hashes == honest.tbs_hashes
    assert checked.device_serials == honest.device_serials
    assert isinstance(checked.made.sealed, SealedChunk)
