"""Sites come home: what their stations did becomes what the authority knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.model import events as e
from birthmark.shell.bench.ingest import bench_ingest
from birthmark.shell.cli.main import main
from birthmark.shell.sites import ingest
from birthmark.shell.workspace.wiring import utc_now
from support.forger import Forger
from support.golog import build_reader, read_log
from support.sitepair import Mode, Pair, findings, made_again, provision, provision_online, report, take, totals

POOL = [f"PL-{number:04d}" for number in range(6)]
OWN = [f"FC-{number:04d}" for number in range(6)]
BORN = [f"EL-{number:04d}" for number in range(4)]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair.make(tmp_path)


def test_a_pool_site_comes_home_and_coming_twice_changes_nothing(pair: Pair, tmp_path: Path):
    site = pair.add_site("pool-1", "pool")
    pair.order("lot", site, POOL)
    pair.send("lot", site)
    provision(site, *POOL[:2])
    assert totals(pair, "lot") == {"consigned": 6}
    path = report(site, tmp_path / "a.report")
    first = take(pair, path)
    assert findings(first) == []
    assert (first.report.outcome, first.settled) == ("taken", 2)
    assert totals(pair, "lot") == {"consigned": 4, "verified": 2}
    with pair.authority() as hq:
        before = hq.ledger.head().size
    again = take(pair, path)
    assert (again.report.outcome, again.settled, findings(again)) == ("old", 0, [])
    with pair.authority() as hq:
        assert hq.ledger.head().size == before
        vkey = hq.records.site("pool-1").vkey
    pair.replay()
    reader = build_reader(tmp_path)
    read_log(reader, pair.hq / "sites" / "pool-1" / "log", vkey)


@pytest.mark.parametrize("origin", ["injected", "device"])
def test_a_site_with_its_own_ca_comes_home_in_two_reports_in_any_order(pair: Pair, tmp_path: Path, origin: str):
    site = pair.add_site("fab", "factory_ca")
    serials = OWN if origin == "injected" else BORN
    pair.order("lot", site, serials, origin=origin)
    pair.send("lot", site)
    provision(site, serials[0], born=origin == "device")
    one = report(site, tmp_path / "1.report")
    with site.open() as own:
        size = own.publish()
    provision(site, *serials[1:3], born=origin == "device")
    two = report(site, tmp_path / "2.report", since=size)
    waits = take(pair, two)
    assert (waits.report.outcome, waits.waiting, waits.size) == ("gap", 1, 0)
    done = take(pair, one)
    assert (done.report.outcome, done.waiting, findings(done)) == ("taken", 0, [])
    rest = {"stock": 3} if origin == "injected" else {"open": 1}
    assert totals(pair, "lot") == {"verified": 3, **rest}
    pair.replay()


def test_the_commands_tell_what_happened(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    site = pair.add_site("pool-1", "pool")
    pair.order("lot", site, POOL)
    pair.send("lot", site)
    provision(site, POOL[0])
    stick, hq, root = str(tmp_path / "stick.report"), str(pair.hq), str(site.root)
    assert main(["site", "report", "-C", root, "-o", stick, "--json"]) == 0
    size = json.loads(capsys.readouterr().out)["size"]
    assert main(["site", "ingest", stick, "-C", hq, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["reports"]
    assert (told["outcome"], told["verified"], told["settled"], told["findings"]) == ("taken", size, 1, [])
    provision(site, POOL[1])
    assert main(["site", "report", "-C", root, "-o", stick, "--ack", told["ack"]]) == 0
    assert main(["site", "ingest", stick, "-C", hq]) == 0
    assert "taken in" in capsys.readouterr().out
    forger = Forger(site)
    forger.change_receipt(POOL[1], key=Ed25519PrivateKey.generate())
    forger.write(tmp_path / "forged")
    assert main(["site", "ingest", str(tmp_path / "forged"), "-C", hq]) == 7
    said = capsys.readouterr()
    assert "site.fork" in said.out
    assert POOL[1] in said.out
    assert "site.findings" in said.err
    assert main(["site", "ingest", str(tmp_path / "forged"), "-C", hq]) == 7
    assert "site.forked" in capsys.readouterr().err
    assert main(["site", "report", "-C", root, "-o", stick, "--since", "1", "--ack", told["ack"]]) == 2
    assert main(["site", "report", "-C", root, "-o", stick, "--since", "999999"]) == 3


def test_an_online_site_comes_home(pair: Pair, tmp_path: Path):
    """The authority drew and issued; the site's log holds the same certificates under the same attempts."""
    site = pair.add_site("line", "online")
    pair.order("lot", site, POOL)
    provision_online(pair, site, "lot", POOL[:3])
    result = take(pair, report(site, tmp_path / "r"))
    assert findings(result) == []
    assert totals(pair, "lot") == {"stock": 3, "verified": 3}
    pair.replay()


def test_the_bench_runs(tmp_path: Path):
    result = bench_ingest(2, 40, parent=tmp_path, processes=1, progress=lambda count: None)
    assert result["bench"] == "ingest"
    assert list(tmp_path.iterdir()) == []


def test_other_processes_check_the_signatures(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ingest, "_MANY_ENTRIES", 1)
    site = pair.add_site("pool-1", "pool")
    pair.order("lot", site, POOL)
    pair.send("lot", site)
    provision(site, *POOL[:2])
    forger = Forger(site)
    forger.change_receipt(POOL[1], key=Ed25519PrivateKey.generate())
    result = take(pair, forger.write(tmp_path / "r"), processes=2)
    assert findings(result) == [("site.receipt", POOL[1])]


