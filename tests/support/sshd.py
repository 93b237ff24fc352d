"""A real sshd on the loopback interface, with a host key and an authorized key of its own."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["SshServer", "ssh_server"]


@dataclass(frozen=True)
class SshServer:
    """``options``: those of a target URI that reach it."""

    user: str
    port: int
    directory: Path

    @property
    def options(self) -> str:
        return f"known-hosts={self.directory}/known_hosts&login-key={self.directory}/login"

    def address(self) -> str:
        return f"{self.user}@127.0.0.1:{self.port}"


@cache
def ssh_server() -> SshServer:
    """Start it once for all tests of this process; it ends with the process."""
    directory = Path(mkdtemp(prefix="birthmark-sshd-", dir="/tmp"))
    for name in ("host", "login", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", directory / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host = (directory / "host.pub").read_text().split()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {host[0]} {host[1]}\n")
    (directory / "authorized").write_text((directory / "login.pub").read_text())
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (directory / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n"
        "KexAlgorithms curve25519-sha256\nUseDNS no\n"
        f"PidFile {directory}/pid\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
    )
    server = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-f", directory / "config", "-E", directory / "log"], stdin=subprocess.DEVNULL
    )
    _stop_with_us(server)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return SshServer(pwd.getpwuid(os.geteuid()).pw_name, port, directory)
        assert server.poll() is None, (directory / "log").read_text()
        time.sleep(0.02)
    raise AssertionError("sshd does not listen")


def _stop_with_us(server: subprocess.Popen[bytes]) -> None:
    import atexit

    def stop() -> None:
        server.terminate()
        server.wait()

    atexit.register(stop)
