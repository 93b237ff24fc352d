"""At the authority: take a site in, hand it its terms, stop it and let it work again.

Everything a site gets is on record in one transaction before the grant is written, and a grant is made from the record
alone: the same request again, after whatever happened, leads to the same certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import msgspec
from cryptography import x509

from birthmark import __version__
from birthmark.errors import Misconfigured, Refused, Tampered
from birthmark.model.events import (
    OrderAssigned,
    SiteAdded,
    SiteResumed,
    SiteStopped,
    StationAdded,
    decode_entry,
    utc_text,
)
from birthmark.model.records import OrderRecord
from birthmark.model.siteevents import SiteMode
from birthmark.model.siterecords import SiteRecord
from birthmark.pki.csr import Csr, parse_csr
from birthmark.ports import Clock, Ledger, Transaction
from birthmark.tlog.note import parse_vkey
from birthmark.wire.receipt import station_key_name
from birthmark.wire.site import Grant, GrantedCa, GrantedProduct, GrantedStation, SiteRequest
from birthmark.wire.vault import VaultRecipient
from birthmark.workflow.authority.access import (
    ACCESS_CA,
    DEFAULT_DAYS,
    AccessTools,
    AuthorityRecords,
    SignedAccess,
    grant_access,
    record_access,
    sign_client,
)
from birthmark.workflow.authority.delegate import Delegation, record_delegated, sign_delegated

__all__ = [
    "CheckedRequest",
    "GrantTerms",
    "add_site",
    "add_station",
    "assign_order",
    "check_request",
    "is_site_recorded",
    "known_site",
    "make_grant",
    "resume_site",
    "signing_ca",
    "stop_site",
    "working_site",
]


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request whose parts fit together. ``data``: the document; ``csrs``: of its stations; ``ca``: the CA's CSR."""

    request: SiteRequest
    data: bytes
    csrs: tuple[Csr, ...]
    ca: Csr | None


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """What a grant says besides the record. ``products``: as made here; ``url``: of the service, None when offline."""

    origin: str
    vkey: str
    products: Sequence[GrantedProduct]
    url: str | None


def check_request(request: SiteRequest, data: bytes) -> CheckedRequest:
    """Return the request with its CSRs opened.

    Raises ``Refused``: ``site.request.parts`` (parts that contradict each other), ``csr.*``;
    ``Misconfigured("vault.recipient.malformed")``, ``Misconfigured("log.vkey.malformed")``.
    """
    VaultRecipient(request.vault)
    if parse_vkey(request.vkey).name != request.origin:
        raise _parts(request, "the key of its log does not have the log's name")
    names = [station.name for station in request.stations]
    if not names or len(set(names)) != len(names):
        raise _parts(request, "it names no station, or one twice")
    for station in request.stations:
        if parse_vkey(station.vkey).name != station_key_name(request.origin, station.name):
            raise _parts(request, f"the receipt key of station {station.name} has another name")
    if (request.ca is not None) != (request.mode == "factory_ca"):
        raise _parts(request, "a CA is delegated if and only if its mode is factory_ca")
    csrs = tuple(parse_csr(station.csr) for station in request.stations)
    ca = None if request.ca is None else parse_csr(request.ca.csr)
    keys = [csr.spki for csr in (*csrs, *([ca] if ca else []))]
    if len(set(keys)) != len(keys):
        raise _parts(request, "two of its keys are the same")
    return CheckedRequest(request, data, csrs, ca)


def _parts(request: SiteRequest, reason: str) -> Refused:
    return Refused(
        "site.request.parts",
        f"the request of site {request.site} contradicts itself: {reason}",
        hint="Let the site make its workspace again with `birthmark site init`.",
        site=request.site,
        reason=reason,
    )


def known_site(records: AuthorityRecords, site: str) -> SiteRecord:
    """Return a site; ``Refused("site.unknown")``."""
    record = records.site(site)
    if record is None:
        raise Refused(
            "site.unknown",
            f"there is no site {site[:60]}",
            hint="`birthmark site list` shows all; `birthmark site add` adds one.",
            site=ascii(site[:60]),
        )
    return record


def working_site(records: AuthorityRecords, site: str) -> SiteRecord:
    """Return a site that is not stopped; ``Refused``: ``site.unknown``, ``site.stopped``."""
    record = known_site(records, site)
    if record.stopped is not None:
        raise Refused(
            "site.stopped",
            f"site {site} is stopped: {record.stopped}",
            hint="Look at its findings; `birthmark site resume` lets it work again.",
            site=site,
        )
    return record


