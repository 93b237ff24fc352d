"""Somebody with an account, a device, a list or a settings file of their own, who wants more than they were given."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from birthmark.adapters.targets.files import FilesTarget
from birthmark.adapters.targets.layouts import LAYOUTS, decode_p12, encode_p12, read_key
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, Unavailable
from birthmark.model.device import DeviceState
from birthmark.model.secret import Secret
from birthmark.pki.der import integer, tlv
from birthmark.pki.derread import OID, Node, oid_text, read_der, read_members
from birthmark.pki.profile import load_preset
from birthmark.ports import CredentialRequest
from birthmark.shell.cli.main import _tell, main
from birthmark.shell.cli.screen import visible
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.config import load_settings, parse_settings
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.workflow.handout import stored_certificate
from birthmark.workflow.orders.order import NewOrder, create_order
from support.devicepki import pool_credential
from support.stationworld import POOLED, STATION, Factory, build_factory

ESCAPE = "\x1b[2J\x1b[32mPASS"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("attacks") / "factory")


@pytest.fixture
def factory(built: Factory, tmp_path: Path) -> Factory:
    return built.copy(tmp_path / "factory")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_workspace(tmp_path / "fab")
    return tmp_path / "fab"


def refused(code: str, call: Any, *arguments: Any, **options: Any) -> BirthmarkError:
    with pytest.raises(BirthmarkError) as caught:
        call(*arguments, **options)
    assert caught.value.code == code
    return caught.value


# Two units, one identity


def test_attempt_id_read_from_the_screen_draws_no_key_at_another_station(factory: Factory) -> None:
    first = CredentialRequest("attempt-of-line-1", STATION, POOLED[0], None)
    with factory.line(journal=False) as line:
        line.source().obtain(first)
        assert line.source().obtain(first).private_key is not None
        error = refused("attempt.reused", line.source().obtain, replace(first, station="line-2"))
        assert error.facts["used_for"] == f"station {STATION}"


@pytest.mark.parametrize("end", ["rework", "scrap"])
def test_two_who_end_an_identity_at_once_never_leave_one_alive(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The second looked before the first was done: it must not end, by the old name, what it has not seen."""
    with factory.line(journal=False) as line, factory.line(journal=False) as other:
        slow, fast = line.reworks(), other.reworks()
        known = slow._known

        def look_then_lose(device_serial: str) -> Any:
            seen = known(device_serial)
            fast.rework(device_serial, reason="the first", by="a")
            return seen

        monkeypatch.setattr(slow, "_known", look_then_lose)
        with pytest.raises(Unavailable) as caught:
            getattr(slow, end)(POOLED[0], reason="the second", by="b")
        assert caught.value.code == "device.changed"
        device = line.records.device(POOLED[0])
        assert device is not None
        assert device.state is DeviceState.POOLED
        serial = x509.load_der_x509_certificate(stored_certificate(line.ledger, device)).serial_number
        assert not line.records.is_revoked(serial.to_bytes(16, "big"))
        monkeypatch.undo()
        slow.scrap(POOLED[0], reason="now it was seen", by="b")
        assert line.records.is_revoked(serial.to_bytes(16, "big"))


# The terminal


