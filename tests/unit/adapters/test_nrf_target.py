"""Modems: what is written is what is there, what is attested is verified, and the maker's own tool sees the same."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.adapters.targets.nrf import NrfTarget
from birthmark.adapters.targets.nrf.anchors import IdentityKeys, attestation
from birthmark.adapters.targets.nrf.cose import read_item, read_sign1
from birthmark.adapters.targets.nrf.keygen import read_keygen, read_token
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault, Unavailable
from birthmark.model.secret import Secret
from birthmark.pki.csr import parse_csr
from birthmark.testing.modem import ModemSimulator
from birthmark.testing.ptydevice import Noise
from birthmark.workflow.line.fence import DeadlineFence
from support.devicepki import credential_for, pool_credential
from support.fences import OPEN
from support.targets.nrf import modem_target
from support.vendortools import tool

SERIAL, TAG = "SN-0001", 16842753
NONCE = bytes(range(32))

TOOL = """
import sys, types
import nrfcredstore.comms as comms
# The tool takes only ports that the system lists; a pseudo terminal is none.
comms.select_device = lambda rtt, serial, port, list_all: (types.SimpleNamespace(device=port), None)
from nrfcredstore import cli
cli.run(["nrfcredstore", *sys.argv[1:]])
"""


@pytest.fixture
def modem() -> Iterator[ModemSimulator]:
    with ModemSimulator() as modem:
        assert isinstance(modem, ModemSimulator)
        yield modem


@pytest.fixture
def target(modem: ModemSimulator, tmp_path: Path) -> NrfTarget:
    return modem_target(modem, tmp_path)


def makers_tool(modem: ModemSimulator, *arguments: str) -> str:
    """Run nrfcredstore on the port of the simulator."""
    command = [str(tool("nrf")), "-c", TOOL, "--cmd-type", "at", "--rtscts-off", modem.port, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def born(target: NrfTarget) -> x509.CertificateSigningRequest:
    return x509.load_der_x509_csr(target.make_key("p256", SERIAL, OPEN))


def code_of(call: object, *arguments: object) -> str:
    with pytest.raises(BirthmarkError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.code


def test_the_makers_tool_sees_the_certificate_that_we_installed(modem: ModemSimulator, target: NrfTarget) -> None:
    credential = credential_for(born(target).public_key(), SERIAL)
    target.install(credential, OPEN)
    ones = (credential.certificate, credential.chain[0])
    pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ones)
    listed = makers_tool(modem, "list", "--tag", str(TAG))
    assert f"{TAG}     CLIENT_CERT        {sha256(pem).hexdigest().upper()}" in listed
    assert "CLIENT_KEY" in listed


def test_we_see_the_certificate_that_the_makers_tool_installed(
    modem: ModemSimulator, target: NrfTarget, tmp_path: Path
) -> None:
    other = pool_credential("SN-9999").certificate
    (tmp_path / "other.pem").write_bytes(x509.load_der_x509_certificate(other).public_bytes(Encoding.PEM))
    makers_tool(modem, "write", str(TAG), "CLIENT_CERT", str(tmp_path / "other.pem"))
    assert target.probe().certificate == other


def test_openssl_verifies_the_cose_signature_that_we_accept(
    modem: ModemSimulator, target: NrfTarget, tmp_path: Path
) -> None:
    """The to-be-signed structure is made here by another CBOR library, the signature checked by openssl."""
    born(target)
    made, token = target.attest(NONCE).statement.decode().splitlines()
    for statement in (made, token):
        message, cose = (base64.urlsafe_b64decode(part + "==") for part in statement.split("."))
        tag = cbor2.loads(cose)
        protected, _, payload, raw = tag.value
        signed = cbor2.dumps(["Signature1", protected, b"", message if payload is None else payload])
        (tmp_path / "signed").write_bytes(signed)
        numbers = (int.from_bytes(half, "big") for half in (raw[:32], raw[32:]))
        (tmp_path / "signature").write_bytes(encode_dss_signature(*numbers))
        key = modem.identity_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key").write_bytes(key)
        command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "signature", "signed"]
        assert subprocess.check_output(command, cwd=tmp_path) == b"Verified OK\n"


def test_our_reader_of_cbor_reads_what_another_library_writes(modem: ModemSimulator) -> None:
    for value in (0, 23, 24, 255, 256, 65536, -1, -256, b"", b"x" * 300, "text", None, (1, (2, b"3")), {4: b"!"}):
        found = read_item(cbor2.dumps(value))
        assert found == value
    assert read_item(b"\xd9\xd9\xf7" + cbor2.dumps([9, b"a"])) == (9, b"a")
    sign1 = cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps({1: -7}), {4: b"\x21"}, b"payload", bytes(64)]))
    assert read_sign1(sign1).payload == b"payload"


STRANGE = ("", "9f01ff", "1b0000000000000000", "81" * 9, "58ff", "a201020102", "c100", "0000", "f90000", "62ffff")


@pytest.mark.parametrize("data", [*STRANGE, "9820" + "00" * 32])
def test_strange_cbor_is_refused(data: str) -> None:
    with pytest.raises(ValueError):
        read_item(bytes.fromhex(data))


def test_a_request_as_real_modems_write_it_is_taken_by_name_of_its_quirk(
    modem: ModemSimulator, target: NrfTarget
) -> None:
    modem.faults.csr_null = True
    request = parse_csr(target.make_key("p256", SERIAL, OPEN))
    assert request.quirks == ("ecdsa-null-parameters",)
    assert target.attest(NONCE).spki == request.spki


@pytest.mark.parametrize(("fault", "code"), [("keygen_digest", "target.keygen.damaged")])
def test_a_key_whose_attestation_speaks_of_another_request_is_refused(
    modem: ModemSimulator, target: NrfTarget, fault: str, code: str
) -> None:
    setattr(modem.faults, fault, True)
    assert code_of(target.make_key, "p256", SERIAL, OPEN) == code
    assert (2147483000, 4) not in modem.store, "nothing is kept of it"


def test_an_attestation_that_another_key_signed_is_refused(modem: ModemSimulator, target: NrfTarget) -> None:
    modem.faults.keygen_signature = True
    born(target)
    assert code_of(target.attest, NONCE) == "target.attestation.signature"
    modem.faults.keygen_signature = False
    assert code_of(target.attest, NONCE) == "target.attestation.signature", "the key's own one stays forged"


def test_a_modem_that_its_maker_does_not_know_is_refused(
    modem: ModemSimulator, target: NrfTarget, tmp_path: Path
) -> None:
    born(target)
    line = modem.anchor_line()
    (tmp_path / "anchors").write_text(line.replace(str(modem.uuid), "50363154-3932-44f0-8022-000000000000") + "\n")
    assert code_of(target.attest, NONCE) == "target.anchor.unknown"
    (tmp_path / "anchors").write_text(f"{line}\n{line}\n")
    assert code_of(target.attest, NONCE) == "target.anchors.unreadable"
    (tmp_path / "anchors").write_text(f"{modem.uuid} AAAA\n")
    assert code_of(target.attest, NONCE) == "target.anchors.unreadable"


def test_what_another_modem_said_does_not_count_here(modem: ModemSimulator, target: NrfTarget, tmp_path: Path) -> None:
    with ModemSimulator(uuid="50363154-3932-44f0-8022-00000000beef", imei="350457790000028") as other:
        assert isinstance(other, ModemSimulator)
        their_target = modem_target(other, tmp_path)
        born(their_target)
        born(target)
        (tmp_path / "anchors").write_text(f"{modem.anchor_line()}\n{other.anchor_line()}\n")
        modem._slots.update(other._slots)
        assert code_of(modem_target_again(modem, tmp_path).attest, NONCE) == "target.attestation.other"


def modem_target_again(modem: ModemSimulator, root: Path) -> NrfTarget:
    return NrfTarget(f"nrf:{modem.port}?anchors=anchors&answer-s=2", secrets=lambda _: Secret(b""), base=root)


@pytest.mark.parametrize("error", [True, 515, 528])
def test_a_modem_that_refuses_the_write_ends_in_a_named_error(
    modem: ModemSimulator, target: NrfTarget, error: bool | int
) -> None:
    """The maker's installer went on here and ended with exit code 0."""
    credential = credential_for(born(target).public_key(), SERIAL)
    modem.faults.write_error = error
    with pytest.raises(DeviceFault) as caught:
        target.install(credential, OPEN)
    assert caught.value.code in ("target.modem.error", "target.write.not_kept")
    assert code_of(target.prove, bytes(32)) == "target.certificate.missing"
    modem.faults.write_error = False
    target.install(credential, OPEN)
    assert target.prove(bytes(32)).certificate == credential.certificate


