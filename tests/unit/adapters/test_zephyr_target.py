"""Zephyr devices: the maker's own tool sees the same store, the key is never read out, every end has a name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import BirthmarkError
from birthmark.testing.zephyrshell import ZephyrShellSimulator
from support.devicepki import pool_credential
from support.fences import OPEN
from support.targets.zephyr import zephyr_target
from support.vendortools import tool

SERIAL, TAG = "SN-0001", 16842753

TOOL = """
import sys, types
import nrfcredstore.comms as comms
comms.select_device = lambda rtt, serial, port, list_all: (types.SimpleNamespace(device=port), None)
from nrfcredstore.command_interface import TLSCredShellInterface
shell = TLSCredShellInterface(comms.Comms(port=sys.argv[1], rtscts=False))
pem = open(sys.argv[3]).read()
if sys.argv[2] == "write":
    assert shell.write_credential(16842753, 1, pem)
print(shell.check_credential_exists(16842753, 1), shell.calculate_expected_hash(pem))
"""


@pytest.fixture
def shell() -> Iterator[ZephyrShellSimulator]:
    with ZephyrShellSimulator() as shell:
        assert isinstance(shell, ZephyrShellSimulator)
        yield shell


def makers_tool(shell: ZephyrShellSimulator, what: str, pem: Path) -> str:
    """Run nrfcredstore on the port of the simulator; return what it says of the certificate in ``TAG``."""
    command = [str(tool("nrf")), "-c", TOOL, shell.port, what, str(pem)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def code_of(call: object, *arguments: object) -> str:
    with pytest.raises(BirthmarkError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.code


def test_the_makers_tool_finds_the_digest_that_it_expects(shell: ZephyrShellSimulator, tmp_path: Path) -> None:
    credential = pool_credential(SERIAL)
    zephyr_target(shell, tmp_path).install(credential, OPEN)
    ones = (credential.certificate, credential.chain[0])
    pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ones)
    (tmp_path / "pem").write_bytes(pem)
    found, expected = makers_tool(shell, "list", tmp_path / "pem").rsplit(" ", 1)
    assert found == f"(True, '{expected}')"


def test_we_see_the_certificate_that_the_makers_tool_installed(shell: ZephyrShellSimulator, tmp_path: Path) -> None:
    other = pool_credential("SN-9999").certificate
    (tmp_path / "pem").write_bytes(x509.load_der_x509_certificate(other).public_bytes(Encoding.PEM))
    makers_tool(shell, "write", tmp_path / "pem")
    assert zephyr_target(shell, tmp_path).probe().certificate == other


def test_the_private_key_is_never_read_out_and_is_stored_as_it_came(
    shell: ZephyrShellSimulator, tmp_path: Path
) -> None:
    asked: list[str] = []
    answer = shell._answer

    def watched(line: str) -> list[str]:
        asked.append(line)
        return answer(line)

    shell._answer = watched  # type: ignore[method-assign]
    credential = pool_credential(SERIAL)
    target = zephyr_target(shell, tmp_path)
    target.install(credential, OPEN)
    target.prove(bytes(32))
    assert credential.private_key is not None
    assert shell.store[TAG, "PK"] == credential.private_key.reveal()
    assert {line.split()[3] for line in asked if line.startswith("cred get")} == {"SERV"}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("no_digest", "target.digest.unsupported"),
        ("no_identity", "target.identity.unknown"),
        ("add_fails", "target.write.not_kept"),
    ],
)
def test_a_device_that_cannot_ends_by_name(shell: ZephyrShellSimulator, tmp_path: Path, fault: str, code: str) -> None:
    target = zephyr_target(shell, tmp_path)
    if fault == "no_digest":
        target.install(pool_credential(SERIAL), OPEN)
    setattr(shell.faults, fault, True)
    assert code_of(target.install, pool_credential(SERIAL), OPEN) == code


def test_a_chain_that_does_not_fit_into_the_buffer_ends_by_name(
    shell: ZephyrShellSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("birthmark.testing.zephyrshell._BUFFER", 600)
    target = zephyr_target(shell, tmp_path)
    assert code_of(target.install, pool_credential(SERIAL), OPEN) == "target.store.full"
    assert (TAG, "SERV") not in shell.store
