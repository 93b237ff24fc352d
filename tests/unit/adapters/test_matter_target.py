"""The target ``matter``, judged by the makers' tools, OpenSSL, cbor2 and intelhex."""

from __future__ import annotations

import io
import json
import stat
import subprocess
from base64 import b64encode
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from intelhex import IntelHex

from birthmark.adapters.targets.matter import MatterTarget
from birthmark.adapters.targets.matter.cbormap import decode_map, encode_map
from birthmark.adapters.targets.matter.intelhex import decode_hex, encode_hex
from birthmark.adapters.targets.matter.onboarding import (
    Onboarding,
    manual_code,
    new_onboarding,
    qr_code,
    read_onboarding,
)
from birthmark.adapters.targets.matter.product import load_product
from birthmark.errors import DeviceFault, Misconfigured, Refused
from birthmark.ports import Credential
from support.devicepki import pool_credential
from support.fences import OPEN
from support.matterpki import MatterPki
from support.targets.esp import no_secret
from support.targets.matter import PRODUCT
from support.vendortools import run_tool, tool

SERIAL = "SN-0001"
FULL = (
    PRODUCT
    + """
part_number = "L-77"
product_label = "Desk lamp"
product_url = "https://lamp.example/"
cd = "cd.der"
"""
)


@pytest.fixture(scope="module")
def pki() -> MatterPki:
    return MatterPki()


def target(root: Path, options: str = "layout=esp", product: str = FULL) -> MatterTarget:
    (root / SERIAL).mkdir(exist_ok=True)
    (root / "lamp.toml").write_text(product)
    (root / "cd.der").write_bytes(b"\x30\x82" + bytes(range(200)))
    return MatterTarget(f"matter:{SERIAL}?product=lamp.toml&{options}", secrets=no_secret, base=root)


def numbers(root: Path) -> Onboarding:
    product, _ = load_product(root / "lamp.toml")
    return read_onboarding((root / SERIAL / "onboarding.json").read_bytes(), product, SERIAL)


def pem(root: Path, name: str, data: bytes) -> Path:
    path = root / f"{name}.pem"
    path.write_bytes(data)
    return path


