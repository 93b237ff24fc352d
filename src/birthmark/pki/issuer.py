"""The issuer: prepare (lint a specimen) → permit → issue. What was not linted cannot be signed.

Every signature is checked with the public key of the *certificate* before a certificate leaves: a token that
signs with another object than it shows is found here (each time for token keys and one-by-one issuance, for a
sample of a chunk with software keys).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import Misconfigured, Refused, Tampered
from birthmark.pki.algorithms import KeyAlgorithm, algorithm_of, certified_key, is_software_key, spki_of
from birthmark.pki.filler import assemble
from birthmark.pki.profile import Profile
from birthmark.pki.signingtime import signing_window
from birthmark.pki.specimen import FindingLike, Lint, check_result, lint_specimen, signed_certificate
from birthmark.pki.template import Template, compile_root_template, compile_template

__all__ = ["FindingLike", "Issuer", "Lint", "Permit", "issue_ca_certificate"]

_CA_HINT = "Use the certificate, key and chain that one ceremony made together."


class Permit:
    """The right to sign fillings of one template with one issuer's key. Only ``Issuer.prepare`` makes one.

    ``specimen``: the linted certificate (DER); ``findings_allowed``: codes that the profile's exceptions accepted.
    It cannot be copied, stored or sent: a worker prepares its own.
    """

    __slots__ = ("_issuer", "findings_allowed", "specimen", "template")

    template: Template
    specimen: bytes
    findings_allowed: tuple[str, ...]
    _issuer: Issuer

    def __init__(self) -> None:
        raise TypeError("a permit comes from Issuer.prepare")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a permit cannot be copied or sent: prepare the template again")


class Issuer:
    """One issuing CA: its certificate, its private key, and the certificates above it (nearest first, root last)."""

    def __init__(self, certificate: x509.Certificate, private_key: Any, chain: Sequence[x509.Certificate] = ()) -> None:
        """Check that the parts belong together.

        Raises ``Misconfigured``: ``issuer.key.mismatch``, ``issuer.not_a_ca``, ``issuer.key_usage``,
        ``issuer.chain``, ``issuer.certificate``; ``Refused("key.algorithm.unsupported")``.
        """
        public_key = certified_key(certificate)
        self.certificate = certificate
        self.algorithm: KeyAlgorithm = algorithm_of(public_key)
        self.spki = spki_of(public_key)
        self.fingerprint: str = certificate.fingerprint(hashes.SHA256()).hex()
        self.verifies_all = not is_software_key(private_key)
        """Whether every signature is checked, sample or not: the key is not in this process."""
        if spki_of(private_key.public_key()) != self.spki:
            raise Misconfigured(
                "issuer.key.mismatch", "the private key is not the one of the CA certificate", hint=_CA_HINT
            )
        self.path_length = _path_length(certificate)
        self._ancestors = tuple(chain)
        self.chain_der = tuple(member.public_bytes(Encoding.DER) for member in (certificate, *chain))
        """The chain that a device gets: issuing CA first, root last. DER."""
        self._sign = self.algorithm.signer(private_key)
        # Tokens get the TBS itself: what they can do with a digest differs from module to module.
        digest_signer = None if self.verifies_all else self.algorithm.sha256_signer
        self._sign_sha256 = None if digest_signer is None else digest_signer(private_key)
        self._public_key = public_key
        _check_chain((certificate, *chain))

    def prepare(self, template: Template, *, now: datetime, lint: Lint) -> Permit:
        """Return the permit to sign fillings of ``template``, after a specimen of it passed ``lint``.

        Raises ``Refused``: ``issuer.template.foreign``, ``issuer.not_yet_valid``, ``issuer.expired``,
        ``issuer.signing_period``, ``issuer.validity.nesting``, ``issuer.path_length``, ``profile.lint`` (fact
        ``findings``); ``Tampered("issuer.template.altered")`` if the template is not what its profile compiles to.
        """
        self._check_origin(template)
        for member in (self.certificate, *self._ancestors):
            _check_moment(member, now)
        _check_signing_period(self.certificate, now)
        self._check_nesting(template)
        issuer_der = self.certificate.public_bytes(Encoding.DER)
        specimen, allowed = lint_specimen(template, issuer_der, lint)
        permit = object.__new__(Permit)
        permit.template, permit.specimen, permit.findings_allowed, permit._issuer = template, specimen, allowed, self
        return permit

    def issue(self, permit: Permit, *, cert_serial: bytes, device_serial: bytes, spki: bytes) -> bytes:
        """Return one certificate (DER); every value, the signature and the result are checked.

        Raises ``Refused`` as ``Template.validate_values`` does, ``Refused("issuer.permit.foreign")``,
        ``Tampered("issuer.signature.wrong")``.
        """
        self._check_permit(permit)
        template = permit.template
        filler = template.filler(len(device_serial))
        tbs = filler.checked_fill(cert_serial, device_serial, spki, template.key_algorithm.key_id(spki))
        return signed_certificate(tbs, self.algorithm, self._sign, self._public_key)

    def sign_many(
        self,
        permit: Permit,
        tbs_list: Sequence[bytes],
        *,
        verify: Literal["all", "sample"],
        tbs_hashes: Sequence[bytes] | None = None,
    ) -> list[bytes]:
        """Return a certificate (DER) for each TBS that a filler of the permit's template made in this process.

        ``sample`` checks TBS and signature of one in the middle; token keys are always checked one by one.
        ``tbs_hashes``: SHA-256 of each TBS, if it is there already. Nothing is returned if one fails.

        Raises ``Tampered``: ``template.mismatch``, ``issuer.signature.wrong``; ``Refused("issuer.permit.foreign")``.
        """
        self._check_permit(permit)
        count = len(tbs_list)
        checked: Iterable[int] = (count // 2,) if count else ()
        if verify == "all" or self.verifies_all:
            checked = range(count)
        for index in checked:
            permit.template.read(tbs_list[index])
        algorithm = self.algorithm.signature_algorithm
        if tbs_hashes is not None and self._sign_sha256 is not None:
            signatures = [self._sign_sha256(tbs_hash) for tbs_hash in tbs_hashes]
        else:
            signatures = [self._sign(tbs) for tbs in tbs_list]
        certificates = [
            assemble(tbs, algorithm, signature) for tbs, signature in zip(tbs_list, signatures, strict=True)
        ]
        for index in checked:
            check_result(certificates[index], tbs_list[index], signatures[index], self.algorithm, self._public_key)
        return certificates

    def _check_permit(self, permit: Permit) -> None:
        if permit._issuer is not self:
            raise Refused(
                "issuer.permit.foreign",
                "the permit is of another issuer",
                hint="Prepare the template with the issuer that is to sign.",
                issuer=self.fingerprint,
            )

    def _check_origin(self, template: Template) -> None:
        file = template.file
        if file.issuer_certificate != self.fingerprint:
            raise Refused(
                "issuer.template.foreign",
                "the template is compiled for another issuer",
                hint="Compile the profile for the issuer that is to sign.",
                issuer=self.fingerprint,
                template_issuer=file.issuer_certificate,
            )
        again = compile_template(
            template.profile,
            issuer_certificate=self.certificate,
            not_before=datetime.fromisoformat(file.moment),
            product_values=file.product_values,
            key_algorithm=file.key_algorithm,
        )
        if again.encoded != template.encoded or again.parts != template.parts:
            raise Tampered(
                "issuer.template.altered",
                "the template is not what its profile compiles to",
                hint="Compile the profile again, and find out who changed the template.",
                template=template.template_hash.hex(),
            )

    def _check_nesting(self, template: Template) -> None:
        own = self.certificate
        if template.not_before < own.not_valid_before_utc or template.not_after > own.not_valid_after_utc:
            raise Refused(
                "issuer.validity.nesting",
                "the certificate would be valid when its issuer is not",
                hint="Use fewer days in the profile or an issuing CA that lives longer.",
                not_before=template.file.not_before,
                not_after=template.file.not_after,
                issuer_not_before=own.not_valid_before_utc.isoformat(),
                issuer_not_after=own.not_valid_after_utc.isoformat(),
            )
        constraints = template.profile.basic_constraints
        if constraints is None or not constraints.ca or self.path_length is None:
            return
        if constraints.path_length is None or constraints.path_length >= self.path_length:
            raise Refused(
                "issuer.path_length",
                f"an issuer with path length {self.path_length} has no room for this CA below it",
                hint="Use a shorter path length in the profile or an issuer further up.",
                path_length=constraints.path_length,
                issuer_path_length=self.path_length,
            )


def _check_moment(certificate: x509.Certificate, now: datetime) -> None:
    name = certificate.subject.rfc4514_string()
    if now < certificate.not_valid_before_utc:
        raise Refused(
            "issuer.not_yet_valid",
            f"the CA {name} is not valid yet",
            hint="Check the clock of this machine; if it is right, wait.",
            issuer=name,
            not_before=certificate.not_valid_before_utc.isoformat(),
            now=now.isoformat(),
        )
    if now > certificate.not_valid_after_utc:
        raise Refused(
            "issuer.expired",
            f"the CA {name} has expired",
            hint="Make a new issuing CA in a ceremony, or check the clock of this machine.",
            issuer=name,
            not_after=certificate.not_valid_after_utc.isoformat(),
            now=now.isoformat(),
        )


def _check_signing_period(certificate: x509.Certificate, now: datetime) -> None:
    first, last = signing_window(certificate)
    if not first <= now <= last:
        name = certificate.subject.rfc4514_string()
        raise Refused(
            "issuer.signing_period",
            f"the CA {name} may sign only from {first:%F %T} to {last:%F %T} UTC",
            hint="Ask the authority for a new CA (`birthmark site delegate`), or check the clock of this machine.",
            issuer=name,
            signs_from=first.isoformat(),
            signs_until=last.isoformat(),
            now=now.isoformat(),
        )


def _path_length(certificate: x509.Certificate) -> int | None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise Misconfigured(
            "issuer.not_a_ca", "the certificate lacks basicConstraints or keyUsage", hint=_CA_HINT
        ) from error
    except ValueError as error:
        raise Misconfigured(
            "issuer.certificate", "the extensions of the certificate cannot be read", hint=_CA_HINT
        ) from error
    if not constraints.ca:
        raise Misconfigured("issuer.not_a_ca", "the certificate is not one of a CA", hint=_CA_HINT)
    if not usage.key_cert_sign:
        raise Misconfigured(
            "issuer.key_usage", "the certificate does not allow signing certificates (keyCertSign)", hint=_CA_HINT
        )
    return constraints.path_length


def _check_chain(members: Sequence[x509.Certificate]) -> None:
    for member, above in pairwise(members):
        try:
            member.verify_directly_issued_by(above)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
            raise Misconfigured(
                "issuer.chain", "a certificate of the chain did not sign the one before it", hint=_CA_HINT
            ) from error


def issue_ca_certificate(
    profile: Profile,
    *,
    subject_key: Any,
    issuer: Issuer | None,
    cert_serial: bytes,
    not_before: datetime,
    values: Mapping[str, str],
    lint: Lint,
    self_key: Any = None,
) -> bytes:
    """Return the certificate (DER) of a CA with the public key ``subject_key``, through template, lint and permit.

    A root has no ``issuer`` and is signed by ``self_key``, the private key of ``subject_key``; other CAs are
    signed by ``issuer`` and have no ``self_key``. ``not_before`` is the moment of issue.

    Raises what ``compile_template``, ``Issuer.prepare`` and ``Issuer.issue`` raise, and ``Misconfigured``:
    ``issuer.self_key`` (not the key of the subject), ``issuer.profile.kind`` (a profile of no CA).
    """
    if profile.kind == "end-entity" or (profile.kind == "root-ca") != (issuer is None):
        raise Misconfigured(
            "issuer.profile.kind",
            f"profile {profile.name} is of kind {profile.kind}",
            hint="Use a root-ca profile without an issuer, or an issuing-ca profile with one.",
            kind=profile.kind,
        )
    algorithm = algorithm_of(subject_key)
    spki = spki_of(subject_key)
    if issuer is not None:
        template = compile_template(
            profile,
            issuer_certificate=issuer.certificate,
            not_before=not_before,
            product_values=values,
            key_algorithm=algorithm.name,
        )
        permit = issuer.prepare(template, now=not_before, lint=lint)
        return issuer.issue(permit, cert_serial=cert_serial, device_serial=b"", spki=spki)
    if self_key is None or spki_of(self_key.public_key()) != spki:
        raise Misconfigured("issuer.self_key", "a root is signed by its own private key", hint=_CA_HINT)
    template = compile_root_template(profile, public_key=subject_key, not_before=not_before, product_values=values)
    lint_specimen(template, None, lint)
    tbs = template.filler(0).checked_fill(cert_serial, b"", spki, algorithm.key_id(spki))
    return signed_certificate(tbs, algorithm, algorithm.signer(self_key), subject_key)
