"""The target ``esp``, judged by Espressif's own tools."""

from __future__ import annotations

import json
import stat
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from birthmark.adapters.targets.esp import EspTarget, forms
from birthmark.adapters.targets.esp.ds import ds_context, seal_rsa_key
from birthmark.adapters.targets.esp.efuse import FUSE_CHIPS, PURPOSES, read_fuses
from birthmark.adapters.targets.esp.nvs import NvsItem, decode_nvs, encode_nvs
from birthmark.adapters.targets.esp.nvskeys import NvsKeys, decode_keys
from birthmark.adapters.targets.esp.securecert import (
    DS_CONTEXT,
    DS_DATA,
    PRIVATE_KEY,
    Tlv,
    decode_secure_cert,
    encode_secure_cert,
)
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault
from birthmark.ports import Credential
from support.devicepki import pool_credential
from support.fences import OPEN
from support.targets.esp import no_secret
from support.vendortools import run_tool

SERIAL = "SN-0001"
FUSE_REGISTERS = slice(0x2C, 0x17C)
HMAC_DS = "HMAC_DOWN_DIGITAL_SIGNATURE"


def target(root: Path, options: str = "layout=secure-cert") -> EspTarget:
    (root / SERIAL).mkdir(exist_ok=True)
    return EspTarget(f"esp:{SERIAL}?{options}", secrets=no_secret, base=root)


def pem_files(credential: Credential, root: Path) -> dict[str, Path]:
    """Write key, certificate and chain as PEM files, as Espressif's tools want them."""
    assert credential.private_key is not None
    key = load_der_private_key(credential.private_key.reveal(), None)
    texts = {
        "key": key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
        "device": x509.load_der_x509_certificate(credential.certificate).public_bytes(Encoding.PEM),
    }
    for place, der in enumerate(credential.chain):
        texts[f"ca{place}"] = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    files = {name: root / f"{name}.pem" for name in texts}
    for name, text in texts.items():
        files[name].write_bytes(text)
    return files


@pytest.mark.parametrize("algorithm", ["p256", "p384", "rsa2048"])
def test_secure_cert_partition_is_what_the_makers_tool_writes(tmp_path: Path, algorithm: str) -> None:
    credential = pool_credential(SERIAL, algorithm)
    target(tmp_path).install(credential, OPEN)
    files = pem_files(credential, tmp_path)
    rows = [
        "tlv_type,tlv_subtype,data_value,data_type,priv_key_type,algorithm,key_size,efuse_id,efuse_key",
        f"ESP_SECURE_CERT_CA_CERT_TLV,0,{files['ca0']},file,,,,,",
        f"ESP_SECURE_CERT_CA_CERT_TLV,1,{files['ca1']},file,,,,,",
        f"ESP_SECURE_CERT_DEV_CERT_TLV,0,{files['device']},file,,,,,",
        f"ESP_SECURE_CERT_PRIV_KEY_TLV,0,{files['key']},file,plaintext,,,,",
    ]
    (tmp_path / "in.csv").write_text("\n".join(rows) + "\n")
    options = ("--esp_secure_cert_csv", "in.csv", "--target_chip", "esp32c3", "--skip_flash")
    run_tool("esp", "configure_esp_secure_cert.py", *options, cwd=tmp_path)
    theirs = (tmp_path / "esp_secure_cert_data" / "esp_secure_cert.bin").read_bytes()
    written = tmp_path / SERIAL / "esp_secure_cert.bin"
    assert written.read_bytes() == theirs.ljust(0x2000, b"\xff")
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_makers_tool_takes_the_key_out_again(tmp_path: Path) -> None:
    credential = pool_credential(SERIAL)
    target(tmp_path).install(credential, OPEN)
    run_tool("esp", "configure_esp_secure_cert.py", "--parse_bin", f"{SERIAL}/esp_secure_cert.bin", cwd=tmp_path)
    parsed = tmp_path / "esp_secure_cert_parsed_data" / "contents"
    key = load_pem_private_key((parsed / "privkey_2_0.pem").read_bytes(), None)
    assert credential.private_key is not None
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert pkcs8 == credential.private_key.reveal()
    chain = [
        x509.load_pem_x509_certificate((parsed / name).read_bytes()).public_bytes(Encoding.DER)
        for name in ("devcert_1_0.pem", "cacert_0_0.pem", "cacert_0_1.pem")
    ]
    assert chain == [credential.certificate, *credential.chain]