def key_pem(credential: Credential) -> bytes:
    assert credential.private_key is not None
    key = load_der_private_key(credential.private_key.reveal(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


@pytest.mark.parametrize("secure", [False, True], ids=["nvs", "secure-cert"])
def test_esp_partitions_are_what_the_makers_tool_writes(tmp_path: Path, pki: MatterPki, secure: bool) -> None:
    credential = pki.credential(SERIAL)
    target(tmp_path, "dac=secure-cert" if secure else "dac=nvs").install(credential, OPEN)
    ours = tmp_path / SERIAL / "chip_factory.bin"
    mine = numbers(tmp_path)
    assert mine.rotating_id is not None
    dac = x509.load_der_x509_certificate(credential.certificate).public_bytes(Encoding.PEM)
    certificates = [
        *("--pai", "-c", pem(tmp_path, "pai", pki.pai.public_bytes(Encoding.PEM))),
        *("--dac-cert", pem(tmp_path, "dac", dac), "--dac-key", pem(tmp_path, "dackey", key_pem(credential))),
        *("-cd", tmp_path / "cd.der"),
        *(("--dac-in-secure-cert",) if secure else ()),
    ]
    secret = [
        *("--passcode", str(mine.passcode), "--discriminator", str(mine.discriminator)),
        *("--salt", b64encode(mine.salt).decode(), "--verifier", b64encode(mine.verifier()).decode()),
        *("--iteration-count", str(mine.iterations), "--enable-rotating-device-id"),
        *("--rd-id-uid", mine.rotating_id.hex(), "--serial-num", SERIAL),
    ]
    product = [
        *("-v", "0xFFF1", "-p", "0x8000", "--vendor-name", "Test Vendor", "--product-name", "Lamp"),
        *("--hw-ver", "3", "--hw-ver-str", "rev C", "--mfg-date", "2026-02-01", "--part-number", "L-77"),
        *("--product-label", "Desk lamp", "--product-url", "https://lamp.example/"),
    ]
    out = tmp_path / "out"
    run_tool("matter", "esp-matter-mfg-tool", *product, *secret, *certificates, "--outdir", out, cwd=tmp_path)
    (theirs,) = out.rglob("*-partition.bin")
    assert ours.read_bytes() == theirs.read_bytes()
    assert stat.S_IMODE(ours.stat().st_mode) == 0o600
    if secure:
        (made,) = out.rglob("*_esp_secure_cert.bin")
        written = (tmp_path / SERIAL / "esp_secure_cert.bin").read_bytes()
        # This tool leaves the digest at the end out; esp-secure-cert-tool writes it, and so does the target.
        assert written.startswith(made.read_bytes())
        assert written[made.stat().st_size + 8] == 9
        assert written[made.stat().st_size + 48 :].strip(b"\xff") == b""
    (codes,) = out.rglob("*-onb_codes.csv")
    assert codes.read_text().split("\n")[1] == ",".join(
        (mine.qr or "", hyphened(mine.manual), str(mine.discriminator), str(mine.passcode))
    )


def hyphened(manual: str | None) -> str:
    assert manual is not None
    return f"{manual[:4]}-{manual[4:7]}-{manual[7:]}"


def test_nordic_factory_data_is_what_its_libraries_read(tmp_path: Path, pki: MatterPki) -> None:
    credential = pki.credential(SERIAL)
    target(tmp_path, "layout=nrf&offset=0xFF000").install(credential, OPEN)
    target(tmp_path, "layout=nrf&form=bin").install(credential, OPEN)
    image = IntelHex(io.StringIO((tmp_path / SERIAL / "factory_data.hex").read_text()))
    plain = (tmp_path / SERIAL / "factory_data.bin").read_bytes()
    assert image.segments() == [(0xFF000, 0xFF000 + len(plain))]
    assert image.tobinstr() == plain
    mine, map_ = numbers(tmp_path), cbor2.loads(plain[:-1])
    assert plain == cbor2.dumps(map_) + b"\0"
    assert map_["dac_cert"] == credential.certificate
    assert map_["pai_cert"] == credential.chain[0]
    assert (map_["sn"], map_["vendor_id"], map_["product_id"]) == (SERIAL.encode(), 0xFFF1, 0x8000)
    assert (map_["spake2_it"], map_["discriminator"], map_["version"]) == (1000, mine.discriminator, 1)
    assert (map_["rd_uid"], map_["spake2_salt"]) == (mine.rotating_id, mine.salt)
    assert "passcode" not in map_
    (tmp_path / "dac.der").write_bytes(map_["dac_cert"])
    pem(tmp_path, "pai", pki.pai.public_bytes(Encoding.PEM))
    pem(tmp_path, "paa", pki.paa.public_bytes(Encoding.PEM))
    verify = ("openssl", "verify", "-x509_strict", "-CAfile", "paa.pem", "-untrusted", "pai.pem", "dac.der")
    assert subprocess.run(verify, cwd=tmp_path, capture_output=True, check=True).stdout == b"dac.der: OK\n"
    assert credential.private_key is not None
    key = load_der_private_key(credential.private_key.reveal(), None)
    assert int.from_bytes(map_["dac_key"], "big") == key.private_numbers().private_value  # type: ignore[union-attr]


def test_verifier_and_codes_are_those_of_the_makers_scripts(tmp_path: Path) -> None:
    product, _ = load_product(_file(tmp_path, PRODUCT))
    script = """
import json, sys
from deps.spake2p import generate_verifier
from deps.generate_setup_payload import SetupPayload, CommissioningFlow
for passcode, discriminator, salt in json.load(sys.stdin):
    payload = SetupPayload(discriminator, passcode, 2, CommissioningFlow(0), 0xFFF1, 0x8000)
    verifier = generate_verifier(passcode, bytes.fromhex(salt), 1000).hex()
    print(json.dumps([verifier, payload.generate_qrcode(), payload.generate_manualcode()]))
"""
    made = [new_onboarding(f"SN-{place}", product) for place in range(40)]
    edges = [(1, 0), (99_999_998, 0xFFF), (16_383, 0x100), (16_384, 0xC00)]
    made += [Onboarding("SN", passcode, discriminator, bytes(16), 1000) for passcode, discriminator in edges]
    asked = json.dumps([(one.passcode, one.discriminator, one.salt.hex()) for one in made])
    packages = tool("matter").parent.parent / "lib" / "python3.11" / "site-packages"
    done = subprocess.run(
        [tool("matter"), "-c", script],
        input=asked,
        env={"PYTHONPATH": f"{packages}:{packages / 'deps'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    for one, line in zip(made, done.stdout.splitlines(), strict=True):
        qr = qr_code(product, one.discriminator, one.passcode)
        manual = manual_code(one.discriminator, one.passcode)
        assert json.loads(line) == [one.verifier().hex(), qr, manual]
    assert len({one.passcode for one in made}) == len(made)


def _file(root: Path, text: str) -> Path:
    path = root / "p.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("layout", ["esp", "nrf"])
def test_a_certificate_of_another_product_is_refused_by_name(tmp_path: Path, pki: MatterPki, layout: str) -> None:
    for credential in (pki.credential(SERIAL, product="8001"), MatterPki("FFF2").credential(SERIAL)):
        with pytest.raises(Refused) as caught:
            target(tmp_path, f"layout={layout}").install(credential, OPEN)
        assert caught.value.code == "matter.id.differs"
        assert list((tmp_path / SERIAL).iterdir()) == []


def test_a_certificate_without_ids_and_a_key_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as nameless:
        target(tmp_path).install(pool_credential(SERIAL), OPEN)
    assert nameless.value.code == "matter.id.differs"
    with pytest.raises(Refused) as kind:
        target(tmp_path).install(pool_credential(f"{SERIAL} Mvid:FFF1 Mpid:8000", "p384"), OPEN)
    assert kind.value.code == "target.key.unsupported"
    with pytest.raises(Refused) as long:
        target(tmp_path).install(pool_credential("SN-0000000001 Mvid:FFF1 Mpid:8000"), OPEN)
    assert long.value.code == "matter.serial.long"
    assert list((tmp_path / SERIAL).iterdir()) == []


def test_numbers_given_before_are_used_and_kept_through_rework(tmp_path: Path, pki: MatterPki) -> None:
    fixed = target(tmp_path)
    given = Onboarding(SERIAL, 20202021, 0xF00, bytes(range(32)), 2000)
    file = tmp_path / SERIAL / "onboarding.json"
    file.write_bytes(given.document())
    file.chmod(0o644)
    for _ in range(2):
        credential = pki.credential(SERIAL)
        fixed.install(credential, OPEN)
        assert target(tmp_path).prove(bytes(32)).certificate == credential.certificate
    assert file.read_bytes() == given.document()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_label_for_another_passcode_is_caught_before_it_ships(tmp_path: Path, pki: MatterPki) -> None:
    target(tmp_path).install(pki.credential(SERIAL), OPEN)
    file = tmp_path / SERIAL / "onboarding.json"
    document = json.loads(file.read_text())
    document |= {"passcode": document["passcode"] % 99_999_990 + 2, "qr": None, "manual": None}
    file.write_text(json.dumps(document))
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path).prove(bytes(32))
    assert caught.value.code == "matter.passcode.differs"


@pytest.mark.parametrize("layout", ["esp", "nrf"])
@pytest.mark.parametrize("change", [("Lamp", "Lump"), ("hw_ver = 3", "hw_ver = 4"), ("L-77", "L-78")])
def test_factory_data_of_another_product_file_is_caught(
    tmp_path: Path, pki: MatterPki, layout: str, change: tuple[str, str]
) -> None:
    target(tmp_path, f"layout={layout}").install(pki.credential(SERIAL), OPEN)
    target(tmp_path, f"layout={layout}").prove(bytes(32))
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path, f"layout={layout}", FULL.replace(*change)).prove(bytes(32))
    assert caught.value.code == "matter.data.differs"


@pytest.mark.parametrize(
    "change",
    [
        {"passcode": 12345678},
        {"passcode": 0},
        {"discriminator": 4096},
        {"salt": "AAAA"},
        {"more": 1},
        {"iterations": 9},
    ],
)
def test_numbers_that_nobody_may_use_are_refused(tmp_path: Path, pki: MatterPki, change: dict[str, object]) -> None:
    fresh = target(tmp_path)
    given = json.loads(Onboarding(SERIAL, 20202021, 0xF00, bytes(32), 2000).document())
    (tmp_path / SERIAL / "onboarding.json").write_text(json.dumps({**given, **change}))
    with pytest.raises(DeviceFault) as caught:
        fresh.install(pki.credential(SERIAL), OPEN)
    assert caught.value.code == "matter.onboarding.unusable"
    with pytest.raises(DeviceFault):
        fresh.install(pki.credential("SN-0002"), OPEN)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("layout=esp", "chip_factory.bin"),
        ("layout=nrf", "factory_data.hex"),
        ("dac=secure-cert", "chip_factory.bin"),
        ("dac=secure-cert", "esp_secure_cert.bin"),
    ],
)
@pytest.mark.parametrize("place", [3, 70, 700, 1500])
def test_a_flipped_octet_in_factory_data_is_found(
    tmp_path: Path, pki: MatterPki, options: str, name: str, place: int
) -> None:
    target(tmp_path, options).install(pki.credential(SERIAL), OPEN)
    file = tmp_path / SERIAL / name
    data = bytearray(file.read_bytes())
    data[place] ^= 0x01
    file.write_bytes(data)
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path, options).prove(bytes(32))
    assert caught.value.code == "target.partition.damaged"


