"""What a cloud is to know of a device now: the tables say it at the moment of telling, not the entry that made it due.

So a device that was revoked a second ago is never told as let in, and nothing is let in before it was verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509

from birthmark.errors import Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Issued, Received, decode_entry
from birthmark.model.records import CaRecord, DeviceRecord
from birthmark.ports import Registration
from birthmark.workflow.register.changes import ChangeFeed

__all__ = ["Chains", "Wanted", "WantedNow", "authority_chain"]

_MOST_CHAINS = 4096


@dataclass(frozen=True, slots=True)
class Wanted:
    """A registration, and the entry of our log with its first certificate (None: it is in the log of a site)."""

    registration: Registration
    certificate_seq: int | None = None


@dataclass(slots=True)
class Chains:
    """Finds the chain of a certificate among the CAs on record; empty where its issuer is none of them."""

    cas: Sequence[CaRecord]
    _known: dict[tuple[bytes, bytes | None], tuple[bytes, ...]] = field(default_factory=dict)

    def of(self, certificate: x509.Certificate) -> tuple[bytes, ...]:
        """Return the certificates (DER) above ``certificate``: its issuing CA first, the root last."""
        issuer, key_id = certificate.issuer.public_bytes(), _key_id(certificate, x509.AuthorityKeyIdentifier)
        place = (issuer, key_id)
        if place not in self._known:
            if len(self._known) >= _MOST_CHAINS:
                self._known.clear()
            self._known[place] = self._find(issuer, key_id)
        return self._known[place]

    def _find(self, issuer: bytes, key_id: bytes | None) -> tuple[bytes, ...]:
        by_name = {record.ca: record for record in self.cas}
        for record in self.cas:
            certificate = x509.load_der_x509_certificate(record.certificate)
            same_key = key_id is None or _key_id(certificate, x509.SubjectKeyIdentifier) in (None, key_id)
            if certificate.subject.public_bytes() == issuer and same_key:
                return (record.certificate, *authority_chain(record, by_name))
        return ()


def authority_chain(authority: CaRecord, by_name: Mapping[str, CaRecord]) -> tuple[bytes, ...]:
    """Return what stands above a CA, its issuer first, the root last."""
    above: list[bytes] = []
    issuer = authority.issuer
    while issuer is not None and issuer in by_name and len(above) < len(by_name):
        above.append(by_name[issuer].certificate)
        issuer = by_name[issuer].issuer
    return tuple(above)


def _key_id(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> bytes | None:
    try:
        value = certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    if isinstance(value, x509.AuthorityKeyIdentifier):
        return value.key_identifier
    return value.digest if isinstance(value, x509.SubjectKeyIdentifier) else None


@dataclass(slots=True)
class WantedNow:
    """Asks the tables what a cloud is to know of devices."""

    feed: ChangeFeed
    _chains: Chains | None = None

    def of(self, told: Mapping[str, int | None]) -> dict[str, Wanted | Refused]:
        """Return what is wanted for each device (at most some hundreds). ``told``: the entry of our log with the
        certificate that the cloud knows it by, if it knows it.

        A refusal names what cannot be told: ``export.certificate.missing``. Raises ``Tampered``:
        ``credential.malformed``, ``log.issued.missing``.
        """
        records = self.feed.records.devices(list(told))
        found: dict[str, Wanted | Refused] = {}
        for serial, told_seq in told.items():
            try:
                found[serial] = self._of(serial, records.get(serial), told_seq)
            except Refused as refusal:
                found[serial] = refusal
        return found

    def _of(self, serial: str, device: DeviceRecord | None, told_seq: int | None) -> Wanted:
        if device is not None and device.state is DeviceState.VERIFIED:
            der = self.feed.certificate_of(device)
            certificate = _loaded(der, serial)
            if not self.feed.records.is_revoked(_serial_octets(certificate)):
                registration = Registration(serial, "enabled", (der,), self._chain(certificate))
                return Wanted(registration, device.issued_seq)
        last = self._last(serial, device, told_seq)
        if last is None:
            return Wanted(Registration(serial, "blocked", (), ()))
        return Wanted(Registration(serial, "blocked", (last,), self._chain(_loaded(last, serial))))

    def _last(self, serial: str, device: DeviceRecord | None, told_seq: int | None) -> bytes | None:
        """Return the certificate that a blocked device had last, as far as it is known here."""
        seq = device.issued_seq if device is not None and device.issued_seq is not None else told_seq
        if seq is not None:
            for _, entry in self.feed.ledger.entries(seq, 1):
                event, certificate = decode_entry(entry)
                if isinstance(event, Issued | Received) and event.device == serial:
                    return certificate
        settled = self.feed.records.settled(serial)
        if device is None or settled is None or device.state is DeviceState.ORDERED:
            return None
        try:
            return self.feed.certificate_of(device)
        except (Refused, Tampered):
            return None  # a device is blocked all the same where the log of its site is not at hand

    def _chain(self, certificate: x509.Certificate) -> tuple[bytes, ...]:
        if self._chains is None:
            self._chains = Chains(self.feed.records.cas())
        chain = self._chains.of(certificate)
        if not chain:  # a CA may have come since
            self._chains = Chains(self.feed.records.cas())
            chain = self._chains.of(certificate)
        return chain


def _loaded(der: bytes, device_serial: str) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.serial_number.bit_length()
    except (ValueError, OverflowError):
        raise Tampered(
            "credential.malformed",
            "a certificate on record cannot be read",
            hint="Stop the line and run `birthmark audit verify`.",
            device_serial=device_serial,
        ) from None
    return certificate


def _serial_octets(certificate: x509.Certificate) -> bytes:
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")
