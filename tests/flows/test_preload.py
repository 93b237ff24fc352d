"""Chips that come with an identity: the manifest is taken in, each is bound to one unit, and the audit agrees."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key, load_pem_private_key

from birthmark.adapters.pkcs11_module import pkcs11_module
from birthmark.shell.throwaway import make_workspace
from support.chipvendor import Chip, ChipVendor, certify, named, self_signed
from support.devicetoken import make_token, start_tokens, token_listing
from support.preloadworld import TARGET, Fab
from support.softhsm import MODULE, PIN


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


def test_from_the_manifest_to_a_verified_unit_and_a_clean_audit(fab: Fab) -> None:
    chips = fab.vendor.chips(5)
    manifest = fab.vendor.manifest(fab.place / "manifest.json", chips)
    taken = fab.good("preload", "ingest", "microchip", manifest)
    assert (taken["devices"], taken["new"], len(taken["cas"])) == (5, True, 2)
    assert fab.good("preload", "ingest", "microchip", manifest)["new"] is False
    fab.order("lot1", "PR-0001")
    fab.unit("PR-0001", chips[0])
    code, outcome = fab.station("bind", "PR-0001")
    assert (code, outcome["status"], outcome["evidence"]) == (0, "pass", "signature")
    assert fab.station("bind", "PR-0001")[1]["status"] == "already"
    shown = fab.good("device", "show", "PR-0001")
    assert (shown["state"], shown["key_origin"], shown["vendor"]) == ("verified", "preloaded", "microchip")
    assert shown["unique_id"] == chips[0].unique_id
    assert shown["certificate"] == chips[0].certificate.public_bytes(Encoding.PEM).decode()
    assert fab.good("preload", "show")["vendors"] == [{"vendor": "microchip", "preloaded": 5, "bound": 1}]
    assert fab.audited() == []
    assert fab.call("ledger", "replay")[0] == 0


def test_a_foreign_identity_is_adopted_once(fab: Fab) -> None:
    fab.order("old", "AD-0001", origin="adopted")
    key = ec.generate_private_key(ec.SECP256R1())
    chip = Chip("none", key, self_signed("anything", key), [])
    fab.unit("AD-0001", chip)
    code, outcome = fab.station("adopt", "AD-0001")
    assert (code, outcome["status"]) == (0, "pass"), outcome
    fab.unit("AD-0002", chip)
    assert fab.station("adopt", "AD-0002")[1]["error"] == "key.reused"
    shown = fab.good("device", "show", "AD-0001")
    assert (shown["key_origin"], shown["cert_sha256"]) == ("adopted", outcome["cert_sha256"])
    assert fab.audited() == []
    assert fab.call("ledger", "replay")[0] == 0


def test_one_bad_element_refuses_the_whole_file(fab: Fab) -> None:
    vendor, path = fab.vendor, fab.place / "m.json"
    good = [vendor.element(chip.payload()) for chip in vendor.chips(3)]
    first = vendor.chip()
    twin = vendor.chip(first.unique_id)
    same_key = vendor.chip(key=first.key)
    stranger = ChipVendor()
    foreign = stranger.chip()
    own_ca = vendor.chip()
    own_ca.certificate = vendor.ca
    own_ca.key = vendor.ca_key
    weak = vendor.chip(key=ec.derive_private_key(7, ec.SECP256R1()))
    cases: list[tuple[str, list[Any]]] = [
        ("preload.id.repeated", [first, twin]),
        ("key.reused", [first, same_key]),
        ("chain.signature", [foreign]),
        ("preload.device_ca", [own_ca]),
        ("key.weak.ec.scalar", [weak]),
    ]
    for code, chips in cases:
        fab.refused(code, vendor.write(path, [*good, *(vendor.element(chip.payload()) for chip in chips)]))
    fab.refused("preload.signer.kid", vendor.write(path, [*good, vendor.element(first.payload(), kid="AAAA")]))
    fab.refused("preload.empty", vendor.write(path, []))
    vendor.write(path, good).write_bytes(path.read_bytes()[:-3])
    fab.refused("preload.json", path)
    fab.good("preload", "ingest", "microchip", vendor.write(path, good))
    more = vendor.write(fab.place / "again.json", [*good[1:], vendor.element(first.payload())])
    fab.refused("key.reused", more)
    assert fab.audited() == []


def test_key_that_our_own_ca_certified_is_no_preloaded_one(fab: Fab) -> None:
    fab.order("born", "BO-0001", origin="device")
    (fab.place / "out" / "BO-0001").mkdir(parents=True)
    options = ("--device-serial", "BO-0001", "--target", f"{TARGET}?key=born")
    fab.good("station", "provision", *options)
    pem = (fab.place / "out" / "BO-0001" / "device.key").read_bytes()
    chip = fab.vendor.chip(key=load_pem_private_key(pem, None))
    fab.refused("key.reused", fab.vendor.manifest(fab.place / "m.json", [chip]))


def test_second_unit_with_the_same_chip_is_a_clone(fab: Fab) -> None:
    chips = fab.ready()
    fab.unit("PR-0001", chips[0])
    assert fab.station("bind", "PR-0001")[0] == 0
    fab.unit("PR-0002", chips[0])
    code, problem = fab.station("bind", "PR-0002")
    assert (code, problem["error"], problem["facts"]["bound_to"]) == (7, "bind.clone", "PR-0001")
    fab.unit("PR-0001", chips[1])
    assert fab.station("bind", "PR-0001")[1]["error"] == "bind.other"
    fab.good("device", "scrap", "PR-0001", "--reason", "broken")
    assert fab.station("bind", "PR-0002")[1]["error"] == "bind.clone"
    fab.unit("PR-0002", chips[1])
    assert fab.station("bind", "PR-0002")[0] == 0
    history = fab.good("device", "show", "PR-0002", "--history")["history"]
    kinds = [event["type"] for event in history]
    assert kinds == ["rejected", "rejected", "requested", "received", "installed", "verified"]
    assert fab.audited() == []
    assert fab.call("ledger", "replay")[0] == 0


def test_certificate_copied_from_a_manifest_proves_nothing(fab: Fab) -> None:
    chips = fab.ready()
    thief = Chip(chips[0].unique_id, ec.generate_private_key(ec.SECP256R1()), chips[0].certificate, chips[0].above)
    fab.unit("PR-0001", thief)
    code, problem = fab.station("bind", "PR-0001")
    assert code != 0
    assert problem["error"] in ("device.key.differs", "target.key.mismatch", "target.file.mismatch"), problem
    assert fab.good("device", "show", "PR-0001")["state"] == "ordered"


def test_unit_that_is_not_the_scanned_one_or_not_in_a_manifest_is_not_bound(fab: Fab) -> None:
    chips = fab.ready()
    fab.unit("PR-0001", fab.vendor.chip())
    assert fab.station("bind", "PR-0001")[1]["error"] == "bind.certificate.unknown"
    place = fab.unit("PR-0002", chips[0])
    (place / "device-id").write_text("some-board\n")
    assert fab.station("bind", "PR-0002")[1]["error"] == "device.identity.mismatch"
    assert fab.station("bind", "PR-0002", "--identity", "some-board")[0] == 0
    place = fab.unit("PR-0003", chips[1])
    (place / "device-id").write_text(chips[1].unique_id.upper() + "\n")
    assert fab.station("bind", "PR-0003")[0] == 0, "a chip may call itself by the id of its vendor"
    assert fab.station("provision", "PR-0004")[1]["error"] == "station.made_elsewhere"
    fab.unit("PR-0004", chips[2])
    assert fab.station("provision", "PR-0004")[1]["error"] == "station.made_elsewhere"
    assert fab.station("adopt", "PR-0004")[1]["error"] == "bind.key_origin"


def test_preloaded_chip_is_not_adopted(fab: Fab) -> None:
    chips = fab.ready()
    fab.order("old", "AD-0001", origin="adopted")
    fab.unit("AD-0001", chips[0])
    assert fab.station("adopt", "AD-0001")[1]["error"] == "adopt.preloaded"


def test_foreign_identity_that_nobody_should_keep_is_not_adopted(fab: Fab) -> None:
    fab.order("old", "AD-0001", origin="adopted")
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = named("AD")
    past = certify(name, key.public_key(), name, key, ca=False, not_after=datetime(2025, 1, 1, tzinfo=UTC))
    forged = certify(name, key.public_key(), name, other, ca=False)
    ca = certify(name, key.public_key(), named("Somebody"), other, ca=True)
    for certificate, code in ((past, "adopt.validity"), (forged, "adopt.signature"), (ca, "adopt.ca")):
        fab.unit("AD-0001", Chip("x", key, certificate, []))
        assert fab.station("adopt", "AD-0001")[1]["error"] == code
    fab.unit("AD-0001", Chip("x", key, self_signed("AD", key, ca=True), []))
    assert fab.station("adopt", "AD-0001")[0] == 0, "what `openssl req -x509` makes says that it is a CA"
    foreign = certify(named("AD2"), other.public_key(), named("Somebody"), key, ca=False)
    fab.unit("AD-0002", Chip("x", other, foreign, []))
    assert fab.station("adopt", "AD-0002")[0] == 0
    assert fab.audited() == []


def test_certificate_serial_of_somebody_else_revokes_nothing_of_ours(fab: Fab) -> None:
    fab.order("born", "BO-0001", origin="device", quantity=1)
    (fab.place / "out" / "BO-0001").mkdir(parents=True)
    fab.good("station", "provision", "--device-serial", "BO-0001", "--target", f"{TARGET}?key=born")
    ours = fab.good("device", "show", "BO-0001")["cert_serial"]
    key = ec.generate_private_key(ec.SECP256R1())
    evil = certify(named("evil"), key.public_key(), named("evil"), key, ca=False, cert_serial=int(ours, 16))
    fab.order("old", "AD-0001", origin="adopted", quantity=1)
    fab.unit("AD-0001", Chip("x", key, evil, []))
    assert fab.station("adopt", "AD-0001")[0] == 0
    fab.good("device", "rework", "AD-0001", "--reason", "let us see")
    assert fab.good("device", "show", "BO-0001")["revoked"] is False
    fab.good("device", "scrap", "AD-0001", "--reason", "enough")
    assert fab.good("device", "show", "BO-0001")["revoked"] is False
    assert fab.audited() == []


def test_unit_with_a_new_chip_is_bound_after_rework_and_the_old_chip_never_again(fab: Fab) -> None:
    chips = fab.ready()
    fab.unit("PR-0001", chips[0])
    assert fab.station("bind", "PR-0001")[0] == 0
    fab.good("device", "rework", "PR-0001", "--reason", "chip replaced")
    assert fab.station("bind", "PR-0001")[1]["error"] == "bind.clone"
    fab.unit("PR-0001", chips[1])
    assert fab.station("bind", "PR-0001")[0] == 0
    assert fab.good("device", "show", "PR-0001")["unique_id"] == chips[1].unique_id
    assert fab.audited() == []
    assert fab.call("ledger", "replay")[0] == 0


def test_chip_behind_pkcs11_is_bound_by_its_own_signature(fab: Fab, monkeypatch: pytest.MonkeyPatch) -> None:
    start_tokens(fab.place / "tokens", monkeypatch)
    monkeypatch.setenv("DUT_PIN", PIN)
    keys = {label: key_in_token(fab.place, label) for label in ("PR-0001", "PR-0002")}
    vendor = fab.vendor
    certificate = certify(named("sn01"), keys["PR-0001"], vendor.ca.subject, vendor.ca_key, ca=False)
    for label in keys:
        (fab.place / "chip.crt").write_bytes(certificate.public_bytes(Encoding.DER))
        write = ("--write-object", str(fab.place / "chip.crt"), "--type", "cert", "--label", "idevid", "--id", "01")
        token_listing(label, *write)
    pkcs11_module(MODULE).stop()
    listed = fab.place / "list.pem"
    listed.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (vendor.ca, certificate)))
    fab.good("preload", "ingest", "microchip", listed)
    fab.order("lot1", "PR-0001")
    target = f"pkcs11:token={{device_serial}};object=idevid?module-path={MODULE}&pin-source=env:DUT_PIN"
    code, problem = fab.call("station", "bind", "--device-serial", "PR-0002", "--target", target)
    assert code == 4, "the certificate is the vendor's, the key in this token is not"
    assert problem["error"].startswith(("device.key", "target."))
    outcome = fab.good("station", "bind", "--device-serial", "PR-0001", "--target", target)
    assert (outcome["status"], outcome["evidence"]) == ("pass", "signature")
    code, problem = fab.call("station", "bind", "--device-serial", "PR-0002", "--target", target)
    assert (code, problem["error"]) == (7, "bind.clone")
    assert fab.audited() == []


def key_in_token(place: Path, label: str) -> ec.EllipticCurvePublicKey:
    """Let `pkcs11-tool` make a key in a token, as a vendor leaves one in a chip; return its public half."""
    make_token(label)
    name = ("--label", "idevid", "--id", "01")
    token_listing(label, "--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--sensitive", *name)
    token_listing(label, "--read-object", "--type", "pubkey", *name, "--output-file", str(place / f"{label}.pub"))
    key = load_der_public_key((place / f"{label}.pub").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key
