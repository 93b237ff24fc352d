"""The target ``tpm2`` on swtpm: what others see in the TPM, and who is not believed. Judges: tpm2-tools, OpenSSL."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import socket
import subprocess
import threading
import time
import tty
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key

from birthmark.adapters.targets.proof import proof_message
from birthmark.adapters.targets.tpm2 import Tpm2Target
from birthmark.adapters.targets.tpm2.endorsement import (
    answer_challenge,
    attest_key,
    find_endorsement,
    make_challenge,
    read_ek_roots,
)
from birthmark.adapters.targets.tpm2.keys import persistent_key, tpm_key
from birthmark.adapters.targets.tpm2.link import binding, open_tpm
from birthmark.adapters.targets.tpm2.stream import parse_address
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from support.devicepki import credential_for
from support.fences import OPEN, OpenFence
from support.swtpm import Swtpm, board_state, ek_roots, made_state, start_tpm, write_index
from support.targets.device import SERIAL
from support.targets.tpm2 import CERTIFICATE_INDEX, HANDLE, tpm_holds, tpm_target
from support.tpmproxy import TpmProxy

NONCE = bytes(range(32))
FIXED = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|noda"


@pytest.fixture
def tpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Swtpm:
    return start_tpm(tmp_path / "tpm", monkeypatch, board_state(SERIAL))


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    return ek_roots(tmp_path)


def install(target: Tpm2Target, algorithm: str = "p256") -> Credential:
    request = x509.load_der_x509_csr(target.make_key(algorithm, SERIAL, OPEN))
    credential = credential_for(request.public_key(), SERIAL)
    target.install(credential, OPEN)
    return credential


def put_key(tpm: Swtpm, attributes: str, directory: Path, *, imported: bool = False) -> None:
    """Make a key with tpm2-tools, or bring one from outside, and put it where the identity's key belongs."""
    names = {name: str(directory / name) for name in ("parent", "pub", "priv", "key", "pem")}
    tpm.tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc256", "-c", names["parent"])
    parts = ["-C", names["parent"], "-u", names["pub"], "-r", names["priv"]]
    if imported:
        key = ec.generate_private_key(ec.SECP256R1())
        Path(names["pem"]).touch(mode=0o600)
        Path(names["pem"]).write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        tpm.tool("tpm2_import", "-Q", *parts, "-G", "ecc", "-i", names["pem"], "-a", attributes)
    else:
        tpm.tool("tpm2_create", "-Q", *parts, "-G", "ecc256:ecdsa-sha256:null", "-a", attributes)
    tpm.tool("tpm2_load", "-Q", *parts, "-c", names["key"])
    tpm.tool("tpm2_evictcontrol", "-C", "o", "-c", names["key"], f"{HANDLE:#x}")


@pytest.mark.parametrize("algorithm", ["p256", "p384", "rsa2048"])
def test_others_read_and_verify_what_is_in_the_tpm(tpm: Swtpm, tmp_path: Path, algorithm: str) -> None:
    credential = install(tpm_target(tpm.tcti), algorithm)
    pem, message, signature = (tmp_path / name for name in ("key.pem", "message", "signature"))
    shown = tpm.tool("tpm2_readpublic", "-c", f"{HANDLE:#x}", "-f", "pem", "-o", str(pem)).decode()
    assert "value: fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign\n" in shown
    for place, certificate in enumerate((credential.certificate, *credential.chain)):
        assert tpm.tool("tpm2_nvread", f"{CERTIFICATE_INDEX + place:#x}") == certificate
    command = ["openssl", "x509", "-inform", "der", "-pubkey", "-noout"]
    ran = subprocess.run(command, input=credential.certificate, capture_output=True, check=True)
    assert ran.stdout == pem.read_bytes()
    evidence = tpm_target(tpm.tcti).prove(b"challenge")
    assert evidence.signature is not None
    message.write_bytes(proof_message(b"challenge"))
    signature.write_bytes(evidence.signature)
    digest = "sha384" if algorithm == "p384" else "sha256"
    scheme = "rsassa" if algorithm == "rsa2048" else "ecdsa"
    files = ["-m", str(message), "-s", str(signature)]
    tpm.tool("tpm2_verifysignature", "-c", f"{HANDLE:#x}", "-g", digest, "-f", scheme, *files)
    command = ["openssl", "dgst", f"-{digest}", "-verify", str(pem), "-signature", str(signature), str(message)]
    subprocess.run(command, check=True, capture_output=True)


