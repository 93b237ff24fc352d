"""`site add` and `site accept` under faults at their syncs and renames; the same command again ends as if nothing was.

Whatever happens, one request leads to one site, one certificate a station and one CA, and the grant that is written
holds exactly those that are on record.
"""

from __future__ import annotations

import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from test_commands_under_faults import Fault, must, run

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.model.events import decode_entry
from birthmark.shell.workspace.config import load_settings
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.wiring import Workspace
from birthmark.wire.site import open_grant

ADD = ("site", "add", "fab/site-request.note", "-C", "hq", "--output", "fab.grant")
ACCEPT = ("site", "accept", "fab.grant", "-C", "fab")
POINTS = 5
"""Of each call so many are struck, the first and the last among them."""
FILES = ("tls/line1.pem", "ca/root.pem", "ca/fab-ca-1.pem", "profiles/tls-client.toml", "settings.d/grant.toml")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority ``hq`` and a site ``fab`` that has asked."""
    place = tmp_path_factory.mktemp("asked")
    must("init", "hq", "--maker", "Acme", "--profile", "tls-client", "--value", "pen=99999", cwd=place)
    must("ceremony", "run", "hq/ceremony.toml", "-C", "hq", cwd=place)
    must("site", "init", "fab", "--mode", "factory_ca", "--authority-origin", "hq.example/birthmark", cwd=place)
    return place


@pytest.fixture(scope="module")
def granted(asked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the grant on its way."""
    place = tmp_path_factory.mktemp("granted") / "place"
    shutil.copytree(asked, place)
    must(*ADD, cwd=place)
    return place


def faults_of(command: tuple[str, ...], place: Path) -> list[Fault]:
    log = place.parent / "trace"
    done = run(*command, cwd=place, log=log)
    assert done.returncode == 0, done.stdout + done.stderr
    called = [match[1] for line in log.read_text().splitlines() if (match := re.match(r"\d+\s+(\w+)\(", line))]
    found = []
    for call in ("fdatasync", "fsync", "rename"):
        total = called.count(call)
        assert total > 1
        points = sorted({1 + step * (total - 1) // (POINTS - 1) for step in range(POINTS)})
        found += [Fault(call, number, ("kill", "EIO")[at % 2]) for at, number in enumerate(points)]
    return found


def opened(root: Path) -> Workspace:
    return Workspace(root, load_settings(root), SecretsResolver())


def check_authority(place: Path) -> None:
    hq = opened(place / "hq")
    grant = open_grant((place / "fab.grant").read_bytes(), None)
    assert [site.site for site in hq.records.sites()] == ["fab"]
    (access,) = hq.records.accesses()
    ((_, entry),) = hq.ledger.entries(access.seq, 1)
    assert [station.certificate for station in grant.stations] == [decode_entry(entry)[1]]
    assert [ca.certificate for ca in grant.cas if ca.delegated] == [hq.records.ca("fab-ca-1").certificate]
    assert {ca.ca for ca in hq.records.cas()} == {"root", "issuing", "access", "fab-ca-1"}
    hq.close()
    report = verify_workspace(place / "hq", processes=1)
    assert [f"{f.code} {f.what}" for f in report.findings if f.severity == "error"] == []


def check_site(place: Path) -> None:
    site = opened(place / "fab")
    data = (place / "fab.grant").read_bytes()
    assert (place / "fab" / "grant.note").read_bytes() == data
    assert site.product("device").ca == "fab-ca-1"
    assert len(site.chain("fab-ca-1")) == 2
    accepted = [
        event.grant_sha256  # type: ignore[union-attr]
        for _, entry in site.ledger.entries(0, site.ledger.head().size)
        if (event := decode_entry(entry)[0]).__struct_config__.tag == "grant_accepted"
    ]
    assert set(accepted) == {sha256(data).hexdigest()}
    assert all((place / "fab" / name).exists() for name in FILES)
    site.close()


def strike(source: Path, command: tuple[str, ...], tmp_path: Path) -> list[Path]:
    """Return a directory for each fault, after the same command was run again without it."""
    rehearsal = tmp_path / "rehearsal"
    shutil.copytree(source, rehearsal)
    places = []
    for fault in faults_of(command, rehearsal):
        place = tmp_path / str(fault)
        shutil.copytree(source, place)
        broken = run(*command, cwd=place, fault=fault)
        assert "Traceback" not in broken.stderr, f"{fault}: {broken.stderr[-2000:]}"
        again = run(*command, cwd=place)
        assert again.returncode == 0, f"after {fault}: {again.stderr}"
        places.append(place)
    return places


def test_a_site_is_taken_in_once(asked: Path, tmp_path: Path) -> None:
    for place in strike(asked, ADD, tmp_path):
        check_authority(place)


def test_a_grant_is_accepted_whole(granted: Path, tmp_path: Path) -> None:
    for place in strike(granted, ACCEPT, tmp_path):
        check_site(place)
