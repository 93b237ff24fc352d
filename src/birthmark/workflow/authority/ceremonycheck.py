"""The rehearsal of a ceremony: every step is done with throw-away keys, so that what cannot work is refused before.

No key of ours signs: a CA on record is stood in for by a twin, a certificate with its name, its rights and its life,
and a throw-away key. Nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from birthmark.errors import Misconfigured, Refused
from birthmark.pki.algorithms import algorithm_named, algorithm_of, certified_key, spki_of
from birthmark.pki.issuer import Issuer
from birthmark.workflow.authority.camaking import CaMaker, MadeCa, key_title
from birthmark.workflow.authority.ceremonyfile import CaStep, DelegateStep, DestroyStep, RolloverStep

__all__ = ["ABSENT", "PlannedStep", "Rehearsal", "destroying_row", "making_rows"]

ABSENT = frozenset({"key.file.missing", "key.object.missing"})
"""What a key adapter says of a key that is not there."""
_SERIAL = b"\x01" + bytes(14) + b"\x01"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A row of the table that people look at before a ceremony. ``facts``: name → value, in order."""

    act: str
    ca: str
    facts: tuple[tuple[str, str], ...]


class Rehearsal(CaMaker):
    """Makes the same certificates with keys that certify nothing."""

    def new_key(self, uri: str, algorithm: str) -> Any:
        """Return a throw-away key; ``Refused("key.exists")`` where the real one would not be made."""
        try:
            self.tools.keys(uri).open(uri)
        except Misconfigured as problem:
            if problem.code not in ABSENT:
                raise
            return algorithm_named(algorithm).generate()
        raise Refused(
            "key.exists",
            "there is a key where the ceremony is to make one",
            hint="A key is never taken over: find out whose it is, then name another place or destroy it on purpose.",
            scheme=uri.partition(":")[0],
        )

    def recorded_issuer(self, ca: str) -> Issuer:
        """Return the twin of a CA on record."""
        self.tools.key_uri(ca)
        record = self.tools.records.ca(ca)
        assert record is not None, "looked at before"  # noqa: S101
        return _twin(x509.load_der_x509_certificate(record.certificate))

    def cert_serial(self) -> bytes:
        """Return a serial for what is thrown away."""
        return _SERIAL


def _twin(certificate: x509.Certificate) -> Issuer:
    algorithm = algorithm_of(certified_key(certificate))
    key: Any = algorithm.generate()
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.subject)
        .public_key(key.public_key())
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        value: Any = extension.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            continue
        if isinstance(value, x509.SubjectKeyIdentifier):
            value = x509.SubjectKeyIdentifier(algorithm.key_id(spki_of(key.public_key())))
        builder = builder.add_extension(value, extension.critical)
    pure = algorithm.name.startswith(("ed", "mldsa"))
    return Issuer(builder.sign(key, None if pure else hashes.SHA256()), key)


def making_rows(step: CaStep, made: list[MadeCa]) -> list[PlannedStep]:
    """Return what a making step does, from its rehearsal."""
    acts = {DelegateStep: "delegate", RolloverStep: "rollover"}
    rows = []
    for ca in made:
        certificate = ca.certificate
        link = ca.name != step.name
        act = "link" if link else acts.get(type(step), f"make {ca.kind}")
        facts = [
            ("subject", certificate.subject.rfc4514_string()),
            ("signed by", ca.issuer or "itself"),
            ("key", f"{key_title(certificate)}, " + ("as it is" if link else f"in {ca.key_scheme}")),
            ("profile", ca.profile),
            ("valid until", f"{certificate.not_valid_after_utc:%F}"),
        ]
        facts += [("site", ca.site)] if ca.site else []
        facts += [("replaces", f"{ca.replaces}, which takes no new orders")] if ca.replaces else []
        rows.append(PlannedStep(act, ca.name, tuple(facts)))
    return rows


def destroying_row(step: DestroyStep, key_scheme: str, objects: tuple[str, ...]) -> PlannedStep:
    """Return what a destroying step does."""
    facts = [("key", f"in {key_scheme}, gone for ever"), ("reason", step.reason), ("other copies", step.copies)]
    facts += [("beside it now", name) for name in objects]
    return PlannedStep("destroy key", step.ca, tuple(facts))