@pytest.mark.parametrize("place", [0, 5, 8, 10, 40, 1000, 0x1FFF])
def test_a_flipped_octet_in_a_partition_is_found(tmp_path: Path, place: int) -> None:
    target(tmp_path).install(pool_credential(SERIAL), OPEN)
    file = tmp_path / SERIAL / "esp_secure_cert.bin"
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path).prove(bytes(32))
    assert caught.value.code == "target.partition.damaged"


def test_a_huge_key_in_a_partition_is_not_even_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target(tmp_path).install(pool_credential(SERIAL), OPEN)
    file = tmp_path / SERIAL / "esp_secure_cert.bin"
    entries = decode_secure_cert(file.read_bytes())
    file.write_bytes(encode_secure_cert((*entries[:-1], Tlv(PRIVATE_KEY, b"x" * 4097))))
    tried: list[bytes] = []
    monkeypatch.setattr(forms, "load_pem_private_key", lambda data, _: tried.append(data))
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path).prove(bytes(32))
    assert caught.value.code == "target.partition.damaged"
    assert tried == []


@pytest.mark.parametrize("junk", [b"\x11\xba\x5e\xba" * 3, b"\x00" * 0x2000, b"\x11\xba\x5e\xba" + b"\xff" * 0x1FFC])
def test_junk_for_a_partition_is_no_identity(junk: bytes) -> None:
    with pytest.raises(DeviceFault):
        decode_secure_cert(junk)


def csv_of(items: list[NvsItem], namespace: str, root: Path) -> Path:
    rows = ["key,type,encoding,value", f"{namespace},namespace,,"]
    for item in items:
        if isinstance(item.value, int):
            rows.append(f"{item.key},data,{item.kind},{item.value}")
            continue
        file = root / f"{sha256(item.key.encode()).hexdigest()[:8]}.bin"
        file.write_bytes(item.value)
        rows.append(f"{item.key},file,{'string' if item.kind == 'string' else 'binary'},{file}")
    path = root / "nvs.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


MANY = [
    NvsItem("number", "u32", 0xFFFFFFFF),
    NvsItem("text", "string", b"x" * 1000),
    NvsItem("long", "string", b"y" * 3500),
    NvsItem("blob", "blob", bytes(range(256)) * 20),
    NvsItem("small", "u8", 7),
    NvsItem("exact", "blob", b"z" * 64),
    NvsItem("half", "u16", 513),
]
"""More than a page of everything, so that values and pages end in all the awkward places."""


@pytest.mark.parametrize("encrypted", [False, True])
def test_nvs_partition_is_what_the_makers_generator_writes(tmp_path: Path, encrypted: bool) -> None:
    keys = NvsKeys(bytes(range(64))) if encrypted else None
    ours = encode_nvs("app", MANY, 0x6000, keys)
    source = csv_of(MANY, "app", tmp_path)
    module = ("-m", "esp_idf_nvs_partition_gen")
    if keys is None:
        run_tool("esp", "python", *module, "generate", source, "theirs.bin", "0x6000", cwd=tmp_path)
    else:
        (tmp_path / "keys.bin").write_bytes(keys.partition())
        options = ("--inputkey", "keys.bin")
        run_tool("esp", "python", *module, "encrypt", source, "theirs.bin", "0x6000", *options, cwd=tmp_path)
    assert ours == (tmp_path / "theirs.bin").read_bytes()
    assert list(decode_nvs("app", ours, keys)) == MANY


