"""What the events between an authority and its sites make of the tables, in every ledger; replay agrees at the end."""

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
from support.ledger import AT, Author, TestClock, create_sqlite, serials
from support.postgres import create_postgres


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


def add_site(author: Author, name: str, prefix: str, mode: Any) -> None:
    origin = f"birthmark/test/ledger/site/{name}"
    author.say(
        e.SiteAdded(at=AT, site=name, origin=origin, vkey=f"{name}+00+AA", site_prefix=prefix, mode=mode, by="t")
    )


def settle(order: str, upto: int, count: int) -> e.SiteSettled:
    return e.SiteSettled(at=AT, site="north", order=order, upto=upto, count=count)


def test_a_pool_leaves_and_comes_home(author: Author):
    author.make("a", serials("A", 8))
    add_site(author, "north", "0201", "pool")
    for prefix, code in (("0102", "site.prefix.taken"), ("0201", "ledger.exists")):
        with refusal(code):
            add_site(author, "south", prefix, "pool")
    author.draw("A-00000", "attempt-1")
    author.say(e.OrderAssigned(at=AT, order="a", site="north", mode="pool", by="t"))
    author.say(
        e.BundleSealed(at=AT, bundle="b1", order="a", site="north", devices=7, suite="x", by="t"),
        e.Consigned(at=AT, bundle="b1", order="a", chunk=0, count=3),
        e.Consigned(at=AT, bundle="b1", order="a", chunk=1, count=4),
    )
    records = author.ledger.records
    assert records.device("A-00001").state is DeviceState.CONSIGNED
    assert records.totals("a").consigned == 7
    with refusal("device.state"):
        author.draw("A-00001", "attempt-2")
    author.say(e.SiteReported(at=AT, site="north", size=50, root="11" * 32))
    with refusal("site.head"):
        author.say(e.SiteReported(at=AT, site="north", size=50, root="11" * 32))
    with refusal("site.settlement"):
        author.say(settle("a", 40, 1), attachment=b"B-00001 verified 7 -")
    author.say(settle("a", 40, 2), attachment=b"A-00001 verified 7 -\nA-00005 failed 9 -")
    author.say(settle("a", 45, 1), attachment=b"A-00005 scrapped 41 -")
    author.say(settle("a", 50, 0))
    assert records.device("A-00001").state is DeviceState.VERIFIED
    assert records.device("A-00001").position == 1
    assert (records.settled("A-00005").site_seq, records.site("north").settled) == (41, 50)


def test_keys_born_at_a_site_are_unique_with_ours(author: Author):
    author.order("a", serials("A", 4))
    author.order("b", serials("B", 4))
    add_site(author, "north", "0201", "factory_ca")
    author.say(e.OrderAssigned(at=AT, order="a", site="north", mode="factory_ca", by="t"))
    with refusal("order.assigned"):
        author.reserve("a", chunk=0, count=4)
    author.say(e.SiteReported(at=AT, site="north", size=9, root="22" * 32))
    key = hashlib.sha256(b"key").digest()
    author.say(settle("a", 5, 1), attachment=b"A-00000 installed 4 " + key.hex().encode())
    with refusal("key.reused"):
        author.reserve("b", chunk=0, count=4, records=(bytes(8) + key + bytes(32)) + bytes(range(72)) * 3)
    with refusal("key.reused"):
        author.say(settle("a", 9, 1), attachment=b"A-00001 installed 4 " + key.hex().encode())
    author.say(e.SiteStopped(at=AT, site="north", reason="double use", by="t"))
    with refusal("site.stopped"):
        author.say(e.OrderAssigned(at=AT, order="b", site="north", mode="factory_ca", by="t"))
    author.say(e.SiteResumed(at=AT, site="north", reason="explained", by="t"))
    author.say(e.FindingRaised(at=AT, site="north", code="double.use", what="x", device="A-00000", entry=4))
    assert [finding.entry for finding in author.ledger.records.findings("north")] == [4]


def test_who_is_let_in_and_whose_approval_counts(author: Author):
    key = "ab" * 32
    author.say(e.AccessGranted(at=AT, name="op", role="operator", spki_sha256=key, cert_sha256="0", by="t"))
    author.say(e.AccessWithdrawn(at=AT, spki_sha256=key, reason="left", by="t"))
    with refusal("access.unknown"):
        author.say(e.AccessWithdrawn(at=AT, spki_sha256=key, reason="left", by="t"))
    with refusal("approval.threshold"):
        author.say(e.ApproversSet(at=AT, threshold=3, vkeys=["a", "b"], by="t"))
    author.say(e.ApproversSet(at=AT, threshold=2, vkeys=["a", "b"], by="t"))
    author.say(e.ApprovalUsed(at=AT, action="x", plan_sha256="cd", approvers=["a", "b"], by="t"))
    records = author.ledger.records
    assert records.access(key).withdrawn == "left"
    assert records.approvers() == (2, ("a", "b"))
    assert records.is_approval_used("cd")
    assert not records.is_approval_used("ce")


def test_a_site_has_one_authority_and_takes_a_bundle_in(author: Author):
    grant = e.GrantAccepted(at=AT, authority="hq", vkey="hq+00+AA", mode="pool", grant_sha256="0", by="t")
    author.say(grant)
    author.say(grant)
    assert author.ledger.records.authority().authority == "hq"
    with refusal("site.authority"):
        author.say(e.GrantAccepted(at=AT, authority="hq", vkey="x+00+AA", mode="pool", grant_sha256="0", by="t"))
    author.order("a", serials("A", 4))
    requests = b"".join(hashlib.sha256(b"%d" % place).digest() + bytes(32) for place in range(4))
    intent = author.say(e.Requested(at=AT, order="a", count=4, source="bundle:b1", chunk=0), attachment=requests)
    author.issue_chunk(intent, serials("A", 4))
    author.say(e.BundleOpened(at=AT, bundle="b1", order="a", devices=4, manifest_sha256="0", by="t"))
    records = author.ledger.records
    assert records.device("A-00003").state is DeviceState.POOLED
    assert records.intent(intent).source == "bundle:b1"
    assert [bundle.devices for bundle in records.bundles("a")] == [4]