def test_serial_list_cannot_write_a_verdict_on_the_terminal(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text(f"{ESCAPE}\n\u202eSSAP\n\x9b2J\n")
    target = ["--target", f"files:{tmp_path}/{{device_serial}}"]
    assert main(["station", "run", "--devices", str(tmp_path / "list"), *target, "-C", str(workspace)]) == 3
    shown = capsys.readouterr()
    assert "\\x1b[2J" in shown.out
    assert "\\u202e" in shown.out
    assert not any(c in shown.out + shown.err for c in "\x1b\x9b\u202e")


def test_settings_and_names_cannot_speak_to_the_terminal(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = workspace / "birthmark.toml"
    settings.write_text(settings.read_text() + f'\n["{ESCAPE}"]\n'.replace("\x1b", "\\u001b"))
    assert main(["order", "list", "-C", str(workspace)]) == 2
    assert main(["order", "list", "-C", str(tmp_path / ESCAPE)]) == 2
    assert main(["order", "list", "-C", str(tmp_path / "\udcff")]) == 2
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err


def test_a_name_that_looks_like_markup_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from birthmark.shell.cli.screen import table

    Console().print(table("[/bold]", ["x"], [["[/red] [link=http://x]y[/link] \x1b]0;title\x07"]]))
    shown = capsys.readouterr().out
    assert "[/bold]" in shown
    assert "[/red] [link" in shown
    assert "\x1b" not in shown
    assert visible("a\tb\r\x00é\nz") == "a\\tb\\r\\x00é\nz"


def test_words_of_others_begin_no_line_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    words = "no\nPASS  EL-0001\r\nPASS  EL-0002"
    _tell(DeviceFault("x.y", words, hint=words, reason=words), ())
    shown = capsys.readouterr().err
    assert "PASS  EL-0001" in shown
    assert not any(line.startswith("PASS") for line in shown.splitlines())


def test_words_that_are_no_text_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIRTHMARK_PASSPHRASE", "passphrase")
    assert main(["init", str(tmp_path / "new"), "--maker", "A\udcff", "--value", "pen=99999"]) == 2
    assert "command.text" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# The workspace and its settings


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_nobody_else_writes_a_workspace_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int
) -> None:
    monkeypatch.setenv("BIRTHMARK_PASSPHRASE", "only a test")
    before = os.umask(mask)
    try:
        assert main(["init", str(tmp_path / "fab"), "--maker", "Example", "--json"]) == 0
        assert main(["order", "list", "-C", str(tmp_path / "fab")]) == 0
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (tmp_path / "fab", *(tmp_path / "fab").rglob("*"))}
    assert not [path for path, mode in modes.items() if mode & 0o022]
    private = [path for path in modes if path.parent.name in ("keys", "journal") or path.name.startswith("ledger.db")]
    assert private
    assert not [path for path in private if modes[path] & 0o077]
    assert {modes[tmp_path / "fab" / name] for name in ("keys", "ledger", "journal")} == {0o700}


def test_settings_that_anybody_can_write_are_not_followed(workspace: Path) -> None:
    """They name a PKCS#11 module, which is code."""
    settings = workspace / "birthmark.toml"
    settings.chmod(0o666)
    refused("settings.writable", load_settings, workspace)
    settings.chmod(0o664)
    assert load_settings(workspace).name
    settings.unlink()
    settings.symlink_to("/dev/zero")
    with pytest.raises(Misconfigured):
        load_settings(workspace)


@pytest.mark.parametrize(
    "change",
    [
        ('name = "fab"', 'name = "fab\\n"'),
        ("[products.device]", '[products."device\\n"]'),
        ('profile = "tls-client"', 'profile = "idevid\\n"'),
        ('profile = "tls-client"', 'profile = "../../idevid"'),
        ("0101", "0101\\n"),
    ],
)
def test_names_in_settings_end_where_they_seem_to(workspace: Path, change: tuple[str, str]) -> None:
    text = (workspace / "birthmark.toml").read_text()
    assert change[0] in text
    refused("settings.malformed", parse_settings, text.replace(*change).encode(), "x")


def test_product_name_writes_no_tables_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRTHMARK_PASSPHRASE", "only a test")
    product = 'a]\nprofile="idevid"\nca="issuing"\nkey_algorithm="p256"\n[cas.evil]\nkey="x"\n[products.b'
    assert main(["init", str(tmp_path / "fab"), "--maker", "Example", "--product", product]) == 2
    assert not (tmp_path / "fab").exists()


def test_no_core_file_will_hold_a_key() -> None:
    program = "import resource; from birthmark.shell.cli.main import main; main(['--version']);"
    done = subprocess.run(
        [sys.executable, "-c", program + "print(resource.getrlimit(resource.RLIMIT_CORE)[0])"],
        capture_output=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)),
    )
    assert done.stdout.split()[-1] == b"0"


# Devices and lists that keep a station busy


def _p12() -> bytes:
    credential = pool_credential(POOLED[0])
    assert credential.private_key is not None
    key = load_der_private_key(credential.private_key.reveal(), None)
    chain = tuple(map(x509.load_der_x509_certificate, credential.chain))
    return encode_p12("SN", key, x509.load_der_x509_certificate(credential.certificate), chain, b"pw")


def test_device_file_cannot_choose_how_long_we_count() -> None:
    version, content, mac = read_members(read_der(_p12()))
    digest, salt, rounds = read_members(mac)
    assert decode_p12(tlv(0x30, version.whole + content.whole + mac.whole), b"pw")
    for forged in (
        b"",
        tlv(0x30, digest.whole + salt.whole),
        tlv(0x30, digest.whole + salt.whole + integer(2**31 - 1)),
        tlv(0x30, tlv(0x30, tlv(0x30, b"\x06\x01\x2a") + tlv(0x04, bytes(32))) + salt.whole + rounds.whole),
    ):
        with pytest.raises(DeviceFault) as caught:
            decode_p12(tlv(0x30, version.whole + content.whole + forged), b"pw")
        assert caught.value.code == "target.p12.unreadable"


