"""Rollover: a new CA takes the place of an old one; link certificates lead from either root to the other.

RFC 4210, section 4.4: OldWithNew is the old public key under the new private key, NewWithOld the new public key under
the old one; NewWithNew is the new root itself. Both links end when the first of the two roots does. Who trusts the old
root alone reaches new devices through NewWithOld, who trusts the new one alone reaches old devices through OldWithNew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from cryptography import x509

from birthmark.errors import Refused
from birthmark.model.events import CaCreated, decode_entry
from birthmark.pki.algorithms import algorithm_of, certified_key
from birthmark.pki.profile import BasicConstraints, Profile, SubjectAttribute, Validity
from birthmark.ports import Ledger, Records

__all__ = [
    "created_event",
    "link_names",
    "link_profile",
    "replaced_by",
    "require_current",
    "require_same_name",
    "subject_of",
]

_FOREVER = datetime.fromisoformat("9999-01-01T00:00:00+00:00")


def created_event(ledger: Ledger, seq: int) -> CaCreated:
    """Return the event that created a CA."""
    for _, entry in ledger.entries(seq, 1):
        event, _ = decode_entry(entry)
        if isinstance(event, CaCreated):
            return event
    raise AssertionError("the record of a CA names its entry")


def replaced_by(ledger: Ledger, records: Records) -> dict[str, str]:
    """Return which CA took the place of which: old → new."""
    events = [created_event(ledger, record.seq) for record in records.cas()]
    return {event.replaces: event.ca for event in events if event.replaces is not None}


def require_current(ledger: Ledger, records: Records, ca: str) -> None:
    """Refuse (``ca.replaced``) a CA for a new order if it, or one above it, was rolled over."""
    replaced = replaced_by(ledger, records)
    at: str | None = ca
    while at is not None:
        if at in replaced:
            raise Refused(
                "ca.replaced",
                f"CA {ca} takes no new orders: {replaced[at]} took the place of {at}",
                hint="Name a CA under the new one as ca of the product in birthmark.toml.",
                ca=ca,
                replaced=at,
                replaced_by=replaced[at],
            )
        record = records.ca(at)
        at = None if record is None else record.issuer


def link_names(old: str, new: str) -> tuple[str, str]:
    """Return the names of OldWithNew and NewWithOld."""
    return f"{old}-by-{new}", f"{new}-by-{old}"


def link_profile(
    profile: Profile,
    subject: tuple[SubjectAttribute, ...],
    *,
    certified: x509.Certificate,
    issuer: x509.Certificate,
    now: datetime,
) -> Profile:
    """Return the profile of a link: the root's, as a CA below ``issuer`` until the first of the two ends.

    ``Refused``: ``ceremony.rollover.late`` (one of them ends within a day), ``ceremony.rollover.path_length``.
    """
    room = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if room is not None and room < 2:
        raise Refused(
            "ceremony.rollover.path_length",
            f"a root with path length {room} leaves no room for a link and an issuing CA below it",
            hint="Such a hierarchy is replaced without links: make a new root in a step of its own.",
            path_length=room,
        )
    end = min(certified.not_valid_after_utc, issuer.not_valid_after_utc)
    days = (end - now) // timedelta(days=1)
    if days < 1:
        raise Refused(
            "ceremony.rollover.late",
            "the old root or the new one ends within a day",
            hint="A rollover is for a root that is still trusted: make a new root in a step of its own.",
            not_after=end.isoformat(),
        )
    return msgspec.structs.replace(
        profile,
        name=f"{profile.name[:43]}-link",
        kind="issuing-ca",
        aki=True,
        subject=subject,
        key_algorithms=(algorithm_of(certified_key(certified)).name,),
        issuer_key_algorithms=(),
        validity=Validity(days="none" if end > _FOREVER else min(days, 36525)),
        basic_constraints=BasicConstraints(ca=True, path_length=None if room is None else room - 1),
    )


def subject_of(certificate: x509.Certificate) -> tuple[SubjectAttribute, ...]:
    """Return the subject of a certificate in the form of a profile: the link must carry the very same name."""
    return tuple(SubjectAttribute(type=item.oid.dotted_string, value=str(item.value)) for item in certificate.subject)


def require_same_name(link: bytes, certified: x509.Certificate) -> None:
    """Refuse a link (DER) whose subject is not, octet by octet, that of the certificate it links to."""
    if x509.load_der_x509_certificate(link).subject.public_bytes() != certified.subject.public_bytes():
        raise Refused(
            "ceremony.rollover.name",
            "the name of the old root cannot be written as it stands in its certificate",
            hint="Make a new root in a step of its own, without links.",
            subject=certified.subject.rfc4514_string(),
        )
