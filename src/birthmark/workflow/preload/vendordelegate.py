"""A signing certificate for a chip vendor: its key is the vendor's, its limits are ours.

What the vendor signs with it counts here when its manifest is taken in, and at most ``quota`` of it.
"""

from __future__ import annotations

from hashlib import sha256

from birthmark.errors import Refused
from birthmark.model.events import CaCreated, VendorDelegated, utc_text
from birthmark.workflow.authority.access import AccessTools
from birthmark.workflow.authority.delegate import Delegation, sign_delegated

__all__ = ["MAX_QUOTA", "delegate_to_vendor"]

MAX_QUOTA = 10_000_000


def delegate_to_vendor(tools: AccessTools, wish: Delegation, *, vendor: str, quota: int) -> bytes:
    """Sign the CA, put it and its quota on record in one transaction, and return the certificate (DER).

    Power cut before the transaction: nothing left here. After it: the same command is refused (``site.ca.exists``), and
    ``birthmark preload show`` writes the certificate again. ``Refused("preload.quota.size")``, and what
    ``sign_delegated`` raises.
    """
    if not 0 < quota <= MAX_QUOTA:
        raise Refused(
            "preload.quota.size",
            f"a vendor gets a quota of 1 to {MAX_QUOTA:,} identities",
            hint="Give the number that was ordered from it; make another delegation for the next lot.",
            quota=quota,
        )
    signed = sign_delegated(tools, wish)
    at = utc_text(tools.clock())
    with tools.ledger.transaction() as tx:
        event = CaCreated(
            at=at,
            ca=wish.ca,
            kind="external",
            key_scheme="vendor",
            profile=wish.profile.name,
            cert_sha256=sha256(signed.certificate).hexdigest(),
            transcript_sha256=sha256(wish.csr.der).hexdigest(),
            by=tools.by,
            issuer=wish.issuer,
        )
        tx.append(event, signed.certificate)
        tx.append(VendorDelegated(at=at, vendor=vendor, ca=wish.ca, quota=quota, by=tools.by))
    return signed.certificate
