"""Linux devices over a shell: nothing of a key where others see it, only the right host, every end by name."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from birthmark.adapters.targets.links.sshchild import SshShell
from birthmark.adapters.targets.shell import SerialTarget, SshTarget, scripts
from birthmark.errors import BirthmarkError, Misconfigured, Unavailable
from birthmark.model.secret import Secret
from birthmark.workflow.line.fence import DeadlineFence
from support.devicepki import credential_for, pool_credential
from support.fences import OPEN
from support.shellpty import ShellOnPty
from support.sshd import ssh_server

SERIAL = "SN-0001"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "it's an identity"
    made.mkdir()
    (made / "device-id").write_text(f"{SERIAL}\n")
    return made


def ssh_target(directory: Path, options: str = "", **changes: str) -> SshTarget:
    server = ssh_server()
    reach = {"known-hosts": f"{server.directory}/known_hosts", "login-key": f"{server.directory}/login", **changes}
    said = "&".join(f"{name}={value}" for name, value in reach.items())
    place = str(directory).replace(" ", "%20")
    uri = f"ssh:{server.address()}?dir={place}&{said}{options}"
    return SshTarget(uri, secrets=lambda _: Secret(b""), base=Path("/"))


def code_of(call: Any, *arguments: object) -> str:
    with pytest.raises(BirthmarkError) as caught:
        call(*arguments)
    return caught.value.code


def test_openssl_verifies_what_was_installed_by_ssh(directory: Path) -> None:
    target = ssh_target(directory, "&key=born")
    csr = target.make_key("p256", SERIAL, OPEN)
    (directory.parent / "request").write_bytes(csr)
    checked = subprocess.run(
        ["openssl", "req", "-inform", "DER", "-in", "request", "-verify", "-noout"],
        cwd=directory.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "verify OK" in checked.stdout + checked.stderr
    credential = credential_for(x509.load_der_x509_csr(csr).public_key(), SERIAL)
    target.install(credential, OPEN)
    (directory.parent / "root").write_text(_pem(credential.chain[1]))
    command = ["openssl", "verify", "-CAfile", "../root", "-untrusted", "device.crt", "device.crt"]
    assert subprocess.check_output(command, cwd=directory, text=True) == "device.crt: OK\n"
    assert stat.S_IMODE((directory / "device.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == ["device-id", "device.crt", "device.key"]


@pytest.mark.parametrize("algorithm", ["p384", "rsa2048", "ed25519"])
def test_every_kind_of_key_is_born_and_proves_itself(directory: Path, algorithm: str) -> None:
    with ShellOnPty(directory.parent) as shell:
        uri = f"serial:{shell.port}?dir={str(directory).replace(' ', '%20')}&key=born"
        target = SerialTarget(uri, secrets=lambda _: Secret(b""), base=Path("/"))
        public_key: Any = x509.load_der_x509_csr(target.make_key(algorithm, SERIAL, OPEN)).public_key()
        target.install(credential_for(public_key, SERIAL), OPEN)
        evidence = target.prove(bytes(32))
    from birthmark.wire.receipt import evidence_holds

    assert evidence_holds(public_key, bytes(32), evidence.signature or b"")


def test_a_host_with_another_key_is_never_talked_to(directory: Path, tmp_path: Path) -> None:
    server = ssh_server()
    stranger = (server.directory / "stranger.pub").read_text().split()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {stranger[0]} {stranger[1]}\n")
    for known in (tmp_path / "known", tmp_path / "nothing"):
        target = ssh_target(directory, "&retries=0", **{"known-hosts": str(known)})
        with pytest.raises(Unavailable) as caught:
            target.install(pool_credential(SERIAL), OPEN)
        assert caught.value.code == "link.budget"
        assert caught.value.facts["last"] == "link.ssh.failed"
        assert "Host key verification failed" in caught.value.message
    assert [path.name for path in directory.iterdir()] == ["device-id"]


def test_a_user_that_may_not_log_in_ends_by_name_and_nobody_is_asked(directory: Path) -> None:
    server = ssh_server()
    target = ssh_target(directory, "&retries=1", **{"login-key": f"{server.directory}/stranger"})
    assert code_of(target.probe) == "link.budget"


def test_no_key_stands_on_a_command_line(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    started = subprocess.Popen

    def watched(command: Any, **options: Any) -> Any:
        seen.append([str(part) for part in command])
        return started(command, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    ssh_target(directory).install(pool_credential(SERIAL), OPEN)
    assert seen
    assert {command[-1] for command in seen} == {"sh"}
    assert not any("PRIVATE" in part or len(part) > 200 for command in seen for part in command)


def test_a_console_keeps_no_history_and_gives_no_echo_of_a_key(directory: Path) -> None:
    came: list[bytes] = []

    class Watched(ShellOnPty):
        def send(self, data: bytes) -> None:
            came.append(data)
            super().send(data)

    credential = pool_credential(SERIAL)
    with Watched(directory.parent) as shell:
        uri = f"serial:{shell.port}?dir={str(directory).replace(' ', '%20')}"
        SerialTarget(uri, secrets=lambda _: Secret(b""), base=Path("/")).install(credential, OPEN)
    assert b"b0='" not in b"".join(came)
    assert not list(directory.parent.glob(".*history"))


def test_a_device_that_hangs_costs_no_more_than_the_fence_gives(directory: Path) -> None:
    target = ssh_target(directory, "&identity=sleep%2060")
    fence = DeadlineFence("t", seconds=0.8, monotonic=time.monotonic)
    began = time.monotonic()
    assert code_of(target.install, pool_credential(SERIAL), fence) == "station.deadline"
    assert time.monotonic() - began < 5


def test_a_shell_that_floods_is_cut_off(directory: Path) -> None:
    shell = SshShell(["sh", "-c", "yes", "--"], "test", _no_budget(), answer_s=5, fence=None)
    try:
        assert code_of(shell.run, "true") == "target.shell.flood"
    finally:
        shell.close()


def _no_budget() -> Any:
    from birthmark.adapters.targets.links.budget import RetryBudget

    return RetryBudget(0)


def test_a_missing_directory_and_a_missing_name_are_told_apart(directory: Path) -> None:
    assert code_of(ssh_target(directory.parent / "none").probe) == "target.directory.missing"
    (directory / "device-id").write_text("two words\n")
    assert code_of(ssh_target(directory).probe) == "target.identity.malformed"
    (directory / "device-id").unlink()
    assert code_of(ssh_target(directory).probe) == "target.identity.malformed"
    assert ssh_target(directory, "&identity=echo%20EL-9").probe().identity == "EL-9"


def test_a_device_without_the_programs_says_so(directory: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("sh", "base64", "sha256sum", "stat", "cut", "tr", "sed", "head", "stty"):
        os.symlink(f"/usr/bin/{name}", bare / name)
    with ShellOnPty(directory.parent, path=str(bare)) as shell:
        uri = f"serial:{shell.port}?dir={str(directory).replace(' ', '%20')}&key=born"
        target = SerialTarget(uri, secrets=lambda _: Secret(b""), base=Path("/"))
        assert target.probe().identity == SERIAL
        assert code_of(target.make_key, "p256", SERIAL, OPEN) == "target.tool.missing"


def test_a_directory_that_cannot_be_written_ends_by_name(directory: Path) -> None:
    (directory / "device.key").mkdir()
    (directory / "device.key" / "x").touch()
    assert code_of(ssh_target(directory).install, pool_credential(SERIAL), OPEN) == "target.script.failed"
    assert not (directory / "device.crt").exists()


def test_a_key_that_others_may_read_is_refused(directory: Path) -> None:
    target = ssh_target(directory)
    target.install(pool_credential(SERIAL), OPEN)
    (directory / "device.key").chmod(0o644)
    assert code_of(target.prove, bytes(32)) == "target.key.mode"


def test_a_key_file_has_its_mode_before_its_content() -> None:
    script = scripts.put("/d", "device.key", b"secret", "600")
    assert script.index("umask 077") < script.index("base64 -d >") < script.index("chmod 600") < script.index("mv -f")


@pytest.mark.parametrize(
    "uri",
    [
        "ssh:127.0.0.1?dir=/d&known-hosts=k",
        "ssh:-oProxyCommand=x@h?dir=/d&known-hosts=k",
        "ssh:root@-h?dir=/d&known-hosts=k",
        "ssh:root@h:0?dir=/d&known-hosts=k",
        "ssh:root@h:99999?dir=/d&known-hosts=k",
        "ssh:root@h?dir=/d",
        "ssh:root@h?known-hosts=k",
        "ssh:root@h?dir=etc&known-hosts=k",
        "ssh:root@h?dir=/a/../b&known-hosts=k",
        "ssh:root@h?dir=/d%0Arm&known-hosts=k",
        "ssh:root@h?dir=/d&known-hosts=k&proof=digest&key=born",
        "ssh:root@h?dir=/d&known-hosts=k&password=x",
    ],
)
def test_a_uri_that_means_nothing_or_harm_is_refused(uri: str) -> None:
    with pytest.raises(Misconfigured):
        SshTarget(uri, secrets=lambda _: Secret(b""), base=Path("/"))


def _pem(der: bytes) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
