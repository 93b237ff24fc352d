"""Which enrolment a device's certificate is for, and whether it holds.

Rules (Azure documentation, X.509 attestation): the common name is the registration id; an individual enrolment goes
before every group; among groups the one whose CA stands nearest to the device wins; a disabled one blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509

from birthmark.errors import BirthmarkError
from birthmark.pki.chain import verify_chain
from birthmark.testing.dps.answers import Problem
from birthmark.testing.dps.certs import common_name
from birthmark.testing.dps.enrollments import Enrollment, valid_id
from birthmark.testing.dps.store import Store

__all__ = ["find_enrollment"]


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
    if leaf not in enrollment.certificates.values():
        raise Problem(401002, "Unauthorized")
    certificate = x509.load_der_x509_certificate(leaf)
    if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
        raise Problem(401002, "Invalid certificate.")
    return enrollment


def _nearest_group(store: Store, chain: Sequence[bytes]) -> Enrollment:
    best: tuple[int, Enrollment] | None = None
    broken = False
    for group in store.groups.all():
        for anchor in _anchors(store, group):
            try:
                distance = len(verify_chain(chain[0], chain[1:], [anchor], at=datetime.now(UTC), purpose="client"))
            except BirthmarkError as problem:
                broken = broken or problem.code != "chain.no_issuer"
                continue
            if distance > 1 and (best is None or distance < best[0]):
                best = distance, group
    if best is not None:
        return best[1]
    raise Problem(401002, "Invalid certificate." if broken else "CA certificate not found.")


def _anchors(store: Store, group: Enrollment) -> list[bytes]:
    named = (store.certificates.get(name) for name in group.references.values())
    return [*group.certificates.values(), *(row.certificate for row in named if row is not None and row.verified)]
