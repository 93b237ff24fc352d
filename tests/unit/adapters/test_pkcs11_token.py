"""Tokens that fail, vanish, come back, and are used by many at once: on SoftHSM2."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.keys.pkcs11 import Pkcs11Keys
from birthmark.adapters.pkcs11_module import pkcs11_module
from birthmark.adapters.pkcs11_token import Pkcs11Token, TokenObject
from birthmark.errors import BirthmarkError, Misconfigured, Refused, StationFault, Tampered
from birthmark.model.secret import Secret
from support.devicepki import pool_credential
from support.softhsm import MODULE, PIN, SoftHsm, fresh_hsm

_ECDSA = ec.ECDSA(hashes.SHA256())
_PIN = Secret(PIN.encode())
_PROGRAM_HEAD = """
import os, sys, logging
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from birthmark.adapters.keys.pkcs11 import Pkcs11Keys
from birthmark.errors import BirthmarkError
from birthmark.shell.workspace.secrets import SecretsResolver
uri = sys.argv[1]
ECDSA = ec.ECDSA(hashes.SHA256())
def attempt():
    keys = Pkcs11Keys(SecretsResolver(), Path("/"))
    try:
        key = keys.open(uri)
        key.public_key().verify(key.sign(b"x", ECDSA), b"x", ECDSA)
        return "good"
    except BirthmarkError as error:
        return error.code
    finally:
        keys.close()
"""


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHsm]:
    with fresh_hsm(tmp_path / "hsm", monkeypatch) as made:
        yield made


@pytest.fixture
def token(hsm: SoftHsm) -> Iterator[Pkcs11Token]:
    opened = Pkcs11Token(MODULE, "ca", _PIN)
    yield opened
    opened.close()


def _signs(key: object) -> None:
    key.public_key().verify(key.sign(b"x", _ECDSA), b"x", _ECDSA)


def _start(hsm: SoftHsm, body: str, uri: str, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, **hsm.environment, "PIN": PIN, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, "-c", _PROGRAM_HEAD + body, uri]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _said(process: subprocess.Popen[str]) -> list[str]:
    lines = process.communicate()[0].split("\n")
    assert process.returncode == 0, lines
    return [line for line in lines if line]


def _refusal(hsm: SoftHsm, pin: bytes = PIN.encode(), label: str = "ca") -> BirthmarkError:
    with pytest.raises(BirthmarkError) as raised:
        Pkcs11Token(MODULE, label, Secret(pin))
    return raised.value


class TestOpening:
    def test_a_wrong_pin_is_tried_once_however_often_it_is_given(self, hsm: SoftHsm):
        body = """
from support.softhsm import PinnedFunction
login = PinnedFunction(PinnedFunction.C_LOGIN, 0xA0)  # CKR_PIN_INCORRECT
print([attempt() for _ in range(5)], login.count)
"""
        assert _said(_start(hsm, body, hsm.uri("ca", "one"))) == [f"{['key.pin.wrong'] * 5} 1"]

    @pytest.mark.parametrize("pin", [b"wrong-pin", b"", b"\xff\xfe", b"p" * 300])
    def test_a_wrong_pin_is_for_who_wrote_the_configuration(self, hsm: SoftHsm, pin: bytes):
        error = _refusal(hsm, pin)
        assert isinstance(error, Misconfigured)
        assert error.code == "key.pin.wrong"

    @pytest.mark.parametrize(
        ("answer", "code"),
        [(0xA4, "key.pin.locked"), (0xA3, "key.pin.expired"), (0x102, "key.pin.unset"), (0x30, "key.session.lost")],
    )
    def test_a_login_that_needs_an_officer(self, hsm: SoftHsm, answer: int, code: str):
        # SoftHSM2 never locks a user PIN, so its login is made to answer as a locked token does.
        body = f"""
