"""A site cheats with all its keys in hand: each lie is found, names what it is about, and stops the site; the good rest
is settled, nothing is lost, and the record can be replayed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import BirthmarkError, Refused, Tampered
from birthmark.model import events as e
from birthmark.model.ids import OrderId
from birthmark.shell.sites.ingest import IngestResult
from birthmark.workflow.orders.order import NewOrder, create_order
from support.forger import Forger
from support.golog import build_reader, read_log
from support.sitepair import (
    Pair,
    Site,
    findings,
    make_pool,
    open_bundle,
    open_order,
    provision,
    report,
    take,
    totals,
)

POOL = [f"PL-{number:04d}" for number in range(4)]
OWN = [f"FC-{number:04d}" for number in range(4)]
AT = "2026-11-24T02:10:11.123Z"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority with a pool site and a site with its own CA; two devices of each are provisioned."""
    root = tmp_path_factory.mktemp("made") / "world"
    pair = Pair.make(root)
    for name, mode, serials in (("pool-1", "pool", POOL), ("fab", "factory_ca", OWN)):
        site = pair.add_site(name, mode)  # type: ignore[arg-type]
        pair.order(f"lot-{name}", site, serials)
        pair.send(f"lot-{name}", site)
        provision(site, *serials[:2])
    return root


