"""The targets ``esp`` and ``matter`` are killed at every rename and sync of an installation, fuses included."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from birthmark.adapters.targets.esp import EspTarget
from birthmark.adapters.targets.esp.efuse import read_fuses
from birthmark.adapters.targets.matter import MatterTarget
from birthmark.errors import DeviceFault
from birthmark.ports import Credential
from support.devicepki import pool_credential
from support.faultline import KILL, strike
from support.fences import OPEN
from support.targets.esp import no_secret
from support.targets.matter import PRODUCT, SERIAL

PROGRAM = """
import sys, time
from pathlib import Path
from birthmark.errors import StationFault
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from birthmark.workflow.line.fence import DeadlineFence
uri, base, serial = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
if uri.startswith("esp:"):
    from birthmark.adapters.targets.esp import EspTarget as Target
else:
    from birthmark.adapters.targets.matter import MatterTarget as Target
certificate, issuing, root, key = ((base / "parts" / name).read_bytes() for name in ("leaf", "ca0", "ca1", "key"))
credential = Credential(serial, certificate, (issuing, root), Secret(key), 1, 2)
fence = DeadlineFence("test", seconds=60, monotonic=time.monotonic)
try:
    Target(uri, secrets=lambda _: Secret(b""), base=base).install(credential, fence)
    print("done")
except StationFault as fault:
    print(fault.code)
"""

TARGETS = {
    "flash": "esp:dut?flash=flash.bin",
    "nvs-encrypted": "esp:dut?layout=nvs-encrypted",
    "ecdsa": "esp:dut?key=ecdsa&efuse=efuse.bin",
    "matter": "matter:dut?product=lamp.toml",
}


class Line:
    """A device with an old identity (a locked one: none yet), and a new one to be installed."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.uri, self.directory = TARGETS[kind], directory
        (directory / "dut").mkdir()
        (directory / "dut" / "flash.bin").write_bytes(b"\xff" * 0x20000)
        (directory / "lamp.toml").write_text(PRODUCT)
        self.old = pool_credential(SERIAL)
        if kind != "ecdsa":
            self.target().install(self.old, OPEN)
        self.new = pool_credential(SERIAL)
        shutil.copytree(directory / "dut", directory / "before")
        (directory / "parts").mkdir()
        assert self.new.private_key is not None
        octets = (self.new.certificate, *self.new.chain, self.new.private_key.reveal())
        for name, part in zip(("leaf", "ca0", "ca1", "key"), octets, strict=True):
            (directory / "parts" / name).write_bytes(part)
        (directory / "program.py").write_text(PROGRAM)

    def target(self) -> EspTarget | MatterTarget:
        kind = EspTarget if self.uri.startswith("esp:") else MatterTarget
        return kind(self.uri, secrets=no_secret, base=self.directory)

    def strike(self, call: str, fault: str, when: int) -> tuple[bool, str]:
        shutil.rmtree(self.directory / "dut")
        shutil.copytree(self.directory / "before", self.directory / "dut")
        program = self.directory / "program.py"
        return strike(program, self.uri, self.directory, SERIAL, call=call, fault=fault, when=when)

    def fuses_are_blank(self) -> bool:
        path = self.directory / "dut" / "efuse.bin"
        return read_fuses(path.read_bytes() if path.exists() else None).is_blank(1)

    def assert_lawful(self) -> None:
        """Old or new, whole; a locked device is blank or finished, and its fuses are never burnt for nothing."""
        if "efuse" in self.uri and self.fuses_are_blank():
            with pytest.raises(DeviceFault):
                self.target().prove(bytes(32))
            return
        found = self.target().prove(bytes(32)).certificate
        assert found in (
            (self.new.certificate,) if "efuse" in self.uri else (self.old.certificate, self.new.certificate)
        )

    def assert_completes(self, credential: Credential) -> None:
        self.target().install(credential, OPEN)
        assert self.target().prove(bytes(32)).certificate == credential.certificate
        for path in (self.directory / "dut").iterdir():
            assert path.stat().st_mode & 0o077 == 0 or (path.name == "flash.bin" and "flash" not in self.uri), path.name


@pytest.mark.parametrize(("kind", "call"), [(kind, "rename") for kind in TARGETS] + [("ecdsa", "fsync")])
def test_killed_installation_can_be_taken_up_again(kind: str, call: str, tmp_path: Path) -> None:
    line = Line(kind, tmp_path)
    when, struck = 0, True
    while struck:
        when += 1
        struck, printed = line.strike(call, KILL, when)
        assert printed == ("" if struck else "done\n")
        line.assert_lawful()
        line.assert_completes(line.new)
    assert when > 1


def test_chip_whose_fuses_are_blank_still_takes_another_identity(tmp_path: Path) -> None:
    line = Line("ecdsa", tmp_path)
    struck, _ = line.strike("rename", KILL, 2)
    assert struck
    assert line.fuses_are_blank()
    line.assert_completes(pool_credential(SERIAL))


def test_disk_that_cannot_keep_the_fuses_is_a_fault_of_the_station(tmp_path: Path) -> None:
    line = Line("ecdsa", tmp_path)
    struck, printed = line.strike("rename", "error=ENOSPC", 3)
    assert struck
    assert printed == "storage.full\n"
    assert line.fuses_are_blank()
    line.assert_completes(line.new)
