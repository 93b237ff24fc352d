"""An attacker between the sites: he writes the documents, holds the stick, has a site's machine. Real commands."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.shell.workspace.wiring import open_workspace
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.wire.receipt import station_key_name
from birthmark.wire.site import RequestedCa, open_grant, open_request, sign_grant, sign_request
from support.realdocuments import Story, tell_story
from support.siteworld import SiteWorld, make_authority, order_at_site

NAMES = ["../evil", "..", ".", "", "a/b", "/tmp/x", "a\0b", "a\\b", "A", "-a", "a" * 49, "a\n", "a.b", "é", "\u202e"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return tell_story(tmp_path_factory.mktemp("told"))


@pytest.fixture
def world(made: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> SiteWorld:
    """A copy of a story in which everything went well once."""
    shutil.copytree(made.place, tmp_path / "world")
    world = SiteWorld(tmp_path / "world", capsys)
    for settings in world.place.glob("*/birthmark.toml"):
        settings.write_text(settings.read_text().replace(str(made.place), str(world.place)))
    return world


def tree(place: Path) -> dict[str, tuple[int, int]]:
    """Return every name below a directory and beside it, with size and mode; locks come and go."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mode)
        for path in place.parent.rglob("*")
        if not path.is_dir() and path.suffix not in (".lock", ".db", ".db-wal", ".db-shm")
    }


def evil_request(world: SiteWorld, **changes: Any) -> bytes:
    """Return the request of a site that exists nowhere, rightly signed by its own key."""
    known = open_request((world.place / "request.note").read_bytes())
    key, origin = Ed25519PrivateKey.generate(), "evil.example/log"
    stations = tuple(
        msgspec.structs.replace(s, vkey=encode_vkey(station_key_name(origin, s.name), public_octets(key)))
        for s in known.stations
    )
    whole = {"site": "evil", "site_prefix": "0404", "stations": stations, **changes}
    request = msgspec.structs.replace(known, origin=origin, vkey=encode_vkey(origin, public_octets(key)), **whole)
    return sign_request(request, key)


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_request_never_become_paths(world: SiteWorld, name: str) -> None:
    station = open_request((world.place / "request.note").read_bytes()).stations[0]
    before = tree(world.place)
    for changes in (
        {"site": name},
        {"stations": (msgspec.structs.replace(station, name=name),)},
        {"mode": "factory_ca", "ca": RequestedCa(name=name, csr=station.csr, key_scheme="file")},
    ):
        evil = world.place.parent / "evil.note"
        evil.write_bytes(evil_request(world, **changes))
        assert world.refused("site", "add", evil, "-C", world.hq) == "document.malformed"
        evil.unlink()
    assert tree(world.place) == before


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_grant_never_become_paths(world: SiteWorld, name: str) -> None:
    """Even the authority itself, or who has its log key, writes nowhere else on a site's disk."""
    grant = open_grant((world.place / "grant.note").read_bytes(), None)
    with open_workspace(world.hq, publish=False) as hq:
        key: Any = hq.private_key(hq.settings.log.key)
    before = tree(world.place)
    ca, station, product = grant.cas[0], grant.stations[0], grant.products[0]
    replace = msgspec.structs.replace
    for changes in (
        {"cas": (replace(ca, name=name),)},
        {"stations": (replace(station, name=name),)},
        {"products": (replace(product, profile_name=name),)},
        {"products": (replace(product, name=name),)},
        {"site": name},
    ):
        evil = world.place.parent / "evil.note"
        evil.write_bytes(sign_grant(replace(grant, at="2030-01-01T00:00:00.000Z", **changes), key))
        assert world.refused("site", "accept", evil, "-C", world.place / "fab") == "document.malformed"
        evil.unlink()
    assert tree(world.place) == before


@pytest.mark.parametrize("name", NAMES)
def test_names_on_the_command_line_never_become_paths(world: SiteWorld, name: str) -> None:
    before = tree(world.place)
    hq = ("-C", world.hq)
    for command in (
        ("order", "create", "--product=device", "--quantity", "1", "--first", "X-1", *hq, "--", name),
        ("site", "show", *hq, "--", name),
        ("site", "grant", *hq, "--", name),
        ("ca", "crl", *hq, "--", name),
        ("order", "assign", "lot", f"--site={name}", *hq),
        ("bundle", "seal", "--order", "lot", f"--site={name}", "-o", world.place / "x.bundle", *hq),
        ("bundle", "seal", f"--order={name}", "--site", "fab", "-o", world.place / "x.bundle", *hq),
    ):
        code, document = world.call(*command)
        assert code in (2, 3), (command, document)
    (world.place / "x.bundle").unlink(missing_ok=True)  # begun where the operator said, and empty
    assert tree(world.place) == before


OUTPUTS: dict[str, tuple[str, ...]] = {
    "report": ("site", "report", "-o", "OUT", "-C", "FAB"),
    "proof": ("audit", "prove", "TH-0001", "-o", "OUT", "-C", "FAB"),
    "bundle": ("bundle", "seal", "--order", "lot", "--site", "fab", "-o", "OUT", "-C", "HQ"),
    "plan": ("approval", "plan", "device.rework", "--fact", "device=TH-0002", "--fact", "reason=x", "-o", "OUT",
             "-C", "HQ"),
    "grant": ("site", "add", "REQUEST", "--output", "OUT", "-C", "HQ"),
}  # fmt: skip


