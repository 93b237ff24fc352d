"""Lists, bundles and delegated CAs of vendors; archives that would harm; the quota."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from support.approvers import Desk
from support.chipvendor import Chip, ChipVendor, certify, der
from support.preloadworld import Fab
from support.sitepair import Pair


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fab")
    make_workspace(place / "fab")
    return place


@pytest.fixture
def fab(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fab:
    shutil.copytree(made / "fab", tmp_path / "fab")
    monkeypatch.chdir(tmp_path)
    return Fab(tmp_path, capsys)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def archive(path: Path, members: dict[str, bytes], kind: str) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, data in members.items():
                out.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_same_chips_come_in_every_form(fab: Fab) -> None:
    vendor = fab.vendor
    everything: list[Path] = []
    text = fab.place / "list.pem"
    text.write_bytes(b"# lot 7\n" + pem(*(chip.certificate for chip in vendor.chips(2)), vendor.ca))
    rows = fab.place / "list.csv"
    listed = vendor.chips(2)
    lines = [f"{chip.unique_id},{base64.b64encode(der(chip.certificate)).decode()},x" for chip in listed]
    lines.append(f'ca,"{pem(vendor.ca).decode()}",x')
    rows.write_text("unique_id,certificate,note\n" + "\n".join(lines) + "\n")
    everything += [text, rows]
    for kind in ("zip", "tar", "tgz"):
        members = {f"lot/{chip.unique_id}.der": der(chip.certificate) for chip in vendor.chips(2)}
        everything.append(archive(fab.place / f"lot.{kind}", {**members, "ca.pem": pem(vendor.ca)}, kind))
    place = fab.place / "lot"
    place.mkdir()
    for chip in vendor.chips(2):
        (place / f"{chip.unique_id}.crt").write_bytes(pem(chip.certificate, vendor.ca))
    everything.append(place)
    for path in everything:
        assert fab.good("preload", "ingest", "microchip", path)["devices"] == 2, path
        assert fab.good("preload", "ingest", "microchip", path)["new"] is False
    assert fab.good("preload", "show")["vendors"][0]["preloaded"] == 12
    fab.order("lot1", "PR-0001")
    fab.unit("PR-0001", listed[0])
    assert fab.station("bind", "PR-0001")[0] == 0
    assert fab.good("device", "show", "PR-0001")["unique_id"] == listed[0].unique_id
    assert fab.audited() == []
    assert fab.call("ledger", "replay")[0] == 0


def test_archives_that_would_harm_are_refused_and_nothing_is_written(fab: Fab) -> None:
    chip = fab.vendor.chip()
    good = {"a.der": der(chip.certificate)}
    for kind in ("zip", "tar"):
        for name in ("../../evil.der", "/etc/evil.der", "a/../../evil.der", "a\\..\\evil.der"):
            path = archive(fab.place / f"evil.{kind}", {**good, name: der(chip.certificate)}, kind)
            fab.refused("preload.archive", path)
        fab.refused("preload.archive", archive(fab.place / f"big.{kind}", {**good, "b.der": bytes(1 << 20)}, kind))
        fab.refused("preload.certificate", archive(fab.place / f"txt.{kind}", {**good, "readme": b"hello"}, kind))
    with tarfile.open(fab.place / "link.tar", "w") as tar:
        link = tarfile.TarInfo("a.der")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    fab.refused("preload.archive", fab.place / "link.tar")
    (fab.place / "bomb.tgz").write_bytes(gzip.compress(bytes(64 << 20)))
    fab.refused("preload.archive", fab.place / "bomb.tgz")
    lying = archive(fab.place / "lying.zip", {"a.der": bytes(1 << 20)}, "zip")
    data = lying.read_bytes()
    size = (1 << 20).to_bytes(4, "little")
    lying.write_bytes(data.replace(size, (100).to_bytes(4, "little")))
    fab.refused("preload.archive", lying)
    place = fab.place / "links"
    place.mkdir()
    (place / "a.der").symlink_to("/etc/passwd")
    fab.refused("preload.archive", place)
    os.mkfifo(fab.place / "pipe")
    fab.refused("preload.file", fab.place / "pipe")
    fab.refused("preload.json", _write(fab.place / "deep.json", b"[" * 200_000))
    fab.refused("preload.list", _write(fab.place / "line.csv", b"unique_id,certificate\n" + b"x" * 200_000))
    assert not (fab.place / "evil.der").exists()


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def delegated(fab: Fab, name: str = "lot7", quota: int = 2) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Let OpenSSL make the vendor's key and request; return the key and the CA that we signed for it."""
    key, csr, crt = (fab.place / f"{name}.{end}" for end in ("key", "csr", "crt"))
    subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", csr, "-subj", "/"],
        check=True, capture_output=True,
    )  # fmt: skip
    fab.good("preload", "delegate", "microchip", "--name", name, "--csr", csr, "--product", "device",
             "--quota", str(quota), "--output", crt)  # fmt: skip
    loaded = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded, x509.load_pem_x509_certificate(crt.read_bytes())