def is_site_recorded(tools: AccessTools, checked: CheckedRequest) -> bool:
    """Say whether this very request is on record already.

    ``Refused``: ``site.known`` (a site of that name, with another request), ``site.origin.taken``,
    ``site.prefix.taken``.
    """
    request = checked.request
    for site in tools.records.sites():
        if site.site == request.site:
            if _attachment(tools.ledger, site.seq) == checked.data:
                return True
            raise _taken("site.known", f"there is a site {site.site} already, and this is another request", request)
        if site.origin == request.origin or site.vkey == request.vkey:
            raise _taken("site.origin.taken", f"site {site.site} has the log of this request", request)
        if site.site_prefix == request.site_prefix:
            raise _taken("site.prefix.taken", f"site {site.site} has the prefix {site.site_prefix}", request)
    if request.origin == tools.origin:
        raise _taken("site.origin.taken", "the origin of this request is that of the authority's own log", request)
    return False


def _taken(code: str, what: str, request: SiteRequest) -> Refused:
    return Refused(
        code,  # one of site.known, site.origin.taken, site.prefix.taken
        what,
        hint="Make the site's workspace again with another name, origin or --site-prefix.",
        site=request.site,
        origin=request.origin,
        site_prefix=request.site_prefix,
    )


def _attachment(ledger: Ledger, seq: int) -> bytes:
    for _, entry in ledger.entries(seq, 1):
        return decode_entry(entry)[1]
    raise Tampered(
        "ledger.entry.missing",
        f"entry {seq} of the log is not there",
        hint="Stop and run `birthmark audit verify`.",
        seq=seq,
    )


def add_site(tools: AccessTools, checked: CheckedRequest, delegation: Delegation | None) -> None:
    """Sign what the request asks for and put site, stations, certificates and CA on record, all or nothing.

    Power cut before the transaction: nothing happened, what was signed is lost with the process. After it:
    ``is_site_recorded``, and ``make_grant`` leads to the same certificates.
    """
    request = checked.request
    clients = [
        sign_client(tools, name=f"{request.site}/{station.name}", role="station", csr=csr, site=request.site)
        for station, csr in zip(request.stations, checked.csrs, strict=True)
    ]
    ca = None if delegation is None else sign_delegated(tools, delegation)
    at = utc_text(tools.clock())
    event = SiteAdded(
        at=at,
        site=request.site,
        origin=request.origin,
        vkey=request.vkey,
        site_prefix=request.site_prefix,
        mode=request.mode,
        by=tools.by,
    )
    with tools.ledger.transaction() as tx:
        tx.append(event, checked.data)
        for station, client in zip(request.stations, clients, strict=True):
            _record_station(tx, client, vkey=station.vkey, at=at, by=tools.by)
        if ca is not None:
            record_delegated(tx, ca, at=at, by=tools.by, transcript_sha256=sha256(checked.data).hexdigest())


def _record_station(tx: Transaction, client: SignedAccess, *, vkey: str, at: str, by: str) -> None:
    tx.append(StationAdded(at=at, station=client.name, vkey=vkey, by=by))
    record_access(tx, client, at=at, by=by)


def add_station(tools: AccessTools, *, site: str, name: str, vkey: str, csr: bytes, days: int = DEFAULT_DAYS) -> str:
    """Add a station to a site, or give a station with the same receipt key a certificate for a new TLS key.

    Return its name here, SITE/STATION. Raises ``Refused``: ``site.unknown``, ``site.stopped``, ``station.vkey``,
    ``ledger.exists`` (the TLS key is known already), ``csr.*``.
    """
    record = working_site(tools.records, site)
    full = f"{site}/{name}"
    known = tools.records.stations().get(full)
    if parse_vkey(vkey).name != station_key_name(record.origin, name) or known not in (None, vkey):
        raise Refused(
            "station.vkey",
            f"the receipt key of station {full} is not named {station_key_name(record.origin, name)}, or not the one"
            " on record",
            hint="Copy the line that `birthmark site station` printed at the site.",
            station=full,
        )
    client = sign_client(tools, name=full, role="station", csr=parse_csr(csr), site=site, days=days)
    if known is not None:
        grant_access(tools, client)
        return full
    with tools.ledger.transaction() as tx:
        _record_station(tx, client, vkey=vkey, at=utc_text(tools.clock()), by=tools.by)
    return full


def stop_site(tools: AccessTools, site: str, *, reason: str) -> None:
    """Hand nothing to the site any more."""
    known_site(tools.records, site)
    with tools.ledger.transaction() as tx:
        tx.append(SiteStopped(at=utc_text(tools.clock()), site=site, reason=reason, by=tools.by))


def resume_site(tools: AccessTools, site: str, *, reason: str) -> None:
    """Let a stopped site work again."""
    known_site(tools.records, site)
    with tools.ledger.transaction() as tx:
        tx.append(SiteResumed(at=utc_text(tools.clock()), site=site, reason=reason, by=tools.by))