from support.softhsm import PinnedFunction
login = PinnedFunction(PinnedFunction.C_LOGIN, {answer})
print(attempt())
"""
        assert _said(_start(hsm, body, hsm.uri("ca", "one"))) == [code]

    def test_no_token_of_that_name(self, hsm: SoftHsm):
        error = _refusal(hsm, label="cb")
        assert isinstance(error, StationFault)
        assert error.code == "key.token.missing"

    def test_two_tokens_of_one_name(self, hsm: SoftHsm):
        hsm.make_token("ca")
        assert _refusal(hsm).code == "key.token.ambiguous"

    def test_a_token_that_was_plugged_in_later(self, hsm: SoftHsm, token: Pkcs11Token):
        key = token.generate("one", None, "p256")
        hsm.make_token("late")
        late = Pkcs11Token(MODULE, "late", _PIN)
        _signs(late.generate("one", None, "p256"))
        _signs(key)
        late.close()

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("/nowhere/module.so", "key.module.missing"),
            ("/etc/passwd", "key.module.failed"),
            ("/", "key.module.missing"),
        ],
    )
    def test_a_module_that_is_none(self, hsm: SoftHsm, path: str, code: str):
        with pytest.raises(BirthmarkError) as raised:
            Pkcs11Token(Path(path), "ca", _PIN)
        assert raised.value.code == code

    def test_without_the_extra_the_message_says_what_to_install(self, hsm: SoftHsm):
        said = _said(_start(hsm, "sys.modules['pkcs11'] = None\nprint(attempt())", hsm.uri("ca", "one")))
        assert said == ["extra.missing"]

    def test_importing_the_adapter_imports_no_binding(self, hsm: SoftHsm):
        assert _said(_start(hsm, "print('pkcs11' in sys.modules)", "")) == ["False"]

    def test_the_pin_is_looked_up_once(self, hsm: SoftHsm):
        asked = []

        def answer(reference: str) -> Secret:
            asked.append(reference)
            return _PIN

        keys = Pkcs11Keys(answer, Path("/"))
        for name in ("one", "two", "three"):
            keys.generate(hsm.uri("ca", name), "p256")
            _signs(keys.open(hsm.uri("ca", name)))
        keys.close()
        assert asked == ["env:PIN"]


class TestObjects:
    def test_a_generated_key_was_never_outside(self, token: Pkcs11Token):
        token.generate("one", b"\x01", "p256")
        assert token.attributes("one").born_inside
        assert token.find("one") == [TokenObject("private", "one", b"\x01"), TokenObject("public", "one", b"\x01")]

    def test_an_extractable_key_is_made_only_when_asked(self, token: Pkcs11Token):
        token.generate("one", None, "p256", extractable=True)
        attributes = token.attributes("one")
        assert attributes.extractable
        assert not attributes.born_inside

    def test_two_keys_of_one_name_are_told_apart_by_their_id(self, hsm: SoftHsm, token: Pkcs11Token):
        first = token.generate("one", b"\x01", "p256")
        tool = ["pkcs11-tool", "--module", str(MODULE), "--token-label", "ca", "--login", "--pin", PIN]
        hsm.run(*tool, "--keypairgen", "--key-type", "EC:secp256r1", "--label", "one", "--id", "02")
        with pytest.raises(Misconfigured) as raised:
            token.private_key("one")
        assert raised.value.code == "key.object.ambiguous"
        assert token.private_key("one", b"\x01").public_key() == first.public_key()
        _signs(token.private_key(None, b"\x02"))

    def test_a_key_without_its_public_half(self, token: Pkcs11Token):
        token.generate("one", b"\x01", "p256")
        token.destroy("one", kinds=["public"])
        with pytest.raises(Misconfigured) as raised:
            token.private_key("one")
        assert raised.value.code == "key.object.missing"
        with pytest.raises(Refused):
            token.generate("one", b"\x01", "p256")

    def test_the_certificate_stands_in_for_a_missing_public_key(self, token: Pkcs11Token):
        key = token.generate("one", b"\x01", "p256")
        name = x509.Name([])
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        leaf = x509.load_der_x509_certificate(pool_credential("SN-1").certificate)
        builder = builder.serial_number(1).not_valid_before(leaf.not_valid_before_utc)
        certificate = builder.not_valid_after(leaf.not_valid_after_utc).sign(key, hashes.SHA256())
        token.store_certificate("one", b"\x01", certificate.public_bytes(Encoding.DER))
        token.destroy("one", kinds=["public"])
        _signs(token.private_key("one"))

    def test_a_curve_that_is_not_used(self, hsm: SoftHsm, token: Pkcs11Token):
        tool = ["pkcs11-tool", "--module", str(MODULE), "--token-label", "ca", "--login", "--pin", PIN]
        hsm.run(*tool, "--keypairgen", "--key-type", "EC:secp521r1", "--label", "one", "--id", "02")
        with pytest.raises(Refused) as refused:
            token.private_key("one")
        assert refused.value.code == "key.algorithm.unsupported"

    def test_a_certificate_is_kept_read_and_replaced(self, hsm: SoftHsm, token: Pkcs11Token):
        first, second = (pool_credential(serial).certificate for serial in ("SN-1", "SN-2"))
        assert token.read_certificate("one") is None
        for _ in range(2):
            token.store_certificate("one", b"\x01", first)
        assert token.read_certificate("one") == first
        with pytest.raises(Refused) as refused:
            token.store_certificate("one", b"\x01", second)
        assert refused.value.code == "key.certificate.exists"
        token.store_certificate("one", b"\x01", second, replace=True)
        assert token.read_certificate("one", b"\x01") == second
        tool = ["pkcs11-tool", "--module", str(MODULE), "--token-label", "ca", "--read-object", "--type", "cert"]
        out = hsm.directory / "read.der"
        hsm.run(*tool, "--label", "one", "--output-file", str(out))
        assert out.read_bytes() == second
        assert token.destroy("one") == 1
        assert token.destroy("one") == 0

    @pytest.mark.parametrize("der", [b"", b"0", b"\x30\x03\x02\x01\x01"])
    def test_what_is_no_certificate_is_not_stored(self, token: Pkcs11Token, der: bytes):
        with pytest.raises(Refused) as refused:
            token.store_certificate("one", b"\x01", der)
        assert refused.value.code == "key.certificate.malformed"

    def test_digests_made_elsewhere_and_longer_than_the_curve(self, token: Pkcs11Token):
        key = token.generate("one", None, "p256")
        whole = hashes.Hash(hashes.SHA256())
        whole.update(b"x")
        digest = whole.finalize()
        key.public_key().verify(key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))), b"x", _ECDSA)
        for algorithm in (hashes.SHA384(), hashes.SHA512()):
            key.public_key().verify(key.sign(b"x", ec.ECDSA(algorithm)), b"x", ec.ECDSA(algorithm))


class TestLostSessions:
    def test_sessions_closed_underneath_come_back(self, token: Pkcs11Token):
        key = token.generate("one", None, "p256")
        library = ctypes.CDLL(str(MODULE))
        slots, count = (ctypes.c_ulong * 16)(), ctypes.c_ulong(16)
        assert library.C_GetSlotList(1, slots, ctypes.byref(count)) == 0
        for _ in range(20):
            _signs(key)
            for slot in slots[: count.value]:
                library.C_CloseAllSessions(ctypes.c_ulong(slot))
        assert token.attributes("one").born_inside
        _signs(key)

    def test_a_library_stopped_underneath_is_started(self, token: Pkcs11Token):
        key = token.generate("one", None, "p256")
        assert ctypes.CDLL(str(MODULE)).C_Finalize(None) == 0
        _signs(key)
        assert ctypes.CDLL(str(MODULE)).C_Finalize(None) == 0
        _signs(token.generate("two", None, "p256"))

    def test_another_token_of_the_library_survives_a_new_start(self, hsm: SoftHsm, token: Pkcs11Token):
        hsm.make_token("other")
        other = Pkcs11Token(MODULE, "other", _PIN)
        keys = [one.generate("one", None, "p256") for one in (token, other)]
        pkcs11_module(MODULE).restart()
        for key in keys * 2:
            _signs(key)
        other.close()
        _signs(keys[0])

    def test_a_token_that_was_wiped_signs_no_more(self, hsm: SoftHsm, token: Pkcs11Token):
        key = token.generate("one", None, "p256")
        hsm.wipe_token("ca")
        pkcs11_module(MODULE).restart()
        with pytest.raises(Misconfigured) as raised:
            _signs(key)
        assert raised.value.code == "key.object.missing"

    def test_another_key_in_the_place_of_the_first_is_not_used(self, hsm: SoftHsm, token: Pkcs11Token):
        key = token.generate("one", b"\x01", "p256")
        hsm.wipe_token("ca")
        pkcs11_module(MODULE).restart()
        token.generate("one", b"\x01", "p256")
        with pytest.raises(Tampered) as raised:
            _signs(key)
        assert raised.value.code == "key.object.changed"

    def test_an_unplugged_token_is_missing(self, hsm: SoftHsm, token: Pkcs11Token):
        key = token.generate("one", None, "p256")
        hsm.delete_token("ca")
        pkcs11_module(MODULE).restart()
        with pytest.raises(StationFault) as raised:
            _signs(key)
        assert raised.value.code == "key.token.missing"

    def test_a_token_that_does_not_come_back(self, hsm: SoftHsm, token: Pkcs11Token):
        token.generate("one", None, "p256")
        body = """