class World:
    """A copy of what was made; ``check`` holds after every story."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pair = Pair.at(root)
        self.pool = Site("pool-1", root / "pool-1", "pool", "0201")
        self.fab = Site("fab", root / "fab", "factory_ca", "0202")

    def take(self, path: Path) -> IngestResult:
        return take(self.pair, path)

    def stopped(self, site: Site) -> str | None:
        with self.pair.authority() as hq:
            reason: str | None = hq.records.site(site.name).stopped
            return reason

    def size(self) -> int:
        with self.pair.authority() as hq:
            return hq.ledger.head().size


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Iterator[World]:
    copied = tmp_path / "world"
    shutil.copytree(made, copied)
    # The settings name the passphrase by an absolute path.
    for settings in copied.glob("*/birthmark.toml"):
        settings.write_text(settings.read_text().replace(str(made), str(copied)))
    world = World(copied)
    yield world
    world.pair.replay()
    for order in ("lot-pool-1", "lot-fab"):
        totals(world.pair, order)
    with world.pair.authority() as hq:
        vkeys = {site.site: site.vkey for site in hq.records.sites() if site.reported}
    for name, vkey in vkeys.items():
        read_log(build_reader(tmp_path), world.pair.hq / "sites" / name / "log", vkey)


def test_a_receipt_of_a_key_that_is_not_on_record_is_found(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    forger.change_receipt(POOL[0], key=Ed25519PrivateKey.generate())
    result = world.take(forger.write(tmp_path / "r"))
    assert findings(result) == [("site.receipt", POOL[0])]
    assert result.findings[0].station == "line1"
    assert world.stopped(world.pool) is not None
    assert totals(world.pair, "lot-pool-1") == {"consigned": 2, "verified": 1, "in_progress": 1}


def test_a_station_that_lies_about_the_device_is_found(world: World, tmp_path: Path):
    """The station's key is right, the device's own signature is that of another device."""
    forger = Forger(world.pool)
    _, other = forger.event(forger.find(e.Verified, POOL[1]))
    forger.change_receipt(POOL[0], nonce="00" * 32)
    forger.replace(forger.find(e.Verified, POOL[1]), other)
    assert findings(world.take(forger.write(tmp_path / "r"))) == [("site.receipt", POOL[0])]


def test_one_receipt_does_not_stand_for_two_devices(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    event, receipt = forger.event(forger.find(e.Verified, POOL[0]))
    forger.replace(forger.find(e.Verified, POOL[1]), receipt, receipt_sha256=event.receipt_sha256)
    assert findings(world.take(forger.write(tmp_path / "r"))) == [("site.receipt", POOL[1])]


def visit(forger: Forger, device: str, receipt: bytes) -> None:
    """Put on record that a device was let into its cloud, as its receipt says or does not say."""
    verified, _ = forger.event(forger.find(e.Verified, device))
    event = e.Admitted(
        at=AT,
        device=device,
        station=verified.station,
        attempt=verified.attempt,
        evidence=verified.evidence,
        service="azure-dps",
        receipt_sha256=sha256(receipt).hexdigest(),
    )
    forger.append(event, receipt)


def test_a_visit_to_a_cloud_is_believed_with_its_receipt_alone(world: World, tmp_path: Path):
    cloud = {
        "service": "azure-dps", "host": "h", "scope": "s", "assigned_to": "hub", "device_name": POOL[0],
        "key": "device", "at": AT,
    }  # fmt: skip
    forger, signer = Forger(world.pool), Forger(world.pool)
    signer.change_receipt(POOL[0], cloud=cloud)
    _, good = signer.event(signer.find(e.Verified, POOL[0]))
    visit(forger, POOL[0], good)
    assert findings(world.take(forger.write(tmp_path / "good"))) == []
    assert totals(world.pair, "lot-pool-1") == {"consigned": 2, "verified": 2}
    _, silent = forger.event(forger.find(e.Verified, POOL[0]))
    visit(forger, POOL[0], silent)
    visit(forger, POOL[1], good)
    found = world.take(forger.write(tmp_path / "bad"))
    assert findings(found) == [("site.receipt", POOL[0]), ("site.receipt", POOL[1])]


def test_a_station_added_at_the_site_alone_signs_for_nobody(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    number = forger.find(e.Verified, POOL[0])
    forger.replace(number, station="line9")
    found = world.take(forger.write(tmp_path / "r"))
    assert findings(found) == [("site.receipt", POOL[0])]
    assert found.findings[0].station == "line9"


def test_a_suspect_is_never_settled_again(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    forger.change_receipt(POOL[0], key=Ed25519PrivateKey.generate())
    world.take(forger.write(tmp_path / "1"))
    size = len(forger.entries)
    forger.append(e.Scrapped(at=AT, device=POOL[0], reason="hidden", by="cheat"))
    forger.append(e.Scrapped(at=AT, device=POOL[1], reason="broken", by="cheat"))
    assert findings(world.take(forger.write(tmp_path / "2", first=size))) == []
    assert totals(world.pair, "lot-pool-1") == {"consigned": 2, "in_progress": 1, "scrapped": 1}


def test_an_invented_device_is_named(world: World, tmp_path: Path):
    """Over-production: one chunk more than was ordered, with identities."""
    cheat = _cheating_site(world)
    result = world.take(report(cheat, tmp_path / "r"))
    assert ("site.quota", None) in findings(result)
    assert ("site.device.foreign", "GHOST-1") in findings(result)
    assert totals(world.pair, "lot-b") == {"stock": 4}


def _cheating_site(world: World) -> Site:
    """Open a second order as one of six devices instead of four, and make them all."""
    serials = [f"FB-{number:04d}" for number in range(4)]
    world.pair.order("lot-b", world.fab, serials)
    with world.pair.authority() as hq, world.fab.open() as own:
        open_order(own, hq, "lot-b", quantity=6, chunks=2, extra=["GHOST-1", "GHOST-2"])
        make_pool(own, "lot-b")
    return world.fab


def test_an_order_of_nobody_is_named(world: World, tmp_path: Path):
    world.pair.order("lot-x", None, ["XX-0001"])
    with world.pair.authority() as hq, world.pool.open() as own:
        open_order(own, hq, "lot-x")
    result = world.take(report(world.pool, tmp_path / "r"))
    assert findings(result) == [("site.order.foreign", None)]
    assert totals(world.pair, "lot-pool-1") == {"consigned": 2, "verified": 2}


def test_a_night_shift_is_named_and_its_good_receipts_are_not_called_forged(world: World, tmp_path: Path):
    """A site with a CA orders devices for itself and makes them with the right keys and the right program."""
    with world.fab.open() as own:
        order = NewOrder(
            order=OrderId("night"), product="device", profile=own.profile("tls-client"), key_algorithm="p256",
            key_origin="device", ca=own.records.order("lot-fab").ca, by="cheat",
        )  # fmt: skip
        create_order(own.ledger, order, ["GHOST-1"], clock=own.clock)
    provision(world.fab, "GHOST-1", born=True)
    result = world.take(report(world.fab, tmp_path / "r"))
    assert set(findings(result)) == {("site.order.foreign", None), ("site.device.foreign", "GHOST-1")}
    assert result.stopped is not None


def test_one_bundle_opened_at_two_sites_is_double_use(world: World, tmp_path: Path):
    """The other site has copied the first one's machine: it can even open the keys."""
    other = world.pair
    thief = other.add_site("thief", "pool")
    with other.authority() as hq, thief.open() as own:
        open_order(own, hq, "lot-pool-1")
        open_bundle(own, hq, "lot-pool-1", sha256(b"lot-pool-1").hexdigest()[:32])
    provision(thief, POOL[0])
    assert findings(world.take(report(world.pool, tmp_path / "1"))) == []
    result = world.take(report(thief, tmp_path / "2"))
    assert ("site.order.foreign", None) in findings(result)
    assert ("site.double", POOL[0]) in findings(result)
    assert totals(other, "lot-pool-1") == {"consigned": 2, "verified": 2}
    assert world.stopped(thief) is not None
    assert world.stopped(world.pool) is None


