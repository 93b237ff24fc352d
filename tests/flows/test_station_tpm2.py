"""A gateway with a TPM on the line: no certificate before the TPM has shown that the key is in it."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.model.events import StationAdded, Verified, decode_entry
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.wire.receipt import AttestationPart, Receipt, open_receipt
from support.swtpm import Swtpm, board_state, ek_roots, start_tpm

SERIAL = "GW-0001"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_workspace(tmp_path / "fab")
    settings = tmp_path / "fab" / "birthmark.toml"
    text = settings.read_text()
    assert "[products.device]\n" in text
    settings.write_text(text.replace("[products.device]\n", '[products.device]\nresidency = "attested"\n'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    options = ["--product", "device", "--quantity", "2", "--first", SERIAL, "--key-origin", "device"]
    assert main(["order", "create", "gateways", *options, "--json"]) == 0
    return tmp_path


@pytest.fixture
def tpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Swtpm:
    return start_tpm(tmp_path / "tpm", monkeypatch, board_state(SERIAL))


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def provision(capsys: pytest.CaptureFixture[str], target: str, serial: str = SERIAL) -> Any:
    return called(capsys, "station", "provision", "--device-serial", serial, "--target", target)


def uri(tpm: Swtpm, roots: Path | None) -> str:
    named = "" if roots is None else f"&ek-roots={quote(str(roots))}"
    return f"tpm2:0x81010100?tcti={tpm.tcti}{named}"


def receipt_of(place: Path, device_serial: str) -> Receipt:
    """Return the receipt on record, its signature checked with the key of the station on record."""
    vkey, found = "", b""
    with open_workspace(place / "fab", publish=False) as opened:
        for _, entry in opened.ledger.entries(0, opened.ledger.head().size):
            event, extra = decode_entry(entry)
            if isinstance(event, StationAdded):
                vkey = event.vkey
            if isinstance(event, Verified) and event.device == device_serial:
                found = extra
    return open_receipt(found, vkey)


def test_gateway_gets_an_identity_that_lives_in_its_tpm(
    place: Path, tpm: Swtpm, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = ek_roots(place)
    code, lines = provision(capsys, uri(tpm, roots))
    assert (code, lines[-1]["status"]) == (0, "pass")
    steps = [line["step"] for line in lines]
    assert steps == ["probe", "make_key", "attest", "obtain", "install", "prove", "verify", "record", "provision"]
    assert sha256(tpm.tool("tpm2_nvread", "0x01800100")).hexdigest() == lines[-1]["cert_sha256"]
    shown = receipt_of(place, SERIAL).attestation
    assert isinstance(shown, AttestationPart)
    root = x509.load_pem_x509_certificates(roots.read_bytes())[0].public_bytes(Encoding.DER)
    assert shown.kind == "tpm2-credential"
    assert shown.anchor_sha256 == sha256(root).hexdigest()
    statement = json.loads(b64decode(shown.statement))
    assert b64decode(statement["ek_certificates"][0]) == tpm.tool("tpm2_nvread", "0x1c00016")
    code, again = provision(capsys, uri(tpm, roots))
    assert (code, again[-1]["status"]) == (0, "already")
    assert called(capsys, "audit", "verify", "fab")[0] == 0


def test_no_certificate_without_makers_or_for_a_tpm_of_a_stranger(
    place: Path, tpm: Swtpm, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = provision(capsys, uri(tpm, None))
    assert (code, lines[-1]["error"]) == (3, "station.residency")
    code, lines = provision(capsys, uri(tpm, ek_roots(place, maker="stranger")))
    assert (code, lines[-1]["error"]) == (4, "target.tpm.ek_untrusted")
    code, (shown,) = called(capsys, "device", "show", SERIAL)
    assert (code, shown["state"], shown["log_entry"]) == (0, "ordered", None)
    code, lines = provision(capsys, uri(tpm, ek_roots(place)), "GW-0002")
    assert (code, lines[-1]["error"]) == (4, "device.identity.mismatch")
    code, lines = provision(capsys, uri(tpm, ek_roots(place)))
    assert (code, lines[-1]["status"]) == (0, "pass")
    assert called(capsys, "audit", "verify", "fab")[0] == 0


def test_registration_of_the_tpm_for_a_cloud(place: Path, tpm: Swtpm, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["device", "tpm-registration", SERIAL, "--target"]
    code, (document,) = called(capsys, *command, uri(tpm, None))
    assert (code, document["registrationId"]) == (0, "gw-0001")
    tpm.tool("tpm2_readpublic", "-Q", "-c", "0x81010001", "-o", "ek.pub")
    assert b64decode(document["attestation"]["tpm"]["endorsementKey"]) == Path("ek.pub").read_bytes()
    assert main([*command, uri(tpm, None)]) == 0
    assert "gw-0001" in capsys.readouterr().out
    (place / SERIAL).mkdir()
    assert called(capsys, *command, f"files:{SERIAL}")[0] == 2
    command[2] = "GW-0002"
    assert called(capsys, *command, uri(tpm, None))[0] == 4
