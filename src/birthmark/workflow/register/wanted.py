"""What a cloud is to know of a device now: the tables say it at the moment of telling, not the entry that made it due.

So a device that was revoked a second ago is never told as let in, and nothing is let in before it was verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509

from birthmark.errors import Refused, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Issued, Received, decode_entry
from birthmark.model.records import CaRecord, DeviceRecord
from birthmark.ports import Registration
from birthmark.workflow.register.changes import ChangeFeed
from birthmark.workflow.register.fold import pages_of

__all__ = ["Chains", "Wanted", "WantedNow", "authority_chain"]

_PAGE, _GAP, _LONGEST_RUN = 400, 64, 2048


@dataclass(frozen=True, slots=True)
class Wanted:
    """A registration, and the entry of our log with its first certificate (None: it is in the log of a site)."""

    registration: Registration
    certificate_seq: int | None = None


class Chains:
    """Finds the chain of a certificate among the CAs on record; empty where its issuer is none of them."""

    def __init__(self, cas: Sequence[CaRecord]) -> None:
        by_name = {record.ca: record for record in cas}
        self._by_subject: dict[bytes, list[tuple[bytes | None, tuple[bytes, ...]]]] = {}
        for record in cas:
            certificate = x509.load_der_x509_certificate(record.certificate)
            chain = (record.certificate, *authority_chain(record, by_name))
            named = self._by_subject.setdefault(certificate.subject.public_bytes(), [])
            named.append((_key_id(certificate, x509.SubjectKeyIdentifier), chain))

    def of(self, certificate: x509.Certificate) -> tuple[bytes, ...]:
        """Return the certificates (DER) above ``certificate``: its issuing CA first, the root last."""
        named = self._by_subject.get(certificate.issuer.public_bytes(), ())
        if len(named) == 1:
            return named[0][1]
        wanted = _key_id(certificate, x509.AuthorityKeyIdentifier) if named else None
        return next((chain for key_id, chain in named if key_id == wanted), ())


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
        """Return what is wanted for each device. ``told``: the entry of our log with the certificate that the cloud
        knows it by, if it knows it.

        A refusal names what cannot be told: ``export.certificate.missing``. Raises ``Tampered``:
        ``credential.malformed``, ``log.issued.missing``.
        """
        devices: dict[str, DeviceRecord] = {}
        for page in pages_of(told, _PAGE):
            devices |= self.feed.records.devices(page)
        stored = self._stored(devices, told)
        found: dict[str, Wanted | Refused] = {}
        for serial, told_seq in told.items():
            device = devices.get(serial)
            seq = device.issued_seq if device is not None and device.issued_seq is not None else told_seq
            try:
                found[serial] = self._of(serial, device, seq, stored.get(serial))
            except Refused as refusal:
                found[serial] = refusal
        return found

    def _stored(self, devices: Mapping[str, DeviceRecord], told: Mapping[str, int | None]) -> dict[str, bytes]:
        """Return the certificates that are in our log. Neighbours are read together: they lie together."""
        wanted: dict[int, str] = {}
        for serial, told_seq in told.items():
            device = devices.get(serial)
            seq = device.issued_seq if device is not None and device.issued_seq is not None else told_seq
            if seq is not None:
                wanted[seq] = serial
        found: dict[str, bytes] = {}
        for first, count in _runs(sorted(wanted)):
            for seq, entry in self.feed.ledger.entries(first, count):
                if seq in wanted:
                    event, certificate = decode_entry(entry)
                    if isinstance(event, Issued | Received) and event.device == wanted[seq]:
                        found[wanted[seq]] = certificate
        return found

    def _of(self, serial: str, device: DeviceRecord | None, seq: int | None, stored: bytes | None) -> Wanted:
        if device is not None and device.state is DeviceState.VERIFIED:
            # Where our log is not the place, or its entry is not the one, this says so by its name.
            der = self.feed.certificate_of(device) if stored is None else stored
            certificate = _loaded(der, serial)
            if not self.feed.records.is_revoked(_serial_octets(certificate)):
                registration = Registration(serial, "enabled", (der,), self._chain(certificate))
                return Wanted(registration, None if stored is None else seq)
        last = self._elsewhere(serial, device) if stored is None else stored
        if last is None:
            return Wanted(Registration(serial, "blocked", (), ()))
        return Wanted(Registration(serial, "blocked", (last,), self._chain(_loaded(last, serial))))

    def _elsewhere(self, serial: str, device: DeviceRecord | None) -> bytes | None:
        """Return the certificate that a blocked device had at a site, as far as it is known here."""
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


def _runs(seqs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of ranges that hold all numbers (ascending) and not much between them."""
    at = 0
    while at < len(seqs):
        end = at + 1
        while end < len(seqs) and seqs[end] - seqs[end - 1] <= _GAP and seqs[end] - seqs[at] < _LONGEST_RUN:
            end += 1
        yield seqs[at], seqs[end - 1] - seqs[at] + 1
        at = end


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
