"""What the tables say of sites, their orders, and who is let in."""

from __future__ import annotations

from dataclasses import dataclass

from birthmark.model.siteevents import Role, SiteMode

__all__ = [
    "AccessRecord",
    "AssignmentRecord",
    "AuthorityRecord",
    "BundleRecord",
    "FindingRecord",
    "SettledRecord",
    "SiteRecord",
]


@dataclass(frozen=True, slots=True)
class SiteRecord:
    """A site of this authority.

    ``stopped``: why, or None. ``reported`` entries of its log, with root ``root`` (hex), are verified; ``settled`` of
    them are folded into our devices. ``seq``: our log entry that holds its request.
    """

    site: str
    origin: str
    vkey: str
    site_prefix: str
    mode: SiteMode
    stopped: str | None
    reported: int
    root: str
    settled: int
    seq: int


@dataclass(frozen=True, slots=True)
class AssignmentRecord:
    """The one site that makes an order."""

    order: str
    site: str
    mode: SiteMode


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """A key that the service lets in, unless ``withdrawn``. ``seq``: our log entry that holds the certificate."""

    spki_sha256: str
    name: str
    role: Role
    site: str | None
    withdrawn: str | None
    seq: int


@dataclass(frozen=True, slots=True)
class BundleRecord:
    """A bundle that was sealed (authority; ``site`` names for whom) or opened (site; ``site`` is None)."""

    bundle: str
    order: str
    site: str | None
    devices: int
    seq: int


@dataclass(frozen=True, slots=True)
class SettledRecord:
    """The entry of a site's log that brought a device to its state."""

    device_serial: str
    site: str
    site_seq: int


@dataclass(frozen=True, slots=True)
class FindingRecord:
    """A contradiction that a site's report showed. ``entry``: number in the site's log."""

    seq: int
    site: str
    code: str
    device_serial: str | None
    entry: int | None


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """At a site: whom it works for. ``vkey``: key of the authority's log."""

    authority: str
    vkey: str
    mode: SiteMode