def test_factory_data_that_never_ends_is_not_read_through(tmp_path: Path, pki: MatterPki) -> None:
    target(tmp_path, "layout=nrf").install(pki.credential(SERIAL), OPEN)
    file = tmp_path / SERIAL / "factory_data.hex"
    file.write_bytes(b":00000001FF\n" * 100_000)
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path, "layout=nrf").prove(bytes(32))
    assert caught.value.code == "target.partition.damaged"


@pytest.mark.parametrize("offset", [0, 0xFFF0, 0x1FFF8])
@pytest.mark.parametrize("length", [0, 1, 16, 17, 70000])
def test_intel_hex_is_what_its_library_reads(offset: int, length: int) -> None:
    data = (bytes(range(256)) * 300)[:length]
    text = encode_hex(data, offset)
    assert IntelHex(io.StringIO(text.decode())).tobinstr() == data
    assert decode_hex(text, offset) == data
    with pytest.raises(ValueError, match="block"):
        decode_hex(text.replace(b":00000001FF\n", b""), offset)


@pytest.mark.parametrize(
    "junk",
    [b"", b"\xa1", b"\xbf\xff", b"\xa1\x61a\x18\x01", b"\xba\xff\xff\xff\xff", b"\xa1\x61\xff\x01", b"\xa1\x01\x01"],
)
def test_junk_is_no_map(junk: bytes) -> None:
    with pytest.raises(ValueError):
        decode_map(junk)


