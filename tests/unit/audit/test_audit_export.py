"""Exported evidence is checked on a machine without birthmark: sha256sum, openssl, and the script that comes along."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from birthmark.errors import Misconfigured, Tampered, Unavailable
from birthmark.shell.cli.main import main
from birthmark.shell.evidence.directory import Exported, export_evidence
from birthmark.tlog.checkpoint import Checkpoint, sign
from support.make_ledger import ORIGIN
from support.make_sites import FACTORY, LIVE, POOL, World
from support.opensslwitness import OpensslWitness

ENVIRONMENT = ["env", "-i", "PATH=/usr/bin:/bin"]


def _export(root: Path, target: Path) -> Exported:
    return export_evidence(root, target, progress=lambda _done, _total: None)


def _run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ENVIRONMENT, *command], cwd=directory, capture_output=True, text=True, check=False)


def _check(directory: Path, *vkey: str) -> subprocess.CompletedProcess[str]:
    python = shutil.which("python3", path="/usr/bin:/bin")
    assert python, "python3 of the system is needed"
    return _run(directory, python, "-I", "check.py", ".", *vkey)


@pytest.fixture(scope="module")
def evidence(whole_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("evidence") / "out"
    made = _export(whole_world.root / "authority", target)
    assert (made.sites, made.receipts, made.entries) == (3, 0, 80)
    return target


def test_the_procedure_of_the_readme_passes_without_birthmark(evidence: Path, whole_world: World) -> None:
    readme = (evidence / "README.txt").read_text()
    steps = re.findall(r"^\d\.  (.+)$", readme, re.MULTILINE)
    assert steps[0] == "sha256sum -c MANIFEST.sha256"
    assert steps[1] == f"python3 -I check.py .  '{whole_world.authority.vkey}'"
    for step in steps[:2]:
        done = _run(evidence, "sh", "-c", step)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "GOOD"
    for site in (FACTORY, POOL, LIVE):
        assert f"{ORIGIN}/site/{site}: " in done.stdout
    certificate = evidence.parent / "device.pem"
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    der = whole_world.authority.identities["K-00002"].certificate
    certificate.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    by_hand = steps[2].replace("ROOT", "root").replace("ISSUING", "issuing").replace("DEVICE.pem", str(certificate))
    assert _run(evidence, "sh", "-c", by_hand).returncode == 0


@pytest.mark.parametrize("part", [FACTORY, POOL, LIVE])
def test_a_site_exports_its_own_evidence(whole_world: World, tmp_path: Path, part: str) -> None:
    made = _export(whole_world.root / part, tmp_path / "out")
    assert made.receipts >= 2
    assert made.sites == 0
    done = _check(tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr


def test_any_flipped_file_fails(evidence: Path, tmp_path: Path, flip: Callable[[Path, int], None]) -> None:
    copy = Path(shutil.copytree(evidence, tmp_path / "copy"))
    for path in sorted(p for p in copy.rglob("*") if p.is_file() and p.name != "check.py"):
        at = path.stat().st_size // 2
        flip(path, at)
        assert _check(copy).returncode != 0, path
        flip(path, at)
    assert _check(copy).returncode == 0


def _with_manifest(directory: Path) -> None:
    """Write the manifest again, as a forger would."""
    names = sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
    command = ["sha256sum", *(name for name in names if name != "MANIFEST.sha256")]
    (directory / "MANIFEST.sha256").write_text(_run(directory, *command).stdout)


def test_forgery_with_a_new_manifest_still_fails(
    evidence: Path, tmp_path: Path, flip: Callable[[Path, int], None]
) -> None:
    copy = Path(shutil.copytree(evidence, tmp_path / "copy"))
    for name in ("log/checkpoint", "log/tile/entries/000.p/80", "log/tile/0/000.p/80", "sites/beta/log/checkpoint"):
        path = copy / name
        flip(path, path.stat().st_size // 2)
        _with_manifest(copy)
        done = _check(copy)
        assert done.returncode != 0, name
        flip(path, path.stat().st_size // 2)
    _with_manifest(copy)
    assert _check(copy).returncode == 0
    (copy / "more").write_text("x")
    assert _check(copy).returncode != 0


def test_another_key_than_the_auditor_knows_fails(evidence: Path, whole_world: World) -> None:
    done = _check(evidence, whole_world.sites[POOL].vkey)
    assert done.returncode != 0
    assert "not the key that you gave" in done.stderr


def test_cosigned_heads_are_checked_with_common_tools(whole_world: World, world_root: Path, tmp_path: Path) -> None:
    """The log signed them, holds what is under them, and each witness that the auditor names is one of them."""
    mine, other = (OpensslWitness(tmp_path / name, f"{name}.example") for name in ("w1", "w2"))
    root, vkey = world_root / "authority", whole_world.authority.vkey
    old = (root / "log/checkpoint").read_bytes()
    cosigned = old + mine.line(old, 1_790_000_000)
    (root / "log/cosigned").write_bytes(cosigned)
    report = (root / f"sites/{POOL}/log/checkpoint").read_bytes()
    (root / f"sites/{POOL}/log/cosigned").write_bytes(report + other.line(report, 1_790_000_000))
    out = tmp_path / "out"
    _export(root, out)
    plain = _check(out)
    assert plain.returncode == 0, plain.stderr
    assert "a head of 80 entries was cosigned; give the keys" in plain.stdout
    good = _check(out, vkey, mine.vkey)
    assert good.returncode == 0, good.stderr
    assert f"{ORIGIN}: w1.example saw 80 of the 80 entries at 2026-09-21 14:13:20 UTC" in good.stdout
    both = _check(out, vkey, mine.vkey, other.vkey)
    assert "FAILED: w2.example did not cosign the head in log/cosigned" in both.stderr
    assert f"{ORIGIN}/site/{POOL}: w2.example saw " in both.stdout
    assert "not an Ed25519 key of type 4" in _check(out, vkey, vkey).stderr
    less = old.replace(b"\n80\n", b"\n79\n")
    for what, forged in (
        ("FAILED: openssl pkeyutl", old + mine.line(less, 1_790_000_000)),
        ("FAILED: openssl pkeyutl", less + mine.line(less, 1_790_000_000)),
        ("did not sign a note", report + mine.line(report, 1_790_000_000)),
        ("did not cosign the head", old),
    ):
        (out / "log/cosigned").write_bytes(forged)
        _with_manifest(out)
        assert what in _check(out, vkey, mine.vkey).stderr


def test_a_log_that_left_its_cosigned_head_is_found(whole_world: World, world_root: Path, tmp_path: Path) -> None:
    """The key of the log signs whatever it is told: two heads of one log that do not agree."""
    witness, root = OpensslWitness(tmp_path / "w", "w.example"), world_root / "authority"
    head = sign(Checkpoint(ORIGIN, 41, bytes(32)), whole_world.authority.log_key).encode()
    (root / "log/cosigned").write_bytes(head + witness.line(head, 1_790_000_000))
    _export(root, tmp_path / "out")
    done = _check(tmp_path / "out", whole_world.authority.vkey, witness.vkey)
    assert "the log does not hold the 41 entries that were cosigned" in done.stderr


def test_export_by_the_command_line(story, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    assert main(["audit", "export", str(story.root), "-o", str(target)]) == 0
    assert "check.py" in capsys.readouterr().out
    done = _check(target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "305 certificates, 23 receipts" in done.stdout
    assert main(["audit", "export", str(story.root), "-o", str(target), "--json"]) == 2


def test_export_refuses_what_is_no_evidence(story, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    with pytest.raises(Misconfigured, match=r"audit\.export\.exists"):
        _export(story.root, tmp_path / "full")
    with pytest.raises(Misconfigured, match=r"audit\.workspace\.missing"):
        _export(tmp_path / "nowhere", tmp_path / "out")
    (story.root / "log/tile/entries/000").unlink()
    shutil.rmtree(story.root / "log/tile/entries/000.p", ignore_errors=True)
    with pytest.raises(Tampered, match=r"audit\.export\.incomplete"):
        _export(story.root, tmp_path / "out1")
    assert not (tmp_path / "out1/MANIFEST.sha256").exists()
    (story.root / "log/checkpoint").unlink()
    with pytest.raises(Unavailable, match=r"audit\.export\.unpublished"):
        _export(story.root, tmp_path / "out2")
