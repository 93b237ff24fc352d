"""A real Mosquitto (Debian ``mosquitto``) with client certificates, for one test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["broker"]

_FOUND = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin")


@contextmanager
def broker(directory: Path, *, cafile: Path, crlfile: Path, certfile: Path, keyfile: Path) -> Iterator[int]:
    """Run it on a free port of 127.0.0.1: the common name is the user, and a user has its own topics alone."""
    assert _FOUND is not None, "mosquitto is missing: see the Debian packages in the Makefile"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    (directory / "acl").write_text("pattern readwrite things/%u/#\n")
    (directory / "acl").chmod(0o600)
    (directory / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nuser root\nlog_dest stderr\nrequire_certificate true\n"
        f"use_identity_as_username true\nallow_anonymous false\nacl_file {directory / 'acl'}\ncafile {cafile}\n"
        f"crlfile {crlfile}\ncertfile {certfile}\nkeyfile {keyfile}\n"
    )
    with (directory / "mosquitto.log").open("w") as log:
        process = subprocess.Popen([_FOUND, "-c", str(directory / "mosquitto.conf")], stdout=log, stderr=log)
        try:
            _wait(port, process, directory / "mosquitto.log")
            yield port
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"mosquitto does not listen: {log.read_text()}")
