"""Events between an authority and its sites: who may do what, what was handed over, what came home.

Two logs speak of one device: the authority's says what was ordered, handed over and settled; the site's says what was
done on the line. ``site_reported`` ties them: it holds the site's signed head.
"""

from __future__ import annotations

from typing import Literal

from birthmark.model.eventbase import EventBase

__all__ = [
    "AccessGranted",
    "AccessWithdrawn",
    "ApprovalUsed",
    "ApproversSet",
    "BundleClosed",
    "BundleOpened",
    "BundleSealed",
    "CaKeyDestroyed",
    "Consigned",
    "FindingRaised",
    "GrantAccepted",
    "OrderAssigned",
    "Received",
    "Requested",
    "Role",
    "SiteAdded",
    "SiteMode",
    "SiteReported",
    "SiteResumed",
    "SiteSettled",
    "SiteStopped",
]

SiteMode = Literal["online", "factory_ca", "pool"]
Role = Literal["operator", "approver", "station", "auditor", "server"]


class SiteAdded(EventBase, frozen=True, tag="site_added"):
    """A site belongs to this authority. ``vkey``: key of its log. Attachment: its request (docs/formats/site.md)."""

    site: str
    origin: str
    vkey: str
    site_prefix: str
    mode: SiteMode
    by: str


class SiteStopped(EventBase, frozen=True, tag="site_stopped"):
    """Nothing is handed to the site any more; what it reports is still taken in."""

    site: str
    reason: str
    by: str


class SiteResumed(EventBase, frozen=True, tag="site_resumed"):
    """A stopped site may work again."""

    site: str
    reason: str
    by: str


class AccessGranted(EventBase, frozen=True, tag="access_granted"):
    """A TLS client (or server) certificate of this workspace. ``name`` of a station: SITE/STATION.

    ``spki_sha256`` is what the service knows the caller by. Attachment: certificate (DER).
    """

    name: str
    role: Role
    spki_sha256: str
    cert_sha256: str
    by: str
    site: str | None = None


class AccessWithdrawn(EventBase, frozen=True, tag="access_withdrawn"):
    """The key is not let in any more."""

    spki_sha256: str
    reason: str
    by: str


class OrderAssigned(EventBase, frozen=True, tag="order_assigned"):
    """The devices of an order are made at one site, and nowhere else; its quantity is the site's quota."""

    order: str
    site: str
    mode: SiteMode
    by: str


class BundleSealed(EventBase, frozen=True, tag="bundle_sealed"):
    """``consigned`` entries of ``devices`` devices follow in the same transaction. ``suite``: HPKE KEM name."""

    bundle: str
    order: str
    site: str
    devices: int
    suite: str
    by: str


class Consigned(EventBase, frozen=True, tag="consigned"):
    """The ``count`` devices of a chunk for which the chunk still speaks leave with a bundle, their keys with them."""

    bundle: str
    order: str
    chunk: int
    count: int


class SiteReported(EventBase, frozen=True, tag="site_reported"):
    """A head of the site's log was verified: ``size`` entries, consistent with all heads seen before.

    Attachment: the checkpoint (signed note).
    """

    site: str
    size: int
    root: str


class SiteSettled(EventBase, frozen=True, tag="site_settled"):
    """What the site's entries before ``upto`` made of ``count`` devices.

    Attachment: a line a device: device serial, its state at the site, the number of the site's entry that brought it
    there, and SPKI SHA-256 (hex) or ``-`` while it has no key; members parted by one space, no final line feed.
    """

    site: str
    order: str
    upto: int
    count: int


class FindingRaised(EventBase, frozen=True, tag="finding_raised"):
    """What a site reported contradicts the record. ``code`` as in docs/formats/report.md. Attachment: evidence."""

    site: str
    code: str
    what: str
    device: str | None = None
    station: str | None = None
    entry: int | None = None


class GrantAccepted(EventBase, frozen=True, tag="grant_accepted"):
    """At a site: the authority's log key and terms. Attachment: the grant (docs/formats/site.md)."""

    authority: str
    vkey: str
    mode: SiteMode
    grant_sha256: str
    by: str


class BundleOpened(EventBase, frozen=True, tag="bundle_opened"):
    """At a site: a bundle is taken in whole; ``requested`` and ``received`` entries brought its identities.

    Attachment: its manifest (docs/formats/bundle.md).
    """

    bundle: str
    order: str
    devices: int
    manifest_sha256: str
    by: str


class BundleClosed(EventBase, frozen=True, tag="bundle_closed"):
    """At a site: the order's leftovers (``count``) are destroyed; their ``key_erased`` entries come before."""

    order: str
    count: int
    reason: str
    by: str


class Requested(EventBase, frozen=True, tag="requested"):
    """The intent to take certificates that somebody else signs.

    ``source``: ``bundle:ID``, ``online``, or the issuer service. Bulk: ``chunk``. One by one: ``device``, ``attempt``.
    Attachment: ``count`` records of SPKI SHA-256 (32) | request SHA-256 (32).
    """

    order: str
    count: int
    source: str
    chunk: int | None = None
    device: str | None = None
    attempt: str | None = None


class Received(EventBase, frozen=True, tag="received"):
    """One certificate that somebody else signed, for the ``requested`` entry ``intent``.

    Attachment: certificate (DER).
    """

    device: str
    intent: int


class ApproversSet(EventBase, frozen=True, tag="approvers_set"):
    """Whose approvals count: ``threshold`` of ``vkeys`` (C2SP verifier keys)."""

    threshold: int
    vkeys: list[str]
    by: str


class ApprovalUsed(EventBase, frozen=True, tag="approval_used"):
    """A command ran under approvals. ``plan_sha256`` names exactly what was approved. Attachment: the signed plan."""

    action: str
    plan_sha256: str
    approvers: list[str]
    by: str


class CaKeyDestroyed(EventBase, frozen=True, tag="ca_key_destroyed"):
    """The private key of a CA is destroyed. Attachment: the transcript."""

    ca: str
    transcript_sha256: str
    by: str
