"""Templates: a profile compiled for one issuer into to-be-signed octets with holes (docs/formats/profile.md).

Compiling does all the thinking once. What is left per certificate is one join: the length of the device
serial picks a ``Filler``, whose segments have all lengths already in them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from birthmark.errors import Misconfigured, Refused
from birthmark.model.ids import CERT_SERIAL_OCTETS
from birthmark.pki import der
from birthmark.pki.algorithms import KeyAlgorithm, algorithm_named, algorithm_of, certified_key, spki_of
from birthmark.pki.der import Hole, Part
from birthmark.pki.derread import read_der, read_members
from birthmark.pki.extensions import extension_parts
from birthmark.pki.filler import Filler, HoleValues, assemble, serial_length_refused, template_mismatch
from birthmark.pki.names import SerialLimits, serial_limits, subject_name
from birthmark.pki.profile import Profile
from birthmark.pki.templatefile import MAX_TEMPLATE_OCTETS, TemplateFile, malformed_template, moment_text, part_list

__all__ = ["Filler", "HoleValues", "Template", "assemble", "compile_root_template", "compile_template"]

_KEY_ID_OCTETS = 20
_EARLIEST = datetime(1950, 1, 1, tzinfo=UTC)
_NO_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Template:
    """To-be-signed octets with holes. ``file`` is what is stored; the rest follows from it."""

    file: TemplateFile
    encoded: bytes
    template_hash: bytes
    profile: Profile
    key_algorithm: KeyAlgorithm
    issuer_algorithm: KeyAlgorithm
    parts: tuple[Part, ...]
    limits: SerialLimits
    _patterns: tuple[re.Pattern[str], ...]
    """The profile's first; none at all if no device serial stands in it."""
    _fillers: dict[int, Filler] = field(default_factory=dict, repr=False, compare=False)
    _by_size: dict[int, Filler] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_file(cls, file: TemplateFile, encoded: bytes) -> Template:
        """Return the template that ``file`` describes; ``encoded`` are the octets it was read from or written to."""
        profile = file.open_profile()
        san = profile.subject_alternative_name
        rule = profile.device_serial
        limits = serial_limits(profile.subject, san.names if san else (), file.product_values)
        return cls(
            file=file,
            encoded=encoded,
            template_hash=hashlib.sha256(encoded).digest(),
            profile=profile,
            key_algorithm=algorithm_named(file.key_algorithm),
            issuer_algorithm=algorithm_named(file.issuer_key_algorithm),
            parts=file.parts(),
            limits=limits,
            _patterns=(re.compile(rule.pattern, re.ASCII), *limits.characters) if rule else (),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Template:
        """Return the template that ``to_bytes`` wrote; ``Tampered("template.malformed")`` for anything else."""
        try:
            return cls.of_file(TemplateFile.decode(data), data)
        except (Misconfigured, Refused) as error:
            raise malformed_template(str(error)) from error

    def to_bytes(self) -> bytes:
        """Return the stored form; ``template_hash`` is its SHA-256."""
        return self.encoded

    @property
    def profile_hash(self) -> bytes:
        """SHA-256 of the canonical JSON of the profile."""
        return bytes.fromhex(self.file.profile_hash)

    @property
    def not_before(self) -> datetime:
        """First instant of validity, UTC."""
        return datetime.fromisoformat(self.file.not_before)

    @property
    def not_after(self) -> datetime:
        """Last instant of validity, UTC."""
        return datetime.fromisoformat(self.file.not_after)

    def _lengths(self, device_serial_length: int) -> dict[Hole, int]:
        return _fixed_lengths(self.key_algorithm) | {Hole.DEVICE_SERIAL: device_serial_length}

    def filler(self, device_serial_length: int) -> Filler:
        """Return the filler for device serials of that many octets (0 for a CA's profile). Made once, then kept.

        Raises ``Refused``: ``device.serial.length``, ``certificate.size`` (above the profile's ``max_der_bytes``).
        """
        found = self._fillers.get(device_serial_length)
        if found is not None:
            return found
        if not self._patterns and device_serial_length:
            raise serial_length_refused(device_serial_length, "this profile has no place for it")
        if self._patterns and not 1 <= device_serial_length <= self.limits.max_length:
            raise serial_length_refused(device_serial_length, f"there is room for 1 to {self.limits.max_length}")
        made = Filler(self.parts, self._lengths(device_serial_length), self.validate_values)
        issuer = self.issuer_algorithm
        whole = len(assemble(bytes(made.tbs_length), issuer.signature_algorithm, bytes(issuer.max_signature)))
        if whole > self.profile.max_der_bytes:
            raise Refused(
                "certificate.size",
                f"the certificate would have up to {whole} octets, the profile allows {self.profile.max_der_bytes}",
                hint="Shorten names or URLs, use a smaller key, or raise max_der_bytes in the profile.",
                octets=whole,
                allowed=self.profile.max_der_bytes,
            )
        self._fillers[device_serial_length] = self._by_size[made.tbs_length] = made
        return made

    def filler_of(self, tbs: bytes) -> Filler:
        """Return the filler that could have made ``tbs``, by its size; ``Tampered("template.mismatch")`` if none."""
        found = self._by_size.get(len(tbs))
        if found is None:
            for length in range(1, self.limits.max_length + 1) if self._patterns else (0,):
                self.filler(length)
            found = self._by_size.get(len(tbs))
        if found is None:
            raise template_mismatch(f"no device serial makes it {len(tbs)} octets long")
        return found

    def read(self, tbs: bytes) -> HoleValues:
        """Return what is in the holes of ``tbs``; ``Tampered("template.mismatch")`` if it is not of this template."""
        return self.filler_of(tbs).read(tbs)

    def validate_values(
        self, cert_serial: bytes, device_serial: bytes, spki: bytes, key_id: bytes, own_key: bool = False
    ) -> None:
        """Return if every value may go into its hole. ``own_key``: as in ``KeyAlgorithm.check_spki``.

        Raises ``Refused``: ``certificate.serial.malformed``, ``device.serial.length``, ``device.serial.profile``,
        ``key.algorithm.mismatch``, ``key.id.mismatch``.
        """
        if len(cert_serial) != CERT_SERIAL_OCTETS or not 0x01 <= cert_serial[0] <= 0x7F:
            raise Refused(
                "certificate.serial.malformed",
                "a certificate serial has 16 octets, the first from 01 to 7f",
                hint="Take certificate serials from the ledger alone.",
                cert_serial=cert_serial[:32].hex(),
            )
        self.check_device_serial(device_serial)
        self.key_algorithm.check_spki(spki, own_key=own_key)
        if key_id != self.key_algorithm.key_id(spki):
            raise Refused(
                "key.id.mismatch",
                "the key identifier is not the one of this key",
                hint="Use the SHA-1 of the key bits (RFC 5280, 4.2.1.2, method 1).",
                key_id=key_id[:32].hex(),
            )

    def check_device_serial(self, device_serial: bytes) -> None:
        """Return if the profile and every place it stands in allow this device serial, else ``Refused``."""
        if not self._patterns and not device_serial:
            return
        if not self._patterns or not 1 <= len(device_serial) <= self.limits.max_length:
            raise serial_length_refused(len(device_serial), f"room is for {self.limits.max_length} at most, if any")
        text = device_serial.decode("latin-1")
        for pattern in self._patterns:
            if pattern.fullmatch(text) is None or not device_serial.isascii():
                raise self._serial_refused(text)

    def _serial_refused(self, text: str) -> Refused:
        rule = self._patterns[0].pattern
        return Refused(
            "device.serial.profile",
            f"profile {self.profile.name} does not allow the device serial {text!a}",
            hint=f"It must match {rule} and suit the kind of string it stands in.",
            device_serial=ascii(text),
            pattern=rule,
        )


def compile_template(
    profile: Profile,
    *,
    issuer_certificate: x509.Certificate,
    not_before: datetime,
    product_values: Mapping[str, str] | None = None,
    key_algorithm: str,
) -> Template:
    """Return the template of ``profile`` under ``issuer_certificate`` for keys of ``key_algorithm``.

    ``not_before`` is the moment of issue (aware); the profile's backdating is subtracted, but not beyond the
    issuer's own notBefore. ``product_values`` fills the placeholders; values that
    the profile does not use do no harm and are not kept.

    Raises ``Misconfigured``: ``template.value.missing``, ``template.value.malformed``, ``template.kind``,
    ``template.validity``, ``template.issuer``, ``template.size``; ``Refused``: ``profile.key_algorithm``,
    ``key.algorithm.unsupported``.
    """
    if profile.kind == "root-ca":
        raise _wrong_kind("a root is its own issuer")
    public_key = certified_key(issuer_certificate)
    algorithm = algorithm_of(public_key)
    try:
        issuer_key_id = issuer_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        issuer_key_id = algorithm.key_id(spki_of(public_key))
    except ValueError as error:
        raise _bad_issuer("its extensions cannot be read") from error
    return _compile(
        profile,
        issuer_name=_subject_octets(issuer_certificate),
        issuer_key_id=issuer_key_id,
        issuer_spki=spki_of(public_key),
        issuer_algorithm=algorithm,
        issuer_certificate_hash=issuer_certificate.fingerprint(hashes.SHA256()).hex(),
        moment=not_before,
        earliest=issuer_certificate.not_valid_before_utc,
        values=product_values or {},
        key_algorithm=key_algorithm,
    )


def compile_root_template(
    profile: Profile, *, public_key: Any, not_before: datetime, product_values: Mapping[str, str] | None = None
) -> Template:
    """Return the template of a self-signed root; arguments and errors as in ``compile_template``."""
    if profile.kind != "root-ca":
        raise _wrong_kind("only a root signs itself")
    values = product_values or {}
    algorithm = algorithm_of(public_key)
    return _compile(
        profile,
        issuer_name=subject_name(profile.subject, values),
        issuer_key_id=Hole.KEY_ID,
        issuer_spki=spki_of(public_key),
        issuer_algorithm=algorithm,
        issuer_certificate_hash="",
        moment=not_before,
        earliest=_EARLIEST,
        values=values,
        key_algorithm=algorithm.name,
    )


def _compile(
    profile: Profile,
    *,
    issuer_name: Part,
    issuer_key_id: Part,
    issuer_spki: bytes,
    issuer_algorithm: KeyAlgorithm,
    issuer_certificate_hash: str,
    moment: datetime,
    earliest: datetime,
    values: Mapping[str, str],
    key_algorithm: str,
) -> Template:
    algorithm = algorithm_named(key_algorithm)
    _check_algorithms(profile, algorithm, issuer_algorithm)
    used = {name: values[name] for name in sorted(profile.placeholders()) if name in values}
    not_before, not_after = _validity(profile, moment, earliest)
    extensions = extension_parts(profile, values=used, key_id=Hole.KEY_ID, issuer_key_id=issuer_key_id)
    tbs = der.sequence(
        der.nested(0xA0, der.integer(2)),
        der.nested(0x02, Hole.CERT_SERIAL),
        issuer_algorithm.signature_algorithm,
        issuer_name,
        der.sequence(der.time(not_before), der.time(not_after)),
        subject_name(profile.subject, used),
        Hole.SPKI,
        der.nested(0xA3, der.sequence(*extensions)) if extensions else b"",
    )
    file = TemplateFile(
        issuer_certificate=issuer_certificate_hash,
        issuer_key_algorithm=issuer_algorithm.name,
        issuer_spki=hashlib.sha256(issuer_spki).hexdigest(),
        key_algorithm=algorithm.name,
        moment=moment_text(moment),
        not_before=moment_text(not_before),
        not_after=moment_text(not_after),
        product_values=used,
        profile=msgspec.Raw(profile.canonical_json()),
        profile_hash=profile.profile_hash().hex(),
        tbs=part_list(der.settle((tbs,), _fixed_lengths(algorithm))),
    )
    encoded = file.encode()
    if len(encoded) > MAX_TEMPLATE_OCTETS:
        raise Misconfigured(
            "template.size",
            f"the template has {len(encoded)} octets, at most {MAX_TEMPLATE_OCTETS} fit into an entry of the log",
            hint="Shorten the extensions and exceptions of the profile.",
            octets=len(encoded),
        )
    return Template.of_file(file, encoded)


def _fixed_lengths(algorithm: KeyAlgorithm) -> dict[Hole, int]:
    return {Hole.CERT_SERIAL: CERT_SERIAL_OCTETS, Hole.SPKI: algorithm.spki_length, Hole.KEY_ID: _KEY_ID_OCTETS}


def _check_algorithms(profile: Profile, algorithm: KeyAlgorithm, issuer_algorithm: KeyAlgorithm) -> None:
    for whose, chosen, allowed in (
        ("keys", algorithm.name, profile.key_algorithms),
        ("issuers with keys", issuer_algorithm.name, profile.issuer_key_algorithms or (issuer_algorithm.name,)),
    ):
        if chosen not in allowed:
            raise Refused(
                "profile.key_algorithm",
                f"profile {profile.name} does not allow {whose} of kind {chosen}",
                hint=f"Use one of {', '.join(allowed)}.",
                algorithm=chosen,
                allowed=list(allowed),
            )


def _validity(profile: Profile, moment: datetime, earliest: datetime) -> tuple[datetime, datetime]:
    """Return notBefore and notAfter. Backdating stops at ``earliest``, where the issuer's own validity starts."""
    if moment.tzinfo is None:
        raise _bad_validity("the moment of issue has no time zone")
    rule = profile.validity
    try:
        start = moment.astimezone(UTC).replace(microsecond=0)
        not_before = min(start, max(earliest, start - timedelta(minutes=rule.backdate_minutes)))
        not_after = _NO_EXPIRY if rule.days == "none" else start + timedelta(days=rule.days)
    except OverflowError as error:
        raise _bad_validity("it leaves the years 1950 to 9999") from error
    if not_before < _EARLIEST:
        raise _bad_validity("it starts before 1950")
    return not_before, not_after


def _bad_validity(reason: str) -> Misconfigured:
    return Misconfigured(
        "template.validity",
        f"the validity cannot be written: {reason}",
        hint="Check the clock and the days of the profile.",
        reason=reason,
    )


def _subject_octets(certificate: x509.Certificate) -> bytes:
    """Return the subject exactly as it is encoded: a name that is encoded anew may differ from it."""
    members = read_members(read_der(certificate.tbs_certificate_bytes))
    subject = members[5 if members[0].tag == 0xA0 else 4]
    if not subject.content:
        raise _bad_issuer("it has no name")
    return subject.whole


def _bad_issuer(reason: str) -> Misconfigured:
    return Misconfigured(
        "template.issuer",
        f"this certificate cannot issue: {reason}",
        hint="Use the certificate of an issuing CA.",
        reason=reason,
    )


def _wrong_kind(reason: str) -> Misconfigured:
    return Misconfigured(
        "template.kind",
        f"the kind of the profile does not fit: {reason}",
        hint="Use a root-ca profile for a self-signed root and the other kinds below an issuer.",
        reason=reason,
    )
