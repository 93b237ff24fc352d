"""Dual control where keys travel: two persons for a site's CA, a bundle sealed or opened, a person let in, a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.approvers import Desk
from support.siteworld import SiteWorld, make_authority, openssl


class Guarded(SiteWorld):
    """An authority and its sites; ``alice`` and ``bob`` both approve, with keys of their own."""

    @property
    def desk(self) -> Desk:
        return Desk(self.place, self.capsys)

    def rule(self, workspace: Path) -> None:
        vkeys = [(self.place / "people" / f"{name}.vkey").read_text() for name in ("alice", "bob")]
        named = [word for vkey in vkeys for word in ("--approver", vkey)]
        self.good("approval", "set", "--threshold", "2", *named, "-C", workspace)

    def approved(self, *command: str | Path) -> Path:
        """Let a command write its plan and both sign it."""
        plan = self.place / f"plan-{len(list(self.place.glob('plan-*')))}"
        self.good(*command, "--plan-only", plan)
        for name in ("alice", "bob"):
            self.desk.sign(plan, name)
        return plan

    def needs_two(self, *command: str | Path) -> None:
        """Run a command: refused without approvals and with one, done with two."""
        assert self.refused(*command) == "approval.missing"
        plan = self.approved(*command)
        alone = self.place / "alone"
        alone.write_bytes(b"".join(plan.read_bytes().splitlines(keepends=True)[:-1]))
        assert self.refused(*command, "--approval", alone) == "approval.too_few"
        self.good(*command, "--approval", plan)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("guarded")
    make_authority(place)
    return place


@pytest.fixture
def world(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Guarded:
    monkeypatch.setenv("PERSON_SECRET", "each to their own")
    shutil.copytree(made / "hq", tmp_path / "hq")
    settings = tmp_path / "hq" / "birthmark.toml"
    settings.write_text(settings.read_text().replace(str(made), str(tmp_path)))
    world = Guarded(tmp_path, capsys)
    desk = world.desk
    for name in ("alice", "bob"):
        (tmp_path / "people" / f"{name}.vkey").write_text(desk.person(name))
    return world


def clean(world: Guarded, *workspaces: Path) -> None:
    for workspace in workspaces:
        found = world.good("audit", "verify", workspace)["findings"]
        assert [item for item in found if item["severity"] == "error"] == []


def test_a_pool_goes_out_and_comes_in_under_four_eyes(world: Guarded) -> None:
    site = world.join("fab", "pool")
    world.good("order", "create", "lot", "--product", "device", "--quantity", "3", "--first", "PL-1", "--site", "fab",
               "-C", world.hq)  # fmt: skip
    world.good("order", "make", "lot", "--processes", "1", "-C", world.hq)
    for workspace in (world.hq, site):
        world.rule(workspace)
    stick = world.place / "lot.bundle"
    world.needs_two("bundle", "seal", "--order", "lot", "--site", "fab", "-o", stick, "-C", world.hq)
    world.needs_two("bundle", "open", stick, "-C", site)
    clean(world, world.hq, site)


def test_a_site_gets_its_ca_under_four_eyes(world: Guarded) -> None:
    world.rule(world.hq)
    request = world.init("fab", "factory_ca")
    world.needs_two("site", "add", request, "-C", world.hq)
    site = world.place / "fab"
    world.accept("fab", world.hq / "sites" / "fab" / "grant.note")
    world.good("site", "ca", "fab-ca-2", "--output", world.place / "next.csr", "-C", site)
    world.needs_two("site", "delegate", "fab", "--name", "fab-ca-2", "--csr", world.place / "next.csr", "-C", world.hq)
    clean(world, world.hq)


def test_a_site_without_a_ca_is_added_by_one(world: Guarded) -> None:
    world.rule(world.hq)
    world.join("fab", "pool")


def test_a_person_is_let_in_under_four_eyes_and_for_that_key_alone(world: Guarded) -> None:
    world.rule(world.hq)
    for name in ("ada", "eve"):
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ada",
                "-keyout", world.place / f"{name}.key", "-out", world.place / f"{name}.csr")  # fmt: skip
    grant = ("access", "grant", "--role", "operator", "--output", world.place / "ada.pem", "-C", world.hq)
    plan = world.approved(*grant, "--csr", world.place / "ada.csr")
    assert world.refused(*grant, "--csr", world.place / "eve.csr", "--approval", plan) == "approval.other"
    world.good(*grant, "--csr", world.place / "ada.csr", "--approval", plan)
    clean(world, world.hq)


def test_a_copy_of_the_keys_is_made_under_four_eyes_and_once(world: Guarded) -> None:
    world.rule(world.hq)
    copied = world.place / "copy.db"
    export = ("ledger", "export", "--sqlite", copied, "-C", world.hq)
    plan = world.approved(*export)
    world.good(*export, "--approval", plan)
    copied.unlink()
    assert world.refused(*export, "--approval", plan) == "approval.used"
