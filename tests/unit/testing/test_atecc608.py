"""The emulated ATECC608, used as anyone would use it: through Microchip's own library."""

from __future__ import annotations

import ctypes
import hashlib
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from birthmark.testing.atecc608 import OPEN_CONFIG, Atecc608, emulated_bus
from support.microchip import MicrochipLibrary

ROOT = Path(__file__).resolve().parents[3]
DATA, CONFIG, OTP = 2, 0, 1
OK, EXECUTION, PARSE, ECC = 0, -12, -46, -42
DIGEST = hashlib.sha256(b"message").digest()


@pytest.fixture
def chip(tmp_path: Path) -> Iterator[Atecc608]:
    with Atecc608.create(tmp_path / "chip.json", bytes.fromhex("0123a1b2c3d4e5f6ee"), sync=False) as chip:
        yield chip


class Host(MicrochipLibrary):
    """The calls of the library that the tests make, each returning its status."""

    def out(self, name: str, size: int, *arguments: object) -> tuple[int, bytes]:
        buffer = ctypes.create_string_buffer(size)
        return getattr(self.library, name)(self.device, *arguments, buffer), buffer.raw

    def read(self, zone: int, slot: int, offset: int, size: int) -> tuple[int, bytes]:
        buffer = ctypes.create_string_buffer(size)
        at, length = ctypes.c_size_t(offset), ctypes.c_size_t(size)
        return self.library.atcab_read_bytes_zone_ext(self.device, zone, slot, at, buffer, length), buffer.raw

    def write(self, zone: int, slot: int, offset: int, data: bytes) -> int:
        at, length = ctypes.c_size_t(offset), ctypes.c_size_t(len(data))
        return int(self.library.atcab_write_bytes_zone_ext(self.device, zone, slot, at, data, length))

    def call(self, name: str, *arguments: object) -> int:
        return int(getattr(self.library, name)(self.device, *arguments))


@pytest.fixture
def host(chip: Atecc608) -> Iterator[Host]:
    host = Host(chip)
    yield host
    host.close()


def open_host(path: Path, **options: object) -> tuple[Atecc608, Host]:
    chip = Atecc608.create(path, sync=False, **options)  # type: ignore[arg-type]
    return chip, Host(chip)


def test_the_library_reads_serial_number_and_revision(host: Host, chip: Atecc608) -> None:
    assert host.out("atcab_read_serial_number_ext", 9) == (OK, bytes.fromhex("0123a1b2c3d4e5f6ee"))
    assert host.out("atcab_info_ext", 4) == (OK, bytes.fromhex("00006003"))
    assert chip.serial == "0123A1B2C3D4E5F6EE"
    assert host.out("atcab_read_config_zone_ext", 128) == (OK, bytes(chip.memory.config))


def test_a_key_made_inside_signs_what_others_verify(host: Host) -> None:
    assert host.out("atcab_get_pubkey_ext", 64, 0)[0] == ECC
    status, point = host.out("atcab_genkey_ext", 64, 0)
    assert (status, host.out("atcab_get_pubkey_ext", 64, 0)) == (OK, (OK, point))
    status, signature = host.out("atcab_sign_ext", 64, 0, DIGEST)
    assert status == OK
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
    key.verify(encode_dss_signature(r, s), DIGEST, ec.ECDSA(Prehashed(hashes.SHA256())))
    verified = ctypes.c_bool()
    for message, good in ((DIGEST, True), (bytes(32), False)):
        assert host.call("atcab_verify_extern_ext", message, signature, point, ctypes.byref(verified)) == OK
        assert verified.value is good
    assert host.write(DATA, 11, 0, bytes(4) + point[:32] + bytes(4) + point[32:]) == OK
    assert host.call("atcab_verify_stored_ext", DIGEST, signature, 11, ctypes.byref(verified)) == OK
    assert verified.value is True


def test_slots_that_are_not_for_private_keys_make_none(host: Host) -> None:
    assert host.out("atcab_genkey_ext", 64, 9)[0] == EXECUTION
    assert host.out("atcab_sign_ext", 64, 9, DIGEST)[0] == EXECUTION


def test_a_private_key_is_never_read_and_never_written_in_the_clear(host: Host) -> None:
    host.out("atcab_genkey_ext", 64, 0)
    assert host.read(DATA, 0, 0, 32)[0] == EXECUTION
    assert host.write(DATA, 0, 0, bytes(32)) == EXECUTION


