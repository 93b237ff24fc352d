"""Files that somebody else wrote: on a stick there may be a pipe, a device or a hole of a terabyte under any name."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from birthmark.errors import Misconfigured

__all__ = ["RECEIVED_OCTETS", "read_received"]

RECEIVED_OCTETS = 16 << 20
"""Longer is no document that is read as a whole; bundles and reports are read in frames."""


def read_received(path: Path, *, limit: int = RECEIVED_OCTETS) -> bytes:
    """Return the content of a plain file of at most ``limit`` octets; nothing is waited for.

    Raises ``Misconfigured``: ``file.missing``, ``file.kind`` (a pipe, a device, a directory), ``file.size``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        raise _missing(path, getattr(problem, "strerror", None) or "not a path") from problem
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Misconfigured(
                "file.kind",
                f"{path} is not a plain file",
                hint="Copy what it gives into a file, and name that.",
                path=str(path),
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as problem:
        raise _missing(path, problem.strerror or "it cannot be read") from problem
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise Misconfigured(
            "file.size",
            f"{path} has more than {limit} octets",
            hint="This is another file than the one that was sent; name that one.",
            path=str(path),
            limit=limit,
        )
    return data


def _missing(path: Path, reason: str) -> Misconfigured:
    return Misconfigured(
        "file.missing",
        f"cannot read {path}: {reason}",
        hint="Name the file as it was received.",
        path=str(path),
    )