def test_hundred_random_partitions_are_those_of_the_makers_generator(tmp_path: Path) -> None:
    random = Random(20260201)
    cases = [random_items(random) for _ in range(100)]
    plain = [[[one.key, one.kind, shown(one.value)] for one in case] for case in cases]
    (tmp_path / "cases.json").write_text(json.dumps(plain))
    script = """
import hashlib, io, json
from esp_idf_nvs_partition_gen import nvs_partition_gen as nvs
for case in json.load(open("cases.json")):
    out = io.BytesIO()
    with nvs.nvs_open(out, 0x10000 - 0x1000, nvs.Page.VERSION2) as made:
        made.write_namespace("app")
        for key, kind, value in case:
            encoding = {"blob": "hex2bin"}.get(kind, kind)
            text = bytes.fromhex(value).decode("ascii") if kind == "string" else value
            made.write_entry(key, text, encoding)
    print(hashlib.sha256(out.getvalue()).hexdigest())
"""
    printed = run_tool("esp", "python", "-c", script, cwd=tmp_path)
    for case, line in zip(cases, printed.split(), strict=True):
        ours = encode_nvs("app", case, 0x10000)
        assert sha256(ours).hexdigest() == line
        assert list(decode_nvs("app", ours)) == case


def random_items(random: Random) -> list[NvsItem]:
    """Return items whose sizes crowd around the ends of entries and pages, at most four pages of them."""
    items, octets = [], 0
    while octets < 9000 and len(items) < 60:
        kind = random.choice(("u8", "u16", "u32", "string", "blob"))
        key = f"k{len(items)}"
        if kind in ("string", "blob"):
            size = max(1, random.choice((32, 64, 1000, 3900, 3965, random.randrange(3960))) + random.randrange(-2, 3))
            items.append(NvsItem(key, kind, random.randbytes(size) if kind == "blob" else b"s" * size))
            octets += size + 64
        else:
            items.append(NvsItem(key, kind, random.randrange(256)))
            octets += 32
    return items


def shown(value: int | bytes) -> int | str:
    return value if isinstance(value, int) else value.hex()


def test_makers_generator_decrypts_what_the_target_wrote(tmp_path: Path) -> None:
    credential = pool_credential(SERIAL)
    target(tmp_path, "layout=nvs-encrypted").install(credential, OPEN)
    target(tmp_path, "layout=nvs-encrypted").install(pool_credential(SERIAL), OPEN)
    target(tmp_path, "layout=nvs-encrypted").install(credential, OPEN)
    place = tmp_path / SERIAL
    module = ("-m", "esp_idf_nvs_partition_gen", "decrypt")
    run_tool("esp", "python", *module, place / "nvs.bin", place / "nvs_keys.bin", "plain.bin", cwd=tmp_path)
    assert credential.private_key is not None
    key = load_der_private_key(credential.private_key.reveal(), None)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    values = {item.key: item.value for item in decode_nvs("esp_secure_cert", (tmp_path / "plain.bin").read_bytes())}
    assert values["priv_key"] == text
    assert text[30:90] not in (place / "nvs.bin").read_bytes()


def test_nvs_keys_from_the_fuses_are_those_of_the_makers_generator(tmp_path: Path) -> None:
    credential = pool_credential(SERIAL)
    options = "layout=nvs-encrypted&key=hmac&efuse=efuse.bin&efuse-block=4"
    target(tmp_path, options).install(credential, OPEN)
    place = tmp_path / SERIAL
    fuse_key = (place / "efuse.bin.silicon").read_bytes()[128:160]
    (tmp_path / "hmac.bin").write_bytes(fuse_key)
    made = ("--keyfile", "k.bin", "--key_protect_hmac", "--kp_hmac_inputkey", "hmac.bin")
    module = ("-m", "esp_idf_nvs_partition_gen")
    run_tool("esp", "python", *module, "generate-key", *made, cwd=tmp_path)
    run_tool("esp", "python", *module, "decrypt", place / "nvs.bin", "keys/k.bin", "plain.bin", cwd=tmp_path)
    target(tmp_path, "layout=nvs").install(credential, OPEN)
    assert (tmp_path / "plain.bin").read_bytes() == (place / "nvs.bin").read_bytes()
    assert read_fuses((place / "efuse.bin").read_bytes()).purpose(4) == PURPOSES["HMAC_UP"]
    assert not (place / "nvs_keys.bin").exists()


