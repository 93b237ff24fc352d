"""The layout ``windows``: the PFX as OpenSSL opens it, the script as a PowerShell grammar reads it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from birthmark.adapters.targets.files import FilesTarget
from birthmark.errors import DeviceFault, Misconfigured, Refused
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from support.devicepki import pool_credential
from support.fences import OPEN
from support.imagebases import run
from support.vendortools import tool

PASSPHRASE = "correct horse battery"
PARSE = """
import json, sys
import tree_sitter, tree_sitter_powershell
source = sys.stdin.buffer.read()
tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language())).parse(source)
commands, faults, waiting = [], tree.root_node.has_error, [tree.root_node]
while waiting:
    node = waiting.pop()
    waiting += node.children
    faults = faults or node.is_missing or node.type == "ERROR"
    if node.type == "command_name":
        commands.append(source[node.start_byte : node.end_byte].decode())
print(json.dumps({"faults": faults, "commands": sorted(set(commands))}))
"""


def installed(base: Path, credential: Credential, options: str = "layout=windows") -> Path:
    directory = base / "SN-1"
    directory.mkdir(exist_ok=True)
    target(base, options).install(credential, OPEN)
    return directory


def target(base: Path, options: str = "layout=windows") -> FilesTarget:
    uri = f"files:SN-1?{options}&p12-secret=test:"
    return FilesTarget(uri, secrets=lambda _: Secret(PASSPHRASE.encode()), base=base)


def openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    command = ["openssl", *arguments]
    environment = {"PASS": PASSPHRASE, "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, input=data, capture_output=True, check=True, env=environment).stdout


def parsed(script: bytes) -> dict[str, object]:
    return json.loads(run(tool("windows"), "-c", PARSE, data=script))


@pytest.mark.parametrize("layout", ["p12", "windows"])
@pytest.mark.parametrize(
    ("profile", "encryption", "mac"),
    [("modern", "PBES2, PBKDF2, AES-256-CBC", "sha256"), ("legacy", "pbeWithSHA1And3-KeyTripleDES-CBC", "sha1")],
)
def test_openssl_opens_the_file_of_each_profile(
    tmp_path: Path, layout: str, profile: str, encryption: str, mac: str
) -> None:
    credential = pool_credential("SN-1")
    directory = installed(tmp_path, credential, f"layout={layout}&p12-profile={profile}")
    file = directory / ("device.pfx" if layout == "windows" else "device.p12")
    assert file.stat().st_mode & 0o7777 == 0o600
    command = ["openssl", "pkcs12", "-in", file, "-passin", "env:PASS"]
    environment = {"PASS": PASSPHRASE, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, "-info", "-noout"], capture_output=True, text=True, check=True, env=environment)
    assert encryption in done.stderr
    assert f"MAC: {mac}," in done.stderr
    key = openssl("pkcs12", "-in", file, "-passin", "env:PASS", "-nocerts", "-noenc")
    leaf = openssl("pkcs12", "-in", file, "-passin", "env:PASS", "-clcerts", "-nokeys")
    public = openssl("x509", "-noout", "-pubkey", data=leaf)
    assert openssl("pkey", "-pubout", data=key) == public
    assert openssl("x509", "-outform", "DER", data=leaf) == credential.certificate
    rest = openssl("pkcs12", "-in", file, "-passin", "env:PASS", "-cacerts", "-nokeys")
    assert rest.count(b"BEGIN CERTIFICATE") == len(credential.chain)
    assert target(tmp_path, f"layout={layout}&p12-profile={profile}").prove(b"c").signature


@pytest.mark.parametrize("algorithm", ["p256", "p384", "rsa2048"])
def test_script_is_powershell_and_names_this_certificate(tmp_path: Path, algorithm: str) -> None:
    credential = pool_credential("SN-1", algorithm)
    script = (installed(tmp_path, credential) / "install-identity.ps1").read_bytes()
    found = parsed(script)
    assert not found["faults"]
    assert found["commands"] == [
        "Get-Item",
        "Import-PfxCertificate",
        "Join-Path",
        "New-Object",
        "Set-StrictMode",
        "Write-Output",
    ]
    text = script.decode("ascii")
    assert text.count("\n") == text.count("\r\n") > 40
    for name, digest in (("thumbprint", "-sha1"), ("wantedSha256", "-sha256")):
        printed = openssl("x509", "-inform", "DER", "-noout", "-fingerprint", digest, data=credential.certificate)
        fingerprint = printed.decode().strip().partition("=")[2].replace(":", "")
        assert f"${name} = '{fingerprint}'" in text
    assert "$deviceSerial = 'SN-1'" in text
    assert "-Exportable" not in text
    assigned = set(re.findall(r"\$(\w+) = ", text)) | {"Passphrase", "ErrorActionPreference"}
    used = set(re.findall(r"\$(\w+)", text)) - {"null", "true", "PSScriptRoot"}
    assert used <= assigned


def test_grammar_finds_a_script_that_is_broken(tmp_path: Path) -> None:
    script = (installed(tmp_path, pool_credential("SN-1")) / "install-identity.ps1").read_bytes()
    assert parsed(script.replace(b"{", b"", 1))["faults"]
    assert parsed(script.replace(b"'SN-1'", b"'SN-1"))["faults"]


def test_passphrase_and_key_stand_in_no_other_file(tmp_path: Path) -> None:
    credential = pool_credential("SN-1")
    directory = installed(tmp_path, credential)
    assert {path.name for path in directory.iterdir()} == {"device.pfx", "install-identity.ps1"}
    assert credential.private_key is not None
    for path in directory.iterdir():
        assert PASSPHRASE.encode() not in path.read_bytes()
        assert credential.private_key.reveal()[-32:] not in path.read_bytes()


@pytest.mark.parametrize("change", [b"", b"Remove-Item C:\\ -Recurse\r\n", None])
def test_changed_or_missing_script_is_found(tmp_path: Path, change: bytes | None) -> None:
    credential = pool_credential("SN-1")
    script = installed(tmp_path, credential) / "install-identity.ps1"
    good = script.read_bytes()
    if change is None:
        script.unlink()
    else:
        script.write_bytes(good + change if change else b"")
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path).prove(b"c")
    assert caught.value.code == "target.script.damaged"
    target(tmp_path).install(credential, OPEN)
    assert script.read_bytes() == good
    assert target(tmp_path).prove(b"c").signature


@pytest.mark.parametrize("algorithm", ["ed25519", "mldsa44"])
def test_key_that_windows_does_not_keep_is_refused(tmp_path: Path, algorithm: str) -> None:
    with pytest.raises(Refused) as caught:
        installed(tmp_path, pool_credential("SN-1", algorithm))
    assert caught.value.code == "target.windows.algorithm"
    assert list((tmp_path / "SN-1").iterdir()) == []


def test_file_of_the_other_profile_is_not_taken_for_ours(tmp_path: Path) -> None:
    credential = pool_credential("SN-1")
    directory = installed(tmp_path, credential, "layout=windows&p12-profile=legacy")
    legacy = (directory / "device.pfx").read_bytes()
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path).prove(b"c")
    assert caught.value.code == "target.p12.unreadable"
    target(tmp_path).install(credential, OPEN)
    assert (directory / "device.pfx").read_bytes() != legacy
    assert target(tmp_path).prove(b"c").signature


@pytest.mark.parametrize("options", ["layout=windows", "layout=windows&p12-secret=x:&key=born", "p12-profile=legacy"])
def test_windows_options_that_cannot_be_meant_are_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        FilesTarget(f"files:SN-1?{options}", secrets=lambda _: Secret(b"x"), base=tmp_path)
    assert caught.value.code == "target.uri.option"
