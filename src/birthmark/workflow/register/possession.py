"""The one odd certificate: a cloud wants to see that a CA's key is ours, by a certificate named after its code.

Order: compile and lint; put the intent with the hash of exactly these octets on record; sign; put the certificate on
record; only then hand it out. Power cut before the intent: nothing happened. Between intent and certificate: an intent
without a certificate stays, and the next run asks the cloud for a new code. After it: as before it, a day later the
certificate is worth nothing. Its own key is made for it and thrown away: a proof is no identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from birthmark.errors import Refused
from birthmark.model.events import PossessionIntended, PossessionProven, utc_text
from birthmark.pki.algorithms import algorithm_named, spki_of
from birthmark.pki.issuer import Issuer, Permit
from birthmark.pki.lint import Finding, lint_certificate
from birthmark.pki.possessionprofile import POSSESSION_KEY, possession_profile
from birthmark.pki.template import compile_template
from birthmark.ports import Clock, Entropy, Ledger

__all__ = ["Possession", "PossessionTools"]


@dataclass(frozen=True, slots=True)
class PossessionTools:
    """What a proof is made with. ``issuer``: name of a CA → ready to sign."""

    ledger: Ledger
    issuer: Callable[[str], Issuer]
    clock: Clock
    entropy: Entropy
    by: str


class Possession:
    """Implements ``ports.ProvePossession`` for one cloud, named as it stands in the log."""

    def __init__(self, tools: PossessionTools, cloud: str) -> None:
        self._tools, self._cloud = tools, cloud

    def __call__(self, ca: str, code: str) -> bytes:
        """Return the certificate (DER) on record. ``Refused``: ``possession.code``, and what an issuer refuses."""
        profile = possession_profile()
        if not (8 <= len(code) <= 64 and code.isascii() and code.isalnum()):
            raise Refused(
                "possession.code",
                f"{code[:80]!a} is no verification code",
                hint="Stop: this is no code of a cloud. Look at the cloud's own console.",
                cloud=self._cloud,
                ca=ca,
            )
        issuer, now = self._tools.issuer(ca), self._tools.clock()
        template = compile_template(
            profile,
            issuer_certificate=issuer.certificate,
            not_before=now,
            product_values={},
            key_algorithm=POSSESSION_KEY,
        )
        permit = issuer.prepare(template, now=now, lint=_lint)
        spki = spki_of(algorithm_named(POSSESSION_KEY).generate().public_key())
        with self._tools.ledger.transaction() as tx:
            cert_serial = tx.serial_prefixes(1)[0] + self._tools.entropy(8)
            tbs = _filled(permit, cert_serial, code, spki)
            intent = tx.append(
                PossessionIntended(
                    at=utc_text(now),
                    ca=ca,
                    cloud=self._cloud,
                    code=code,
                    cert_serial=cert_serial.hex(),
                    spki_sha256=sha256(spki).hexdigest(),
                    tbs_sha256=sha256(tbs).hexdigest(),
                    profile_hash=profile.profile_hash().hex(),
                    by=self._tools.by,
                )
            )
        (certificate,) = issuer.sign_many(permit, [tbs], verify="all")
        at, digest = utc_text(self._tools.clock()), sha256(certificate).hexdigest()
        with self._tools.ledger.transaction() as tx:
            tx.append(PossessionProven(at=at, ca=ca, intent=intent, cert_sha256=digest), certificate)
        return certificate


def _lint(specimen: bytes, issuer_der: bytes) -> list[Finding]:
    profile = possession_profile()
    example = profile.device_serial.example if profile.device_serial else None
    return lint_certificate(specimen, issuer_der=issuer_der, profile=profile, device_serial=example)


def _filled(permit: Permit, cert_serial: bytes, code: str, spki: bytes) -> bytes:
    template, name = permit.template, code.encode("ascii")
    return template.filler(len(name)).checked_fill(cert_serial, name, spki, template.key_algorithm.key_id(spki))