def test_keys_partition_of_the_makers_generator_is_understood(tmp_path: Path) -> None:
    module = ("-m", "esp_idf_nvs_partition_gen", "generate-key")
    run_tool("esp", "python", *module, "--keyfile", "k.bin", cwd=tmp_path)
    theirs = (tmp_path / "keys" / "k.bin").read_bytes()
    keys = decode_keys(theirs)
    assert keys is not None
    assert keys.partition() == theirs
    with pytest.raises(DeviceFault):
        decode_keys(theirs[:70] + b"\x00" + theirs[71:])


def test_merged_flash_image_is_what_esptool_merges(tmp_path: Path) -> None:
    (tmp_path / "app.bin").write_bytes(bytes(range(251)) * 2000)
    merge = ("--chip", "esp32c3", "merge-bin", "--pad-to-size", "2MB")
    (tmp_path / SERIAL).mkdir()
    flash = tmp_path / SERIAL / "flash.bin"
    run_tool("esp", "esptool", *merge, "-o", flash, "0x10000", "app.bin", cwd=tmp_path)
    credential = pool_credential(SERIAL)
    target(tmp_path, "flash=flash.bin").install(credential, OPEN)
    target(tmp_path, "layout=secure-cert").install(credential, OPEN)
    partition = tmp_path / SERIAL / "esp_secure_cert.bin"
    run_tool("esp", "esptool", *merge, "-o", "theirs.bin", "0xD000", partition, "0x10000", "app.bin", cwd=tmp_path)
    assert flash.read_bytes() == (tmp_path / "theirs.bin").read_bytes()
    assert stat.S_IMODE(flash.stat().st_mode) == 0o600


def test_something_else_at_the_offset_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / SERIAL).mkdir()
    flash = tmp_path / SERIAL / "flash.bin"
    flash.write_bytes(b"\xff" * 0xE000 + b"\xe9" + b"\xff" * 0x1FFF)
    before = flash.read_bytes()
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path, "flash=flash.bin").install(pool_credential(SERIAL), OPEN)
    assert caught.value.code == "target.flash.occupied"
    with pytest.raises(DeviceFault):
        target(tmp_path, "flash=flash.bin&key=ecdsa&efuse=efuse.bin").install(pool_credential(SERIAL), OPEN)
    assert flash.read_bytes() == before
    assert [path.name for path in (tmp_path / SERIAL).iterdir()] == ["flash.bin"]


def test_a_flash_image_that_is_missing_or_too_small_is_named(tmp_path: Path) -> None:
    with pytest.raises(StationFault) as missing:
        target(tmp_path, "flash=flash.bin").probe()
    assert missing.value.code == "target.flash.missing"
    (tmp_path / SERIAL / "flash.bin").write_bytes(b"\xff" * 0xE000)
    with pytest.raises(DeviceFault) as small:
        target(tmp_path, "flash=flash.bin").install(pool_credential(SERIAL), OPEN)
    assert small.value.code == "target.flash.size"


@pytest.mark.parametrize("chip", FUSE_CHIPS)
def test_fuses_are_burnt_as_espefuse_burns_them(tmp_path: Path, chip: str) -> None:
    key = bytes(range(1, 33))
    (tmp_path / "key.bin").write_bytes(key)
    virtual = ("--chip", chip, "--virt", "--path-efuse-file", "theirs.bin", "--do-not-confirm")
    groups = ("BLOCK_KEY0", "key.bin", "XTS_AES_128_KEY", "BLOCK_KEY5", "key.bin", HMAC_DS)
    run_tool("esp", "espefuse", *virtual, "burn-key", *groups, cwd=tmp_path)
    ours = read_fuses(None).burnt(0, key, "XTS_AES_128_KEY", read_protect=True)
    ours = ours.burnt(5, key, HMAC_DS, read_protect=True)
    theirs = read_fuses((tmp_path / "theirs.bin").read_bytes())
    assert ours.memory[FUSE_REGISTERS] == theirs.memory[FUSE_REGISTERS]
    assert [theirs.purpose(block) for block in range(6)] == [4, 0, 0, 0, 0, PURPOSES[HMAC_DS]]
    assert [theirs.is_blank(block) for block in range(6)] == [False, True, True, True, True, False]