def test_maps_are_what_cbor2_writes() -> None:
    values = {"a": 0, "b" * 30: 23, "c": 24, "d": 0x100, "e": 0x10000, "f": b"x" * 300, "g": b""}
    assert encode_map(values) == cbor2.dumps(values)
    assert decode_map(encode_map(values)) == values


def test_nothing_but_the_number_file_shows_the_passcode(tmp_path: Path, pki: MatterPki) -> None:
    target(tmp_path).install(pki.credential(SERIAL), OPEN)
    mine = numbers(tmp_path)
    assert str(mine.passcode) not in repr(mine)
    partition = (tmp_path / SERIAL / "chip_factory.bin").read_bytes()
    assert mine.passcode.to_bytes(4, "little") not in partition
    assert str(mine.passcode).encode() not in partition


@pytest.mark.parametrize(
    "text",
    [
        "",
        PRODUCT + 'passcode = "20202021"\n',
        PRODUCT.replace("0xFFF1", "0"),
        PRODUCT + 'cd = "missing.der"\n',
        PRODUCT.replace("1000", "10"),
        PRODUCT.replace("2026-02-01", "today"),
        "x" * 70_000,
        "= 1",
    ],
)
def test_a_product_file_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        target(tmp_path, product=text)
    assert caught.value.code == "matter.product.unreadable"


@pytest.mark.parametrize(
    "options",
    [
        "layout=zephyr",
        "layout=nrf&flash=f.bin",
        "layout=nrf&form=elf",
        "layout=nrf&dac=secure-cert",
        "dac=secure-cert&dac-offset=0xD000",
        "flash=f.bin&offset=0x10000&dac-offset=0xD000",
        "flash=f.bin&offset=0x10000&dac=secure-cert&dac-offset=0xF000",
        "form=hex",
        "offset=0x1000",
        "flash=f.bin",
        "size=0x1000",
        "product=other.toml",
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(Misconfigured):
        target(tmp_path, options)


def test_factory_data_too_large_for_its_partition_is_refused(tmp_path: Path, pki: MatterPki) -> None:
    with pytest.raises(Refused) as caught:
        target(tmp_path, "layout=nrf&size=0", FULL).install(pki.credential(SERIAL), OPEN)
    assert caught.value.code == "target.partition.full"
