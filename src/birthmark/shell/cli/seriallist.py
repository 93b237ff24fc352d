"""A list of device serials as people hand it in: a text file, one serial a line, whatever wrote it."""

from __future__ import annotations

import codecs
import re
import sys
from pathlib import Path

from birthmark.errors import Misconfigured

__all__ = ["read_serials"]

_COLUMNS = re.compile(r"[,;\t\"]")
"""None of these is ever in a device serial."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ONE_A_LINE = "Give a text file with one device serial a line, no heading."


def read_serials(source: str) -> list[str]:
    """Return the lines of a file (``-``: of stdin) that are not blank; what they say is judged by whoever uses them.

    A byte order mark and any line end are taken. Raises ``Misconfigured``: ``serials.file``, ``serials.encoding``
    (UTF-16), ``serials.table`` (several columns), ``serials.none``.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as problem:
        raise Misconfigured(
            "serials.file", f"cannot read {source}: {problem.strerror}", hint=_ONE_A_LINE, path=source
        ) from problem
    if data.startswith(_UTF16):
        raise Misconfigured(
            "serials.encoding",
            f"{source} is UTF-16, not UTF-8",
            hint="Save it as plain text or CSV UTF-8, not as Unicode text.",
            path=source,
        )
    lines = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "backslashreplace").splitlines()
    for number, line in enumerate(lines, 1):
        if _COLUMNS.search(line):
            raise Misconfigured(
                "serials.table",
                f"line {number} of {source} is a row of a table: {line[:80]!r}",
                hint="Give the column of serials alone, one a line, without heading and quotes.",
                path=source,
                line=number,
            )
    found = [line for line in lines if line.strip()]
    if not found:
        raise Misconfigured("serials.none", f"{source} names no device", hint=_ONE_A_LINE, path=source)
    return found
