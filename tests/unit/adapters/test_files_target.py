"""The target ``files``: what lies on the disk, what a stranger's tool reads there, and every way it may be spoiled."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.files import FilesTarget
from birthmark.adapters.targets.proof import proof_message
from birthmark.errors import DeviceFault, Misconfigured, Refused, StationFault
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from support.devicepki import credential_for, pool_credential
from support.fences import OPEN

PASSPHRASE = "correct horse"
PLAIN = {"pem": ("device.key", "device.crt"), "der": ("device.key.der", "device.crt.der")}


def target(base: Path, options: str = "", directory: str = "dut") -> FilesTarget:
    uri = f"files:{directory}?{options}" if options else f"files:{directory}"
    return FilesTarget(uri, secrets=lambda _: Secret(PASSPHRASE.encode()), base=base)


@pytest.fixture
def dut(tmp_path: Path) -> Path:
    directory = tmp_path / "dut"
    directory.mkdir()
    return directory


def openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o7777 for path in directory.iterdir()}


@pytest.mark.parametrize("algorithm", ["p256", "p384", "ed25519", "rsa2048"])
@pytest.mark.parametrize("layout", ["pem", "der"])
def test_openssl_reads_what_was_installed_and_accepts_the_proof(dut: Path, layout: str, algorithm: str) -> None:
    credential = pool_credential("SN-1", algorithm)
    place = target(dut.parent, f"layout={layout}")
    place.install(credential, OPEN)
    key, certificate = (dut / name for name in PLAIN[layout])
    form = ("-inform", layout.upper())
    spki = openssl("x509", *form, "-in", certificate, "-noout", "-pubkey")
    assert openssl("pkey", *form, "-in", key, "-pubout") == spki
    assert openssl("x509", *form, "-in", certificate, "-outform", "DER") == credential.certificate
    public, signature, message = dut.parent / "public.pem", dut.parent / "signature", dut.parent / "message"
    public.write_bytes(spki)
    evidence = place.prove(b"c" * 32)
    assert evidence.signature is not None
    signature.write_bytes(evidence.signature)
    message.write_bytes(b"birthmark-proof-v1\0" + b"c" * 32)
    digests = {"ed25519": (), "p384": ("-digest", "sha384")}
    digest = digests.get(algorithm, ("-digest", "sha256"))
    verified = openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", *digest, "-in", message, "-sigfile", signature
    )
    assert b"Success" in verified


def test_openssl_verifies_the_chain_in_the_pem_file(dut: Path) -> None:
    credential = pool_credential("SN-1")
    target(dut.parent, "chain=issuing").install(credential, OPEN)
    root = dut.parent / "root.pem"
    root.write_bytes(x509.load_der_x509_certificate(credential.chain[-1]).public_bytes(Encoding.PEM))
    openssl("verify", "-CAfile", root, "-untrusted", dut / "device.crt", dut / "device.crt")
    assert (dut / "device.crt").read_bytes().count(b"BEGIN CERTIFICATE") == 2


def test_openssl_opens_the_pkcs12_file_and_finds_strong_encryption(dut: Path) -> None:
    credential = pool_credential("SN-1")
    target(dut.parent, "layout=p12&p12-secret=test:").install(credential, OPEN)
    assert modes(dut) == {"device.p12": 0o600}
    environment = {**os.environ, "PASS": PASSPHRASE}
    common = ["openssl", "pkcs12", "-in", dut / "device.p12", "-passin", "env:PASS"]
    info = subprocess.run([*common, "-info", "-noout"], env=environment, capture_output=True, check=True).stderr
    assert b"MAC: sha256" in info
    assert info.count(b"PBES2, PBKDF2, AES-256-CBC") == 2
    assert b"SN-1" in subprocess.run([*common, "-nodes"], env=environment, capture_output=True, check=True).stdout
    leaf = subprocess.run([*common, "-clcerts", "-nokeys"], env=environment, capture_output=True, check=True).stdout
    assert openssl("x509", "-outform", "DER", data=leaf) == credential.certificate


def test_files_have_their_modes(dut: Path) -> None:
    target(dut.parent, "layout=der&mode=0440").install(pool_credential("SN-1"), OPEN)
    public = dict.fromkeys(["device.crt.der", "chain0.crt.der", "chain1.crt.der"], 0o644)
    assert modes(dut) == {"device.key.der": 0o440, **public}


def test_owner_is_set_and_checked(dut: Path) -> None:
    place = target(dut.parent, "owner=1234:4321")
    place.install(pool_credential("SN-1"), OPEN)
    for path in dut.iterdir():
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)
    place.prove(b"")
    os.chown(dut / "device.key", 0, 0)
    with pytest.raises(DeviceFault) as caught:
        place.prove(b"")
    assert caught.value.code == "target.key.mode"
    assert caught.value.facts["owner"] == "0:0"


def test_longer_chain_of_the_past_leaves_no_file_behind(dut: Path) -> None:
    credential = pool_credential("SN-1")
    target(dut.parent, "layout=der").install(credential, OPEN)
    target(dut.parent, "layout=der&chain=issuing").install(credential, OPEN)
    assert sorted(modes(dut)) == ["chain0.crt.der", "device.crt.der", "device.key.der"]
    assert target(dut.parent, "layout=der").prove(b"").chain == credential.chain[:1]


@pytest.mark.parametrize("layout", ["pem", "der"])
@pytest.mark.parametrize(
    ("part", "spoil", "code"),
    [
        (0, lambda path: path.write_bytes(path.read_bytes()[:-1]), "target.key.damaged"),
        (0, lambda path: path.write_bytes(path.read_bytes() + b"\n"), "target.key.damaged"),
        (0, lambda path: path.write_bytes(b""), "target.key.damaged"),
        (0, lambda path: path.chmod(0o644), "target.key.mode"),
        (0, lambda path: path.unlink(), "target.key.missing"),
        (1, lambda path: path.write_bytes(path.read_bytes()[:-1]), "target.certificate.damaged"),
        (1, lambda path: path.write_bytes(path.read_bytes()[:-300]), "target.certificate.damaged"),
        (1, lambda path: path.write_bytes(path.read_bytes() + b"\0"), "target.certificate.damaged"),
        (1, lambda path: path.write_bytes(bytes(path.stat().st_size)), "target.certificate.damaged"),
        (1, lambda path: path.unlink(), "target.certificate.missing"),
    ],
)
def test_damage_on_the_disk_is_found(dut: Path, layout: str, part: int, spoil, code: str) -> None:
    place = target(dut.parent, f"layout={layout}")
    place.install(pool_credential("SN-1"), OPEN)
    spoil(dut / PLAIN[layout][part])
    with pytest.raises(DeviceFault) as caught:
        place.prove(b"")
    assert caught.value.code == code
    credential = pool_credential("SN-1")
    place.probe()
    place.install(credential, OPEN)
    assert place.prove(b"").certificate == credential.certificate


@pytest.mark.parametrize("layout", ["pem", "der"])
@pytest.mark.parametrize("part", [0, 1])
def test_half_of_another_device_is_found(dut: Path, layout: str, part: int) -> None:
    (dut.parent / "other").mkdir()
    target(dut.parent, f"layout={layout}").install(pool_credential("SN-1"), OPEN)
    target(dut.parent, f"layout={layout}", "other").install(pool_credential("SN-2"), OPEN)
    name = PLAIN[layout][part]
    (dut / name).write_bytes((dut.parent / "other" / name).read_bytes())
    with pytest.raises(DeviceFault) as caught:
        target(dut.parent, f"layout={layout}").prove(b"")
    assert caught.value.code == "target.key.mismatch"


def test_missing_middle_of_the_chain_is_found(dut: Path) -> None:
    place = target(dut.parent, "layout=der")
    place.install(pool_credential("SN-1"), OPEN)
    (dut / "chain0.crt.der").unlink()
    with pytest.raises(DeviceFault) as caught:
        place.prove(b"")
    assert caught.value.code == "target.certificate.damaged"


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_damaged_pkcs12_file_is_found(dut: Path, change) -> None:
    place = target(dut.parent, "layout=p12&p12-secret=test:")
    place.install(pool_credential("SN-1"), OPEN)
    file = dut / "device.p12"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DeviceFault) as caught:
        place.prove(b"")
    assert caught.value.code == "target.p12.unreadable"
    assert place.probe().certificate is None


def test_pkcs12_file_with_another_passphrase_is_not_silently_kept(dut: Path) -> None:
    credential = pool_credential("SN-1")
    target(dut.parent, "layout=p12&p12-secret=test:").install(credential, OPEN)
    other = FilesTarget("files:dut?layout=p12&p12-secret=x:", secrets=lambda _: Secret(b"other"), base=dut.parent)
    with pytest.raises(DeviceFault):
        other.prove(b"")
    other.install(credential, OPEN)
    assert other.prove(b"").certificate == credential.certificate


def test_empty_passphrase_is_refused(dut: Path) -> None:
    place = FilesTarget("files:dut?layout=p12&p12-secret=x:", secrets=lambda _: Secret(b""), base=dut.parent)
    with pytest.raises(Misconfigured) as caught:
        place.install(pool_credential("SN-1"), OPEN)
    assert caught.value.code == "target.p12.passphrase"
    assert not list(dut.iterdir())


def test_link_instead_of_the_key_file_is_a_fault(dut: Path) -> None:
    place = target(dut.parent)
    place.install(pool_credential("SN-1"), OPEN)
    (dut / "device.key").rename(dut.parent / "elsewhere")
    (dut / "device.key").symlink_to(dut.parent / "elsewhere")
    with pytest.raises(StationFault):
        place.prove(b"")


def test_pipe_instead_of_the_key_file_does_not_hang(dut: Path) -> None:
    place = target(dut.parent)
    place.install(pool_credential("SN-1"), OPEN)
    (dut / "device.key").unlink()
    os.mkfifo(dut / "device.key")
    with pytest.raises(DeviceFault) as caught:
        place.prove(b"")
    assert caught.value.code == "target.file.unexpected"


def test_device_id_file_names_the_device(dut: Path) -> None:
    assert target(dut.parent).probe().identity == "dut"
    (dut / "device-id").write_text("SN-77\n")
    assert target(dut.parent).probe().identity == "SN-77"
    for bad in (b"", b"two words", b"\xff", b"x" * 65, b"a\nb"):
        (dut / "device-id").write_bytes(bad)
        with pytest.raises(DeviceFault) as caught:
            target(dut.parent).probe()
        assert caught.value.code == "target.identity.malformed"


def test_certificate_with_text_before_it_is_still_seen_by_probe(dut: Path) -> None:
    credential = pool_credential("SN-1")
    pem = x509.load_der_x509_certificate(credential.certificate).public_bytes(Encoding.PEM)
    (dut / "device.crt").write_bytes(b"subject=CN = SN-1\r\n" + pem.replace(b"\n", b"\r\n"))
    assert target(dut.parent).probe().certificate == credential.certificate
    (dut / "device.crt").write_bytes(b"rubbish")
    assert target(dut.parent).probe().certificate is None


def test_born_key_never_leaves_its_directory_and_moves_into_place(dut: Path) -> None:
    place = target(dut.parent, "key=born")
    request = place.make_key("p384", "SN-1", OPEN)
    assert modes(dut) == {"device.key.new": 0o600}
    born = (dut / "device.key.new").read_bytes()
    openssl("req", "-verify", "-noout", "-inform", "DER", data=request)
    place.install(credential_for(x509.load_der_x509_csr(request).public_key(), "SN-1"), OPEN)
    assert modes(dut) == {"device.key": 0o600, "device.crt": 0o644}
    assert (dut / "device.key").read_bytes() == born


def test_born_key_asks_with_the_same_octets_again(dut: Path) -> None:
    place = target(dut.parent, "key=born")
    assert place.make_key("p256", "SN-1", OPEN) == place.make_key("p256", "SN-1", OPEN)


def test_born_key_of_another_algorithm_is_not_thrown_away(dut: Path) -> None:
    place = target(dut.parent, "key=born")
    place.make_key("p256", "SN-1", OPEN)
    with pytest.raises(Refused) as caught:
        place.make_key("ed25519", "SN-1", OPEN)
    assert caught.value.code == "target.key.other_algorithm"
    with pytest.raises(Refused, match=r"key\.algorithm\.unsupported"):
        place.make_key("dsa", "SN-1", OPEN)


def test_mode_of_a_born_key_can_be_mended(dut: Path) -> None:
    place = target(dut.parent, "key=born")
    request = x509.load_der_x509_csr(place.make_key("p256", "SN-1", OPEN))
    credential = credential_for(request.public_key(), "SN-1")
    place.install(credential, OPEN)
    (dut / "device.key").chmod(0o666)
    with pytest.raises(DeviceFault, match=r"target\.key\.mode"):
        place.prove(b"")
    place.install(credential, OPEN)
    assert modes(dut)["device.key"] == 0o600
    place.prove(b"")


def test_damaged_born_key_is_a_fault(dut: Path) -> None:
    place = target(dut.parent, "key=born")
    place.make_key("p256", "SN-1", OPEN)
    (dut / "device.key.new").write_bytes(b"-----BEGIN")
    with pytest.raises(DeviceFault) as caught:
        place.make_key("p256", "SN-1", OPEN)
    assert caught.value.code == "target.key.damaged"


@pytest.mark.parametrize("spoil", [lambda dut: dut.rmdir(), lambda dut: (dut.rmdir(), dut.write_text("a file"))])
def test_missing_directory_is_a_fault_of_the_station(dut: Path, spoil) -> None:
    spoil(dut)
    place, born = target(dut.parent), target(dut.parent, "key=born")
    for act in (
        place.probe,
        lambda: place.install(pool_credential("SN-1"), OPEN),
        lambda: place.prove(b""),
        lambda: born.make_key("p256", "SN-1", OPEN),
    ):
        with pytest.raises(StationFault) as caught:
            act()
        assert caught.value.code == "target.directory.missing"


@pytest.mark.parametrize(
    "uri",
    [
        "files:",
        "file:dut",
        "files:dut?mode=0644",
        "files:dut?mode=0700",
        "files:dut?mode=0200",
        "files:dut?mode=600x",
        "files:dut?mode=4600",
        "files:dut?layout=jks",
        "files:dut?chain=none",
        "files:dut?owner=root:root",
        "files:dut?owner=0",
        "files:dut?layout=p12",
        "files:dut?p12-secret=env:X",
        "files:dut?layout=p12&p12-secret=env:X&key=born",
        "files:dut?key=made",
        "files:dut?key=",
        "files:dut?color=red",
        "files:dut?mode=0600&mode=0600",
        "files:du%00t",
        "files:du%fft",
    ],
)
def test_target_that_cannot_be_meant_is_refused_at_start(tmp_path: Path, uri: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        FilesTarget(uri, secrets=lambda _: Secret(b""), base=tmp_path)
    assert caught.value.code.startswith("target.uri.")
    assert caught.value.hint


def test_percent_encoded_directory_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "a b?c").mkdir()
    place = target(tmp_path, directory="a%20b%3Fc")
    place.install(pool_credential("SN-1"), OPEN)
    assert sorted(modes(tmp_path / "a b?c")) == ["device.crt", "device.key"]


def test_proof_is_bound_to_its_purpose() -> None:
    assert proof_message(b"abc") == b"birthmark-proof-v1\x00abc"


def test_credential_without_or_with_endless_chain_is_not_installed(dut: Path) -> None:
    good = pool_credential("SN-1")
    for chain in ((), good.chain * 5):
        with pytest.raises(Exception, match=r"credential\.malformed"):
            target(dut.parent).install(Credential("SN-1", good.certificate, chain, good.private_key, 1, 2), OPEN)
    assert not list(dut.iterdir())