from support.softhsm import PinnedFunction
sign = PinnedFunction(PinnedFunction.C_SIGN_INIT, 0x32)  # CKR_DEVICE_REMOVED
print(attempt(), sign.count)
"""
        assert _said(_start(hsm, body, hsm.uri("ca", "one"))) == ["key.session.lost 2"]


class TestManyAtOnce:
    def test_four_processes_log_in_and_sign(self, hsm: SoftHsm, token: Pkcs11Token):
        token.generate("one", None, "p256")
        body = "print([attempt() for _ in range(25)])"
        started = [_start(hsm, body, hsm.uri("ca", "one")) for _ in range(4)]
        assert [_said(process) for process in started] == [[f"{['good'] * 25}"]] * 4

    def test_keys_are_made_while_others_log_in(self, hsm: SoftHsm, token: Pkcs11Token):
        token.generate("one", None, "p256")
        started = [_start(hsm, "print([attempt() for _ in range(15)])", hsm.uri("ca", "one")) for _ in range(2)]
        for count in range(15):
            _signs(token.generate(f"new {count}", None, "p256"))
        assert [_said(process) for process in started] == [[f"{['good'] * 15}"]] * 2

    def test_threads_share_a_key(self, token: Pkcs11Token):
        key = token.generate("one", None, "p256")
        with ThreadPoolExecutor(8) as threads:
            for done in [threads.submit(_signs, key) for _ in range(400)]:
                done.result()

    def test_a_forked_child_signs_and_so_does_its_parent(self, token: Pkcs11Token):
        key = token.generate("one", None, "p256")
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                try:
                    for _ in range(5):
                        _signs(key)
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
            _signs(key)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
        _signs(key)

    def test_two_users_of_a_token_close_it_one_by_one(self, token: Pkcs11Token):
        second = Pkcs11Token(MODULE, "ca", _PIN)
        key = token.generate("one", None, "p256")
        second.close()
        second.close()
        _signs(key)
        with pytest.raises(RuntimeError):
            second.find()


class TestNothingShowsThePin:
    def test_neither_log_nor_process_list(self, hsm: SoftHsm, token: Pkcs11Token, caplog: pytest.LogCaptureFixture):
        caplog.set_level(logging.DEBUG)
        token.generate("one", None, "p256")
        secret = hsm.directory / "pin"
        secret.touch(0o600)
        secret.write_text(PIN + "\n")
        body = "print(attempt(), Path('/proc/self/cmdline').read_text())"
        process = _start(hsm, body, hsm.uri("ca", "one", pin_source=f"file:{secret}"), PIN="")
        said = _said(process)
        assert any(line.startswith("good ") for line in said)
        assert PIN not in "\n".join(said)
        assert PIN not in caplog.text
        assert PIN not in repr(vars(token))
