"""Take in a CA whose certificate somebody else signed: checked whole before anything of it is on record.

With a key of ours it is an issuing CA (a bought intermediate), without one an external CA that signs for us as a
service. The certificates above it come on record as external. All of them in one transaction: a power cut before it
leaves nothing, after it everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import Refused, Tampered
from birthmark.model.events import CaCreated, utc_text
from birthmark.model.records import CaRecord
from birthmark.pki.algorithms import algorithm_named, algorithm_of, certified_key, spki_of
from birthmark.pki.certread import open_parts, parse_certificate
from birthmark.pki.chain import verify_chain
from birthmark.pki.chainnames import Subtrees, first_forbidden_name
from birthmark.pki.keycheck import check_public_key
from birthmark.pki.profile import Profile
from birthmark.pki.request import DeviceRequests
from birthmark.ports import Clock, Entropy, Ledger, Records

__all__ = ["CaImport", "ImportedCa", "ProductNeed", "wanted_not_after"]

_E = TypeVar("_E", bound=x509.ExtensionType)
_NO_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_CHALLENGE_OCTETS = 32
_IMPORTED = "imported"
"""What stands for the profile of a CA that was not made by one of ours."""


@dataclass(frozen=True, slots=True)
class ProductNeed:
    """A product that this CA is to sign: its certificates must fit below the CA."""

    product: str
    profile: Profile
    key_algorithm: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ImportedCa:
    """What came on record. ``above``: names of the CAs above it, nearest first. ``new``: (name, DER), root first."""

    ca: str
    kind: str
    above: tuple[str, ...]
    new: tuple[tuple[str, bytes], ...]
    root_sha256: str


def wanted_not_after(profile: Profile, now: datetime) -> datetime:
    """Return until when a certificate of this profile, made now, is to be valid (UTC, whole seconds)."""
    days = profile.validity.days
    return _NO_EXPIRY if days == "none" else now.replace(microsecond=0) + timedelta(days=days)


@dataclass(frozen=True, slots=True)
class CaImport:
    """Takes in CAs. Raises ``Refused`` ``ca.exists``, ``ca.import.*`` and ``key.weak.*``; nothing is then on record."""

    ledger: Ledger
    records: Records
    clock: Clock
    entropy: Entropy
    by: str

    def run(
        self,
        ca: str,
        certificates: Sequence[bytes],
        *,
        private_key: Any,
        key_scheme: str,
        products: Sequence[ProductNeed],
    ) -> ImportedCa:
        """Record ``ca`` and what is above it. ``certificates``: DER, in any order, root included unless on record.

        ``private_key``: ours, or None when a third party holds it.
        """
        if self.records.ca(ca) is not None:
            raise Refused(
                "ca.exists",
                f"CA {ca} is already on record",
                hint="A CA on record is never replaced: give the new one another name.",
                ca=ca,
            )
        path = self._path(certificates, private_key)
        self._require_new(path[0])
        for certificate in path:
            check_public_key(open_parts(_der(certificate)).spki)
        _check_authorities(path)
        _check_nesting(path)
        if private_key is not None:
            self._prove_key(private_key, path[0])
        for product in products:
            _check_product(product, path, now=self.clock(), ours=private_key is not None)
        return self._record(ca, path, "external" if private_key is None else "issuing", key_scheme)

    def _path(self, certificates: Sequence[bytes], private_key: Any) -> list[x509.Certificate]:
        """Return the path from the CA to its root; every certificate that was sent stands in it."""
        sent = [_readable(der) for der in dict.fromkeys(certificates)]
        own = _own(sent, private_key)
        known = [x509.load_der_x509_certificate(record.certificate) for record in self.records.cas()]
        pool = [*sent, *(certificate for certificate in known if certificate not in sent)]
        roots = [_der(certificate) for certificate in pool if certificate.subject == certificate.issuer]
        others = [_der(certificate) for certificate in pool if certificate.subject != certificate.issuer]
        try:
            path = verify_chain(_der(own), others, roots, at=self.clock())
        except Tampered as fault:
            raise Refused(
                "ca.import.chain",
                f"no good path leads from this CA to its root: {fault.message}",
                hint="Give the CA, every certificate above it and the root, all valid today; any order will do.",
                cause=fault.code,
            ) from fault
        surplus = [certificate for certificate in sent if certificate not in path]
        if surplus:
            raise Refused(
                "ca.import.surplus",
                f"{len(surplus)} certificates do not belong to the path of this CA",
                hint="Give only the CA and what is above it.",
                subjects=[certificate.subject.rfc4514_string() for certificate in surplus[:5]],
            )
        return path

    def _require_new(self, own: x509.Certificate) -> None:
        for record in self.records.cas():
            if _same_key(record, own):
                raise Refused(
                    "ca.import.known",
                    f"the key of this CA is on record as {record.ca}",
                    hint="One CA key has one name; a renewed certificate needs a new key here.",
                    ca=record.ca,
                )

    def _prove_key(self, private_key: Any, own: x509.Certificate) -> None:
        """The key signs something nobody could know before, and the certificate's key verifies it."""
        challenge = b"birthmark: proof of a CA key\n" + self.entropy(_CHALLENGE_OCTETS)
        algorithm = algorithm_of(certified_key(own))
        if not algorithm.verify(certified_key(own), algorithm.sign(private_key, challenge), challenge):
            raise Tampered(
                "ca.import.proof",
                "the key shows the public key of the certificate and signs with another one",
                hint="Stop: check the objects and labels of the token.",
            )

    def _record(self, ca: str, path: Sequence[x509.Certificate], kind: str, key_scheme: str) -> ImportedCa:
        by_certificate = {record.certificate: record.ca for record in self.records.cas()}
        names = [ca]
        for level, certificate in enumerate(path[1:], 1):
            root = level == len(path) - 1
            name = by_certificate.get(_der(certificate)) or self._free_name(f"{ca}-root" if root else f"{ca}-{level}")
            names.append(name)
        new: list[tuple[str, bytes]] = []
        with self.ledger.transaction() as tx:
            for level in reversed(range(len(path))):
                der = _der(path[level])
                if der in by_certificate:
                    continue
                event = CaCreated(
                    at=utc_text(self.clock()),
                    ca=names[level],
                    kind="issuing" if level == 0 and kind == "issuing" else "external",
                    key_scheme=key_scheme if level == 0 else "none",
                    profile=_IMPORTED,
                    cert_sha256=sha256(der).hexdigest(),
                    transcript_sha256="",
                    by=self.by,
                    issuer=names[level + 1] if level + 1 < len(path) else None,
                )
                tx.append(event, der)
                new.append((names[level], der))
        return ImportedCa(ca, kind, tuple(names[1:]), tuple(new), sha256(_der(path[-1])).hexdigest())

    def _free_name(self, wanted: str) -> str:
        if self.records.ca(wanted) is not None:
            raise Refused(
                "ca.exists",
                f"CA {wanted} is already on record, with another certificate",
                hint="Import this CA under another name; those above it are named after it.",
                ca=wanted,
            )
        return wanted


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _readable(der: bytes) -> x509.Certificate:
    try:
        return parse_certificate(open_parts(der))
    except Refused as fault:
        raise Refused(
            "ca.import.malformed",
            f"a certificate cannot be read: {fault.message}",
            hint="Ask for the certificate again, in DER or PEM.",
            cause=fault.code,
        ) from fault


