"""Virtual TPMs: swtpm, made by its own tools with EK certificates of a CA of the test run."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest

__all__ = ["TPM_SERIAL_INDEX", "Swtpm", "board_state", "ek_roots", "made_state", "power_on", "start_tpm", "write_index"]

TPM_SERIAL_INDEX = 0x0180010A
_ADDRESS = "127.0.0.1"
_SETUP = """create_certs_tool = /usr/bin/swtpm_localca
create_certs_tool_config = {root}/localca.conf
create_certs_tool_options = {root}/localca.options
active_pcr_banks = sha256
"""
_CA = """statedir = {root}
signingkey = {root}/signkey.pem
issuercert = {root}/issuercert.pem
certserial = {root}/certserial
"""
_OPTIONS = "--platform-manufacturer Test\n--platform-version 1.0\n--platform-model Test\n"


@cache
def _kept() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="swtpm-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@cache
def _maker(name: str) -> Path:
    """Return the directory of a maker of TPMs: its CA makes the certificates of the EKs."""
    root = _kept() / name
    root.mkdir()
    (root / "setup.conf").write_text(_SETUP.format(root=root))
    (root / "localca.conf").write_text(_CA.format(root=root))
    (root / "localca.options").write_text(_OPTIONS)
    return root


def made_state(name: str = "one", *, maker: str = "maker", certificates: bool = True) -> Path:
    """Return the state directory of a TPM as it left its maker. Copy it; never start it."""
    return _made_state(name, maker, certificates)


@cache
def board_state(device_serial: str, name: str = "one") -> Path:
    """Return the state of a TPM on a board that was tested: its NV holds the device serial."""
    tpm = Swtpm(_kept() / f"board-{name}-{device_serial}", made_state(name))
    tpm.start()
    write_index(tpm, TPM_SERIAL_INDEX, device_serial.encode())
    tpm.cut()
    return tpm.directory


@cache
def _made_state(name: str, maker: str, certificates: bool) -> Path:
    root = _maker(maker)
    state = root / f"state-{name}"
    state.mkdir()
    command = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--config", str(root / "setup.conf")]
    command += ["--create-ek-cert", "--lock-nvram"] if certificates else []
    subprocess.run([*command, "--vmid", name, "--overwrite"], check=True, capture_output=True)
    return state


def ek_roots(directory: Path, *, maker: str = "maker") -> Path:
    """Write the PEM file of a maker's certificates: root and the CA below it."""
    made_state(maker=maker)
    path = directory / f"ek-roots-{maker}.pem"
    names = ("swtpm-localca-rootca-cert.pem", "issuercert.pem")
    path.write_bytes(b"".join((_maker(maker) / name).read_bytes() for name in names))
    return path


class Swtpm:
    """One TPM: its state in a directory, and the process while it has power."""

    def __init__(self, directory: Path, state: Path | None = None) -> None:
        self.directory = directory.absolute()  # swtpm goes into failure mode with a relative path
        if not self.directory.exists():
            shutil.copytree(state or made_state(), self.directory)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def tcti(self) -> str:
        return f"swtpm:host={_ADDRESS},port={self.port}"

    def start(self, *, startup: bool = True) -> None:
        """Give it power; it answers when this returns. ``startup``: do what the firmware of a board does then."""
        for _ in range(20):
            self.port = self.port or _two_ports()
            command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.directory}"]
            command += ["--server", f"type=tcp,port={self.port},bindaddr={_ADDRESS}"]
            command += ["--ctrl", f"type=tcp,port={self.port + 1},bindaddr={_ADDRESS}"]
            command += ["--flags", "not-need-init,startup-clear" if startup else "not-need-init"]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            atexit.register(self._process.kill)
            if self._answers():
                return
            self.port = 0
        raise AssertionError("swtpm does not start")

    def _answers(self) -> bool:
        assert self._process is not None
        end = time.monotonic() + 10
        while time.monotonic() < end and self._process.poll() is None:
            try:
                socket.create_connection((_ADDRESS, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.002)
            else:
                return self._process.poll() is None
        return False

    def cut(self) -> None:
        """Take the power away: nothing is written any more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            atexit.unregister(self._process.kill)
            self._process = None

    def freeze(self) -> None:
        """Let it hang: connections stand, no answer comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def tool(self, *command: str, data: bytes | None = None) -> bytes:
        """Run a tool of tpm2-tools on it, flush what it leaves, and return what it prints."""
        environment = {**os.environ, "TPM2TOOLS_TCTI": self.tcti}
        ran = subprocess.run(command, env=environment, input=data, capture_output=True, check=False)
        assert ran.returncode == 0, f"{command[0]}: {ran.stdout!r}{ran.stderr!r}"
        subprocess.run(["tpm2_flushcontext", "-t"], env=environment, capture_output=True, check=True)
        return ran.stdout


class _Running(dict[int, Swtpm]):
    def __delitem__(self, key: int) -> None:
        self.pop(key).cut()


_RUNNING = _Running()


def start_tpm(directory: Path, monkeypatch: pytest.MonkeyPatch, state: Path | None = None) -> Swtpm:
    """Start a TPM that loses its power when the test ends."""
    tpm = Swtpm(directory, state)
    power_on(tpm, monkeypatch)
    return tpm


def power_on(tpm: Swtpm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a TPM; it loses its power when the test ends."""
    tpm.start()
    monkeypatch.setitem(_RUNNING, id(tpm), tpm)


def write_index(tpm: Swtpm, index: int, data: bytes, *, hierarchy: str = "o") -> None:
    """Write an NV index with tpm2-tools, as the test of a board does."""
    attributes = "ownerread|ownerwrite" if hierarchy == "o" else "ppread|ppwrite|ownerread|platformcreate"
    tpm.tool("tpm2_nvdefine", hex(index), "-C", hierarchy, "-s", str(len(data)), "-a", f"{attributes}|authread|no_da")
    tpm.tool("tpm2_nvwrite", hex(index), "-C", hierarchy, "-i", "-", data=data)


def _two_ports() -> int:
    """Return a free port whose neighbour is free too: the TSS looks for the control channel there."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((_ADDRESS, 0))
            port = int(first.getsockname()[1])
            try:
                second.bind((_ADDRESS, port + 1))
            except OSError:
                continue
            return port
