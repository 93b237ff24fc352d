"""The target ``image``: what the makers' tools and other readers find in the images, and what is refused by name."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key

from birthmark.adapters.targets.image import ImageTarget
from birthmark.adapters.targets.image.assembly import open_delta
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from birthmark.shell.cli.main import main
from birthmark.wire.imagedelta import decode_delta, encode_delta
from support.devicepki import pool_credential
from support.fences import OPEN, OpenFence
from support.imagebases import FIRMWARE, make_base, run
from support.targets.image import IMAGE_TARGETS
from support.vendortools import tool

DOCS = Path(__file__).resolve().parents[3] / "docs"
READ_LITTLEFS = """
import json, sys
from littlefs import LittleFS
data = open(sys.argv[1], "rb").read()[0x8000:0x18000]
system = LittleFS(mount=False, block_size=4096, block_count=16)
system.context.buffer[:] = data
system.mount()
names = [f"/identity/{name}" for name in system.listdir("/identity")]
print(json.dumps({name: system.open(name, "rb").read().hex() for name in [*names, "/boot.cfg"]}))
"""
WRITE_LITTLEFS = """
import json, sys
from littlefs import LittleFS
base = bytearray(open(sys.argv[1], "rb").read())
system = LittleFS(mount=False, block_size=4096, block_count=16, read_size=256, prog_size=256, cache_size=256)
system.context.buffer[:] = base[0x8000:0x18000]
system.mount()
system.makedirs("/identity", exist_ok=True)
for name, data in json.load(sys.stdin).items():
    with system.open("/identity/" + name, "wb") as file:
        file.write(bytes.fromhex(data))
base[0x8000:0x18000] = system.context.buffer
open(sys.argv[2], "wb").write(base)
"""
MERGE_HEX = """
import sys
from intelhex import IntelHex
base, identity = IntelHex(sys.argv[1]), IntelHex()
identity.puts(0x08010000, bytes.fromhex(sys.stdin.read()))
base.merge(identity, overlap="error")
base.write_hex_file(sys.argv[2])
"""
READ_WITH_DISSECT = """
import json, sys
kind, path = sys.argv[1:]
file = open(path, "rb")
found = {}
if kind == "ext4":
    from dissect.extfs import ExtFS
    for name, node in ExtFS(file).get("/etc/identity").listdir().items():
        if name not in (".", ".."):
            found[name] = [node.open().read().hex(), node.inode.i_mode & 0o7777, node.inode.i_uid, node.inode.i_gid]
elif kind == "squashfs":
    from dissect.squashfs import SquashFS
    for node in SquashFS(file).get("/etc/identity").iterdir():
        found[node.name] = [node.open().read().hex(), node.mode & 0o7777, node.uid, node.gid]
else:
    from dissect.fat import FATFS
    folder = FATFS(file).get("identity")
    for node in folder.iterdir():
        if node.name not in (".", ".."):
            found[node.name.lower()] = [node.open().read().hex()]
