"""The closed list of events: every change of state is one of these, and nothing else is a change.

An entry of the log is ``canonical JSON | 0x0A | attachment``. Canonical JSON: one object, keys in
ascending order, no white space, UTF-8, members that hold their
default left out; JSON escapes line feeds, so the first 0x0A ends it.
The attachment is raw bytes whose meaning the event type fixes (docs/formats/events.md).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from birthmark.errors import Tampered
from birthmark.model.eventbase import EventBase, utc_text
from birthmark.model.possessionevents import PossessionIntended, PossessionProven
from birthmark.model.preloadevents import KeyOrigin, Preloaded, PreloadTakenIn, VendorDelegated
from birthmark.model.registerevents import Registered
from birthmark.model.siteevents import (
    AccessGranted,
    AccessWithdrawn,
    ApprovalUsed,
    ApproversSet,
    BundleClosed,
    BundleOpened,
    BundleSealed,
    CaKeyDestroyed,
    Consigned,
    FindingRaised,
    GrantAccepted,
    OrderAssigned,
    Received,
    Requested,
    SiteAdded,
    SiteReported,
    SiteResumed,
    SiteSettled,
    SiteStopped,
)

__all__ = [
    "Abandoned",
    "AccessGranted",
    "AccessWithdrawn",
    "Admitted",
    "ApprovalUsed",
    "ApproversSet",
    "BundleClosed",
    "BundleOpened",
    "BundleSealed",
    "CaCreated",
    "CaKeyDestroyed",
    "Consigned",
    "DevicesOrdered",
    "Drawn",
    "Event",
    "Failed",
    "FindingRaised",
    "GrantAccepted",
    "Installed",
    "Issued",
    "KeyErased",
    "KeyOrigin",
    "OrderAssigned",
    "OrderCreated",
    "PossessionIntended",
    "PossessionProven",
    "PreloadTakenIn",
    "Preloaded",
    "Received",
    "Registered",
    "Rejected",
    "Requested",
    "Reserved",
    "Revoked",
    "Scrapped",
    "SiteAdded",
    "SiteReported",
    "SiteResumed",
    "SiteSettled",
    "SiteStopped",
    "SoftwareChanged",
    "StationAdded",
    "Superseded",
    "TemplateAdmitted",
    "VendorDelegated",
    "Verified",
    "WorkspaceCreated",
    "decode_entry",
    "encode_entry",
    "event_types",
    "utc_text",
]


class WorkspaceCreated(EventBase, frozen=True, tag="workspace_created"):
    """The first entry of every log. ``site_prefix`` is two octets in hex. ``role``: ``site`` works for an authority."""

    workspace: str
    origin: str
    site_prefix: str
    software: str
    by: str
    sensitive: bool = False
    role: Literal["authority", "site"] = "authority"


class SoftwareChanged(EventBase, frozen=True, tag="software_changed"):
    """Another version of the program writes from here on."""

    software: str
    by: str


class StationAdded(EventBase, frozen=True, tag="station_added"):
    """A station may sign receipts with this key. ``vkey`` is a C2SP verifier key."""

    station: str
    vkey: str
    by: str


class CaCreated(EventBase, frozen=True, tag="ca_created"):
    """A CA certificate exists. Attachment: certificate (DER).

    ``kind``: ``access`` signs TLS certificates of this workspace alone, ``external`` is a CA above ours or one whose
    key a third party uses for us, known to us by its certificate only. ``site``: it is delegated to that site, which
    holds the key. ``replaces``: the CA that takes no new orders from now on, in favour of this one.
    """

    ca: str
    kind: Literal["root", "issuing", "access", "external"]
    key_scheme: str
    profile: str
    cert_sha256: str
    transcript_sha256: str
    by: str
    issuer: str | None = None
    site: str | None = None
    replaces: str | None = None


class TemplateAdmitted(EventBase, frozen=True, tag="template_admitted"):
    """A linted template may be signed with. Attachment: template (docs/formats/profile.md)."""

    template: str
    ca: str
    profile: str
    profile_hash: str
    linter: str
    findings_allowed: list[str] = []  # noqa: RUF012  msgspec copies it


class OrderCreated(EventBase, frozen=True, tag="order_created"):
    """A wish for ``quantity`` identities; ``chunks`` ``devices_ordered`` entries follow in the same transaction."""

    order: str
    product: str
    profile: str
    key_algorithm: str
    key_origin: KeyOrigin
    ca: str
    quantity: int
    chunks: int
    by: str


class DevicesOrdered(EventBase, frozen=True, tag="devices_ordered"):
    """Devices ``first .. first+count-1`` of an order. Attachment: device serials, one a line, no final line feed."""

    order: str
    chunk: int
    first: int
    count: int


class Reserved(EventBase, frozen=True, tag="reserved"):
    """The intent to sign. Attachment: ``count`` records of random (8) | SPKI SHA-256 (32) | TBS SHA-256 (32).

    A certificate serial is ``serial_prefix`` (8 octets, hex) | random. Bulk: ``chunk`` names the devices.
    One by one: ``device`` and ``attempt``.
    """

    order: str
    count: int
    serial_prefix: str
    template: str
    chunk: int | None = None
    device: str | None = None
    attempt: str | None = None


class Abandoned(EventBase, frozen=True, tag="abandoned"):
    """Intent ``intent`` is given up: its certificates never left, its keys never were durable."""

    intent: int
    reason: str


class Issued(EventBase, frozen=True, tag="issued"):
    """One certificate, signed for the ``reserved`` entry number ``intent``. Attachment: certificate (DER)."""

    device: str
    intent: int


class Drawn(EventBase, frozen=True, tag="drawn"):
    """The pooled identity of a device is handed to one attempt, once."""

    device: str
    station: str
    attempt: str


class Installed(EventBase, frozen=True, tag="installed"):
    """The station wrote the credential and read it back. ``target`` is its URI without secrets."""

    device: str
    station: str
    attempt: str
    target: str
    cert_sha256: str


class Verified(EventBase, frozen=True, tag="verified"):
    """The device proved that it holds the key. Attachment: receipt (docs/formats/receipt.md)."""

    device: str
    station: str
    attempt: str
    evidence: Literal["signature", "digest", "jwt"]
    receipt_sha256: str


class Admitted(EventBase, frozen=True, tag="admitted"):
    """A verified device was let into a cloud of kind ``service``. Attachment: a further receipt that says so."""

    device: str
    station: str
    attempt: str
    evidence: Literal["signature", "digest", "jwt"]
    service: str
    receipt_sha256: str


class KeyErased(EventBase, frozen=True, tag="key_erased"):
    """The sealed private key of a device was overwritten at the authority or site."""

    device: str
    intent: int
    reason: str


class Failed(EventBase, frozen=True, tag="failed"):
    """An attempt ended badly; the identity is not live any more. ``code`` is an error code."""

    device: str
    station: str
    attempt: str
    code: str


class Superseded(EventBase, frozen=True, tag="superseded"):
    """Rework: the device is open for a new identity; the old certificate must count as revoked."""

    device: str
    reason: str
    by: str
    cert_serial: str | None = None


class Revoked(EventBase, frozen=True, tag="revoked"):
    """A certificate is revoked. ``reason`` is an RFC 5280 §5.3.1 CRLReason name."""

    device: str
    cert_serial: str
    reason: str
    by: str


class Scrapped(EventBase, frozen=True, tag="scrapped"):
    """The unit is destroyed; its identity ends with it."""

    device: str
    reason: str
    by: str


class Rejected(EventBase, frozen=True, tag="rejected"):
    """A request that was refused, for the record (CA/B BR 5.4.1). ``code`` is an error code."""

    station: str
    code: str
    device: str | None = None
    attempt: str | None = None


Event = (
    WorkspaceCreated
    | SoftwareChanged
    | StationAdded
    | CaCreated
    | TemplateAdmitted
    | OrderCreated
    | DevicesOrdered
    | Reserved
    | Abandoned
    | Issued
    | Drawn
    | Installed
    | Verified
    | Admitted
    | KeyErased
    | Failed
    | Superseded
    | Revoked
    | Scrapped
    | Rejected
    | SiteAdded
    | SiteStopped
    | SiteResumed
    | AccessGranted
    | AccessWithdrawn
    | OrderAssigned
    | BundleSealed
    | Consigned
    | SiteReported
    | SiteSettled
    | FindingRaised
    | GrantAccepted
    | BundleOpened
    | BundleClosed
    | Requested
    | Received
    | ApproversSet
    | ApprovalUsed
    | CaKeyDestroyed
    | PreloadTakenIn
    | Preloaded
    | VendorDelegated
    | PossessionIntended
    | PossessionProven
    | Registered
)

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Event)


def event_types() -> dict[str, type[EventBase]]:
    """Return every event type by its tag, in the order of the union."""
    return {str(kind.__struct_config__.tag): kind for kind in Event.__args__}


def encode_entry(event: Event, attachment: bytes = b"") -> bytes:
    """Return the log entry of an event."""
    return _encoder.encode(event) + b"\n" + attachment


def decode_entry(entry: bytes) -> tuple[Event, bytes]:
    """Return event and attachment of a log entry; ``Tampered("log.entry.malformed")`` if it is none."""
    head, found, attachment = entry.partition(b"\n")
    try:
        if not found:
            raise msgspec.ValidationError("no line feed after the event")
        event = _decoder.decode(head)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise Tampered(
            "log.entry.malformed",
            f"a log entry is not an event: {problem}",
            hint="Compare the ledger with a copy of the log; do not continue with this ledger.",
        ) from None
    if _encoder.encode(event) != head:
        raise Tampered(
            "log.entry.not_canonical",
            "a log entry is an event in another spelling than the canonical one",
            hint="Compare the ledger with a copy of the log; do not continue with this ledger.",
        )
    return event, attachment