def test_readable_keys_are_burnt_as_espefuse_burns_them(tmp_path: Path) -> None:
    key = bytes(range(1, 33))
    (tmp_path / "key.bin").write_bytes(key)
    virtual = ("--chip", "esp32c3", "--virt", "--path-efuse-file", "theirs.bin", "--do-not-confirm")
    groups = ("BLOCK_KEY0", "key.bin", "XTS_AES_128_KEY", "BLOCK_KEY3", "key.bin", "HMAC_UP")
    run_tool("esp", "espefuse", *virtual, "burn-key", "--no-read-protect", *groups, cwd=tmp_path)
    ours = read_fuses(None).burnt(0, key, "XTS_AES_128_KEY", read_protect=False)
    ours = ours.burnt(3, key, "HMAC_UP", read_protect=False)
    theirs = read_fuses((tmp_path / "theirs.bin").read_bytes())
    assert ours.memory[FUSE_REGISTERS] == theirs.memory[FUSE_REGISTERS]
    assert theirs.key(3) == key


def test_espefuse_sees_the_lock_and_burns_nothing_over_it(tmp_path: Path) -> None:
    target(tmp_path, "key=ds&efuse=efuse.bin").install(pool_credential(SERIAL, "rsa2048"), OPEN)
    file = tmp_path / SERIAL / "efuse.bin"
    virtual = ("--chip", "esp32c3", "--virt", "--path-efuse-file", file, "--do-not-confirm")
    said = run_tool("esp", "espefuse", *virtual, "summary", "--format", "json")
    summary = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert summary["KEY_PURPOSE_1"]["value"] == HMAC_DS
    assert not summary["KEY_PURPOSE_1"]["writeable"]
    assert (summary["BLOCK_KEY1"]["readable"], summary["BLOCK_KEY1"]["writeable"]) == (False, False)
    (tmp_path / "other.bin").write_bytes(bytes(range(32)))
    before = read_fuses(file.read_bytes()).memory[FUSE_REGISTERS]
    with pytest.raises(AssertionError, match="is read-protected"):
        run_tool("esp", "espefuse", *virtual, "burn-key", "BLOCK_KEY1", tmp_path / "other.bin", HMAC_DS)
    assert read_fuses(file.read_bytes()).memory[FUSE_REGISTERS] == before
    target(tmp_path, "key=ds&efuse=efuse.bin").prove(bytes(32))


def test_a_key_block_that_was_burnt_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / SERIAL).mkdir()
    (tmp_path / "key.bin").write_bytes(bytes(range(1, 33)))
    virtual = ("--chip", "esp32c3", "--virt", "--path-efuse-file", f"{SERIAL}/efuse.bin", "--do-not-confirm")
    run_tool("esp", "espefuse", *virtual, "burn-key", "BLOCK_KEY1", "key.bin", HMAC_DS, cwd=tmp_path)
    readable = ("BLOCK_KEY2", "key.bin", HMAC_DS, "BLOCK_KEY3", "key.bin", "HMAC_UP")
    run_tool("esp", "espefuse", *virtual, "burn-key", "--no-read-protect", *readable, cwd=tmp_path)
    credential = pool_credential(SERIAL, "rsa2048")
    before = {path.name: path.read_bytes() for path in (tmp_path / SERIAL).iterdir()}
    for block in (1, 3):
        with pytest.raises(Refused) as caught:
            target(tmp_path, f"key=ds&efuse=efuse.bin&efuse-block={block}").install(credential, OPEN)
        assert caught.value.code == "target.efuse.burnt"
        assert {path.name: path.read_bytes() for path in (tmp_path / SERIAL).iterdir()} == before
    readable_block = target(tmp_path, "key=ds&efuse=efuse.bin&efuse-block=2")
    readable_block.install(credential, OPEN)
    assert readable_block.prove(bytes(32)).certificate == credential.certificate
    assert (tmp_path / SERIAL / "efuse.bin").read_bytes() == before["efuse.bin"]