def _own(sent: Sequence[x509.Certificate], private_key: Any) -> x509.Certificate:
    """Return the CA's own certificate: the one of our key, else the one that issued none of the others."""
    if private_key is not None:
        spki = spki_of(private_key.public_key())
        candidates = [certificate for certificate in sent if open_parts(_der(certificate)).spki == spki]
    else:
        issuers = {certificate.issuer for certificate in sent if certificate.issuer != certificate.subject}
        candidates = [certificate for certificate in sent if certificate.subject not in issuers]
    if len(candidates) != 1:
        raise Refused(
            "ca.import.key" if private_key is not None else "ca.import.which",
            f"{len(candidates)} of these certificates have the key of this CA"
            if private_key is not None
            else f"{len(candidates)} of these certificates could be the CA that issues",
            hint="Give the certificate that was made for the request of `birthmark ca csr`, and those above it.",
            subjects=[certificate.subject.rfc4514_string() for certificate in sent[:5]],
        )
    return candidates[0]


def _same_key(record: CaRecord, certificate: x509.Certificate) -> bool:
    return open_parts(record.certificate).spki == open_parts(_der(certificate)).spki


def _check_authorities(path: Sequence[x509.Certificate]) -> None:
    """Every member is a CA that may sign, and has room for all below it and a device (RFC 5280, 4.2.1.9)."""
    below = 0
    for certificate in path:
        subject = certificate.subject.rfc4514_string()
        basic, usage = _extension(certificate, x509.BasicConstraints), _extension(certificate, x509.KeyUsage)
        if basic is None or not basic.value.ca or not basic.critical:
            raise Refused(
                "ca.import.not_a_ca",
                f"the certificate of {subject} is not one of a CA",
                hint="Ask for a certificate with critical basicConstraints, cA TRUE.",
                subject=subject,
            )
        if usage is None or not usage.value.key_cert_sign:
            raise Refused(
                "ca.import.key_usage",
                f"the certificate of {subject} does not allow signing certificates",
                hint="Ask for a certificate with keyUsage keyCertSign and cRLSign.",
                subject=subject,
            )
        room = basic.value.path_length
        if room is not None and room < below:
            raise Refused(
                "ca.import.path_length",
                f"{subject} allows {room} CAs below it, and there are {below}",
                hint="Ask for a chain whose path lengths leave room for this CA.",
                subject=subject,
                path_length=room,
            )
        if certificate.subject != certificate.issuer:
            below += 1


