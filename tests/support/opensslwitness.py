"""A witness that is not ours: an Ed25519 key and cosignatures made by openssl, as c2sp.org/tlog-cosignature says."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

__all__ = ["OpensslWitness"]


class OpensslWitness:
    """Signs whatever head it is shown, at whatever time it is told: what a witness remembers is not its business."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True)
        self._directory, self._name = directory, name
        self._run("genpkey", "-algorithm", "ed25519", "-out", "key")
        public = self._run("pkey", "-in", "key", "-pubout", "-outform", "DER")[-32:]
        body = b"\4" + public
        self._id = hashlib.sha256(name.encode() + b"\n" + body).digest()[:4]
        self.vkey = f"{name}+{self._id.hex()}+{base64.b64encode(body).decode()}"

    def line(self, note: bytes, at: int) -> bytes:
        """Return the cosignature line under a checkpoint; ``at``: seconds since 1970."""
        body = note.partition(b"\n\n")[0] + b"\n"
        (self._directory / "message").write_bytes(b"cosignature/v1\ntime %d\n" % at + body)
        signed = self._run("pkeyutl", "-sign", "-inkey", "key", "-rawin", "-in", "message")
        blob = base64.b64encode(self._id + at.to_bytes(8, "big") + signed).decode()
        return f"— {self._name} {blob}\n".encode()

    def _run(self, *arguments: str) -> bytes:
        return subprocess.run(["openssl", *arguments], cwd=self._directory, capture_output=True, check=True).stdout