print(json.dumps(found))
"""


class Maker:
    """A place with a base of one format, and its target for a device."""

    def __init__(self, place: Path, kind: str) -> None:
        self.place, self.kind = place, kind
        self.format = kind.partition("-")[0]
        (place / "out").mkdir()
        make_base(place / "base", self.format)
        self.options = IMAGE_TARGETS[kind]
        self.output = place / "out" / "SN-1.img"

    def target(self, extra: str = "", output: str = "out/SN-1.img") -> ImageTarget:
        uri = f"image:{output}?base=base&{self.options}{extra}"
        return ImageTarget(uri, secrets=lambda _: Secret(b""), base=self.place)

    def whole(self) -> Path:
        """Return the image, assembled by the program on the page of the format."""
        if self.kind.endswith("-full"):
            return self.output
        return assembled(self.output, self.place / "base", self.place / "whole")

    def inside(self) -> Path:
        """Return the part of the image that is a file system of its own."""
        image = self.whole().read_bytes()
        (self.place / "inside").write_bytes(image[0x8000:] if self.format == "squashfs" else image)
        return self.place / "inside"


def assembled(delta: Path, base: Path, output: Path) -> Path:
    program = output.with_name("assemble.py")
    page = (DOCS / "formats" / "image-delta.md").read_text()
    program.write_text(page.partition("```python\n")[2].partition("```")[0])
    output.unlink(missing_ok=True)
    run(sys.executable, program, delta, base, output)
    return output


@pytest.fixture
def maker(tmp_path: Path, request: pytest.FixtureRequest) -> Maker:
    return Maker(tmp_path, request.param)


def vendor(script: str, *arguments: str | Path, data: bytes = b"") -> bytes:
    return run(tool("images"), "-c", script, *arguments, data=data)


def files_of(credential: Credential) -> dict[str, bytes]:
    """Return the files of ``layout=pem`` as OpenSSL writes them."""
    assert credential.private_key is not None
    key = run("openssl", "pkey", "-inform", "DER", data=credential.private_key.reveal())
    certificates = (credential.certificate, *credential.chain)
    return {
        "device-id": b"SN-1\n",
        "device.key": key,
        "device.crt": b"".join(run("openssl", "x509", "-inform", "DER", data=der) for der in certificates),
    }


def region_of(data: bytes) -> dict[int, list[bytes]]:
    """Take ``BMIDREG1`` apart as docs/targets/image.md says, the way firmware would."""
    assert data[:8] == b"BMIDREG1"
    end = 12 + int.from_bytes(data[8:12], "little")
    assert sha256(data[:end]).digest() == data[end : end + 32]
    found: dict[int, list[bytes]] = {}
    at = 12
    while at < end:
        length = int.from_bytes(data[at + 2 : at + 4], "little")
        found.setdefault(data[at], []).append(data[at + 4 : at + 4 + length])
        at += 4 + (length + 3) // 4 * 4
    return found


def assert_region(data: bytes, credential: Credential) -> None:
    found = region_of(data)
    assert credential.private_key is not None
    assert found[1] == [b"SN-1"]
    assert found[2] == [credential.private_key.reveal()]
    assert found[3] == [credential.certificate]
    assert found[4] == list(credential.chain)
    public = load_der_private_key(found[2][0], None).public_key()
    assert public == x509.load_der_x509_certificate(found[3][0]).public_key()


@pytest.mark.parametrize("maker", ["bin", "bin-full"], indirect=True)
def test_raw_image_is_the_base_with_the_region_in_it(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    base, image = (maker.place / "base").read_bytes(), maker.whole().read_bytes()
    assert_region(image[0x8000:], credential)
    length = 12 + int.from_bytes(image[0x8008:0x800C], "little") + 32
    assert image[:0x8000] == base[:0x8000]
    assert image[0x8000 + length :] == base[0x8000 + length :]
    assert maker.output.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("maker", ["hex"], indirect=True)
def test_hex_image_is_octet_for_octet_what_intelhex_merges_and_objcopy_reads_it(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    image = maker.whole()
    run("objcopy", "-I", "ihex", "-O", "binary", image, maker.place / "flat")
    flat = (maker.place / "flat").read_bytes()
    assert flat[: len(FIRMWARE)] == FIRMWARE
    region = flat[0x10000:]
    assert_region(region, credential)
    vendor(MERGE_HEX, maker.place / "base", maker.place / "merged", data=region.hex().encode())
    assert image.read_bytes() == (maker.place / "merged").read_bytes()


@pytest.mark.parametrize("maker", ["littlefs"], indirect=True)
def test_littlefs_finds_the_files_and_would_have_written_the_same_octets(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    found = json.loads(vendor(READ_LITTLEFS, maker.whole()))
    wanted = files_of(credential)
    assert found.pop("/boot.cfg") == (b"speed=9600\n" * 1000).hex()
    assert found == {f"/identity/{name}": data.hex() for name, data in wanted.items()}
    order = json.dumps({name: data.hex() for name, data in wanted.items()}).encode()
    vendor(WRITE_LITTLEFS, maker.place / "base", maker.place / "theirs", data=order)
    assert maker.whole().read_bytes() == (maker.place / "theirs").read_bytes()


@pytest.mark.parametrize("maker", ["fat"], indirect=True)
def test_mtools_fsck_and_another_reader_find_the_files_on_fat(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    image, wanted = maker.whole(), files_of(credential)
    run("/usr/sbin/fsck.fat", "-n", image)
    for name, data in wanted.items():
        assert run("mtype", "-i", image, f"::/identity/{name}") == data
    assert run("mtype", "-i", image, "::/config.txt") == b"arm_64bit=1\n"
    found = json.loads(vendor(READ_WITH_DISSECT, "fat", image))
    assert found == {name: [data.hex()] for name, data in wanted.items()}


@pytest.mark.parametrize("maker", ["ext4"], indirect=True)
def test_e2fsck_debugfs_and_another_reader_find_the_files_on_ext4(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    image, wanted = maker.whole(), files_of(credential)
    run("/usr/sbin/e2fsck", "-fn", image)
    for name, data in wanted.items():
        assert run("/usr/sbin/debugfs", "-R", f"cat /etc/identity/{name}", image) == data
    found = json.loads(vendor(READ_WITH_DISSECT, "ext4", image))
    modes = {"device.key": 0o600}
    assert found == {name: [data.hex(), modes.get(name, 0o644), 1000, 1000] for name, data in wanted.items()}


@pytest.mark.parametrize("maker", ["squashfs"], indirect=True)
def test_unsquashfs_and_another_reader_find_the_files_in_squashfs(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target("&owner=7:8").install(credential, OPEN)
    inside, wanted = maker.inside(), files_of(credential)
    for name, data in wanted.items():
        assert run("unsquashfs", "-cat", inside, f"etc/identity/{name}") == data
    found = json.loads(vendor(READ_WITH_DISSECT, "squashfs", inside))
    modes = {"device.key": 0o600}
    assert found == {name: [data.hex(), modes.get(name, 0o644), 7, 8] for name, data in wanted.items()}


@pytest.mark.parametrize("maker", sorted(IMAGE_TARGETS), indirect=True)
def test_same_identity_makes_the_same_octets_and_only_images_lie_on_the_disk(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    first = maker.output.read_bytes()
    base = sha256((maker.place / "base").read_bytes()).hexdigest()
    names = {str(path.relative_to(maker.place)) for path in maker.place.rglob("*") if path.is_file()}
    assert names == {"base", "out/SN-1.img", f"out/bases/{base}.base"}
    assert (maker.place / "out" / "bases" / f"{base}.base").stat().st_mode & 0o7777 == 0o444
    maker.output.unlink()
    maker.target().install(credential, OPEN)
    assert maker.output.read_bytes() == first


@pytest.mark.parametrize("maker", ["ubi"], indirect=True)
def test_another_reader_finds_the_volume_in_ubi_and_unsquashfs_the_files(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    image = maker.whole().read_bytes()
    assert (image[:0x8000], image[0x48000:]) == (FIRMWARE, b"end of firmware" * 100)
    (maker.place / "inside").write_bytes(image[0x8000:0x48000].rstrip(b"\xff"))
    found = maker.place / "found"
    run(tool("ubi", "ubireader_extract_images"), "-p", "16384", "-o", found, maker.place / "inside")
    (volume,) = found.rglob("*.ubifs")
    assert "vol-identity" in volume.name
    for name, data in files_of(credential).items():
        assert run("unsquashfs", "-cat", volume, f"etc/identity/{name}") == data


@pytest.mark.parametrize("maker", ["ubi"], indirect=True)
def test_flipped_octets_of_ubi_are_found(maker: Maker) -> None:
    maker.target("&write=full").install(pool_credential("SN-1"), OPEN)
    good = maker.output.read_bytes()
    first = good.index(b"hsqs")
    for at in (0x8000, 0x8010, 0x8000 + 512 + 9, first - 1024 + 5, first - 512 + 8, first, first + 300):
        maker.output.write_bytes(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
        with pytest.raises((DeviceFault, StationFault)):
            maker.target("&write=full").prove(b"c" * 32)


def refused(maker: Maker, family: type[BirthmarkError], code: str, extra: str = "") -> None:
    """Refused before an identity is taken out of a pool, and by ``install`` as well; nothing is written."""
    with pytest.raises(family) as caught:
        maker.target(extra).probe()
    assert caught.value.code == code
    with pytest.raises(family) as caught:
        maker.target(extra).install(pool_credential("SN-1"), OPEN)
    assert caught.value.code == code
    assert list((maker.place / "out").iterdir()) == []


def occupy(maker: Maker) -> None:
    """Put something where the identity goes, with the tools of the format."""
    base = maker.place / "base"
    if maker.format in ("bin", "squashfs", "ubi"):
        data = bytearray(base.read_bytes())
        data[0xBFFF] = 0
        base.write_bytes(data)
    elif maker.format == "hex":
        text = base.read_text().splitlines()
        base.write_text("\n".join([*text[:-1], ":020000040801F1", ":0110000055" + "9A", text[-1], ""]))
    elif maker.format == "fat":
        run("mmd", "-i", base, "::/IDENTITY")
        run("mcopy", "-i", base, "-", "::/IDENTITY/DEVICE.KEY", data=b"old")
    elif maker.format == "ext4":
        run("/usr/sbin/debugfs", "-w", "-R", "mkdir /etc/identity", base)
        run("/usr/sbin/debugfs", "-w", "-R", f"write {maker.place / 'base'} /etc/identity/device-id", base)
    else:
        vendor(WRITE_LITTLEFS, base, base, data=json.dumps({"device.crt": b"old".hex()}).encode())


@pytest.mark.parametrize("maker", ["bin", "hex", "littlefs", "fat", "ext4", "squashfs", "ubi"], indirect=True)
def test_base_that_holds_something_there_is_refused(maker: Maker) -> None:
    occupy(maker)
    code = "target.image.base.overlap" if maker.format == "hex" else "target.image.base.occupied"
    refused(maker, Misconfigured, code)


@pytest.mark.parametrize("maker", ["hex", "littlefs", "fat", "ext4"], indirect=True)
@pytest.mark.parametrize("content", [b"", b"\x00" * 300_000, b":00\n" * 9, b"\xff" * 3_000_000], ids=range(4))
def test_base_of_another_format_is_refused(maker: Maker, content: bytes) -> None:
    (maker.place / "base").write_bytes(content)
    with pytest.raises(Misconfigured) as caught:
        maker.target().probe()
    assert caught.value.code in ("target.image.base.malformed", "target.image.region")


@pytest.mark.parametrize("maker", ["ext4"], indirect=True)
@pytest.mark.parametrize(("at", "value"), [(1024 + 58, 0), (1024 + 58, 3), (1024 + 96, 0xFF)])
def test_ext4_that_was_not_unmounted_is_refused(maker: Maker, at: int, value: int) -> None:
    data = bytearray((maker.place / "base").read_bytes())
    data[at] = value
    (maker.place / "base").write_bytes(data)
    refused(maker, Misconfigured, "target.image.base.malformed")


@pytest.mark.parametrize("maker", ["bin"], indirect=True)
@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("&path=/etc", "target.uri.option"),
        ("&block=4096", "target.uri.option"),
        ("&store=bases&write=half", "target.uri.option"),
        ("&chain=none", "target.uri.option"),
        ("&secret=x", "target.uri.malformed"),
    ],
)
def test_option_that_cannot_be_meant_is_refused_at_start(maker: Maker, extra: str, code: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        maker.target(extra)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "options",
    [
        "format=bin",
        "base=SN-1.img",
        "base=base&format=bin&partition=0",
        "base=base&format=hex&offset=0&size=4096&partition=1",
        "base=base&format=floppy",
        "base=base&offset=-1",
        "base=base&offset=0x",
        "base=base&format=hex&offset=0",
        "base=base&format=hex&offset=0xFFFFFFFF&size=2",
        "base=base&format=ext4&path=etc",
        "base=base&format=ext4&path=/../etc",
        "base=base&format=ext4&path=/a b",
        "base=base&format=ext4&path=/a%0Arm",
        "base=base&format=ext4&mode=0644",
        "base=base&format=ext4&owner=root",
        "base=base&format=fat&owner=1:1",
        "base=base&format=littlefs&block=100",
        "base=base&format=fat&layout=p12",
        "base=base&format=ubi&block=100000",
        "base=base&format=ubi&page=65536",
        "base=base&format=ubi&subpage=4096",
    ],
)
def test_uri_that_cannot_be_meant_is_refused_at_start(tmp_path: Path, options: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        ImageTarget(f"image:SN-1.img?{options}", secrets=lambda _: Secret(b""), base=tmp_path)
    assert caught.value.code == "target.uri.option"


@pytest.mark.parametrize("maker", ["bin"], indirect=True)
def test_region_outside_the_base_and_missing_files_are_named(maker: Maker) -> None:
    maker.options = "format=bin&offset=0x8000&size=0x400000"
    refused(maker, Misconfigured, "target.image.region")
    (maker.place / "base").unlink()
    refused(maker, Misconfigured, "target.image.base.missing")
    shutil.rmtree(maker.place / "out")
    with pytest.raises(StationFault) as caught:
        maker.target().probe()
    assert caught.value.code == "target.directory.missing"


@pytest.mark.parametrize("maker", ["bin", "hex", "squashfs"], indirect=True)
def test_identity_larger_than_its_region_is_refused(maker: Maker) -> None:
    maker.options = re.sub("size=0x[0-9]*", "size=0x200", maker.options)
    with pytest.raises(Refused) as caught:
        maker.target().install(pool_credential("SN-1"), OPEN)
    assert caught.value.code == "target.image.space"
    assert not maker.output.exists()


@pytest.mark.parametrize("maker", ["littlefs"], indirect=True)
def test_full_littlefs_is_refused(maker: Maker) -> None:
    vendor(WRITE_LITTLEFS, maker.place / "base", maker.place / "base", data=json.dumps({"x": "00" * 36_000}).encode())
    with pytest.raises(Refused) as caught:
        maker.target().install(pool_credential("SN-1"), OPEN)
    assert caught.value.code == "target.image.space"


@pytest.mark.parametrize("maker", ["bin", "bin-full"], indirect=True)
@pytest.mark.parametrize("content", [b"", b"precious", b"precious" * 100_000])
def test_file_that_is_no_image_of_ours_is_not_replaced(maker: Maker, content: bytes) -> None:
    maker.output.write_bytes(content)
    for act in (lambda: maker.target().probe(), lambda: maker.target().install(pool_credential("SN-1"), OPEN)):
        with pytest.raises(DeviceFault) as caught:
            act()
        assert caught.value.code == "target.image.foreign"
    assert maker.output.read_bytes() == content


@pytest.mark.parametrize("maker", ["bin"], indirect=True)
def test_link_directory_and_pipe_at_its_name_are_not_followed(maker: Maker) -> None:
    import os

    (maker.place / "elsewhere").write_bytes(b"x")
    makers = (
        lambda path: path.symlink_to(maker.place / "elsewhere"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
    )
    for make in makers:
        make(maker.output)
        with pytest.raises((DeviceFault, StationFault)):
            maker.target().install(pool_credential("SN-1"), OPEN)
        maker.output.rmdir() if maker.output.is_dir() else maker.output.unlink()
    assert (maker.place / "elsewhere").read_bytes() == b"x"


@pytest.mark.parametrize("maker", ["bin-full"], indirect=True)
def test_copy_of_the_base_may_lie_there_already(maker: Maker) -> None:
    shutil.copy(maker.place / "base", maker.output)
    maker.target().install(pool_credential("SN-1"), OPEN)
    assert maker.target().prove(b"c" * 32).signature


@pytest.mark.parametrize("maker", ["bin", "bin-full", "hex"], indirect=True)
def test_every_flipped_octet_of_the_identity_is_found(maker: Maker) -> None:
    maker.target().install(pool_credential("SN-1"), OPEN)
    good = maker.output.read_bytes()
    start = 0x8000 if maker.kind == "bin-full" else 0 if maker.kind == "bin" else len(good) - 1200
    for at in range(start, min(len(good), start + 1200), 7):
        maker.output.write_bytes(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
        with pytest.raises((DeviceFault, StationFault)):
            maker.target().prove(b"c" * 32)
    maker.output.write_bytes(good)
    assert maker.target().prove(b"c" * 32).signature


@pytest.mark.parametrize("maker", sorted(IMAGE_TARGETS), indirect=True)
def test_image_that_others_can_read_proves_nothing_and_is_written_anew(maker: Maker) -> None:
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    maker.output.chmod(0o644)
    with pytest.raises(DeviceFault) as caught:
        maker.target().prove(b"c" * 32)
    assert caught.value.code == "target.image.mode"
    maker.target().install(credential, OPEN)
    assert maker.output.stat().st_mode & 0o7777 == 0o600


@pytest.mark.parametrize("maker", ["bin"], indirect=True)
def test_image_of_another_device_under_this_name_is_seen(maker: Maker) -> None:
    maker.target(output="out/SN-2.delta").install(pool_credential("SN-2"), OPEN)
    (maker.place / "out" / "SN-2.delta").rename(maker.output)
    assert maker.target().probe().identity == "SN-2"
    assert maker.target(output="out/SN-3.delta").probe().identity == "SN-3"


@pytest.mark.parametrize("maker", ["bin"], indirect=True)
def test_delta_that_says_another_device_than_its_image_is_damaged(maker: Maker) -> None:
    maker.target().install(pool_credential("SN-1"), OPEN)
    delta = decode_delta(maker.output.read_bytes())
    maker.output.write_bytes(encode_delta(replace(delta, device_serial="SN-2")))
    with pytest.raises(DeviceFault) as caught:
        maker.target().prove(b"c")
    assert caught.value.code == "target.image.damaged"
    assert repr(delta).find("BMID") == -1, "an image in a log shows nothing"


@pytest.mark.parametrize("maker", ["bin"], indirect=True)
def test_bases_are_kept_once_each_and_a_new_one_does_not_touch_the_old_images(maker: Maker) -> None:
    maker.target(output="out/A.delta").install(pool_credential("A"), OPEN)
    make_base(maker.place / "base", "bin")
    maker.target(output="out/B.delta").install(pool_credential("B"), OPEN)
    assert len(list((maker.place / "out" / "bases").iterdir())) == 1
    base = maker.place / "base"
    base.write_bytes(b"new" + base.read_bytes()[3:])
    maker.target(output="out/C.delta").install(pool_credential("C"), OPEN)
    assert len(list((maker.place / "out" / "bases").iterdir())) == 2
    for name in "ABC":
        assert maker.target(output=f"out/{name}.delta").prove(b"c").signature


@pytest.mark.parametrize("maker", ["bin"], indirect=True)
def test_lost_or_changed_stored_base_is_a_fault_of_the_station(maker: Maker) -> None:
    maker.target().install(pool_credential("SN-1"), OPEN)
    (stored,) = (maker.place / "out" / "bases").iterdir()
    stored.chmod(0o600)
    data = bytearray(stored.read_bytes())
    data[5] ^= 1
    stored.write_bytes(data)
    with pytest.raises(StationFault) as caught:
        maker.target().prove(b"c")
    assert caught.value.code == "target.image.base.damaged"
    stored.unlink()
    with pytest.raises(StationFault) as caught:
        maker.target().prove(b"c")
    assert caught.value.code == "target.image.base.lost"


@pytest.mark.parametrize("maker", ["ext4", "fat", "squashfs"], indirect=True)
def test_missing_or_slow_tool_is_named(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoTime(OpenFence):
        def remaining(self) -> float:
            return 0.0

    with pytest.raises(Unavailable) as slow:
        maker.target().install(pool_credential("SN-1"), NoTime())
    assert slow.value.code == "target.image.tool.slow"
    monkeypatch.setattr("birthmark.adapters.targets.image.programs._SEARCHED", str(maker.place))
    with pytest.raises(Misconfigured) as missing:
        maker.target().install(pool_credential("SN-1"), OPEN)
    assert missing.value.code == "target.image.tool.missing"
    assert not maker.output.exists()


@pytest.mark.parametrize("maker", ["fat", "ext4"], indirect=True)
def test_medium_that_holds_the_base_gets_only_what_differs(maker: Maker) -> None:
    maker.target().install(pool_credential("SN-1"), OPEN)
    opened = open_delta(maker.output, base=maker.place / "base", store=None)
    medium = maker.place / "medium"
    medium.write_bytes((maker.place / "base").read_bytes() + b"behind it")
    written = opened.onto(medium)
    assert medium.read_bytes() == maker.whole().read_bytes() + b"behind it"
    assert 0 < written <= 64 * 1024
    assert opened.onto(medium) == 0, "taken up again, it is done"
    half = bytearray(medium.read_bytes())
    first = opened.delta.regions[0]
    half[first.offset : first.offset + 512] = (maker.place / "base").read_bytes()[first.offset : first.offset + 512]
    medium.write_bytes(half)
    assert opened.onto(medium) == 512
    for spoiled in (0, first.offset):
        other = bytearray(medium.read_bytes())
        other[spoiled] ^= 1
        medium.write_bytes(other)
        with pytest.raises(Refused) as caught:
            opened.onto(medium)
        assert caught.value.code == "image.medium.differs"
        assert medium.read_bytes() == bytes(other)
        other[spoiled] ^= 1
        medium.write_bytes(other)
    medium.write_bytes(b"short")
    with pytest.raises(Refused):
        opened.onto(medium)


@pytest.mark.parametrize("maker", ["hex"], indirect=True)
def test_hex_with_other_line_ends_and_segment_records_is_read(maker: Maker) -> None:
    text = (maker.place / "base").read_text().splitlines()
    (maker.place / "base").write_bytes(
        "\r\n".join([*text[:-1], ":020000021000EC", ":0100000055AA", text[-1], ""]).encode()
    )
    credential = pool_credential("SN-1")
    maker.target().install(credential, OPEN)
    image = maker.whole().read_bytes()
    assert image.count(b"\n") == image.count(b"\r\n")
    assert maker.target().prove(b"c").certificate == credential.certificate
    checked = f"import intelhex; print(intelhex.IntelHex(r'{maker.place / 'whole'}')[0x10000])"
    assert vendor(checked).strip() == b"85"


def test_certificates_are_those_of_the_credential(tmp_path: Path) -> None:
    maker = Maker(tmp_path, "bin")
    credential = pool_credential("SN-1")
    maker.target("&chain=issuing").install(credential, OPEN)
    evidence = maker.target().prove(b"c")
    assert evidence.chain == credential.chain[:1]
    parsed = x509.load_der_x509_certificate(evidence.certificate)
    assert parsed.public_bytes(Encoding.DER) == credential.certificate


def test_command_shows_assembles_and_destroys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maker = Maker(tmp_path, "bin")
    maker.target().install(pool_credential("SN-1"), OPEN)
    delta, ours, other = str(maker.output), str(tmp_path / "ours"), str(tmp_path / "other")
    assert main(["image", "show", delta, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["device_serial"], shown["size"]) == ("SN-1", (tmp_path / "base").stat().st_size)
    assert main(["image", "assemble", delta, "--output", ours]) == 0
    assert (tmp_path / "ours").read_bytes() == maker.whole().read_bytes()
    assert (tmp_path / "ours").stat().st_mode & 0o7777 == 0o600
    shutil.copy(tmp_path / "base", other)
    assert main(["image", "assemble", delta, "--onto", other, "--json"]) == 0
    assert (tmp_path / "other").read_bytes() == maker.whole().read_bytes()
    for arguments in (["--output", "x", "--base", other], ["--output", "x", "--onto", "y"], []):
        assert main(["image", "assemble", delta, *arguments]) == 2
    assert main(["image", "destroy", delta, other]) == 7
    assert maker.output.exists(), "nothing is destroyed if one of them is something else"
    assert main(["image", "destroy", delta]) == 0
    assert not maker.output.exists()


DISK = "label: {label}\nfirst-lba: 2048\nstart=2048, size=2048\nstart=8192, size=4096\n"


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_file_system_in_a_partition_is_found_where_sfdisk_put_it(tmp_path: Path, label: str) -> None:
    maker = Maker(tmp_path, "ext4")
    system = (tmp_path / "base").read_bytes()
    (tmp_path / "base").write_bytes(bytes(8 << 20))
    run("/usr/sbin/sfdisk", "-q", tmp_path / "base", data=DISK.format(label=label).encode())
    with (tmp_path / "base").open("r+b") as file:
        file.seek(8192 * 512)
        file.write(system)
    maker.target("&partition=2").install(pool_credential("SN-1"), OPEN)
    image = maker.whole().read_bytes()
    assert image[: 8192 * 512] == (tmp_path / "base").read_bytes()[: 8192 * 512]
    (tmp_path / "second").write_bytes(image[8192 * 512 :][: 4096 * 512])
    run("/usr/sbin/e2fsck", "-fn", tmp_path / "second")
    assert run("/usr/sbin/debugfs", "-R", "cat /etc/identity/device-id", tmp_path / "second") == b"SN-1\n"
    for number in (1, 3, 4, 5, 128):
        with pytest.raises(Misconfigured) as caught:
            maker.target(f"&partition={number}").probe()
        code = "target.image.base.malformed" if number == 1 else "target.image.partition"
        assert caught.value.code == code
    if label == "gpt":
        for at in (512 + 40, 1024 + 3):
            spoiled = bytearray((tmp_path / "base").read_bytes())
            spoiled[at] ^= 1
            (tmp_path / "base").write_bytes(spoiled)
            with pytest.raises(Misconfigured, match=r"target\.image\.partition"):
                maker.target("&partition=2").probe()


def test_bench_compares_an_assembled_image_with_a_whole_one(tmp_path: Path) -> None:
    from birthmark.shell.bench.image import bench_image

    result = bench_image(8, 2, parent=tmp_path)
    assert (result["bench"], result["count"], result["base_octets"]) == ("image", 8, 16 << 20)
    assert isinstance(result["octets_per_image"], int)
    assert result["octets_per_image"] < 2048
    assert list(tmp_path.iterdir()) == []
