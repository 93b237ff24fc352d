"""Identities that a vendor made, as the log keeps them (docs/formats/preload.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = [
    "CHUNK_OCTETS",
    "MAX_CERTIFICATE",
    "PreloadedIdentity",
    "VendorItem",
    "is_unique_id",
    "pack_identity",
    "unpack_identities",
]

MAX_CERTIFICATE = 16 << 10
"""Octets: a device certificate of an RSA-4096 key below an ML-DSA CA still fits."""
CHUNK_OCTETS = 24_000
"""Octets of an attachment after which the next chunk begins; more than those of the longest record.

An entry of the log has at most 65,535, but 256 of them are published as one file, which is made in memory.
"""

_HASH, _ID = 32, 64
_UNIQUE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class PreloadedIdentity:
    """One chip. ``unique_id``: the name its vendor gave it."""

    spki_sha256: bytes
    unique_id: str
    certificate: bytes


@dataclass(frozen=True, slots=True)
class VendorItem:
    """What a manifest says of one chip, its signature checked, its certificate (DER) not yet.

    ``unique_id``: None where the manifest gives none. ``above``: certificates of CAs that came with it. ``where``:
    how to find it in the file, for an error.
    """

    unique_id: str | None
    certificate: bytes
    where: str
    above: tuple[bytes, ...] = field(default=())


def is_unique_id(text: str) -> bool:
    """Say whether ``text`` can name a chip: 1 to 64 letters, digits and ``. _ : -`` inside."""
    return _UNIQUE_ID.fullmatch(text) is not None


def pack_identity(identity: PreloadedIdentity) -> bytes:
    """Return the record of one identity; its parts were checked."""
    name = identity.unique_id.encode("ascii")
    length = len(identity.certificate).to_bytes(2, "big")
    return identity.spki_sha256 + bytes((len(name),)) + name + length + identity.certificate


def unpack_identities(data: bytes) -> list[PreloadedIdentity] | None:
    """Return the identities in an attachment; None if it is not whole records and nothing else."""
    found: list[PreloadedIdentity] = []
    at, end = 0, len(data)
    while at < end:
        name_at = at + _HASH + 1
        if name_at > end:
            return None
        length_at = name_at + data[name_at - 1]
        certificate_at = length_at + 2
        if certificate_at > end:
            return None
        name = data[name_at:length_at].decode("ascii", "replace")
        stop = certificate_at + int.from_bytes(data[length_at:certificate_at], "big")
        if stop > end or not is_unique_id(name):
            return None
        found.append(PreloadedIdentity(data[at : at + _HASH], name, data[certificate_at:stop]))
        at = stop
    return found