@pytest.mark.parametrize(("chip", "algorithm"), [("esp32c3", "rsa2048"), ("esp32s3", "rsa3072")])
def test_locked_key_is_encrypted_as_the_makers_tool_encrypts_it(tmp_path: Path, chip: str, algorithm: str) -> None:
    credential = pool_credential(SERIAL, algorithm)
    files = pem_files(credential, tmp_path)
    fuse_key = bytes(range(32))
    (tmp_path / "hmac.bin").write_bytes(fuse_key)
    options = ("--ca-cert", files["ca0"], "--device-cert", files["device"], "--private-key", files["key"])
    locked = ("--configure_ds", "--priv_key_algo", "RSA", algorithm[3:], "--efuse_key_id", "1")
    rest = ("--efuse_key_file", "hmac.bin", "--target_chip", chip, "--skip_flash")
    run_tool("esp", "configure_esp_secure_cert.py", *options, *locked, *rest, cwd=tmp_path)
    theirs = (tmp_path / "esp_secure_cert_data" / "esp_secure_cert.bin").read_bytes()
    entries = decode_secure_cert(theirs)
    data = next(entry.data for entry in entries if entry.kind == DS_DATA)
    assert credential.private_key is not None
    key = load_der_private_key(credential.private_key.reveal(), None)
    assert seal_rsa_key(key, fuse_key, data[4:20], chip) == data
    assert Tlv(DS_CONTEXT, ds_context(1, int(algorithm[3:]))) in entries
    locked_target = target(tmp_path, f"key=ds&chain=issuing&chip={chip}&efuse=efuse.bin")
    locked_target.install(credential, OPEN)
    ours = decode_secure_cert((tmp_path / SERIAL / "esp_secure_cert.bin").read_bytes())
    assert [entry for entry in ours if entry.kind != DS_DATA] == [entry for entry in entries if entry.kind != DS_DATA]
    assert [entry.kind for entry in ours] == [entry.kind for entry in entries]


@pytest.mark.parametrize("version", [0, 1 << 21 | 1 << 18, 1 << 21 | 2 << 18], ids=["v0.0", "v1.1", "v1.2"])
def test_ecdsa_key_is_burnt_as_espefuse_burns_it(tmp_path: Path, version: int) -> None:
    memory = bytearray(512)
    memory[0x50:0x54] = version.to_bytes(4, "little")
    (tmp_path / SERIAL).mkdir()
    for name in ("theirs.bin", f"{SERIAL}/efuse.bin"):
        (tmp_path / name).write_bytes(memory[::-1])
    credential = pool_credential(SERIAL)
    files = pem_files(credential, tmp_path)
    virtual = ("--chip", "esp32h2", "--virt", "--path-efuse-file", "theirs.bin", "--do-not-confirm")
    run_tool("esp", "espefuse", *virtual, "burn-key", "BLOCK_KEY1", files["key"], "ECDSA_KEY", cwd=tmp_path)
    target(tmp_path, "key=ecdsa&efuse=efuse.bin").install(credential, OPEN)
    ours = read_fuses((tmp_path / SERIAL / "efuse.bin").read_bytes())
    theirs = read_fuses((tmp_path / "theirs.bin").read_bytes())
    assert ours.memory[FUSE_REGISTERS] == theirs.memory[FUSE_REGISTERS]


