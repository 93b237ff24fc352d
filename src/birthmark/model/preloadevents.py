"""Events of identities that were made elsewhere: in the chips of a vendor, before they were ordered here.

A chip that is bound to a device, and a device that is adopted, are ``requested`` and ``received`` entries like every
other identity that somebody else signed; their ``source`` is ``preload:VENDOR`` or ``adopted``.
"""

from __future__ import annotations

from typing import Literal

from birthmark.model.eventbase import EventBase

__all__ = [
    "ADOPTED",
    "PRELOAD",
    "KeyOrigin",
    "ManifestForm",
    "PreloadTakenIn",
    "Preloaded",
    "VendorDelegated",
    "origin_takes",
]

KeyOrigin = Literal["injected", "device", "preloaded", "adopted"]
ManifestForm = Literal["microchip", "list", "certificates"]
PRELOAD, ADOPTED = "preload:", "adopted"
"""What ``source`` of a ``requested`` entry says: before the name of the vendor, and of an adopted device."""


class PreloadTakenIn(EventBase, frozen=True, tag="preload_taken_in"):
    """A manifest of a vendor is taken in whole; ``chunks`` ``preloaded`` entries follow in the same transaction."""

    vendor: str
    form: ManifestForm
    manifest_sha256: str
    count: int
    chunks: int
    by: str


class Preloaded(EventBase, frozen=True, tag="preloaded"):
    """``count`` identities of a manifest whose certificates the CA ``ca`` signed.

    Attachment: a record each, SPKI SHA-256 (32) | length of the vendor's id (1) | id | length of the certificate (2,
    big endian) | certificate (DER).
    """

    manifest_sha256: str
    vendor: str
    ca: str
    chunk: int
    count: int


class VendorDelegated(EventBase, frozen=True, tag="vendor_delegated"):
    """The CA ``ca``, whose key the vendor holds, may sign at most ``quota`` identities that are taken in here."""

    vendor: str
    ca: str
    quota: int
    by: str


def origin_takes(key_origin: str, source: str | None) -> bool:
    """Say whether devices whose keys are of ``key_origin`` may get an identity from ``source`` (None: signed here)."""
    if key_origin == "preloaded":
        return source is not None and source.startswith(PRELOAD)
    if key_origin == "adopted":
        return source == ADOPTED
    return source != ADOPTED and not (source or "").startswith(PRELOAD)