@pytest.mark.parametrize(("slot", "size"), [(8, 416), (9, 72), (15, 72)])
def test_a_data_slot_keeps_every_octet_up_to_its_size(host: Host, slot: int, size: int) -> None:
    content = bytes(at * 7 & 0xFF for at in range(size))
    assert host.write(DATA, slot, 0, content) == OK
    assert host.read(DATA, slot, 0, size) == (OK, content)
    assert host.write(DATA, slot, 4, b"word") == OK
    assert host.read(DATA, slot, 0, size) == (OK, content[:4] + b"word" + content[8:])


def test_a_locked_slot_makes_no_key_and_takes_no_write_for_ever(host: Host, chip: Atecc608) -> None:
    status, point = host.out("atcab_genkey_ext", 64, 0)
    assert (status, host.write(DATA, 10, 0, bytes(72))) == (OK, OK)
    for slot in (0, 10):
        assert host.call("atcab_lock_data_slot_ext", slot) == OK
        assert host.call("atcab_lock_data_slot_ext", slot) != OK
    chip.power_on()
    assert host.out("atcab_genkey_ext", 64, 0)[0] == EXECUTION
    assert host.write(DATA, 10, 0, b"late") == EXECUTION
    assert host.out("atcab_get_pubkey_ext", 64, 0) == (OK, point)
    locked = ctypes.c_bool()
    for slot, so in ((0, True), (1, False), (10, True)):
        assert host.call("atcab_is_slot_locked_ext", slot, ctypes.byref(locked)) == OK
        assert locked.value is so


def test_a_slot_that_is_not_lockable_stays_open(tmp_path: Path) -> None:
    config = bytearray(OPEN_CONFIG)
    config[96 + 20] &= ~0x20
    chip, host = open_host(tmp_path / "chip.json", config=bytes(config))
    with chip:
        assert host.call("atcab_lock_data_slot_ext", 10) == EXECUTION
        assert host.write(DATA, 10, 0, b"open") == OK
        host.close()


def test_zones_are_locked_in_order_and_only_with_the_right_checksum(tmp_path: Path) -> None:
    chip, host = open_host(tmp_path / "chip.json", locked=False)
    with chip:
        assert host.out("atcab_genkey_ext", 64, 0)[0] == EXECUTION
        assert host.read(DATA, 8, 0, 32)[0] == EXECUTION
        assert host.out("atcab_random_ext", 32) == (OK, bytes.fromhex("ffff0000") * 8)
        assert host.call("atcab_lock_data_zone_ext") == EXECUTION
        assert host.call("calib_lock_config_zone_crc", 0x1234) == EXECUTION
        assert host.call("atcab_write_config_zone_ext", bytes(chip.memory.config)) == OK
        assert host.call("atcab_lock_config_zone_ext") == OK
        assert host.call("atcab_write_config_zone_ext", bytes(128)) == EXECUTION
        assert host.write(DATA, 8, 0, bytes(range(32))) == OK
        assert host.read(DATA, 8, 0, 32)[0] == EXECUTION
        assert host.out("atcab_genkey_ext", 64, 0)[0] == OK
        assert host.out("atcab_sign_ext", 64, 0, DIGEST)[0] == EXECUTION
        content = b"".join(chip.memory.slots[8:9])
        assert content[:32] == bytes(range(32))
        assert host.call("atcab_lock_data_zone_ext") == OK
        assert host.call("atcab_lock_data_zone_ext") == EXECUTION
        assert host.read(DATA, 8, 0, 32) == (OK, bytes(range(32)))
        assert host.out("atcab_sign_ext", 64, 0, DIGEST)[0] == OK
        host.close()


def test_locks_and_factory_octets_cannot_be_written(tmp_path: Path) -> None:
    chip, host = open_host(tmp_path / "chip.json", locked=False)
    with chip:
        assert host.write(CONFIG, 0, 0, bytes(4)) == EXECUTION
        assert host.write(CONFIG, 0, 20, b"\x83\x20\x83\x20") == OK
        assert host.call("atcab_updateextra", 0, 7) != OK or chip.memory.config[84] == 7
        assert not chip.memory.config_locked
        host.close()