def test_nothing_is_left_in_the_slots_of_the_tpm(tpm: Swtpm, roots: Path) -> None:
    """swtpm has room for three objects: a station that was killed may have left it full."""
    environment = {**os.environ, "TPM2TOOLS_TCTI": tpm.tcti}
    for name in "abc":
        command = ["tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc256", "-c", str(roots.with_name(name))]
        subprocess.run(command, env=environment, check=True)
    target = tpm_target(tpm.tcti, roots, "&ek=rsa2048")
    install(target)
    target.attest(NONCE)
    for kind in ("transient", "loaded-session", "saved-session"):
        assert tpm.tool("tpm2_getcap", f"handles-{kind}") == b""


@pytest.mark.parametrize("kind", ["ecc384", "rsa2048"])
def test_the_statement_says_what_was_looked_at(tpm: Swtpm, roots: Path, kind: str) -> None:
    credential = install(tpm_target(tpm.tcti))
    shown = tpm_target(tpm.tcti, roots, f"&ek={kind}").attest(NONCE)
    statement = json.loads(shown.statement)
    index = {"ecc384": "0x1c00016", "rsa2048": "0x1c00002"}[kind]
    assert b64decode(statement["ek_certificates"][0]) == tpm.tool("tpm2_nvread", index)
    assert statement["nonce"] == NONCE.hex()
    name = roots.with_name("name")
    tpm.tool("tpm2_readpublic", "-Q", "-c", f"{HANDLE:#x}", "-n", str(name))
    assert statement["name"] == name.read_bytes().hex()
    assert shown.spki in credential.certificate


def test_tpm_of_another_maker_is_refused(tpm: Swtpm, tmp_path: Path) -> None:
    install(tpm_target(tpm.tcti))
    with pytest.raises(DeviceFault) as caught:
        tpm_target(tpm.tcti, ek_roots(tmp_path, maker="stranger")).attest(NONCE)
    assert caught.value.code == "target.tpm.ek_untrusted"


def test_tpm_without_a_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: Path) -> None:
    tpm = start_tpm(tmp_path / "bare", monkeypatch, made_state("bare", certificates=False))
    install(tpm_target(tpm.tcti))
    with pytest.raises(DeviceFault) as caught:
        tpm_target(tpm.tcti, roots).attest(NONCE)
    assert caught.value.code == "target.tpm.ek_missing"


def test_copied_or_misused_certificate_of_an_endorsement_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: Path, tpm: Swtpm
) -> None:
    bare = start_tpm(tmp_path / "bare", monkeypatch, made_state("bare", certificates=False))
    install(tpm_target(bare.tcti))
    write_index(bare, 0x1C00016, tpm.tool("tpm2_nvread", "0x1c00016"), hierarchy="p")
    issuer = x509.load_pem_x509_certificates(roots.read_bytes())[1]
    write_index(bare, 0x1C00002, issuer.public_bytes(Encoding.DER), hierarchy="p")
    for kind, code in (("ecc384", "target.tpm.ek_mismatch"), ("rsa2048", "target.tpm.ek_untrusted")):
        with pytest.raises(DeviceFault) as caught:
            tpm_target(bare.tcti, roots, f"&ek={kind}").attest(NONCE)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("attributes", "imported", "code"),
    [
        ("userwithauth|sign", True, "target.key.extractable"),
        ("sensitivedataorigin|userwithauth|sign", False, "target.key.extractable"),
        (f"{FIXED}|restricted", False, "target.key.attributes"),
    ],
    ids=["imported", "duplicable", "restricted"],
)
def test_key_that_is_not_a_plain_one_born_here_is_refused(
    tpm: Swtpm, roots: Path, tmp_path: Path, attributes: str, imported: bool, code: str
) -> None:
    put_key(tpm, attributes, tmp_path, imported=imported)
    target = tpm_target(tpm.tcti, roots)
    with open_tpm(parse_address(tpm.tcti), lambda: 10.0) as link:
        key = persistent_key(link, HANDLE)
        assert key is not None
        credential = credential_for(load_der_public_key(key.spki), SERIAL)
    before = tpm_holds(tpm.tcti)
    for act in (lambda: target.attest(NONCE), lambda: target.install(credential, OPEN)):
        with pytest.raises(DeviceFault) as caught:
            act()
        assert caught.value.code == code
    assert tpm_holds(tpm.tcti) == before