def test_vendor_signs_below_our_ca_within_its_quota_and_no_further(fab: Fab) -> None:
    key, ca = delegated(fab)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert ca.extensions.get_extension_for_class(x509.NameConstraints).critical

    def chip(number: int) -> Chip:
        own = ec.generate_private_key(ec.SECP256R1())
        subject = _below(ca, f"chip-{number}")
        return Chip(f"chip-{number}", own, certify(subject, own.public_key(), ca.subject, key, ca=False), [ca])

    chips = [chip(number) for number in range(3)]
    fab.refused("preload.quota", fab.vendor.manifest(fab.place / "three.json", chips))
    fab.good("preload", "ingest", "microchip", fab.vendor.manifest(fab.place / "two.json", chips[:2]))
    assert fab.good("preload", "show")["cas"][0]["used"] == 2
    fab.refused("preload.quota", fab.vendor.manifest(fab.place / "more.json", chips[2:]))
    fab.order("lot1", "PR-0001")
    fab.unit("PR-0001", chips[0])
    assert fab.station("bind", "PR-0001")[0] == 0
    assert fab.audited() == []
    assert fab.call("ledger", "replay")[0] == 0


def _below(ca: x509.Certificate, name: str) -> x509.Name:
    """Return a subject that the name constraints of ``ca`` permit."""
    limits = ca.extensions.get_extension_for_class(x509.NameConstraints).value
    head = [*limits.permitted_subtrees[0].value] if limits.permitted_subtrees else []
    return x509.Name([*head, x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])


def test_delegated_ca_makes_no_ca_and_signs_for_no_other_vendor(fab: Fab) -> None:
    key, ca = delegated(fab, quota=10)
    below_key, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    below = certify(_below(ca, "Below"), below_key.public_key(), ca.subject, key, ca=True)
    subject = _below(ca, "chip")
    chip = Chip("chip", own, certify(subject, own.public_key(), below.subject, below_key, ca=False), [below, ca])
    fab.refused("chain.path_length", fab.vendor.manifest(fab.place / "m.json", [chip]))
    other = ChipVendor("other")
    other.settle(fab.place / "fab")
    direct = Chip("chip", own, certify(subject, own.public_key(), ca.subject, key, ca=False), [ca])
    path = other.manifest(fab.place / "other.json", [direct])
    assert fab.call("preload", "ingest", "other", path)[1]["error"] in ("chain.no_issuer", "preload.issuer")
    for number, name in enumerate((x509.DNSName("cloud.example"), x509.IPAddress(IPv4Address("192.0.2.1")))):
        outside = certify(subject, own.public_key(), ca.subject, key, ca=False, also=name)
        path = fab.vendor.manifest(fab.place / f"n{number}.json", [Chip("chip", own, outside, [ca])])
        fab.refused("chain.name_constraints", path)


def test_under_dual_control_a_manifest_and_a_delegation_need_approvals_of_exactly_that(
    fab: Fab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSON_SECRET", "each to their own")
    desk = Desk(fab.place, fab.capsys)
    desk.good(*desk.set_rule(2, desk.person("alice"), desk.person("bob")))
    chips = fab.vendor.chips(3)
    manifest, other = (fab.vendor.manifest(fab.place / f"{n}.json", some) for n, some in ((1, chips[:2]), (2, chips)))
    fab.refused("approval.missing", manifest)
    plan = fab.place / "ingest.plan"
    fab.good("preload", "ingest", "microchip", manifest, "--plan-only", plan)
    for name in ("alice", "bob"):
        desk.sign(plan, name)
    fab.refused("approval.other", other, "--approval", str(plan))
    assert fab.good("preload", "ingest", "microchip", manifest, "--approval", plan)["devices"] == 2
    subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", fab.place / "v.key", "-out", fab.place / "v.csr", "-subj", "/"],
        check=True, capture_output=True,
    )  # fmt: skip
    wish = ("preload", "delegate", "microchip", "--name", "lot7", "--csr", fab.place / "v.csr", "--product", "device",
            "--output", fab.place / "v.crt")  # fmt: skip
    assert fab.call(*wish, "--quota", "5")[1]["error"] == "approval.missing"
    plan = fab.place / "delegate.plan"
    fab.good(*wish, "--quota", "5", "--plan-only", plan)
    for name in ("alice", "bob"):
        desk.sign(plan, name)
    assert fab.call(*wish, "--quota", "6", "--approval", plan)[1]["error"] == "approval.other"
    fab.good(*wish, "--quota", "5", "--approval", plan)
    assert fab.audited() == []


def test_such_devices_are_taken_over_at_the_authority_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = Pair.make(tmp_path / "world")
    site = pair.add_site("fab", "pool")

    def refused(code: str, *arguments: str | Path) -> None:
        capsys.readouterr()
        assert main([*map(str, arguments), "--json"]) == 3
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == code

    for origin in ("preloaded", "adopted"):
        wish = ("--product", "device", "--quantity", "1", "--first", f"{origin}-1", "--key-origin", origin)
        assert main(["order", "create", origin, *wish, "-C", str(pair.hq)]) == 0
        refused("order.assignment.origin", "order", "assign", origin, "--site", "fab", "-C", pair.hq)
    vendor = ChipVendor()
    vendor.settle(site.root)
    manifest = vendor.manifest(tmp_path / "m.json", vendor.chips(1))
    refused("preload.role", "preload", "ingest", "microchip", manifest, "-C", site.root)
    (tmp_path / "X-1").mkdir()
    device = ("--device-serial", "X-1", "--target", f"files:{tmp_path}/X-1", "-C", site.root)
    refused("bind.role", "station", "bind", *device)
    refused("bind.role", "station", "adopt", *device)
