"""The target ``image`` is struck at every sync, rename and link of making one device's image, and of the first one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from birthmark.adapters.targets.image import ImageTarget
from birthmark.errors import DeviceFault
from birthmark.model.secret import Secret
from support.devicepki import pool_credential
from support.faultline import KILL, strike
from support.fences import OPEN
from support.imagebases import make_base

PROGRAM = """
import sys, time
from pathlib import Path
from birthmark.adapters.targets.image import ImageTarget
from birthmark.errors import StationFault
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from birthmark.workflow.line.fence import DeadlineFence
uri, base, parts = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
fence = DeadlineFence("test", seconds=60, monotonic=time.monotonic)
chain = tuple((parts / name).read_bytes() for name in ("issuing", "root"))
key = Secret((parts / "key").read_bytes())
try:
    target = ImageTarget(uri, secrets=lambda _: Secret(b""), base=base)
    target.install(Credential("SN-1", (parts / "certificate").read_bytes(), chain, key, 1, 2), fence)
    print("done")
except StationFault as fault:
    print(fault.code)
"""
URI = "image:out/SN-1.img?base=base&format=bin&offset=0x8000&size=0x4000"


class Line:
    """A base, perhaps the image of an older identity, and a new identity to be installed."""

    def __init__(self, directory: Path, write: str, *, first: bool) -> None:
        self.directory, self.uri = directory, f"{URI}&write={write}"
        (directory / "out").mkdir()
        make_base(directory / "base", "bin")
        self.old, self.new = pool_credential("SN-1"), pool_credential("SN-1")
        if not first:
            self.target().install(self.old, OPEN)
        shutil.copytree(directory / "out", directory / "before")
        parts = directory / "parts"
        parts.mkdir()
        assert self.new.private_key is not None
        contents = (self.new.certificate, *self.new.chain, self.new.private_key.reveal())
        for name, data in zip(("certificate", "issuing", "root", "key"), contents, strict=True):
            (parts / name).write_bytes(data)
        self.program = directory / "program.py"
        self.program.write_text(PROGRAM)

    def target(self) -> ImageTarget:
        return ImageTarget(self.uri, secrets=lambda _: Secret(b""), base=self.directory)

    def strike(self, call: str, fault: str, when: int) -> tuple[bool, str]:
        shutil.rmtree(self.directory / "out")
        shutil.copytree(self.directory / "before", self.directory / "out")
        parts = self.directory / "parts"
        return strike(self.program, self.uri, self.directory, parts, call=call, fault=fault, when=when)

    def assert_whole_or_absent(self) -> None:
        """The old image, the new one or none; whatever lies there, nobody else can read it."""
        certificate = self.target().probe().certificate
        assert certificate in (None, self.old.certificate, self.new.certificate)
        if certificate is None:
            assert not (self.directory / "out" / "SN-1.img").exists()
            with pytest.raises(DeviceFault, match=r"target\.image\.missing"):
                self.target().prove(b"")
        else:
            assert self.target().prove(b"").certificate == certificate
        for path in (self.directory / "out").iterdir():
            assert path.is_dir() or path.stat().st_mode & 0o7777 == 0o600

    def assert_completes(self) -> None:
        self.target().install(self.new, OPEN)
        assert self.target().prove(b"").certificate == self.new.certificate
        left = {str(path.relative_to(self.directory / "out")) for path in (self.directory / "out").rglob("*")}
        assert {path for path in left if not path.endswith(".base")} == {"SN-1.img", "bases"}
        assert len(left) == 3


def struck_everywhere(line: Line, call: str, fault: str) -> int:
    when, struck = 0, True
    while struck:
        when += 1
        struck, printed = line.strike(call, fault, when)
        if fault == KILL:
            assert printed == ("" if struck else "done\n")
        else:
            assert printed.startswith("storage.") is struck
        line.assert_whole_or_absent()
        line.assert_completes()
    return when - 1


@pytest.mark.parametrize(
    ("write", "first", "call", "strikes"),
    [
        ("delta", True, "fsync", 5),
        ("delta", True, "rename", 2),
        ("delta", False, "fsync", 2),
        ("full", False, "rename", 1),
    ],
)
def test_killed_installation_leaves_the_old_image_the_new_one_or_none(
    write: str, first: bool, call: str, strikes: int, tmp_path: Path
) -> None:
    """A first image also stores the base: file, its name, and the name of the directory."""
    assert struck_everywhere(Line(tmp_path, write, first=first), call, KILL) == strikes


@pytest.mark.parametrize(
    ("fault", "write", "first", "strikes"), [("error=EIO", "delta", True, 5), ("error=ENOSPC", "full", False, 2)]
)
def test_disk_that_cannot_keep_it_is_a_fault_of_the_station(
    fault: str, write: str, first: bool, strikes: int, tmp_path: Path
) -> None:
    assert struck_everywhere(Line(tmp_path, write, first=first), "fsync", fault) == strikes


def test_disk_that_is_full_is_a_fault_of_the_station(tmp_path: Path) -> None:
    line = Line(tmp_path, "full", first=False)
    struck, printed = line.strike("ftruncate", "error=ENOSPC", 1)
    assert (struck, printed) == (True, "storage.full\n")
    line.assert_whole_or_absent()
    line.assert_completes()