def test_another_tpm_cannot_answer_for_this_one(
    tpm: Swtpm, roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the TPM of the device for another's EK, nor the other TPM with only the public half of the key."""
    other = start_tpm(tmp_path / "other", monkeypatch, made_state("two"))
    install(tpm_target(tpm.tcti))
    with (
        open_tpm(parse_address(other.tcti), lambda: 10.0) as far,
        open_tpm(parse_address(tpm.tcti), lambda: 10.0) as near,
    ):
        key = persistent_key(near, HANDLE)
        assert key is not None
        theirs, ours = (find_endorsement(link, "auto") for link in (far, near))
        challenge = make_challenge(theirs.area, key.name, NONCE)
        with pytest.raises(DeviceFault) as caught:
            answer_challenge(near, key, ours, *challenge)
        assert caught.value.code == "target.tpm.not_resident"
        public = binding().TPM2B_PUBLIC(publicArea=key.public)
        copied = tpm_key(far, far.keep(far.esys.load_external(public)))
        assert copied.name == key.name
        with pytest.raises(DeviceFault) as caught:
            attest_key(far, copied, theirs, read_ek_roots(roots), NONCE)
        assert caught.value.code == "target.tpm.not_resident"
        assert answer_challenge(near, key, ours, *make_challenge(ours.area, key.name, NONCE)) == NONCE


class _Deadline(OpenFence):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        return max(0.0, self._end - time.monotonic())


def test_a_tpm_that_hangs_does_not_keep_the_station(tpm: Swtpm) -> None:
    tpm.freeze()
    begun = time.monotonic()
    for act in (
        lambda: tpm_target(tpm.tcti, more="&timeout=1").probe(),
        lambda: tpm_target(tpm.tcti).make_key("p256", SERIAL, _Deadline(0.3)),
    ):
        with pytest.raises(Unavailable) as caught:
            act()
        assert caught.value.code == "target.tpm.silent"
    assert time.monotonic() - begun < 5


def test_a_tpm_that_nobody_started_ends_nothing(tpm: Swtpm) -> None:
    credential = install(tpm_target(tpm.tcti))
    tpm.cut()
    tpm.start(startup=False)
    for act in (tpm_target(tpm.tcti).probe, lambda: tpm_target(tpm.tcti).install(credential, OPEN)):
        with pytest.raises(Unavailable) as caught:
            act()
        assert caught.value.code == "target.tpm.not_started"
    tpm.tool("tpm2_startup", "-c")
    assert tpm_target(tpm.tcti).probe().certificate == credential.certificate


def test_certificate_that_does_not_fit_is_refused_before_anything_changes(tpm: Swtpm) -> None:
    install(tpm_target(tpm.tcti))
    request = x509.load_der_x509_csr(tpm_target(tpm.tcti).make_key("p256", SERIAL, OPEN))
    good = credential_for(request.public_key(), SERIAL)
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=1))
    padding = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), bytes(2000))
    long = builder.add_extension(padding, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    before = tpm_holds(tpm.tcti)
    with pytest.raises(Refused) as caught:
        tpm_target(tpm.tcti).install(Credential(SERIAL, good.certificate, (long,), None, 1, 2), OPEN)
    assert (caught.value.code, caught.value.facts["most"]) == ("target.tpm.too_long", 2048)
    assert tpm_holds(tpm.tcti) == before


def test_tpm_that_somebody_owns_is_refused_by_name(tpm: Swtpm) -> None:
    tpm.tool("tpm2_changeauth", "-c", "owner", "somebody")
    with pytest.raises(DeviceFault) as caught:
        tpm_target(tpm.tcti).make_key("p256", SERIAL, OPEN)
    assert caught.value.code == "target.tpm.owned"


def test_what_is_in_an_index_of_somebody_else_is_not_read(tpm: Swtpm) -> None:
    write_index(tpm, CERTIFICATE_INDEX, bytes(100))
    assert tpm_target(tpm.tcti).probe().certificate is None
    tpm.tool("tpm2_nvundefine", f"{CERTIFICATE_INDEX:#x}")
    attributes = "policyread|policywrite|ownerwrite"
    tpm.tool("tpm2_nvdefine", f"{CERTIFICATE_INDEX:#x}", "-C", "o", "-s", "8", "-a", attributes)
    tpm.tool("tpm2_nvwrite", f"{CERTIFICATE_INDEX:#x}", "-C", "o", "-i", "-", data=bytes(8))
    with pytest.raises(DeviceFault) as caught:
        tpm_target(tpm.tcti).probe()
    assert caught.value.code == "target.tpm.index"


@pytest.fixture
def impostor() -> Iterator[tuple[str, list[bytes]]]:
    """Something that answers every connection with octets of its own, one after the other, and then is silent."""
    listener = socket.create_server(("127.0.0.1", 0))
    answers: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.recv(4096)
                for octet in answers[0]:
                    client.sendall(bytes((octet,)))

    threading.Thread(target=serve, daemon=True).start()
    yield f"swtpm:host=127.0.0.1,port={listener.getsockname()[1]}", answers
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "target.tpm.malformed"),
        (bytes.fromhex("80010000ffff00000000"), "target.tpm.malformed"),
        (bytes.fromhex("80010000000400000000"), "target.tpm.malformed"),
        (bytes.fromhex("8001000000130000000000000000010000ffff"), "target.tpm.failed"),
        (bytes.fromhex("8001"), "target.tpm.unreachable"),
        (b"", "target.tpm.unreachable"),
    ],
    ids=["http", "huge", "short", "nonsense", "cut", "closed"],
)
def test_what_is_no_tpm_is_refused_by_name(impostor: tuple[str, list[bytes]], answer: bytes, code: str) -> None:
    tcti, answers = impostor
    answers.append(answer)
    with pytest.raises(BirthmarkError) as caught:
        tpm_target(tcti, more="&timeout=5").probe()
    assert caught.value.code == code