def test_partition_of_an_ecdsa_key_in_fuses_says_where_it_is_and_not_what(tmp_path: Path) -> None:
    credential = pool_credential(SERIAL)
    files = pem_files(credential, tmp_path)
    options = ("--ca-cert", files["ca0"], "--device-cert", files["device"], "--private-key", files["key"])
    locked = ("--configure_ds", "--priv_key_algo", "ECDSA", "256", "--efuse_key_id", "2")
    run_tool(
        *("esp", "configure_esp_secure_cert.py", *options, *locked, "--target_chip", "esp32h2", "--skip_flash"),
        cwd=tmp_path,
    )
    theirs = decode_secure_cert((tmp_path / "esp_secure_cert_data" / "esp_secure_cert.bin").read_bytes())
    locked_target = target(tmp_path, "key=ecdsa&chain=issuing&efuse=efuse.bin&efuse-block=2")
    locked_target.install(credential, OPEN)
    partition = (tmp_path / SERIAL / "esp_secure_cert.bin").read_bytes()
    ours = decode_secure_cert(partition)
    assert ours[:-1] == theirs[:-1]
    assert (ours[-1].kind, ours[-1].flags, ours[-1].data) == (theirs[-1].kind, theirs[-1].flags, bytes(16))
    assert credential.private_key is not None
    key = load_der_private_key(credential.private_key.reveal(), None)
    secret = key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    assert secret not in partition
    assert b"PRIVATE" not in partition
    assert secret[::-1] not in (tmp_path / SERIAL / "efuse.bin").read_bytes()[::-1]


def test_readable_ecdsa_block_goes_on_with_its_own_key_alone(tmp_path: Path) -> None:
    readable = target(tmp_path, "key=ecdsa&efuse=efuse.bin&read-protect=no")
    credential = pool_credential(SERIAL)
    readable.install(credential, OPEN)
    fuses = (tmp_path / SERIAL / "efuse.bin").read_bytes()
    (tmp_path / SERIAL / "esp_secure_cert.bin").unlink()
    readable.install(credential, OPEN)
    assert readable.prove(bytes(32)).certificate == credential.certificate
    with pytest.raises(Refused) as caught:
        readable.install(pool_credential(SERIAL), OPEN)
    assert caught.value.code == "target.efuse.burnt"
    assert (tmp_path / SERIAL / "efuse.bin").read_bytes() == fuses


def test_the_block_with_the_hardware_fault_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        target(tmp_path, "key=ecdsa&efuse=efuse.bin&efuse-block=5").install(pool_credential(SERIAL), OPEN)
    assert caught.value.code == "target.efuse.block"
    assert list((tmp_path / SERIAL).iterdir()) == []


def test_locked_key_opens_with_no_other_chips_fuses(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        target(tmp_path / name, "key=ds&efuse=efuse.bin").install(pool_credential(SERIAL, "rsa2048"), OPEN)
    stolen = (tmp_path / "one" / SERIAL / "esp_secure_cert.bin").read_bytes()
    (tmp_path / "two" / SERIAL / "esp_secure_cert.bin").write_bytes(stolen)
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path / "two", "key=ds&efuse=efuse.bin").prove(bytes(32))
    assert caught.value.code == "target.ds.unreadable"


def test_identity_is_the_mac_address_in_the_fuses(tmp_path: Path) -> None:
    (tmp_path / SERIAL).mkdir()
    memory = bytearray(512)
    memory[0x44:0x4A] = bytes.fromhex("60553F112233")[::-1]
    file = tmp_path / SERIAL / "efuse.bin"
    file.write_bytes(memory[::-1])
    said = run_tool("esp", "espefuse", "--chip", "esp32c3", "--virt", "--path-efuse-file", file, "summary")
    assert "60:55:3f:11:22:33" in said
    assert target(tmp_path, "efuse=efuse.bin&identity=mac").probe().identity == "60553F112233"
    assert target(tmp_path, "efuse=efuse.bin").probe().identity == SERIAL
    file.write_bytes(bytes(512))
    with pytest.raises(DeviceFault) as blank:
        target(tmp_path, "efuse=efuse.bin&identity=mac").probe()
    assert blank.value.code == "target.identity.malformed"
    file.write_bytes(bytes(100))
    with pytest.raises(DeviceFault) as short:
        target(tmp_path, "efuse=efuse.bin&identity=mac").probe()
    assert short.value.code == "target.efuse.size"