def test_giant_key_in_a_device_is_not_tested_for_primes() -> None:
    """The Mersenne primes 2^19937-1 and 2^21701-1: loading that key would test both."""
    p, q, e = 2**19937 - 1, 2**21701 - 1, 65539
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = (0, p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))
    rsa = tlv(0x30, b"".join(integer(n) for n in numbers))
    algorithm = tlv(0x30, bytes.fromhex("06092a864886f70d0101010500"))
    key = tlv(0x30, integer(0) + algorithm + tlv(0x04, rsa))
    with pytest.raises(DeviceFault) as caught:
        read_key(LAYOUTS["der"], "device.key.der", key)
    assert caught.value.code == "target.key.damaged"


def test_object_identifier_of_a_thousand_digits_is_malformed() -> None:
    content = b"\x2b" + b"\xff" * 20_000 + b"\x7f"
    refused("der.malformed", oid_text, Node(OID, content, content))


def test_profile_pattern_never_sees_a_serial_of_any_length(factory: Factory) -> None:
    """A reviewed pattern may still be slow on what its author never thought of: cubic here."""
    profile = load_preset("idevid")
    assert profile.device_serial is not None
    slow = replace_pattern(profile, "[A-Z]*[A-Z]*[A-Z]*[A-Z]*[A-Z]*[a-z]")
    with factory.line(journal=False) as line:
        order: Any = NewOrder("slow", "device", slow, "p256", "injected", "issuing", "test")  # type: ignore[arg-type]
        refused("order.serial.malformed", create_order, line.ledger, order, ["A" * 50_000], clock=line.clock)


def replace_pattern(profile: Any, pattern: str) -> Any:
    import msgspec

    rule = msgspec.structs.replace(profile.device_serial, pattern=pattern)
    return msgspec.structs.replace(profile, device_serial=rule)


def test_secret_written_into_a_target_stops_before_anything_is_on_record(tmp_path: Path) -> None:
    target = FilesTarget("files:.?layout=p12&p12-secret=hunter2hunter2", secrets=SecretsResolver(), base=tmp_path)
    error = refused("secret.reference", target.probe)
    assert "hunter2" not in str(error.document())


def test_encrypted_key_in_a_device_asks_nobody(tmp_path: Path) -> None:
    """On a terminal of its own OpenSSL would ask for a passphrase and wait for ever."""
    credential = pool_credential(POOLED[0])
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat

    assert credential.private_key is not None
    key: Any = load_der_private_key(credential.private_key.reveal(), None)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"theirs"))
    (tmp_path / "device.key").write_bytes(sealed)
    certificates = [x509.load_der_x509_certificate(d) for d in (credential.certificate, *credential.chain)]
    (tmp_path / "device.crt").write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in certificates))
    (tmp_path / "ca.der").write_bytes(credential.chain[0])
    program = (
        "import sys; from pathlib import Path; from birthmark.errors import DeviceFault\n"
        "from birthmark.adapters.devicetls import FileIdentity\n"
        "from birthmark.adapters.handshake import TlsVerifier\n"
        "here = Path(sys.argv[1])\n"
        "with TlsVerifier([(here / 'ca.der').read_bytes()]) as verifier:\n"
        "    try: verifier.connect(FileIdentity(here / 'device.crt', here / 'device.key'))\n"
        "    except DeviceFault as fault: print(fault.code)\n"
    )
    (tmp_path / "try.py").write_text(program)
    terminal, inner = os.openpty()
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "try.py"), str(tmp_path)],
        stdin=inner,
        stdout=subprocess.PIPE,
        stderr=inner,
        start_new_session=True,
        preexec_fn=lambda: _take_terminal(inner),
    ) as process:
        try:
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
            os.close(terminal)
            os.close(inner)
    assert said.split() == [b"handshake.credential"]


def _take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def test_refusals_and_secrets_survive_no_pickle() -> None:
    import pickle

    with pytest.raises(TypeError):
        pickle.dumps(Secret(b"hidden"))
    assert isinstance(Refused("a.b", "c", hint="d"), BirthmarkError)
