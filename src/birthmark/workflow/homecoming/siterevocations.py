"""What a site revoked becomes what its authority revokes.

The authority repeats the site's ``revoked`` as an event of its own: its CRL and its replay then need no site's log.
Only the certificate that the device had at that moment can be meant, and only a device of an order of the site that no
finding names: otherwise a site could have the certificates of others revoked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cryptography import x509

from birthmark.model.events import Revoked, utc_text
from birthmark.ports import Clock, Transaction
from birthmark.workflow.homecoming.siteauthority import OwnRecord
from birthmark.workflow.homecoming.sitefindings import AuthorityRecords, Contradiction

__all__ = ["SiteRevocations"]


class SiteRevocations:
    """Judges the ``revoked`` events of one site, and repeats them."""

    def __init__(self, own: OwnRecord, records: AuthorityRecords, *, clock: Clock) -> None:
        self._own = own
        self._records = records
        self._clock = clock

    def judge(self, event: Revoked, certificate: bytes | None) -> Contradiction | None:
        """Return what contradicts the record. ``certificate`` (DER): what the device had when it was revoked."""
        device = self._own.device(event.device)
        if device is None or self._own.assigned_mode(device.order) is None:
            what = "a certificate was revoked of a device that is not one of this site"
            return Contradiction("site.device.foreign", what, device=event.device)
        if certificate is None or _serial(certificate) != event.cert_serial:
            what = "the revoked certificate is not the one that the device had"
            return Contradiction("site.certificate", what, device=event.device)
        return None

    def fresh(self, events: Iterable[Revoked], without: Collection[str]) -> list[Revoked]:
        """Return what is to be repeated: each certificate once, and none of the devices ``without``."""
        found = {
            event.cert_serial: event
            for event in events
            if event.device not in without and not self._records.is_revoked(bytes.fromhex(event.cert_serial))
        }
        return list(found.values())

    def append(self, tx: Transaction, events: Iterable[Revoked]) -> None:
        """Repeat them; ``by`` says which site it was."""
        at, by = utc_text(self._clock()), f"site/{self._own.site.site}"
        for event in events:
            tx.append(Revoked(at=at, device=event.device, cert_serial=event.cert_serial, reason=event.reason, by=by))


def _serial(certificate: bytes) -> str:
    """Return the serial as events have it: hex, whole octets."""
    number = x509.load_der_x509_certificate(certificate).serial_number
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big").hex()
