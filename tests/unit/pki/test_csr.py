"""Requests: every file under tests/vectors/csr gets its answer, and nothing else gets through."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import cryptography_vectors
import msgspec
import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import BirthmarkError, Refused
from birthmark.pki.csr import QUIRKS, Csr, parse_csr
from birthmark.pki.profile import Profile, load_preset

FOLDER = Path(__file__).parents[2] / "vectors/csr"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".pem", ".der"))
vectors = importlib.import_module("vectors.make_csr_vectors")

VALUES = {"pen": "99999"}


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_preset("tls-client")


def answer_of(data: bytes, profile: Profile) -> str:
    try:
        csr = parse_csr(data)
        csr.check_against(profile, vectors.DEVICE_SERIAL, values=VALUES)
    except Refused as error:
        return " ".join([error.code, *[str(error.facts[key]) for key in ("cause",) if key in error.facts]])
    return " ".join(["ok", *csr.quirks])


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_request_gets_its_answer(file: Path, profile: Profile) -> None:
    assert answer_of(file.read_bytes(), profile) == file.with_suffix(".txt").read_text().strip()


def test_vector_files_are_what_the_script_writes(tmp_path: Path) -> None:
    vectors.write_all(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name


def test_every_tolerated_quirk_has_a_vector() -> None:
    seen = {word for path in FILES for word in path.with_suffix(".txt").read_text().split()[1:]}
    assert set(QUIRKS) <= seen


@pytest.mark.parametrize("name", ["quirk_padded_integers", "quirk_negative_integers", "quirk_null_parameters"])
def test_strict_parser_refuses_what_we_tolerate_by_name(name: str) -> None:
    data = (FOLDER / f"{name}.pem").read_bytes()
    try:
        assert not x509.load_pem_x509_csr(data).is_signature_valid
    except ValueError:
        return


@pytest.mark.parametrize("file", [path for path in FILES if path.stem.startswith("good_")], ids=lambda p: p.stem)
def test_openssl_accepts_the_good_ones(file: Path) -> None:
    run = subprocess.run(["openssl", "req", "-verify", "-noout", "-in", file], capture_output=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("algorithm", ["EC -pkeyopt ec_paramgen_curve:P-256", "ED25519", "RSA"])
def test_requests_of_openssl_are_read(algorithm: str, tmp_path: Path, profile: Profile) -> None:
    command = ["openssl", "genpkey", "-out", tmp_path / "key", "-algorithm", *algorithm.split()]
    subprocess.run(command, check=True, capture_output=True)
    make = ["openssl", "req", "-new", "-key", tmp_path / "key", "-subj", "/CN=SN-0001", "-outform", "DER"]
    der = subprocess.run(make, check=True, capture_output=True).stdout
    assert answer_of(der, profile) == "ok"


def test_request_of_certtool_is_read(tmp_path: Path, profile: Profile) -> None:
    key, template = tmp_path / "key.pem", tmp_path / "template"
    template.write_text('cn = "SN-0001"\nsigning_key\ntls_www_client\n')
    subprocess.run(
        ["certtool", "--generate-privkey", "--ecc", "--curve", "secp256r1", "--outfile", key],
        check=True,
        capture_output=True,
    )
    command = ["certtool", "--generate-request", "--load-privkey", key, "--template", template]
    run = subprocess.run([*command, "--outder", "--stdout"], check=False, capture_output=True)
    if run.returncode != 0:
        subprocess.run([*command, "--outder", "--outfile", tmp_path / "csr"], check=True, capture_output=True)
        assert answer_of((tmp_path / "csr").read_bytes(), profile) == "ok"
        return
    assert answer_of(run.stdout, profile) == "ok"


PUBLISHED = {
    "requests/ec_sha256.der": "ok",
    "requests/rsa_sha256.pem": "ok",
    "requests/challenge.pem": "ok",
    "requests/rsa_sha1.pem": "csr.algorithm",
    "requests/dsa_sha1.pem": "key.kind",
    "requests/rsa_md4.pem": "csr.algorithm",
    "requests/invalid_signature.pem": "csr.key.weak",
    "requests/bad-version.pem": "csr.malformed",
    "requests/two_basic_constraints.pem": "csr.malformed",
    "requests/challenge-multi-valued.der": "csr.signature",
    "requests/zero-element-attribute.pem": "csr.attribute",
    "requests/long-form-attribute.pem": "csr.signature",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_request_is_read_or_refused_by_name(name: str) -> None:
    with cryptography_vectors.open_vector_file(f"x509/{name}", "rb") as file:
        data = file.read()
    try:
        parse_csr(data)
        code = "ok"
    except Refused as error:
        code = error.code
    assert code == PUBLISHED[name]


GOOD = (FOLDER / "good_asks_what_is_granted.pem").read_bytes()


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 400), bit=st.integers(0, 7))
def test_flipped_bit_never_passes_and_never_leaks_another_exception(place: int, bit: int) -> None:
    der = bytearray(parse_csr(GOOD).der)
    der[place % len(der)] ^= 1 << bit
    with pytest.raises(Refused):
        parse_csr(bytes(der))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_junk_is_a_named_refusal(junk: bytes) -> None:
    for data in (junk, b"0" + junk, b"-----BEGIN CERTIFICATE REQUEST-----\n" + junk):
        with pytest.raises(BirthmarkError):
            parse_csr(data)


def request(name: str) -> Csr:
    return parse_csr((FOLDER / f"{name}.pem").read_bytes())


def test_signed_octets_are_the_ones_that_came() -> None:
    csr = request("quirk_null_parameters")
    assert csr.info in csr.der
    assert csr.spki in csr.info


def test_key_kind_outside_of_the_profile_is_refused(profile: Profile) -> None:
    narrow = msgspec.structs.replace(profile, key_algorithms=("p384", "rsa2048"))
    with pytest.raises(Refused, match="kind p256") as caught:
        request("good_p256_device_serial").check_against(narrow, "SN-0001")
    assert caught.value.code == "csr.key.algorithm"


def test_request_of_one_device_does_not_serve_another(profile: Profile) -> None:
    with pytest.raises(Refused) as caught:
        request("good_p256_device_serial").check_against(profile, "SN-0002")
    assert caught.value.code == "csr.name"


def test_two_pem_blocks_are_one_too_many() -> None:
    with pytest.raises(Refused) as caught:
        parse_csr(GOOD + GOOD)
    assert caught.value.code == "csr.malformed"
