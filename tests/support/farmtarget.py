"""The target ``farm:SERIAL?socket=PATH&key=born``: one device of ``support.devicefarm``, found as any plug-in is."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from birthmark.adapters.targets.uri import parse_target_uri
from birthmark.errors import DeviceFault, Unavailable
from birthmark.ports import Credential, Evidence, Fence, Probe

__all__ = ["FarmTarget", "ask_farm", "plug_in"]

_PATIENCE_S = 10.0
"""Longer than any deadline of a test: the station has to look after itself."""


def ask_farm(path: str, timeout: float = _PATIENCE_S, **asked: Any) -> dict[str, Any] | None:
    """Ask a device one thing; return its answer, None if it gave none."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(max(timeout, 0.001))
        try:
            link.connect(path)
            link.sendall(json.dumps(asked).encode() + b"\n")
            line = link.makefile("rb").readline()
        except OSError:
            return None
    return json.loads(line) if line.endswith(b"\n") else None


class FarmTarget:
    """Implements ``ports.Target``."""

    def __init__(self, uri: str, *, secrets: object, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="farm", options=("socket", "key"))
        self._serial, self._socket = parsed.path, parsed.options["socket"]
        self._born = "key" in parsed.options

    def probe(self) -> Probe:
        with self._answer("probe") as told:
            certificate = None if told["certificate"] is None else bytes.fromhex(told["certificate"])
            return Probe(told["identity"], certificate, makes_key=self._born, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        fence.hold()
        with self._answer("make_key", timeout=fence.remaining()) as told:
            return bytes.fromhex(told["csr"])

    def install(self, credential: Credential, fence: Fence) -> None:
        asked: dict[str, Any] = {
            "certificate": credential.certificate.hex(),
            "chain": [one.hex() for one in credential.chain],
        }
        if credential.private_key is not None:
            asked["key"] = credential.private_key.reveal().hex()
        fence.hold()
        with self._answer("install", timeout=fence.remaining(), **asked):
            return

    def prove(self, challenge: bytes) -> Evidence:
        with self._answer("prove", challenge=challenge.hex()) as told:
            certificate, chain = bytes.fromhex(told["certificate"]), [bytes.fromhex(one) for one in told["chain"]]
            return Evidence(certificate, tuple(chain), "signature", bytes.fromhex(told["signature"]), None)

    @contextmanager
    def _answer(self, op: str, timeout: float = _PATIENCE_S, **more: Any) -> Iterator[dict[str, Any]]:
        told = ask_farm(self._socket, timeout, op=op, device=self._serial, **more)
        if told is None:
            raise Unavailable("farm.silent", f"{self._serial} gave no answer", hint="Ask again.")
        if "refused" in told:
            raise DeviceFault("farm.refused", f"{self._serial} refused to {op}", hint="Take the next device.")
        yield told


def plug_in(directory: Path) -> None:
    """Put into ``directory`` what makes a process with it on its path find the scheme ``farm`` (PyPA, entry points)."""
    info = directory / "devicefarm-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: devicefarm\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[birthmark.targets]\nfarm = support.farmtarget:FarmTarget\n")
