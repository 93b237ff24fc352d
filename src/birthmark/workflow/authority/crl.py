"""The revocation list of one of our CAs, out of what is on record.

Nothing is recorded when a list is made: it says nothing that the log does not. Its number is
``log entries × 2^48 + milliseconds since 1970`` (RFC 5280, 5.2.3: at most 20 octets, growing). The log only grows, so
a list with more revocations has a greater number even if the clock went back or the last list was lost; between two
entries the time makes it grow. A list that is older than the one on file is never made.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from cryptography import x509

from birthmark.errors import Misconfigured, Refused, StationFault
from birthmark.model.events import Revoked, decode_entry
from birthmark.pki.crl import RevokedCertificate, build_crl, read_crl
from birthmark.pki.issuer import Issuer
from birthmark.ports import Clock, Ledger, Records

__all__ = ["MAX_DAYS", "make_crl", "require_own_ca"]

MAX_DAYS = 400
_TIME_BITS = 48


def require_own_ca(records: Records, ca: str, *, site: str | None = None) -> None:
    """Return if ``ca`` is on record and its key is ours, else ``Misconfigured("ca.unknown")`` or ``Refused``.

    ``site``: name of the site that this workspace is of; None at an authority.
    """
    record = records.ca(ca)
    if record is None:
        raise Misconfigured(
            "ca.unknown",
            f"there is no CA named {ca} on record",
            hint="`birthmark ca list` shows all.",
            ca=ca,
        )
    if record.kind == "external" or record.site not in (None, site):
        raise Refused(
            "crl.external",
            f"the key of CA {ca} is not here",
            hint="Whoever holds the key of a CA publishes its revocation list.",
            ca=ca,
            kind=record.kind,
        )


def make_crl(
    ca: str, *, days: int, issuer: Issuer, private_key: object, last: bytes | None, ledger: Ledger, records: Records,
    clock: Clock,
) -> bytes:  # fmt: skip
    """Return the list (DER) of all revoked device certificates of ``ca``, valid for ``days`` from now.

    ``last``: the list on file (DER). Raises ``Refused``: ``crl.days`` and what ``build_crl`` refuses;
    ``StationFault("crl.clock")`` when the clock is not after the last list; ``Tampered`` ``crl.*`` for a bad one.
    """
    if not 1 <= days <= MAX_DAYS:
        raise Refused(
            "crl.days",
            f"a list that is valid for {days} days",
            hint=f"Use 1 to {MAX_DAYS} days: devices learn of a revocation no earlier than from the next list.",
            days=days,
        )
    now = clock().replace(microsecond=0)
    number = (ledger.head().size << _TIME_BITS) + int(clock().timestamp() * 1000)
    if last is not None:
        number = max(number, _number_after(last, issuer.certificate, now))
    return build_crl(
        issuer.certificate,
        private_key,
        _revoked(ca, ledger, records),
        number=number,
        this_update=now,
        next_update=now + timedelta(days=days),
    )


def _number_after(last: bytes, certificate: x509.Certificate, now: datetime) -> int:
    summary = read_crl(last, certificate)
    if now < summary.this_update:
        raise StationFault(
            "crl.clock",
            f"the list on file is of {summary.this_update:%F %T} UTC, and the clock says {now:%F %T}",
            hint="Set the clock of this machine.",
            last=summary.this_update.isoformat(),
            now=now.isoformat(),
        )
    return summary.number + 1


def _revoked(ca: str, ledger: Ledger, records: Records) -> Iterator[RevokedCertificate]:
    for record in records.revocations(ca):
        for _, entry in ledger.entries(record.seq, 1):
            event, _ = decode_entry(entry)
            if isinstance(event, Revoked):
                at = datetime.fromisoformat(event.at)
                yield RevokedCertificate(record.cert_serial, at, record.reason)
