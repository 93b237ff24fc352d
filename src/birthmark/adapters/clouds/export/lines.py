"""One line a device and change, in a file that only grows; the last line of a device is what holds."""

from __future__ import annotations

import ssl
from binascii import Error as BinasciiError
from hashlib import sha256
from typing import Literal

import msgspec

from birthmark.ports import Registration

__all__ = ["ExportLine", "line_of", "read_line"]


class ExportLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device as the registry is to know it. ``certificates``: PEM; ``chain``: SHA-256 (hex) of files in ``ca/``."""

    device_serial: str
    standing: Literal["enabled", "blocked"]
    certificates: tuple[str, ...]
    chain: tuple[str, ...]

    def hashes(self) -> tuple[str, ...]:
        """Return the SHA-256 (hex) of each certificate, sorted; ``ValueError`` if one is none."""
        return tuple(sorted(sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() for pem in self.certificates))


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(ExportLine)


def line_of(registration: Registration) -> bytes:
    """Return the line of a registration, with its line feed."""
    line = ExportLine(
        device_serial=registration.device_serial,
        standing=registration.standing,
        certificates=tuple(ssl.DER_cert_to_PEM_cert(der) for der in registration.certificates),
        chain=tuple(sha256(der).hexdigest() for der in registration.chain),
    )
    return _encoder.encode(line) + b"\n"


def read_line(data: bytes) -> tuple[ExportLine, tuple[str, ...]] | None:
    """Return a line and the hashes of its certificates, None if it is damaged."""
    try:
        line = _decoder.decode(data)
        return line, line.hashes()
    except (msgspec.MsgspecError, ValueError, BinasciiError, RecursionError):
        return None
