"""The system's own tools for file systems, on images and keys that lie in memory only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from birthmark.adapters.durable import naming_os_errors
from birthmark.adapters.targets.image.octets import CHUNK, Octets, differences, pieces
from birthmark.errors import Misconfigured, StationFault, Unavailable
from birthmark.wire.imagedelta import Region

__all__ = ["READING_S", "MemoryFile", "Ran", "run_program", "tool_failed"]

READING_S = 60.0
"""Longest run of a tool that only reads, in seconds."""

_SEARCHED = os.pathsep.join(("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))
_SHOWN = 300
_PACKAGES = {
    "debugfs": "e2fsprogs",
    "mmd": "mtools",
    "mcopy": "mtools",
    "mdir": "mtools",
    "mtype": "mtools",
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
    "ubinize": "mtd-utils",
}


class MemoryFile:
    """A file without a name, in memory: gone with the process, never on a disk. Tools reach it by ``path``."""

    def __init__(self, octets: Octets | None = None, offset: int = 0, size: int = 0) -> None:
        """``octets``: fill it with ``size`` octets from ``offset`` on; zeros take no memory."""
        self.descriptor = os.memfd_create("birthmark-image", os.MFD_CLOEXEC)
        self.path = f"/proc/self/fd/{self.descriptor}"
        if octets is not None:
            os.ftruncate(self.descriptor, size)
            for at, piece in pieces(octets, offset, offset + size):
                if piece.count(0) != len(piece):
                    self.write(piece, at - offset)

    def __enter__(self) -> MemoryFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.descriptor)

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def write(self, data: bytes, offset: int = 0) -> None:
        while data:
            written = os.pwrite(self.descriptor, data, offset)
            data, offset = data[written:], offset + written

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.descriptor, length, offset)

    def changes(self, before: Octets, offset: int) -> list[Region]:
        """Return how this file differs from the same number of octets of ``before`` from ``offset`` on."""
        found: list[Region] = []
        for at in range(0, self.size, CHUNK):
            after = self.read(at, min(CHUNK, self.size - at))
            found += differences(before.read(offset + at, len(after)), after, offset + at)
        return found


class Ran:
    """What a program that ended has printed."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.ok = done.returncode == 0
        self.output = done.stdout
        # Never what it printed: that may be a private key.
        self.complaint = done.stderr.decode("utf-8", "replace").strip()[-_SHOWN:]


def run_program(
    arguments: Sequence[str],
    *,
    files: Sequence[MemoryFile],
    typed: bytes = b"",
    seconds: float = READING_S,
    moment: int | None = None,
) -> Ran:
    """Run a tool to its end. ``files``: what it may reach; ``moment``: what it takes for the time (Unix seconds).

    Raises ``Misconfigured("target.image.tool.missing")``, ``Unavailable("target.image.tool.slow")`` after ``seconds``.
    """
    program = shutil.which(arguments[0], path=_SEARCHED)
    if program is None:
        raise Misconfigured(
            "target.image.tool.missing",
            f"{arguments[0]} is not installed",
            hint=f"Install the Debian package {_PACKAGES.get(arguments[0], arguments[0])}.",
            tool=arguments[0],
        )
    try:
        with naming_os_errors(Path(program)):
            done = subprocess.run(
                [program, *arguments[1:]],
                input=typed,
                capture_output=True,
                pass_fds=[file.descriptor for file in files],
                timeout=seconds,
                env={
                    "PATH": _SEARCHED,
                    "LC_ALL": "C",
                    "TZ": "UTC",
                    "MTOOLSRC": "/dev/null",
                    **({} if moment is None else {"SOURCE_DATE_EPOCH": str(moment)}),
                },
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            "target.image.tool.slow",
            f"{arguments[0]} took longer than {seconds:.0f} s",
            hint="Run the same command again; raise deadline_s of the station for large images.",
            tool=arguments[0],
        ) from None
    return Ran(done)


def tool_failed(tool: str, complaint: str) -> StationFault:
    """Return the fault of a tool that did not do what it was told."""
    return StationFault(
        "target.image.tool.failed",
        f"{tool} did not do what it was told: {complaint}",
        hint="Try the base image with this tool by hand; nothing was written.",
        tool=tool,
    )