def test_a_tpm_that_answers_nonsense_ends_in_an_error_with_a_name(tpm: Swtpm, roots: Path) -> None:
    """Octets of the answers flipped at random, as a bad link or somebody on it would."""
    install(tpm_target(tpm.tcti))
    proxy, chance = TpmProxy(tpm.port), random.Random(4711)

    def flip(command: bytes, ask: Callable[[bytes], bytes]) -> bytes:
        answer = bytearray(ask(command))
        if len(answer) > 10 and chance.random() < 0.2:
            for _ in range(chance.choice((1, 1, 3, 20))):
                answer[chance.randrange(10, len(answer))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        return bytes(answer)

    proxy.lie = flip
    codes = []
    for turn in range(60):
        target = tpm_target(proxy.tcti, roots, "&timeout=5&ek=rsa2048" if turn % 2 else "&timeout=5")
        for act in (target.probe, lambda t=target: t.prove(NONCE), lambda t=target: t.attest(NONCE)):
            try:
                act()
            except BirthmarkError as problem:
                codes.append(problem.code)
    proxy.close()
    assert len(codes) > 30
    assert len(set(codes)) > 3


def test_key_of_the_next_identity_outlives_the_installation_of_the_present_one(tpm: Swtpm) -> None:
    credential = install(tpm_target(tpm.tcti))
    waiting = x509.load_der_x509_csr(tpm_target(tpm.tcti).make_key("p256", SERIAL, OPEN)).public_key()
    tpm_target(tpm.tcti).install(credential, OPEN)
    again = x509.load_der_x509_csr(tpm_target(tpm.tcti).make_key("p256", SERIAL, OPEN)).public_key()
    assert again == waiting
    tpm_target(tpm.tcti).install(credential_for(waiting, SERIAL), OPEN)


def test_tpm_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    for tcti in ("swtpm:host=127.0.0.1,port=1", f"device:{tmp_path}/tpm0", f"swtpm:path={tmp_path}/none"):
        with pytest.raises(Unavailable) as caught:
            tpm_target(tcti).probe()
        assert caught.value.code == "target.tpm.unreachable"


def test_device_says_who_it_is(tpm: Swtpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_key = tpm_target(tpm.tcti, more="&identity=ek").probe().identity
    der = tmp_path / "ek.der"
    tpm.tool("tpm2_readpublic", "-Q", "-c", "0x81010016", "-f", "der", "-o", str(der))
    assert by_key == sha256(der.read_bytes()).hexdigest()
    unnamed = start_tpm(tmp_path / "unnamed", monkeypatch, made_state("two"))
    assert tpm_target(unnamed.tcti, more="&identity=ek").probe().identity != by_key
    with pytest.raises(DeviceFault) as caught:
        tpm_target(unnamed.tcti).probe()
    assert caught.value.code == "target.identity.malformed"


def test_a_tpm_behind_a_character_device_is_the_same(tpm: Swtpm) -> None:
    """Two octet streams, one device: swtpm on the far end of a pseudo-terminal."""
    tpm.cut()
    far, near = pty.openpty()
    tty.setraw(near)
    state = ["--tpm2", "--tpmstate", f"dir={tpm.directory}", "--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen(["swtpm", "chardev", "--fd", str(far), *state], pass_fds=(far,))
    try:
        install(tpm_target(f"device:{os.ttyname(near)}"))
        assert tpm_target(f"device:{os.ttyname(near)}").probe().identity == SERIAL
    finally:
        process.kill()
        process.wait()
        os.close(far)
        os.close(near)


def test_registration_is_what_the_tools_read(tpm: Swtpm, tmp_path: Path) -> None:
    public, root = tmp_path / "ek.pub", tmp_path / "srk.pub"
    tpm.tool("tpm2_readpublic", "-Q", "-c", "0x81010001", "-o", str(public))
    document = tpm_target(tpm.tcti).registration("sn-0001").document()
    assert document["registrationId"] == "sn-0001"
    assert document["attestation"] == {"type": "tpm", "tpm": {"endorsementKey": _base64(public)}}
    assert b64decode(str(document["ekCertificate"])) == tpm.tool("tpm2_nvread", "0x1c00002")
    tpm.tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "rsa2048", "-c", str(tmp_path / "srk"))
    tpm.tool("tpm2_evictcontrol", "-C", "o", "-c", str(tmp_path / "srk"), "0x81000001")
    tpm.tool("tpm2_readpublic", "-Q", "-c", "0x81000001", "-o", str(root))
    document = tpm_target(tpm.tcti).registration("sn-0001").document()
    assert document["attestation"] == {
        "type": "tpm",
        "tpm": {"endorsementKey": _base64(public), "storageRootKey": _base64(root)},
    }
    with pytest.raises(Misconfigured) as caught:
        tpm_target(tpm.tcti).registration("SN-0001")
    assert caught.value.code == "target.tpm.registration"


def _base64(path: Path) -> str:
    ran = subprocess.run(["base64", "-w0", str(path)], capture_output=True, check=True, text=True)
    return ran.stdout


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("tpm2:0x01010100", "target.uri.option"),
        ("tpm2:HANDLE", "target.uri.option"),
        ("tpm2:0x81010100?nv=0x01bffffe", "target.uri.option"),
        ("tpm2:0x81010100?timeout=0", "target.uri.option"),
        ("tpm2:0x81010100?identity=port", "target.uri.option"),
        ("tpm2:0x81010100?pin=1", "target.uri.malformed"),
        ("tpm2:0x81010100?tcti=tabrmd:", "target.tpm.tcti"),
        ("tpm2:0x81010100?tcti=swtpm:host=h,port=70000", "target.tpm.tcti"),
        ("tpm2:0x81010100?ek-roots=none.pem", "target.tpm.roots"),
    ],
)
def test_bad_options_are_refused_by_name(uri: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        Tpm2Target(uri, secrets=lambda _: Secret(b""), base=tmp_path)
    assert caught.value.code == code


def test_algorithm_that_a_tpm_has_not_is_refused(tpm: Swtpm) -> None:
    before = tpm_holds(tpm.tcti)
    with pytest.raises(Misconfigured) as caught:
        tpm_target(tpm.tcti).make_key("ed25519", SERIAL, OPEN)
    assert caught.value.code == "key.algorithm.token"
    assert tpm_holds(tpm.tcti) == before