def _extension(certificate: x509.Certificate, kind: type[_E]) -> x509.Extension[_E] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _check_nesting(path: Sequence[x509.Certificate]) -> None:
    """Nobody is valid when who signed it is not: such a CA would be a finding of every audit."""
    for below, above in pairwise(path):
        if (
            below.not_valid_before_utc < above.not_valid_before_utc
            or below.not_valid_after_utc > above.not_valid_after_utc
        ):
            subject = below.subject.rfc4514_string()
            raise Refused(
                "ca.import.nesting",
                f"{subject} would be valid when the CA above it is not",
                hint="Ask for a certificate whose life lies within that of its issuer.",
                subject=subject,
                not_after=below.not_valid_after_utc.isoformat(),
                issuer_not_after=above.not_valid_after_utc.isoformat(),
            )


def _check_product(need: ProductNeed, path: Sequence[x509.Certificate], *, now: datetime, ours: bool) -> None:
    """The product's certificates fit: lifetime, algorithms, and names within all constraints above."""
    last = min(certificate.not_valid_after_utc for certificate in path)
    wanted = wanted_not_after(need.profile, now)
    if wanted > last:
        raise Refused(
            "ca.import.lifetime",
            f"certificates of product {need.product} would be valid until {wanted:%F}, the chain only until {last:%F}",
            hint="Use fewer days in the profile, or a CA whose whole chain lives longer.",
            product=need.product,
            profile=need.profile.name,
            chain_not_after=last.isoformat(),
        )
    if ours:
        _check_algorithm(need, path[0])
    key = algorithm_named(need.key_algorithm).generate()
    rule = need.profile.device_serial
    request = x509.load_der_x509_csr(
        DeviceRequests(need.profile, need.values).make(rule.example if rule else "device", key)
    )
    limits = [_extension(certificate, x509.NameConstraints) for certificate in path]
    constraints = [Subtrees.of(limit.value) for limit in limits if limit is not None]
    reason = first_forbidden_name(request, constraints)
    if reason is not None:
        raise Refused(
            "ca.import.names",
            f"the name constraints of this chain forbid the names of product {need.product}: {reason}",
            hint="Change the names in the profile, or ask for a CA that may sign them.",
            product=need.product,
            reason=reason,
        )


def _check_algorithm(need: ProductNeed, own: x509.Certificate) -> None:
    algorithm = algorithm_of(certified_key(own)).name
    allowed = need.profile.issuer_key_algorithms or (algorithm,)
    if algorithm not in allowed or need.key_algorithm not in need.profile.key_algorithms:
        raise Refused(
            "ca.import.algorithm",
            f"product {need.product} is not signed by keys of kind {algorithm}",
            hint=f"Its profile takes issuers with keys of {', '.join(allowed)}.",
            product=need.product,
            algorithm=algorithm,
        )