@pytest.mark.parametrize(
    ("options", "algorithm", "code"),
    [
        ("layout=secure-cert", "ed25519", "target.key.unsupported"),
        ("layout=nvs", "mldsa44", "target.key.unsupported"),
        ("key=ds&efuse=efuse.bin", "p256", "target.key.unsupported"),
        ("key=ecdsa&efuse=efuse.bin", "p384", "target.key.unsupported"),
        ("key=ecdsa&efuse=efuse.bin", "rsa2048", "target.key.unsupported"),
    ],
)
def test_a_key_that_the_chip_cannot_use_is_refused(tmp_path: Path, options: str, algorithm: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        target(tmp_path, options).install(pool_credential(SERIAL, algorithm), OPEN)
    assert caught.value.code == code
    assert list((tmp_path / SERIAL).iterdir()) == []


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(Refused) as caught:
        encode_nvs("app", [NvsItem("long", "string", b"x" * 3968)], 0x6000)
    assert caught.value.code == "target.partition.full"
    with pytest.raises(Refused):
        encode_nvs("app", [NvsItem("big", "blob", b"x" * 9000)], 0x3000)


def test_a_key_file_that_others_can_read_is_no_proof(tmp_path: Path) -> None:
    target(tmp_path).install(pool_credential(SERIAL), OPEN)
    (tmp_path / SERIAL / "esp_secure_cert.bin").chmod(0o644)
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path).prove(bytes(32))
    assert caught.value.code == "target.key.mode"


def test_a_partition_of_another_size_is_named(tmp_path: Path) -> None:
    target(tmp_path, "layout=nvs").install(pool_credential(SERIAL), OPEN)
    with pytest.raises(DeviceFault) as caught:
        target(tmp_path, "layout=nvs&size=0x4000").prove(bytes(32))
    assert caught.value.code == "target.partition.size"


@pytest.mark.parametrize(
    "options",
    [
        "layout=flash",
        "flash=../flash.bin",
        "flash=.hidden",
        "offset=0xD000",
        "flash=f.bin&offset=0xD001",
        "flash=f.bin&offset=-1",
        "flash=f.bin&offset=0x80000000",
        "layout=nvs&flash=f.bin",
        "layout=nvs&size=0x2000",
        "layout=nvs&size=0x200000",
        "layout=nvs&encoding=der",
        "layout=nvs&keys-offset=0",
        "layout=nvs-encrypted&flash=f.bin&offset=0x10000&keys-offset=0x10000",
        "size=0x6000",
        "key=ds",
        "key=ds&efuse=e.bin&efuse-block=6",
        "key=ds&efuse=e.bin&chip=esp32",
        "key=ecdsa&efuse=e.bin&chip=esp32c3",
        "chip=esp32c3",
        "layout=nvs&key=hmac&efuse=e.bin",
        "layout=nvs-encrypted&key=hmac",
        "layout=nvs-encrypted&key=hmac&efuse=e.bin&flash=f.bin&offset=0x10000&keys-offset=0xF000",
        "layout=nvs-encrypted&read-protect=no",
        "layout=nvs&key=ds&efuse=e.bin",
        "identity=mac",
        "unknown=1",
    ],
)
def test_options_that_contradict_are_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(Misconfigured):
        target(tmp_path, options)


def test_no_error_of_a_locked_key_shows_it(tmp_path: Path) -> None:
    credential = pool_credential(SERIAL, "rsa2048")
    locked = target(tmp_path, "key=ds&efuse=efuse.bin")
    locked.install(credential, OPEN)
    silicon = tmp_path / SERIAL / "efuse.bin.silicon"
    assert stat.S_IMODE(silicon.stat().st_mode) == 0o600
    secret = silicon.read_bytes()[32:64]
    with pytest.raises(BirthmarkError) as caught:
        locked.install(pool_credential(SERIAL, "rsa2048"), OPEN)
    assert secret.hex() not in str(caught.value.document())
    assert secret not in (tmp_path / SERIAL / "efuse.bin").read_bytes()[::-1]
    assert "octets" not in repr(NvsKeys(bytes(64)))