@pytest.mark.parametrize("what", OUTPUTS)
@pytest.mark.parametrize("place", ["{}", ".{}.new", ".{}.tmp", "{}.manifest"])
def test_no_output_is_written_through_a_link_on_the_stick(world: SiteWorld, what: str, place: str) -> None:
    victim = world.place / "victim"
    victim.write_bytes(b"precious")
    stick = world.place / "stick"
    stick.mkdir()
    (stick / place.format("out")).symlink_to(victim)
    known = {"OUT": stick / "out", "FAB": world.place / "fab", "HQ": world.hq, "REQUEST": world.place / "request.note"}
    world.call(*(str(known.get(word, word)) for word in OUTPUTS[what]))
    assert victim.read_bytes() == b"precious"
    assert victim.is_file()


INPUTS: dict[str, tuple[str, ...]] = {
    "request": ("site", "add", "IN", "-C", "HQ"),
    "grant": ("site", "accept", "IN", "-C", "FAB"),
    "ack": ("site", "report", "-o", "OUT", "--ack", "IN", "-C", "FAB"),
    "proof": ("audit", "check-proof", "IN", "--vkey", "x"),
    "bundle": ("bundle", "open", "IN", "-C", "FAB"),
    "plan": ("approval", "show", "IN", "-C", "HQ"),
    "csr": ("access", "grant", "--role", "auditor", "--csr", "IN", "--output", "OUT", "-C", "HQ"),
}  # fmt: skip


@pytest.mark.parametrize("what", INPUTS)
def test_what_is_no_document_on_the_stick_takes_neither_memory_nor_time(world: SiteWorld, what: str) -> None:
    stick = world.place / "stick"
    stick.mkdir()
    os.mkfifo(stick / "pipe")
    (stick / "endless").symlink_to("/dev/zero")
    (stick / "directory").mkdir()
    with (stick / "hole").open("wb") as file:
        file.truncate(1 << 40)
    known = {"OUT": stick / "out", "FAB": world.place / "fab", "HQ": world.hq}
    for name in ("pipe", "endless", "directory", "hole", "missing"):
        if what == "plan" and name == "pipe":
            continue  # read by the person who brought it; it waits until it is interrupted
        words = (stick / name if word == "IN" else known.get(word, word) for word in INPUTS[what])
        code, document = world.call(*map(str, words))
        assert code in (2, 3, 5, 7), (name, document)
    assert not (stick / "out").exists()


def test_nobody_else_can_put_a_link_into_what_sites_sent(world: SiteWorld) -> None:
    before = os.umask(0)
    try:
        world.good("site", "report", "-o", world.place / "again.report", "-C", world.place / "fab")
        shutil.rmtree(world.hq / "sites" / "fab" / "replica")
        world.good("site", "ingest", world.place / "again.report", "-C", world.hq)
        world.good("site", "grant", "fab", "-C", world.hq)
    finally:
        os.umask(before)
    for path in (world.hq / "sites", *(world.hq / "sites").rglob("*")):
        assert path.lstat().st_mode & 0o022 == 0, path


def test_a_site_ca_gives_nothing_to_devices_outside_its_orders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_authority(tmp_path)
    world = SiteWorld(tmp_path, capsys)
    fab = world.join("fab", "factory_ca")
    hq = ("-C", world.hq)
    world.good("order", "create", "lot", "--product", "device", "--quantity", "1", "--first", "TH-0001",
               "--site", "fab", *hq)  # fmt: skip
    world.good("bundle", "seal", "--order", "lot", "--site", "fab", "-o", tmp_path / "lot.bundle", *hq)
    world.good("bundle", "open", tmp_path / "lot.bundle", "-C", fab)
    world.good("order", "make", "lot", "--processes", "1", "-C", fab)

    def provision(serial: str) -> tuple[int, dict[str, Any]]:
        (tmp_path / "dut" / serial).mkdir(parents=True, exist_ok=True)
        return world.call("station", "provision", "--device-serial", serial, "--target",
                          f"files:{tmp_path / 'dut' / serial}", "-C", fab)  # fmt: skip

    assert provision("TH-0001")[0] == 0
    assert provision("TH-0002")[1]["error"] == "device.unknown"
    more = ("order", "create", "more", "--product", "device", "--quantity", "1", "--first", "TH-0002", "-C", fab)
    assert world.refused(*more) == "workspace.role"
    # The site's operator writes one of his own all the same: the log shows it, and the authority stops the site.
    order_at_site(fab, "more", "TH-0002")
    world.good("order", "make", "more", "--processes", "1", "-C", fab)
    assert provision("TH-0002")[0] == 0
    world.good("site", "report", "-o", tmp_path / "fab.report", "-C", fab)
    assert world.call("site", "ingest", tmp_path / "fab.report", *hq)[0] == 7
    found = world.good("site", "show", "fab", *hq)
    assert found["stopped"] is not None
    with open_workspace(world.hq, publish=False) as authority:
        codes = {finding.code for finding in authority.records.findings("fab")}
        assert authority.records.device("TH-0001").state == "verified"
        assert authority.records.device("TH-0002") is None
    assert codes >= {"site.order.foreign", "site.device.foreign"}
    assert world.refused("order", "create", "next", "--product", "device", "--quantity", "1", "--first", "TH-0003",
                         "--site", "fab", *hq) == "site.stopped"  # fmt: skip


def test_noise_that_a_station_posted_does_not_stop_the_reports_of_its_site(world: SiteWorld) -> None:
    inbox = world.hq / "sites" / "fab" / "inbox"
    inbox.mkdir(mode=0o700, exist_ok=True)
    (inbox / f"{'9f' * 32}.report").write_bytes(b"noise")
    world.good("site", "report", "-o", world.place / "again.report", "-C", world.place / "fab")
    told = world.good("site", "ingest", world.place / "again.report", "-C", world.hq)
    assert (told["reports"][0]["outcome"], told["reports"][0]["waiting"]) in (("old", 0), ("taken", 0))