def test_a_key_that_was_changed_behind_our_back_is_found(modem: ModemSimulator, target: NrfTarget) -> None:
    credential = credential_for(born(target).public_key(), SERIAL)
    makers_tool(modem, "delete", str(TAG), "CLIENT_KEY")
    makers_tool(modem, "generate", str(TAG), "/dev/null")
    assert code_of(target.install, credential, OPEN) == "target.key.mismatch"


def test_two_heads_on_one_port_are_told_apart_from_a_missing_port(modem: ModemSimulator, tmp_path: Path) -> None:
    import serial

    with serial.Serial(modem.port, exclusive=True):
        with pytest.raises(StationFault) as caught:
            modem_target(modem, tmp_path).probe()
        assert caught.value.code == "link.port.in_use"
    assert modem_target(modem, tmp_path).probe().identity == modem.imei
    gone = NrfTarget("nrf:/dev/pts/none", secrets=lambda _: Secret(b""), base=tmp_path)
    assert code_of(gone.probe) == "link.port.missing"


def test_another_device_in_the_fixture_is_noticed_before_anything_is_written(
    modem: ModemSimulator, target: NrfTarget
) -> None:
    credential = credential_for(born(target).public_key(), SERIAL)
    before = modem.store
    modem.imei = "350457790000028"
    assert code_of(target.install, credential, OPEN) == "device.identity.changed"
    assert modem.store == before