def assign_order(
    ledger: Ledger, records: AuthorityRecords, order: OrderRecord, site: str, *, clock: Clock, by: str
) -> SiteMode:
    """Give an order to one site and return the site's mode; the same again changes nothing.

    Raises ``Refused``: ``site.unknown``, ``site.stopped``, ``order.assigned`` (to another site), ``order.assignment``
    (a site that signs for itself gets no order of which something is made here), ``order.assignment.ca`` (nor one
    that names another CA than one of its own).
    """
    record = working_site(records, site)
    assigned = records.assignment(order.order)
    if assigned is not None and assigned.site == site:
        return assigned.mode
    if order.key_origin in ("preloaded", "adopted"):
        raise Refused(
            "order.assignment.origin",
            f"order {order.order} is {order.key_origin}: its devices are taken over at the authority alone",
            hint="Use a station of this workspace: preloaded identities are unique over all sites only here.",
            order=order.order,
            key_origin=order.key_origin,
        )
    if assigned is not None:
        raise Refused(
            "order.assigned",
            f"the devices of order {order.order} are made at site {assigned.site}, and nowhere else",
            hint="Make another order for this site.",
            order=order.order,
            site=assigned.site,
        )
    ca = records.ca(order.ca)
    if record.mode == "factory_ca" and (ca is None or ca.site != site):
        raise Refused(
            "order.assignment.ca",
            f"order {order.order} is to be signed by {order.ca}, and site {site} signs with a CA of its own",
            hint=f"Create the order with `birthmark order create --site {site}`.",
            order=order.order,
            site=site,
            ca=order.ca,
        )
    with ledger.transaction() as tx:
        tx.append(OrderAssigned(at=utc_text(clock()), order=order.order, site=site, mode=record.mode, by=by))
    return record.mode


def signing_ca(records: AuthorityRecords, site: str) -> str | None:
    """Return the CA that was delegated to a site last, None if there is none."""
    delegated = [record.ca for record in records.cas() if record.site == site]
    return delegated[-1] if delegated else None


def make_grant(tools: AccessTools, site: SiteRecord, terms: GrantTerms) -> Grant:
    """Return the terms of a site as the record has them now.

    Where the site signs for itself, every product is made by the CA that was delegated last. Raises
    ``Misconfigured``: ``ca.unknown``, ``site.url`` (mode ``online`` without one).
    """
    records = tools.records
    if site.mode == "online" and terms.url is None:
        raise Misconfigured(
            "site.url",
            f"site {site.site} works online and must know where the authority's service is",
            hint="Add --url https://HOST:PORT.",
            site=site.site,
        )
    own_ca = signing_ca(records, site.site)
    access_ca = records.ca(ACCESS_CA)
    access_der = None if access_ca is None else access_ca.certificate
    products = tuple(product if own_ca is None else _made_by(product, own_ca) for product in terms.products)
    wanted = dict.fromkeys([*([own_ca] if own_ca else []), *(product.ca for product in products)])
    return Grant(
        authority=terms.origin,
        vkey=terms.vkey,
        site=site.site,
        site_prefix=site.site_prefix,
        mode=site.mode,
        url=terms.url,
        service_ca=access_der if terms.url is not None else None,
        cas=tuple(_granted_cas(records, wanted, site.site)),
        stations=tuple(_granted_stations(tools, site.site, access_der)),
        products=products,
        software=f"birthmark {__version__}",
        at=utc_text(tools.clock()),
    )


def _made_by(product: GrantedProduct, ca: str) -> GrantedProduct:
    return msgspec.structs.replace(product, ca=ca)


def _granted_cas(records: AuthorityRecords, names: Iterable[str], site: str) -> list[GrantedCa]:
    """Return the CAs and all above them, each once, an issuer before what it signed."""
    found: dict[str, GrantedCa] = {}
    for name in names:
        path: list[GrantedCa] = []
        above: str | None = name
        while above is not None and above not in found:
            record = records.ca(above)
            if record is None or record.kind == "access":
                raise Misconfigured(
                    "ca.unknown",
                    f"there is no CA for devices named {above} on record",
                    hint="Make it: `birthmark ceremony run DIR/ceremony.toml`, where DIR is the workspace.",
                    ca=above,
                )
            path.append(
                GrantedCa(
                    name=record.ca,
                    kind=record.kind,
                    certificate=record.certificate,
                    issuer=record.issuer,
                    delegated=record.site == site,
                )
            )
            above = record.issuer
        found |= {ca.name: ca for ca in reversed(path)}
    return list(found.values())


def _granted_stations(tools: AccessTools, site: str, access_ca: bytes | None) -> list[GrantedStation]:
    """Return the latest certificate of each station that is let in, unless it has expired."""
    latest: dict[str, GrantedStation] = {}
    for record in tools.records.accesses():
        if record.site == site and record.role == "station" and record.withdrawn is None:
            name = record.name.partition("/")[2]
            certificate = _attachment(tools.ledger, record.seq)
            if x509.load_der_x509_certificate(certificate).not_valid_after_utc < tools.clock():
                continue
            chain = () if access_ca is None else (access_ca,)
            latest[name] = GrantedStation(name=name, certificate=certificate, chain=chain)
    return list(latest.values())
