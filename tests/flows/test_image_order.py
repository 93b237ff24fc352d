"""A lot of images: a thousand devices from one base in one run of the station, read by tools that are not ours."""

from __future__ import annotations

import json
import os
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from support.imagebases import make_base, run
from support.vendortools import tool

COUNT = 1000
BASE_OCTETS = 16 << 20
SAMPLE = (1, 500, 1000)
DOCS = Path(__file__).resolve().parents[2] / "docs"
READ = """
import sys
from littlefs import LittleFS
data = open(sys.argv[1], "rb").read()[0x8000:0x18000]
system = LittleFS(mount=False, block_size=4096, block_count=16)
system.context.buffer[:] = data
system.mount()
for name in ("device-id", "device.key", "device.crt"):
    open(sys.argv[2] + "/" + name, "wb").write(system.open("/identity/" + name, "rb").read())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    make_workspace(root / "fab")
    options = ["--product", "device", "-C", str(root / "fab"), "--json"]
    assert main(["order", "create", "lot", "--quantity", str(COUNT), "--first", "IM-0001", *options]) == 0
    assert main(["order", "make", "lot", "--processes", "1", "-C", str(root / "fab"), "--json"]) == 0
    assert main(["order", "create", "few", "--quantity", "6", "--first", "EX-0001", *options]) == 0
    assert main(["order", "make", "few", "--processes", "1", "-C", str(root / "fab"), "--json"]) == 0
    return root


def station_run(
    capsys: pytest.CaptureFixture[str], place: Path, devices: list[str], target: str, heads: int
) -> tuple[int, dict[str, object]]:
    (place / "devices.txt").write_text("".join(f"{device}\n" for device in devices))
    capsys.readouterr()
    arguments = ["--devices", str(place / "devices.txt"), "--target", target, "--heads", str(heads)]
    code = main(["station", "run", *arguments, "-C", str(place / "fab"), "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def assembled(delta: Path, base: Path, place: Path) -> Path:
    """Run the program on the page of the format."""
    page = (DOCS / "formats" / "image-delta.md").read_text()
    (place / "assemble.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    output = place / f"{delta.stem}.whole"
    run(sys.executable, place / "assemble.py", delta, base, output)
    return output


def used(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_thousand_images_come_from_one_base(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "out").mkdir()
    make_base(place / "base", "littlefs")
    with (place / "base").open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(os.urandom(BASE_OCTETS - file.tell()))
    devices = [f"IM-{number:04d}" for number in range(1, COUNT + 1)]
    target = "image:out/{device_serial}.delta?base=base&format=littlefs&offset=0x8000&size=0x10000"
    code, total = station_run(capsys, place, devices, target, heads=8)
    assert (code, total["passed"], total["failed"]) == (0, COUNT, 0)

    deltas = sorted((place / "out").glob("*.delta"))
    assert [path.stem for path in deltas] == devices
    assert len({sha256(path.read_bytes()).digest() for path in deltas}) == COUNT
    (stored,) = (place / "out" / "bases").iterdir()
    assert stored.stat().st_size == BASE_OCTETS
    octets, blocks = sum(path.stat().st_size for path in deltas), sum(used(path) for path in deltas)
    assert octets < COUNT * 12 * 1024
    assert blocks + used(stored) < 3 * BASE_OCTETS, "instead of a thousand times the base"
    with capsys.disabled():
        print(f" [{COUNT} images: {octets} octets in {blocks + used(stored)} octets of disk, {total['rate']} a second]")

    spkis = set()
    for number in SAMPLE:
        whole = assembled(place / "out" / f"IM-{number:04d}.delta", place / "base", place)
        read = place / f"read-{number}"
        read.mkdir()
        run(tool("images"), "-c", READ, whole, read)
        assert (read / "device-id").read_text() == f"IM-{number:04d}\n"
        public = run("openssl", "pkey", "-in", read / "device.key", "-pubout")
        assert public == run("openssl", "x509", "-in", read / "device.crt", "-noout", "-pubkey")
        chain = x509.load_pem_x509_certificates((read / "device.crt").read_bytes())
        assert f"IM-{number:04d}" in chain[0].subject.rfc4514_string()
        spkis.add(public)
    assert len(spkis) == len(SAMPLE)
    run(sys.executable, "-m", "birthmark.shell.cli.main", "audit", "verify", place / "fab")


def test_root_file_systems_get_their_identity_and_run_again_changes_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "roots").mkdir()
    make_base(place / "root.ext4", "ext4")
    devices = [f"EX-{number:04d}" for number in range(1, 6)]
    target = "image:roots/{device_serial}.img?base=root.ext4&format=ext4&path=/etc/identity&write=full"
    code, total = station_run(capsys, place, devices, target, heads=3)
    assert (code, total["passed"]) == (0, 5)
    before = {path.name: path.read_bytes() for path in (place / "roots").glob("*.img")}
    for device in devices:
        image = place / "roots" / f"{device}.img"
        run("/usr/sbin/e2fsck", "-fn", image)
        assert run("/usr/sbin/debugfs", "-R", "cat /etc/identity/device-id", image) == f"{device}\n".encode()
    code, total = station_run(capsys, place, devices, target, heads=3)
    assert (code, total["already"]) == (0, 5)
    assert before == {path.name: path.read_bytes() for path in (place / "roots").glob("*.img")}


def test_image_of_another_device_is_not_overwritten_and_takes_no_identity(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    image = place / "roots" / "EX-0001.img"
    before = image.read_bytes()
    target = "image:roots/EX-0001.img?base=root.ext4&format=ext4&path=/etc/identity&write=full"
    arguments = ["station", "provision", "--device-serial", "EX-0006", "--target", target, "-C", str(place / "fab")]
    assert main([*arguments, "--json"]) == 4
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["error"] == "device.identity.mismatch"
    assert image.read_bytes() == before
    shown = main(["device", "show", "EX-0006", "-C", str(place / "fab"), "--json"])
    assert (shown, json.loads(capsys.readouterr().out.splitlines()[-1])["state"]) == (0, "pooled")