def test_certificates_that_were_never_sealed_are_found(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    number = next(n for n in range(len(forger.entries)) if isinstance(forger.event(n)[0], e.Received))
    event, _ = forger.event(number)
    _, other = forger.event(number + 1)
    forger.replace(number, other)
    result = world.take(forger.write(tmp_path / "r"))
    assert ("site.bundle", event.device) in findings(result)


def test_a_bundle_that_does_not_exist_is_found(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    forger.replace(forger.find(e.Requested), source="bundle:" + "ab" * 16)
    assert findings(world.take(forger.write(tmp_path / "r"))) == [("site.bundle", None)]


def test_a_certificate_of_another_ca_is_found(world: World, tmp_path: Path):
    """The site's own CA signs for the template's fields; here another key of the same name did."""
    forger = Forger(world.fab)
    number = next(n for n in range(len(forger.entries)) if isinstance(forger.event(n)[0], e.Issued))
    event, der = forger.event(number)
    forger.replace(number, der[:-8] + bytes(8))
    result = world.take(forger.write(tmp_path / "r"))
    assert ("site.certificate", event.device) in findings(result)


def test_serials_of_another_site_are_found(world: World, tmp_path: Path):
    forger = Forger(world.fab)
    number = forger.find(e.Reserved)
    event, _ = forger.event(number)
    forger.replace(number, serial_prefix="0101" + event.serial_prefix[4:])
    found = findings(world.take(forger.write(tmp_path / "r")))
    assert ("site.certificate", None) in found


def test_a_template_of_another_profile_is_found(world: World, tmp_path: Path):
    profile = world.fab.root / "profiles" / "tls-client.toml"
    profile.write_text(profile.read_text().replace("days = ", "days = 1", 1))
    world.pair.order("lot-b", world.fab, ["FB-0001"])
    world.pair.send("lot-b", world.fab)
    found = world.take(report(world.fab, tmp_path / "r"))
    assert ("site.certificate", None) in findings(found)


def test_a_key_of_two_sites_is_double(world: World, tmp_path: Path):
    """Two sites with CAs of their own certify one key."""
    with world.pair.authority() as hq, hq.ledger.transaction() as tx:
        key = _first_key(world.fab)
        tx.append(
            e.OrderCreated(
                at=AT, order="lot-y", product="device", profile="tls-client", key_algorithm="p256",
                key_origin="injected", ca="issuing", quantity=1, chunks=1, by="test",
            )
        )  # fmt: skip
        tx.append(e.DevicesOrdered(at=AT, order="lot-y", chunk=0, first=0, count=1), b"YY-0001")
        tx.append(e.Requested(at=AT, order="lot-y", count=1, source="est", chunk=0), key + bytes(32))
    result = world.take(report(world.fab, tmp_path / "r"))
    assert findings(result) == [("site.double", OWN[0])]
    assert totals(world.pair, "lot-fab") == {"open": 1, "verified": 1, "stock": 2}


def _first_key(site: Site) -> bytes:
    forger = Forger(site)
    _, records = forger.event(forger.find(e.Reserved))
    return records[8:40]


@pytest.mark.parametrize(
    "event",
    [
        e.Drawn(at=AT, device=POOL[0], station="line1", attempt="again-0001"),
        e.Verified(at=AT, device=POOL[3], station="line1", attempt="a-0000001", evidence="digest", receipt_sha256="0"),
        e.SiteStopped(at=AT, site="pool-1", reason="x", by="y"),
        e.Drawn(at=AT, device="NOBODY", station="line1", attempt="again-0002"),
        e.WorkspaceCreated(at=AT, workspace="x", origin="y", site_prefix="0303", software="z", by="w", role="site"),
    ],
)
def test_an_entry_that_cannot_follow_is_found_and_changes_nothing(world: World, tmp_path: Path, event: e.Event):
    forger = Forger(world.pool)
    number = forger.append(event, b"attached")
    result = world.take(forger.write(tmp_path / "r"))
    assert [(item.code, item.entry) for item in result.findings][:1] == [("site.entry.unlawful", number)]
    assert totals(world.pair, "lot-pool-1") == {"consigned": 2, "verified": 2}


@pytest.mark.parametrize("entry", [b"", b"\n", b"{}\n", b"\xff\xfe\n", b"[" * 60000, b'{"type":"drawn"}\n' + bytes(99)])
def test_an_entry_that_is_no_event_is_found(world: World, tmp_path: Path, entry: bytes):
    forger = Forger(world.pool)
    forger.entries.append(entry)
    result = world.take(forger.write(tmp_path / "r"))
    assert findings(result) == [("site.entry.unlawful", None)]
    assert findings(world.take(tmp_path / "r")) == []


def test_a_log_rewritten_and_signed_again_is_a_fork(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    world.take(forger.write(tmp_path / "1"))
    before = totals(world.pair, "lot-pool-1")
    number = forger.find(e.Verified, POOL[0])
    forger.replace(number, station="line2")
    forger.append(e.Scrapped(at=AT, device=POOL[0], reason="hidden", by="cheat"))
    result = world.take(forger.write(tmp_path / "2"))
    assert result.report.outcome == "fork"
    assert ("site.fork", None) in findings(result)
    assert ("site.fork", POOL[0]) in findings(result)
    assert result.findings[0].entry == number
    assert totals(world.pair, "lot-pool-1") == before
    size = world.size()
    assert findings(world.take(tmp_path / "2")) == []
    assert world.size() == size, "the same fork is told once"


def test_a_rollback_alone_is_an_old_report_and_going_on_from_it_is_a_fork(world: World, tmp_path: Path):
    old = world.pool.copy(tmp_path / "backup")
    provision(world.pool, POOL[2])
    world.take(report(world.pool, tmp_path / "1"))
    assert world.take(report(old, tmp_path / "2")).report.outcome == "old"
    provision(old, POOL[2])
    provision(old, POOL[3])
    result = world.take(report(old, tmp_path / "3"))
    assert result.report.outcome == "fork"
    assert ("site.fork", POOL[2]) in findings(result)
    assert ("site.fork", POOL[3]) not in findings(result), "only one side touched it"
    assert totals(world.pair, "lot-pool-1") == {"consigned": 1, "verified": 3}


@pytest.mark.parametrize("since", [True, False])
def test_a_cloned_machine_is_named_with_the_devices_of_both(world: World, tmp_path: Path, since: bool):
    with world.pool.open() as own:
        size = own.publish() if since else 0
    clone = world.pool.copy(tmp_path / "clone")
    provision(world.pool, POOL[2], POOL[3])
    provision(clone, POOL[3])
    world.take(report(world.pool, tmp_path / "1"))
    result = world.take(report(clone, tmp_path / "2", since=size))
    assert result.report.outcome == "fork"
    assert findings(result) == [("site.fork", None), ("site.fork", POOL[3])]
    assert world.stopped(world.pool) is not None


def test_reports_out_of_order_doubled_and_overlapping_end_alike(world: World, tmp_path: Path):
    sizes = [0]
    for serial in (POOL[2], POOL[3]):
        with world.pool.open() as own:
            sizes.append(own.publish())
        provision(world.pool, serial)
    forger = Forger(world.pool)
    parts = [
        forger.write(tmp_path / "c", first=sizes[2]),
        forger.write(tmp_path / "b", first=sizes[1], size=sizes[2]),
        forger.write(tmp_path / "a", size=sizes[1]),
        forger.write(tmp_path / "all"),
    ]
    outcomes = [world.take(path).report.outcome for path in (parts[0], parts[0], parts[1], parts[2], parts[3])]
    assert outcomes == ["gap", "gap", "gap", "taken", "old"]
    assert list((world.pair.hq / "sites" / "pool-1" / "inbox").iterdir()) == []
    assert totals(world.pair, "lot-pool-1") == {"verified": 4}


def test_entries_that_the_head_was_not_signed_for_say_nothing_about_the_site(world: World, tmp_path: Path):
    """Anybody can write such a file: it is refused, and stops nobody."""
    forger = Forger(world.pool)
    good = forger.write(tmp_path / "good").read_bytes()
    entry = forger.entries[-1]
    at = good.rindex(entry)
    body = good[:at] + bytes([entry[0] ^ 1]) + good[at + 1 : -37]
    (tmp_path / "bad").write_bytes(body + b"Z" + (32).to_bytes(4, "big") + sha256(body).digest())
    _refused(world, tmp_path / "bad", "report.root")


def test_damaged_and_foreign_files_leave_no_trace(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    good = forger.write(tmp_path / "good").read_bytes()
    for at in (0, 10, 18, 19, 200, len(good) - 37, len(good) - 1):
        (tmp_path / "bad").write_bytes(good[:at])
        _refused(world, tmp_path / "bad", "frames.", "report.malformed")
    (tmp_path / "bad").write_bytes(good + b"x")
    _refused(world, tmp_path / "bad", "frames.trailing")
    huge = b"birthmark-report/1\nH\xff\xff\xff\xff"
    (tmp_path / "bad").write_bytes(huge)
    _refused(world, tmp_path / "bad", "frames.too_long")
    forger.origin = "../../etc/passwd"
    _refused(world, forger.write(tmp_path / "bad"), "report.foreign")
    forger = Forger(world.pool)
    forger.log_key = Ed25519PrivateKey.generate()
    _refused(world, forger.write(tmp_path / "bad"), "log.note")
    forger = Forger(world.pool)
    forger.origin = Forger(world.fab).origin
    _refused(world, forger.write(tmp_path / "bad"), "log.note")


def _refused(world: World, path: Path, *codes: str) -> None:
    before = world.size()
    with pytest.raises(BirthmarkError) as told:
        world.take(path)
    assert isinstance(told.value, Refused | Tampered)
    assert told.value.code.startswith(codes), told.value.code
    assert world.size() == before
    assert not list((world.pair.hq / "sites").rglob("*.report"))


def test_a_clone_is_told_by_its_own_authority_before_it_works(world: World, tmp_path: Path):
    from birthmark.shell.sites.report import acknowledged_entries

    clone = world.pool.copy(tmp_path / "clone")
    provision(world.pool, POOL[2])
    ack = world.take(report(world.pool, tmp_path / "1")).ack
    with world.pool.open() as own:
        assert acknowledged_entries(own, ack) == own.ledger.head().size
    with clone.open() as own, pytest.raises(Tampered, match=r"report\.ack\.differs"):
        acknowledged_entries(own, ack)


def test_a_changed_mirror_is_found_before_anything_is_added(world: World, tmp_path: Path):
    world.take(report(world.pool, tmp_path / "1"))
    tile = next((world.pair.hq / "sites" / "pool-1" / "log" / "tile" / "0").rglob("*.p/*"))
    data = tile.read_bytes()
    tile.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(Tampered, match=r"site\.mirror\.differs"):
        world.take(tmp_path / "1")
    tile.write_bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_a_log_of_damaged_entries_stops_the_site_and_not_the_authority(world: World, tmp_path: Path, seed: int):
    """Octets are changed in every fourth entry, certificates and receipts included, then all is signed."""
    chance = Random(seed)
    for site in (world.pool, world.fab):
        forger = Forger(site)
        for number in range(2, len(forger.entries)):
            if chance.random() < 0.25:
                entry = bytearray(forger.entries[number])
                body = entry.index(b"\n")
                begin = 0 if chance.random() < 0.2 or body + 1 == len(entry) else body + 1
                for _ in range(chance.randrange(1, 4)):
                    entry[chance.randrange(begin, len(entry))] = chance.randrange(256)
                forger.entries[number] = bytes(entry)
        result = world.take(forger.write(tmp_path / site.name))
        assert result.report.outcome == "taken"
        assert world.stopped(site) is not None or not result.findings


@pytest.mark.parametrize(
    "event",
    [
        e.Issued(at=AT, device=POOL[2], intent=1 << 80),
        e.Received(at=AT, device=POOL[2], intent=-1),
        e.DevicesOrdered(at=AT, order="lot-pool-1", chunk=1 << 70, first=0, count=1),
        e.Reserved(at=AT, order="lot-pool-1", count=1, serial_prefix="zz", template="x", device=POOL[2]),
        e.Requested(at=AT, order="nothing", count=0, source="\x00", device="\x00"),
    ],
)
def test_numbers_and_texts_that_no_ledger_takes(world: World, tmp_path: Path, event: e.Event):
    forger = Forger(world.pool)
    number = forger.append(event, b"A")
    result = world.take(forger.write(tmp_path / "r"))
    assert ("site.entry.unlawful", number) in [(item.code, item.entry) for item in result.findings]


def test_a_certificate_of_an_impossible_version_breaks_nothing(world: World, tmp_path: Path):
    forger = Forger(world.pool)
    number = next(n for n in range(len(forger.entries)) if isinstance(forger.event(n)[0], e.Received))
    event, der = forger.event(number)
    forger.replace(number, der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1))
    assert event.device == POOL[0]
    assert set(findings(world.take(forger.write(tmp_path / "r")))) == {
        ("site.bundle", POOL[0]),
        ("site.receipt", POOL[0]),
    }