def test_echo_and_lines_that_nobody_asked_for_do_no_harm(modem: ModemSimulator, target: NrfTarget) -> None:
    modem.faults.echo, modem.faults.chatter = True, "+CEREG: 0"
    credential = credential_for(born(target).public_key(), SERIAL)
    target.install(credential, OPEN)
    assert target.prove(bytes(32)).certificate == credential.certificate


def test_a_mute_modem_costs_no_more_than_the_fence_gives(modem: ModemSimulator, tmp_path: Path) -> None:
    import time

    target = modem_target(modem, tmp_path)
    target.probe()
    modem.faults.silent_for = 1 << 30
    fence = DeadlineFence("t", seconds=0.5, monotonic=time.monotonic)
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        target.make_key("p256", SERIAL, fence)
    assert caught.value.code == "station.deadline"
    assert time.monotonic() - began < 3
    assert modem.store == {}


def test_a_slow_modem_is_waited_for(modem: ModemSimulator, target: NrfTarget) -> None:
    modem.set_noise(Noise(delay_s=0.05))
    assert target.probe().identity == modem.imei


def test_the_device_serial_comes_from_the_list_of_identities(modem: ModemSimulator, tmp_path: Path) -> None:
    (tmp_path / "map").write_text(f"# IMEI serial\n{modem.imei} EL-7\n350457790000028 EL-8\n")
    target = modem_target(modem, tmp_path, "&map=map")
    assert target.probe().identity == "EL-7"
    (tmp_path / "map").write_text(f"{modem.imei} EL-7\n{modem.imei} EL-8\n")
    assert code_of(target.probe) == "target.map.unreadable"
    (tmp_path / "map").write_text("only-one-word\n")
    assert code_of(target.probe) == "target.map.unreadable"


NOTHING = "sec-tag=-1", "sec-tag=1&note-tag=1", "key-usage=1", "retries=x", "answer-s=0", "answer-s=1e9", "chain=none"


@pytest.mark.parametrize("options", [*NOTHING, "unknown=1", "baud=1", "flow=maybe"])
def test_options_that_mean_nothing_are_refused(options: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        NrfTarget(f"nrf:/dev/null?{options}", secrets=lambda _: Secret(b""), base=tmp_path).probe()


def test_other_kinds_of_keys_are_refused(target: NrfTarget) -> None:
    with pytest.raises(Refused) as caught:
        target.make_key("rsa2048", SERIAL, OPEN)
    assert caught.value.code == "target.key.algorithm"


def test_without_anchors_it_attests_nothing(modem: ModemSimulator, tmp_path: Path) -> None:
    target = NrfTarget(f"nrf:{modem.port}", secrets=lambda _: Secret(b""), base=tmp_path)
    assert not target.probe().attests
    with pytest.raises(TypeError):
        target.attest(NONCE)


def test_each_changed_character_of_what_a_modem_attests_is_found(
    modem: ModemSimulator, target: NrfTarget, tmp_path: Path
) -> None:
    born(target)
    made, token = target.attest(NONCE).statement.decode().splitlines()
    challenge = sha256(NONCE).digest()[:16]
    keys = IdentityKeys(tmp_path / "anchors")

    def judged(first: str, second: str) -> None:
        attestation(read_keygen(first), read_token(second), sec_tag=TAG, challenge=challenge, keys=keys)

    judged(made, token)
    for place in range(len(made + token)):
        for other in ("A", "-", "."):
            changed = (made + token)[:place] + other + (made + token)[place + 1 :]
            if changed == made + token or _same_octets(changed[: len(made)], made, changed[len(made) :], token):
                continue
            with pytest.raises(DeviceFault):
                judged(changed[: len(made)], changed[len(made) :])


def _same_octets(*pairs: str) -> bool:
    """The last character of a part in base64url has bits that mean nothing."""
    try:
        read = [[base64.urlsafe_b64decode(part + "==") for part in text.split(".")] for text in pairs]
    except ValueError:
        return False
    return read[0] == read[1] and read[2] == read[3]


@pytest.mark.parametrize("text", ["", ".", "a.b", "A" * 9000 + ".AA", "é.é", "AAAA.0oRDoQEmoQRBIQ", "MAA.2IRA"])
def test_what_is_no_statement_of_a_modem_is_refused_by_name(text: str) -> None:
    assert code_of(read_keygen, text) == "target.keygen.damaged"
    assert code_of(read_token, text) == "target.token.damaged"