def test_a_device_with_two_identities_in_one_report_keeps_both_keys_taken(pair: Pair, tmp_path: Path):
    site = pair.add_site("fab", "factory_ca")
    pair.order("lot", site, OWN)
    pair.send("lot", site)
    provision(site, OWN[0])
    for serial in OWN[:2]:
        assert main(["device", "rework", serial, "--reason", "burnt", "-C", str(site.root)]) == 0
    shutil.rmtree(site.root / "out")
    provision(site, OWN[0])
    result = take(pair, report(site, tmp_path / "r"))
    assert findings(result) == []
    assert totals(pair, "lot") == {"stock": 5, "verified": 1}
    with pair.authority() as hq:
        taken = sum(len(row[0]) // 64 for row in hq.ledger.rows("SELECT requests FROM site_key"))  # type: ignore[arg-type]
    assert taken == len(OWN) + 2
    pair.replay()


def test_a_device_that_the_authority_scrapped_stays_scrapped(pair: Pair, tmp_path: Path):
    site = pair.add_site("fab", "factory_ca")
    pair.order("lot", site, BORN, origin="device")
    pair.send("lot", site)
    with pair.authority() as hq, hq.ledger.transaction() as tx:
        tx.append(e.Scrapped(at=e.utc_text(hq.clock()), device=BORN[0], reason="lost", by="test"))
    provision(site, *BORN[:2], born=True)
    assert findings(take(pair, report(site, tmp_path / "r"))) == []
    assert totals(pair, "lot") == {"open": 2, "scrapped": 1, "verified": 1}
    pair.replay()


@pytest.mark.parametrize("mode", ["pool", "factory_ca"])
def test_a_device_of_a_finding_is_scrapped_and_the_site_goes_on(pair: Pair, tmp_path: Path, mode: Mode):
    site = pair.add_site("fab", mode)
    pair.order("lot", site, POOL)
    pair.send("lot", site)
    provision(site, *POOL[:2])
    forger = Forger(site)
    forger.change_receipt(POOL[1], key=Ed25519PrivateKey.generate())
    result = take(pair, forger.write(tmp_path / "forged"))
    assert ("site.receipt", POOL[1]) in findings(result)
    where = ["-C", str(pair.hq)]
    assert main(["device", "scrap", POOL[1], "--reason", "forged receipt", *where]) == 0
    assert main(["site", "resume", "fab", "--reason", "the station was replaced", *where]) == 0
    assert totals(pair, "lot")["scrapped"] == 1
    assert findings(take(pair, tmp_path / "forged")) == []
    assert totals(pair, "lot")["scrapped"] == 1
    pair.replay()


def test_no_site_opens_a_device_for_a_second_identity(pair: Pair, tmp_path: Path):
    """The log says that a key was received and not drawn, and that a verified device was reworked: neither is taken."""
    site = pair.add_site("line", "online")
    pair.order("lot", site, POOL)
    provision_online(pair, site, "lot", POOL[:2])
    forger = Forger(site)
    size = forger.find(e.Received, POOL[1]) + 1
    assert findings(take(pair, forger.write(tmp_path / "1", size=size))) == []
    assert totals(pair, "lot") == {"stock": 4, "in_progress": 1, "verified": 1}
    forger.append(e.Superseded(at=e.utc_text(utc_now()), device=POOL[0], reason="one more", by="cheat"))
    assert findings(take(pair, forger.write(tmp_path / "2", first=size))) == []
    assert totals(pair, "lot") == {"stock": 4, "failed": 1, "verified": 1}
    pair.replay()


@pytest.mark.parametrize("provisioned", [True, False], ids=["used", "kept"])
def test_a_device_scrapped_while_its_bundle_was_on_the_way_accuses_nobody(
    pair: Pair, tmp_path: Path, provisioned: bool
):
    site = pair.add_site("pool-1", "pool")
    pair.order("lot", site, POOL)
    pair.send("lot", site)
    with pair.authority() as hq:
        made_again(hq).scrap(POOL[0], reason="the unit was crushed", by="test")
    if provisioned:
        provision(site, *POOL[:2])
    assert findings(take(pair, report(site, tmp_path / "r"))) == []
    with pair.authority() as hq:
        assert hq.records.site("pool-1").stopped is None
        assert hq.records.device(POOL[0]).state == "scrapped"
    pair.replay()


def test_an_identity_that_ended_before_its_order_was_sealed_is_no_sites(pair: Pair, tmp_path: Path):
    site = pair.add_site("pool-1", "pool")
    pair.order("lot", site, POOL)
    bundle = "ab" * 16
    with pair.authority() as hq:
        made_again(hq).scrap(POOL[0], reason="the unit was crushed", by="test")
        at, left = e.utc_text(hq.clock()), len(POOL) - 1
        sealed = e.BundleSealed(
            at=at, bundle=bundle, order="lot", site=site.name, devices=left, suite="mlkem768-x25519", by="test"
        )
        with hq.ledger.transaction() as tx:
            tx.append(sealed)
            tx.append(e.Consigned(at=at, bundle=bundle, order="lot", chunk=0, count=left))
    pair.send("lot", site, bundle=bundle)
    assert findings(take(pair, report(site, tmp_path / "r"))) == [("site.bundle", POOL[0])]
