"""Reads a log with Go's golang.org/x/mod/sumdb (Debian: golang-go, golang-golang-x-mod-dev), not with our code."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["GoRefused", "build_reader", "compile_reader", "find_go", "read_log"]

SOURCE = Path(__file__).parents[1] / "vectors" / "tlog" / "readlog"
GOPATH = Path("/usr/share/gocode")
_compiled: list[Path] = []


class GoRefused(AssertionError):
    """The Go reader does not accept the log; the message is its own."""


def find_go() -> str:
    """Return the Go tool of this machine, Debian's first; none at all is a failure."""
    debian = sorted(str(path) for path in Path("/usr/lib").glob("go*/bin/go"))
    go = debian[0] if debian else shutil.which("go")
    assert go is not None, "no go tool: install golang-go"
    assert (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir(), "install golang-golang-x-mod-dev"
    return go


def build_reader(tmp: Path) -> Path:
    """Return the compiled reader; the first call of a session compiles it below ``tmp``."""
    if not _compiled or not _compiled[0].exists():
        _compiled[:] = [compile_reader(find_go(), tmp)]
    return _compiled[0]


def compile_reader(go: str, tmp: Path) -> Path:
    """Compile the reader with one Go tool, without modules and without the network."""
    program = tmp / "readlog"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp),
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOCACHE": str(tmp / "gocache"),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }
    done = subprocess.run(
        [go, "build", "-o", str(program), "."], cwd=SOURCE, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return program


def read_log(
    reader: Path,
    directory: Path | None,
    vkey: str,
    *,
    old: int | None = None,
    sample: int | None = None,
    consistency: Sequence[bytes] | None = None,
    proof: Path | None = None,
    entry: Path | None = None,
) -> dict[str, Any]:
    """Let Go read a log and return its report; raise :class:`GoRefused` with its words when it does not fit.

    ``directory`` holds ``checkpoint`` and ``tile/`` (None: only the proof is checked). All entries are proven
    unless ``sample`` says how many; ``old`` is a former size (``consistency``: a proof of ours to check from
    there); ``proof`` and ``entry`` are files with a tlog-proof and the entry it is for.
    """
    command = [str(reader), "-vkey", vkey]
    if directory is not None:
        command += ["-dir", str(directory)]
    if old is not None:
        command += ["-old", str(old)]
    if sample is not None:
        command += ["-sample", str(sample)]
    if proof is not None:
        command += ["-proof", str(proof), "-entry", str(entry)]
    lines = None
    if consistency is not None:
        command += ["-consistency", "/dev/stdin"]
        lines = "".join(base64.b64encode(item).decode() + "\n" for item in consistency)
    done = subprocess.run(command, input=lines, capture_output=True, text=True)
    if done.returncode != 0:
        raise GoRefused(done.stderr.strip())
    report: dict[str, Any] = json.loads(done.stdout)
    return report
