"""The target ``files`` is struck at every sync, rename and unlink of an installation over an older identity."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography import x509

from birthmark.adapters.targets.files import FilesTarget
from birthmark.errors import DeviceFault
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from support.devicepki import credential_for, pool_credential
from support.faultline import KILL, strike
from support.fences import OPEN

PROGRAM = """
import sys
from pathlib import Path
from birthmark.adapters.targets.files import FilesTarget
from birthmark.errors import StationFault
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from birthmark.workflow.line.fence import DeadlineFence
import time
OPEN = DeadlineFence("test", seconds=60, monotonic=time.monotonic)
uri, base, parts = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
chain = tuple((parts / name).read_bytes() for name in ("issuing", "root"))
key = Secret((parts / "key").read_bytes()) if (parts / "key").exists() else None
target = FilesTarget(uri, secrets=lambda _: Secret(b"secret"), base=base)
try:
    if len(sys.argv) > 4:
        target.make_key("p256", "SN-1", OPEN)
    else:
        target.install(Credential("SN-1", (parts / "certificate").read_bytes(), chain, key, 1, 2), OPEN)
    print("done")
except StationFault as fault:
    print(fault.code)
"""

TARGETS = {
    "pem": ("files:dut", {"device.key", "device.crt"}),
    "der": ("files:dut?layout=der", {"device.key.der", "device.crt.der", "chain0.crt.der", "chain1.crt.der"}),
    "p12": ("files:dut?layout=p12&p12-secret=x:", {"device.p12"}),
    "windows": ("files:dut?layout=windows&p12-secret=x:", {"device.pfx", "install-identity.ps1"}),
    "born": ("files:dut?key=born", {"device.key", "device.crt"}),
}


class Line:
    """A device with an old identity, and a new one to be installed."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.uri, self.names = TARGETS[kind]
        self.directory = directory
        (directory / "dut").mkdir()
        self.old = self.obtain()
        self.target().install(self.old, OPEN)
        self.new = self.obtain()
        shutil.copytree(directory / "dut", directory / "before")
        parts = directory / "parts"
        parts.mkdir()
        (parts / "certificate").write_bytes(self.new.certificate)
        for name, der in zip(("issuing", "root"), self.new.chain, strict=True):
            (parts / name).write_bytes(der)
        if self.new.private_key is not None:
            (parts / "key").write_bytes(self.new.private_key.reveal())
        self.program = directory / "program.py"
        self.program.write_text(PROGRAM)

    def target(self) -> FilesTarget:
        return FilesTarget(self.uri, secrets=lambda _: Secret(b"secret"), base=self.directory)

    def obtain(self) -> Credential:
        if "born" not in self.uri:
            return pool_credential("SN-1")
        request = x509.load_der_x509_csr(self.target().make_key("p256", "SN-1", OPEN))
        return credential_for(request.public_key(), "SN-1")

    def strike(self, call: str, fault: str, when: int, *more: str) -> tuple[bool, str]:
        shutil.rmtree(self.directory / "dut")
        shutil.copytree(self.directory / "before", self.directory / "dut")
        parts = self.directory / "parts"
        return strike(self.program, self.uri, self.directory, parts, *more, call=call, fault=fault, when=when)

    def assert_lawful(self) -> None:
        """Old, new, or no certificate at all: never a certificate with another device's key."""
        certificate = self.target().probe().certificate
        assert certificate in (None, self.old.certificate, self.new.certificate)
        if certificate is None:
            with pytest.raises(DeviceFault, match=r"target\.(certificate|key)\.missing"):
                self.target().prove(b"")
        else:
            assert self.target().prove(b"").certificate == certificate

    def assert_completes(self) -> None:
        if "born" in self.uri:
            request = x509.load_der_x509_csr(self.target().make_key("p256", "SN-1", OPEN))
            committed = self.target().probe().certificate == self.new.certificate
            new_key = x509.load_der_x509_certificate(self.new.certificate).public_key()
            assert committed or request.public_key() == new_key
        self.target().install(self.new, OPEN)
        assert self.target().prove(b"").certificate == self.new.certificate
        left = {path.name for path in (self.directory / "dut").iterdir()} - {"device.key.new"}
        assert left == self.names


@pytest.mark.parametrize("call", ["fsync", "rename", "unlink"])
@pytest.mark.parametrize("kind", TARGETS)
def test_killed_installation_can_be_taken_up_again(kind: str, call: str, tmp_path: Path) -> None:
    line = Line(kind, tmp_path)
    when = 0
    struck = True
    while struck:
        when += 1
        struck, printed = line.strike(call, KILL, when)
        assert printed == ("" if struck else "done\n")
        line.assert_lawful()
        line.assert_completes()
    assert when > 1 or call == "unlink"


@pytest.mark.parametrize("fault", ["error=EIO", "error=ENOSPC"])
@pytest.mark.parametrize("kind", TARGETS)
def test_disk_that_cannot_keep_it_is_a_fault_of_the_station(kind: str, fault: str, tmp_path: Path) -> None:
    line = Line(kind, tmp_path)
    when = 0
    struck = True
    while struck:
        when += 1
        struck, printed = line.strike("fsync", fault, when)
        assert (printed == "done\n") is not struck
        line.assert_lawful()
        line.assert_completes()
    assert when > 1


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_killed_while_a_key_is_born_leaves_one_key_or_none(call: str, tmp_path: Path) -> None:
    line = Line("born", tmp_path)
    (tmp_path / "before" / "device.key.new").unlink()
    when = 0
    struck = True
    while struck:
        when += 1
        struck, _ = line.strike(call, KILL, when, "make_key")
        first = line.target().make_key("p256", "SN-1", OPEN)
        assert line.target().make_key("p256", "SN-1", OPEN) == first
        assert line.target().prove(b"").certificate == line.old.certificate
    assert when > 1
