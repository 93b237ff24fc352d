"""Lists of certificates: PEM blocks one after another, or CSV with the columns ``unique_id`` and ``certificate``."""

from __future__ import annotations

import base64
import binascii
import csv
from collections.abc import Iterable, Iterator
from itertools import chain

from birthmark.errors import Refused
from birthmark.wire.preload import MAX_CERTIFICATE

__all__ = ["ListedCertificate", "list_items"]

_LINE_OCTETS = 64 << 10
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_TEXT_OCTETS = 2 * MAX_CERTIFICATE
_COLUMNS = ("unique_id", "certificate")

ListedCertificate = tuple[str | None, bytes, str]
"""Id of the chip if there is one, certificate (DER), where it stands."""


def list_items(pieces: Iterable[bytes]) -> Iterator[ListedCertificate]:
    """Yield the certificates of a list; ``Refused("preload.list")`` where it is not in one of the two forms."""
    lines = _lines(pieces)
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")
    if first.split(b",")[0].strip().strip(b'"').lower() == _COLUMNS[0].encode():
        yield from _rows(first, lines)
    else:
        yield from _blocks(first, lines)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
        if len(rest) > _LINE_OCTETS:
            raise _refused(f"a line has more than {_LINE_OCTETS} octets")
    if rest:
        yield rest


def _blocks(first: bytes, lines: Iterator[bytes]) -> Iterator[ListedCertificate]:
    block: list[bytes] | None = None
    number = octets = 0
    for line in (text.strip() for text in chain((first,), lines)):
        if line == _BEGIN:
            if block is not None:
                raise _refused(f"certificate {number + 1} does not end")
            block, octets = [], 0
        elif line == _END:
            if block is None:
                raise _refused(f"something ends after certificate {number} that did not begin")
            number += 1
            where = f"certificate {number}"
            yield None, _der(b"".join(block), where), where
            block = None
        elif block is not None:
            octets += len(line)
            if octets > _TEXT_OCTETS:
                raise _refused(f"certificate {number + 1} is too long")
            block.append(line)
    if block is not None:
        raise _refused(f"certificate {number + 1} is cut off")


def _rows(first: bytes, lines: Iterator[bytes]) -> Iterator[ListedCertificate]:
    try:
        reader = csv.reader((_text(line) for line in chain((first,), lines)), strict=True)
        header = [name.strip().lower() for name in next(reader, [])]
        if any(name not in header for name in _COLUMNS):
            raise _refused("its first line does not name the columns unique_id and certificate")
        id_at, certificate_at = (header.index(name) for name in _COLUMNS)
        for number, row in enumerate(reader, 2):
            if not row:
                continue
            where = f"row {number}"
            if len(row) != len(header):
                raise _refused(f"{where} has {len(row)} columns, the first line has {len(header)}")
            text = row[certificate_at].encode("utf-8", "replace")
            kept = text.replace(_BEGIN, b"").replace(_END, b"")
            yield row[id_at].strip(), _der(b"".join(kept.split()), where), where
    except csv.Error as problem:
        raise _refused(f"it is no CSV: {str(problem)[:80]}") from None


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8").rstrip("\r") + "\n"
    except UnicodeDecodeError:
        raise _refused("it is not UTF-8") from None


def _der(text: bytes, where: str) -> bytes:
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        der = b""
    if not der or len(der) > MAX_CERTIFICATE:
        raise _refused(f"{where} is not a certificate in base64")
    return der


def _refused(reason: str) -> Refused:
    return Refused(
        "preload.list",
        f"this is no list of certificates: {reason}",
        hint="Give PEM certificates, or CSV with the columns unique_id and certificate (base64 of the DER).",
        reason=reason,
    )
