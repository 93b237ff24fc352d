"""Witnesses of the logs that sites sent home: demanded where the policy names the log, by the same code."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from birthmark.adapters.audit.verify import Report, verify_workspace
from birthmark.shell.evidence.witnessed import check_workspace, open_demand
from support.make_sites import FACTORY, LIVE, POOL, World
from support.opensslwitness import OpensslWitness

NOW = datetime(2026, 11, 26, tzinfo=UTC)


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> OpensslWitness:
    return OpensslWitness(tmp_path_factory.mktemp("openssl") / "w", "w.example")


def cosign(witness: OpensslWitness, log: Path) -> None:
    note = (log / "checkpoint").read_bytes()
    (log / "cosigned").write_bytes(note + witness.line(note, int(NOW.timestamp()) - 3600))


def audit(root: Path, world: World, witness: OpensslWitness, *sites: str, hours: int = 2) -> Report:
    keys = [world.authority.vkey, *(world.sites[site].vkey for site in sites)]
    policy = root.parent / "policy"
    policy.write_text("".join(f"log {key}\n" for key in keys) + f"witness w {witness.vkey}\nquorum w\n")
    report = verify_workspace(root, processes=1)
    assert report.findings == []
    check_workspace(root, report, open_demand(policy, (), timedelta(hours=hours)), NOW)
    return report


def test_mirrored_logs_need_witnesses_where_the_policy_names_them(
    world_root: Path, whole_world: World, witness: OpensslWitness
) -> None:
    root = world_root / "authority"
    assert audit(root, whole_world, witness).totals == {"audit.witness.quorum": 1}
    cosign(witness, root / "log")
    alone = audit(root, whole_world, witness)
    assert (alone.totals, list(alone.witnessed)) == ({}, ["log"])
    both = audit(root, whole_world, witness, POOL, LIVE)
    assert both.totals == {"audit.witness.quorum": 2}
    assert {finding.where for finding in both.findings} == {f"sites/{POOL}/log", f"sites/{LIVE}/log"}
    for site in (POOL, LIVE):
        cosign(witness, root / "sites" / site / "log")
    good = audit(root, whole_world, witness, POOL, LIVE)
    assert good.totals == {}
    assert good.witnessed[f"sites/{POOL}/log"]["witnesses"] == {"w.example": "2026-11-25T23:00:00Z"}
    assert audit(root, whole_world, witness, POOL, LIVE, hours=1).totals == {}
    (root / "sites" / POOL / "log" / "cosigned").replace(root / "sites" / LIVE / "log" / "cosigned")
    crossed = audit(root, whole_world, witness, POOL, LIVE)
    assert crossed.totals == {"audit.witness.quorum": 1, "audit.witness.rewritten": 1}
    assert audit(root, whole_world, witness, FACTORY).totals == {"audit.witness.quorum": 1}


def test_a_mirror_that_is_gone_was_seen_by_nobody(
    world_root: Path, whole_world: World, witness: OpensslWitness
) -> None:
    root = world_root / "authority"
    cosign(witness, root / "log")
    report = verify_workspace(root, processes=1)
    audit(root, whole_world, witness, POOL)
    shutil.rmtree(root / "sites" / POOL)
    check_workspace(root, report, open_demand(root.parent / "policy", (), None), NOW)
    assert report.totals == {"audit.witness.quorum": 1}
    assert f"no mirror of {report.sites[POOL]}" in report.findings[0].what
