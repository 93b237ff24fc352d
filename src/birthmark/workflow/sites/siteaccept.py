"""At a site: take in what the authority granted, after every part of it was checked against what the site asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography import x509

from birthmark.errors import Refused, Tampered
from birthmark.model.events import CaCreated, GrantAccepted, utc_text
from birthmark.model.siteevents import SiteMode
from birthmark.pki.algorithms import certified_key, spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.chain import Purpose, verify_chain
from birthmark.pki.profile import parse_profile
from birthmark.ports import Clock, Ledger
from birthmark.tlog.note import parse_vkey
from birthmark.wire.site import Grant, GrantedCa, GrantedStation
from birthmark.workflow.authority.access import AuthorityRecords

__all__ = ["AcceptTools", "SiteTerms", "accept_grant", "check_grant"]

_ELSEWHERE = "none"
"""The key scheme of a CA whose key this workspace does not hold."""


@dataclass(frozen=True, slots=True)
class SiteTerms:
    """What this site is and asked for."""

    site: str
    authority: str
    site_prefix: str
    mode: SiteMode


@dataclass(frozen=True, slots=True)
class AcceptTools:
    """What a site accepts with. ``ca_key`` and ``tls_key``: name → public key of its own, None if it has none."""

    ledger: Ledger
    records: AuthorityRecords
    ca_key: Callable[[str], Any]
    ca_key_scheme: Callable[[str], str]
    tls_key: Callable[[str], Any]
    clock: Clock
    by: str


def check_grant(tools: AcceptTools, grant: Grant, terms: SiteTerms, *, last: Grant | None) -> None:
    """Return if every part of the grant fits this site; nothing is changed. ``last``: the grant in force.

    Raises ``Refused``: ``site.grant.terms`` (for another site, prefix, mode or authority), ``site.grant.old`` (older
    than the one in force), ``site.grant.ca``, ``site.grant.station``, ``site.grant.product``, ``site.grant.url``;
    ``Tampered``: ``chain.*``; ``Misconfigured("profile.*")``.
    """
    asked = (terms.site, terms.authority, terms.site_prefix, terms.mode)
    for what, wanted, got in zip(
        ("site", "authority", "site prefix", "mode"),
        asked,
        (grant.site, grant.authority, grant.site_prefix, grant.mode),
        strict=True,
    ):
        if got != wanted:
            raise _refused("site.grant.terms", f"it is for the {what} {got}, and this is {wanted}")
    if parse_vkey(grant.vkey).name != grant.authority:
        raise _refused("site.grant.terms", "the key of the authority's log does not have the log's name")
    if last is not None and grant.at < last.at:
        raise _refused("site.grant.old", f"it was written at {grant.at}, the one in force at {last.at}")
    online = grant.url is not None and grant.url.startswith("https://") and grant.service_ca is not None
    if (grant.mode == "online" or grant.url is not None) and not online:
        raise _refused("site.grant.url", "it does not say at which https:// address the authority is, and its root")
    now = tools.clock()
    _check_cas(tools, grant, now)
    for station in grant.stations:
        _check_station(tools, station, now)
    _check_products(grant)


def accept_grant(tools: AcceptTools, grant: Grant, data: bytes, *, repeated: bool) -> list[str]:
    """Put a checked grant and its CAs on record; return the names of the CAs that are new.

    ``repeated``: the very same grant is in force, and only what is missing is added. All or nothing; a power cut
    before the end of the transaction leaves the site as it was, and the same command is run again.
    ``Refused("site.authority")`` if the site has another authority.
    """
    at, digest = utc_text(tools.clock()), sha256(data).hexdigest()
    new = [ca for ca in grant.cas if tools.records.ca(ca.name) is None]
    with tools.ledger.transaction() as tx:
        if not repeated:
            event = GrantAccepted(
                at=at, authority=grant.authority, vkey=grant.vkey, mode=grant.mode, grant_sha256=digest, by=tools.by
            )
            tx.append(event, data)
        for ca in new:
            created = CaCreated(
                at=at,
                ca=ca.name,
                kind=ca.kind,
                key_scheme=tools.ca_key_scheme(ca.name) if ca.delegated else _ELSEWHERE,
                profile="site-ca" if ca.delegated else _ELSEWHERE,
                cert_sha256=sha256(ca.certificate).hexdigest(),
                transcript_sha256=digest,
                by=tools.by,
                issuer=ca.issuer,
                site=grant.site if ca.delegated else None,
            )
            tx.append(created, ca.certificate)
    return [ca.name for ca in new]


def _refused(code: str, reason: str, **facts: str) -> Refused:
    return Refused(
        code,  # one of site.grant.terms, .old, .url, .ca, .station, .product
        f"this grant cannot be accepted: {reason}",
        hint="Ask the authority for the grant that answers this site's own request.",
        **facts,
    )


def _load(certificate: bytes, name: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate)
    except UNREADABLE as error:
        raise Tampered(
            "chain.malformed",
            f"the certificate of {name} in the grant cannot be read",
            hint="Get the grant again from the authority.",
            name=name,
        ) from error


def _check_cas(tools: AcceptTools, grant: Grant, now: datetime) -> None:
    known: dict[str, GrantedCa] = {}
    for ca in grant.cas:
        record = tools.records.ca(ca.name)
        if record is not None and record.certificate != ca.certificate:
            raise _refused("site.grant.ca", f"CA {ca.name} is on record with another certificate", ca=ca.name)
        if ca.name in known or (ca.issuer is not None and ca.issuer not in known):
            raise _refused("site.grant.ca", f"CA {ca.name} stands there twice or before its issuer", ca=ca.name)
        known[ca.name] = ca
        if ca.delegated:
            _check_delegated(tools, ca, grant.mode)
        if record is not None or (ca.kind == "external" and ca.issuer is None):
            # What is on record stays there when it has expired; an anchor that is no root shows only its child's chain.
            _load(ca.certificate, ca.name)
            continue
        path = [ca.certificate]
        above = ca.issuer
        while above is not None:
            path.append(known[above].certificate)
            above = known[above].issuer
        verify_chain(ca.certificate, path[1:-1], path[-1:], at=now)


def _check_delegated(tools: AcceptTools, ca: GrantedCa, mode: SiteMode) -> None:
    certificate, own = _load(ca.certificate, ca.name), tools.ca_key(ca.name)
    if mode != "factory_ca" or own is None or spki_of(own) != spki_of(certified_key(certificate)):
        raise _refused("site.grant.ca", f"the certificate of {ca.name} is not for a CA key of this site", ca=ca.name)


def _check_station(tools: AcceptTools, station: GrantedStation, now: datetime) -> None:
    certificate, own = _load(station.certificate, station.name), tools.tls_key(station.name)
    if own is None or spki_of(own) != spki_of(certified_key(certificate)):
        raise _refused(
            "site.grant.station",
            f"the certificate of station {station.name} is not for a TLS key of this site",
            station=station.name,
        )
    purpose: Purpose = "client"
    verify_chain(station.certificate, station.chain[:-1], station.chain[-1:], at=now, purpose=purpose)


def _check_products(grant: Grant) -> None:
    cas = {ca.name: ca for ca in grant.cas}
    for product in grant.products:
        profile = parse_profile(product.profile.encode())
        ca = cas.get(product.ca)
        reason = None
        if profile.name != product.profile_name or profile.kind != "end-entity":
            reason = f"its profile {product.profile_name} is not what the name says"
        elif product.key_algorithm not in profile.key_algorithms:
            reason = f"its profile allows no {product.key_algorithm} keys"
        elif ca is None or ca.delegated != (grant.mode == "factory_ca"):
            reason = f"it is made by {product.ca}, which the site cannot use or does not know"
        if reason is not None:
            raise _refused("site.grant.product", f"product {product.name}: {reason}", product=product.name)