def test_digests_random_numbers_and_counters(host: Host) -> None:
    for size in (0, 1, 63, 64, 65, 200):
        message = bytes(size)
        digest = ctypes.create_string_buffer(32)
        assert host.call("calib_sha", ctypes.c_uint16(size), message, digest) == OK
        assert digest.raw == hashlib.sha256(message).digest()
    randoms = {host.out("atcab_random_ext", 32)[1] for _ in range(3)}
    assert len(randoms) == 3
    value = ctypes.c_uint32()
    for expected in (1, 2, 3):
        assert host.call("calib_counter_increment", ctypes.c_uint16(0), ctypes.byref(value)) == OK
        assert value.value == expected
    assert host.call("calib_counter_read", ctypes.c_uint16(1), ctypes.byref(value)) == OK
    assert value.value == 0


def test_what_was_volatile_is_gone_after_a_power_cut_and_the_rest_is_in_the_file(host: Host, chip: Atecc608) -> None:
    _, point = host.out("atcab_genkey_ext", 64, 3)
    assert host.write(DATA, 8, 64, b"kept") == OK
    assert stat.S_IMODE(chip.path.stat().st_mode) == 0o600
    again = Atecc608(chip.path)
    assert (again.memory.slots[8][64:68], again.serial) == (b"kept", chip.serial)
    chip.power_on()
    assert host.out("atcab_get_pubkey_ext", 64, 3) == (OK, point)


def test_faults_come_when_they_are_ordered_and_end_with_power(host: Host, chip: Atecc608) -> None:
    chip.faults.corrupt = 1
    assert host.out("atcab_info_ext", 4)[0] == -27
    assert host.out("atcab_info_ext", 4)[0] == OK
    before = bytes(chip.memory.slots[8])
    chip.faults.dies_before = chip.commands
    assert host.write(DATA, 8, 0, b"lost") == -25
    assert bytes(chip.memory.slots[8]) == before
    chip.faults.dies_before = None
    assert host.out("atcab_info_ext", 4)[0] == -25
    chip.power_on()
    chip.faults.dies_after = chip.commands
    assert host.write(DATA, 8, 0, b"done") == -25
    chip.faults.dies_after = None
    chip.power_on()
    assert host.read(DATA, 8, 0, 4) == (OK, b"done")
    chip.faults.shows[8] = b"else"
    assert host.read(DATA, 8, 0, 4) == (OK, b"else")


def test_many_chips_are_used_by_many_threads_at_once(tmp_path: Path) -> None:
    """Eight heads: every answer comes from one's own chip."""

    def use(number: int) -> tuple[str, bytes, bytes]:
        chip, host = open_host(tmp_path / f"{number}.json")
        with chip:
            _, point = host.out("atcab_genkey_ext", 64, 0)
            for _ in range(5):
                assert host.out("atcab_read_serial_number_ext", 9) == (OK, chip.memory.serial)
                assert host.out("atcab_get_pubkey_ext", 64, 0) == (OK, point)
            host.close()
        return chip.serial, point, bytes(chip.memory.slots[0])

    with ThreadPoolExecutor(8) as heads:
        used = list(heads.map(use, range(8)))
    assert [len(set(column)) for column in zip(*used, strict=True)] == [8, 8, 8]


def test_a_chip_that_is_only_named_has_power_as_long_as_somebody_uses_it(tmp_path: Path) -> None:
    chip = Atecc608.create(tmp_path / "chip.json", sync=False)
    with emulated_bus(chip.path) as first:
        with emulated_bus(chip.path) as second:
            assert first == second
        with emulated_bus(chip.path) as third:
            assert third == first
    chip.attach()
    with emulated_bus(chip.path) as (bus, _, _):
        assert bus == chip.bus
    assert chip.bus is not None
    chip.detach()


def test_a_bus_of_the_machine_is_still_asked_of_the_machine(host: Host, chip: Atecc608) -> None:
    """/dev/i2c-63 is not there: the library's own layer says so, and the emulated chip hears nothing."""
    elsewhere, heard = Host(chip, bus=63), chip.commands
    assert elsewhere.out("atcab_read_serial_number_ext", 9)[0] != OK
    assert chip.commands == heard
    elsewhere.close()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"format":"birthmark-atecc608/1"}', b"[" * 20000])
def test_a_file_that_is_no_chip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chip.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not the memory"), emulated_bus(path):
        pass


def test_the_example_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    examples = re.findall(r"^```python\n(.*?Atecc608.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "True" in done.stdout
