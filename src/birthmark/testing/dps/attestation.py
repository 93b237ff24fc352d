"""Which enrolment a device's certificate is for, and whether it holds.

Rules (Azure documentation, X.509 attestation): the common name is the registration id; an individual enrolment goes
before every group and needs no CA; a group lets in a device whose chain reaches a verified CA; among groups the
one whose CA stands nearest to the device wins; a disabled one blocks. Revocation lists are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import BirthmarkError
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.chain import verify_chain
from birthmark.testing.dps.answers import Problem
from birthmark.testing.dps.certs import common_name, names_of
from birthmark.testing.dps.enrollments import Enrollment, valid_id
from birthmark.testing.dps.store import Store

__all__ = ["find_enrollment"]

_UNKNOWN = "CA certificate not found."
_INVALID = "Invalid certificate"


def find_enrollment(store: Store, registration_id: str, chain: Sequence[bytes]) -> Enrollment:
    """Return the enrolment, enabled or not, or raise ``Problem(401002)``. ``chain``: DER, the device's own first."""
    if not valid_id(registration_id):
        raise Problem(400002, "The registrationId is not valid.")
    if not chain:
        raise Problem(401002, "Unauthorized")
    name = common_name(chain[0])
    if name is None or name.lower() != registration_id.lower():
        raise Problem(401002, "Unauthorized")
    individual = store.individual.get(registration_id)
    if individual is not None:
        return _individual(individual, chain[0])
    return _nearest_group(store, chain)


def _individual(enrollment: Enrollment, leaf: bytes) -> Enrollment:
    shown = sha256(leaf).digest()
    if not any(held.thumbprint == shown for held in enrollment.certificates.values()):
        raise Problem(401002, "Unauthorized")
    certificate = x509.load_der_x509_certificate(leaf)
    if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
        raise Problem(401002, _INVALID)
    return enrollment


def _nearest_group(store: Store, chain: Sequence[bytes]) -> Enrollment:
    groups = {der: group for group in reversed(store.groups.all()) for der in _cas(store, group)}
    best: tuple[int, Enrollment] | None = None
    broken = False
    for anchor in _anchors(store, chain):
        try:
            path = verify_chain(chain[0], chain[1:], [anchor], at=datetime.now(UTC), purpose="client")
        except BirthmarkError as problem:
            broken = broken or problem.code != "chain.no_issuer"
            continue
        for distance, certificate in enumerate(path[1:], 1):
            group = groups.get(certificate.public_bytes(Encoding.DER))
            if group is not None and (best is None or distance < best[0]):
                best = distance, group
    if best is not None:
        return best[1]
    raise Problem(401002, _INVALID if broken else _UNKNOWN)


def _cas(store: Store, group: Enrollment) -> list[bytes]:
    named = (store.certificates.get(name) for name in group.references.values())
    return [held.der for held in group.certificates.values()] + [row.certificate for row in named if row is not None]


def _anchors(store: Store, chain: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the certificates that a path may end at: verified CAs, and those of groups unless the service is strict.

    Only those that issued something in the chain: a path to any other does not exist.
    """
    try:
        issuers = {names_of(der)[1] for der in chain}
    except UNREADABLE:
        raise Problem(401002, _INVALID) from None
    anchors = {row.certificate: None for row in store.certificates.all() if row.verified}
    if not store.verified_chains:
        anchors |= {held.der: None for group in store.groups.all() for held in group.certificates.values()}
    yield from (der for der in anchors if names_of(der)[0] in issuers)
