"""What the events of preloaded identities make of the tables, in every ledger; replay agrees at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.errors import Refused
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.wire.preload import PreloadedIdentity, pack_identity
from support.ledger import AT, Author, TestClock, create_sqlite
from support.postgres import create_postgres

FILE, CA = "ab" * 32, "vendor:chips:0123456789ab"


@pytest.fixture(params=["sqlite", "postgres"])
def author(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Author]:
    if request.param == "sqlite":
        ledger: Any = create_sqlite(tmp_path / "ledger" / "ledger.db", TestClock())
    else:
        ledger = create_postgres(request.getfixturevalue("postgres").conninfo(), tmp_path / "ledger", TestClock())
    yield Author(ledger)
    replay_ledger(ledger, progress=lambda count: None)
    ledger.close()


def refusal(code: str) -> Any:
    return pytest.raises(Refused, check=lambda refused: refused.code == code)


def key(number: int) -> bytes:
    return hashlib.sha256(b"chip %d" % number).digest()


def take(author: Author, numbers: list[int], *, file: str = FILE, vendor: str = "chips", ids: Any = None) -> None:
    """Take in a manifest of chips whose keys and ids are these numbers."""
    some = [
        PreloadedIdentity(key(number), f"id-{name}", b"certificate %d" % number)
        for number, name in zip(numbers, ids or numbers, strict=True)
    ]
    with author.ledger.transaction() as tx:
        tx.append(
            e.PreloadTakenIn(
                at=AT, vendor=vendor, form="microchip", manifest_sha256=file, count=len(some), chunks=1, by="t"
            )
        )
        event = e.Preloaded(at=AT, manifest_sha256=file, vendor=vendor, ca=CA, chunk=0, count=len(some))
        tx.append(event, b"".join(map(pack_identity, some)))


def bind(author: Author, device: str, number: int, *, vendor: str = "chips", source: str | None = None) -> int:
    event = e.Requested(
        at=AT,
        order="lot",
        count=1,
        source=source or f"preload:{vendor}",
        device=device,
        attempt=f"attempt-{device}-{number}",
    )
    digest = hashlib.sha256(b"certificate %d" % number).digest()
    with author.ledger.transaction() as tx:
        intent: int = tx.append(event, key(number) + digest)
        tx.append(e.Received(at=AT, device=device, intent=intent), b"certificate %d" % number)
    return intent


def test_chip_is_preloaded_once_and_bound_once(author: Author) -> None:
    author.order("lot", ["D-1", "D-2"], origin="preloaded")  # type: ignore[arg-type]
    take(author, [1, 2, 3])
    with refusal("ledger.exists"):
        take(author, [7])
    with refusal("key.reused"):
        take(author, [9, 2], file="cd" * 32)
    with refusal("key.reused"):
        take(author, [8, 8], file="cd" * 32, ids=["a", "b"])
    with refusal("preload.id.repeated"):
        take(author, [8, 9], file="cd" * 32, ids=["a", "a"])
    with refusal("preload.id.repeated"):
        take(author, [8], file="cd" * 32, ids=[1])
    take(author, [10], file="01" * 32, ids=["a"])
    with refusal("preload.id.repeated"):
        take(author, [11], file="02" * 32, ids=["A"])
    take(author, [8], file="cd" * 32, vendor="others", ids=[1])
    records = author.ledger.records
    assert (records.preload_file(FILE), records.preload_file("00" * 32)) == (3, None)
    intent = bind(author, "D-1", 1)
    known = records.preloaded(key(1))
    assert (known.device_serial, known.bound, known.unique_id, known.ca) == ("D-1", intent, "id-1", CA)
    assert records.preloaded_of("D-1") == known
    assert records.device("D-1").state is DeviceState.ISSUED
    for number, vendor in ((1, "chips"), (4, "chips"), (2, "others")):
        with refusal("preload.bound"):
            bind(author, "D-2", number, vendor=vendor)
    assert records.device("D-2").state is DeviceState.ORDERED
    assert records.preload_counts() == [("chips", 4, 1), ("others", 1, 0)]


def test_order_says_where_identities_come_from(author: Author) -> None:
    take(author, [1])
    author.order("lot", ["D-1"], origin="device")
    with refusal("ledger.key_origin"):
        bind(author, "D-1", 1)
    with refusal("ledger.key_origin"):
        bind(author, "D-1", 2, source="adopted")
    author.order("old", ["A-1"], origin="adopted")  # type: ignore[arg-type]
    with refusal("ledger.key_origin"):
        author.reserve("old", device="A-1", attempt="attempt-0001")


def test_key_that_was_preloaded_is_reserved_by_nobody_else(author: Author) -> None:
    take(author, [1])
    author.order("made", ["M-1"], origin="device")
    records = bytes(8) + key(1) + bytes(32)
    with refusal("key.reused"):
        author.reserve("made", device="M-1", attempt="attempt-0001", records=records)


def test_quota_of_a_vendors_ca_is_not_exceeded(author: Author) -> None:
    author.say(e.VendorDelegated(at=AT, vendor="chips", ca=CA, quota=3, by="t"))
    take(author, [1, 2])
    with refusal("preload.quota"):
        take(author, [3, 4], file="cd" * 32)
    take(author, [3], file="cd" * 32)
    assert author.ledger.records.vendor_cas() == [(CA, "chips", 3, 3)]


def test_records_that_are_not_what_the_event_says_are_refused(author: Author) -> None:
    event = e.Preloaded(at=AT, manifest_sha256=FILE, vendor="chips", ca=CA, chunk=0, count=1)
    with refusal("ledger.records"):
        author.say(event, attachment=pack_identity(PreloadedIdentity(key(1), "id-1", b"c")))
    take(author, [1])
    for wrong in (b"", b"x" * 40):
        with refusal("ledger.records"):
            author.say(event, attachment=wrong)
