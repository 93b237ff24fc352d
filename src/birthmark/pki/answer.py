"""What a third party signed is not believed: key, chain, names, rights and validity are compared with the wish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from birthmark.errors import Refused, Tampered
from birthmark.pki.certread import open_parts, parse_certificate
from birthmark.pki.chain import verify_chain
from birthmark.pki.lint import lint_certificate, unallowed
from birthmark.pki.profile import Profile

__all__ = ["AnswerRule"]

_CLOCK_SKEW = timedelta(minutes=5)
_SHORTER = timedelta(days=1)
_HINT = "Nothing of it was kept: compare the service's own profile with the one of this order."


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """What every certificate of one order must be. ``chain``: the recorded CA first, its root last (DER)."""

    profile: Profile
    values: Mapping[str, str]
    chain: tuple[bytes, ...]

    def check(self, certificate: bytes, *, spki: bytes, device_serial: str, wanted: datetime, now: datetime) -> None:
        """Return if ``certificate`` (DER) is the one that was asked for; ``wanted``: its notAfter.

        Raises ``Tampered``: ``issuer.answer.malformed``, ``.key``, ``.chain``, ``.profile``, ``.validity``.
        """
        try:
            parts = open_parts(certificate)
            parsed = parse_certificate(parts)
        except Refused as fault:
            raise Tampered(
                "issuer.answer.malformed",
                f"the service's answer for {device_serial} is no certificate: {fault.message}",
                hint=_HINT,
                device_serial=device_serial,
            ) from fault
        if parts.spki != spki:
            raise Tampered(
                "issuer.answer.key",
                f"the certificate for {device_serial} holds another key than was asked for",
                hint=_HINT,
                device_serial=device_serial,
            )
        # The clock of the service may be a little ahead of ours.
        ahead = parsed.not_valid_before_utc if parsed.not_valid_before_utc - now <= _CLOCK_SKEW else now
        _check_chain(certificate, self.chain, at=max(now, ahead), device_serial=device_serial)
        self._check_profile(certificate, device_serial)
        if parsed.not_valid_after_utc < wanted - _SHORTER:
            raise Tampered(
                "issuer.answer.validity",
                f"the certificate for {device_serial} ends {parsed.not_valid_after_utc:%F}, wanted was {wanted:%F}",
                hint=_HINT,
                device_serial=device_serial,
            )

    def _check_profile(self, certificate: bytes, device_serial: str) -> None:
        findings = lint_certificate(
            certificate,
            issuer_der=self.chain[0],
            profile=self.profile,
            device_serial=device_serial,
            values=self.values,
        )
        left = unallowed(findings, self.profile)
        if left:
            raise Tampered(
                "issuer.answer.profile",
                f"the certificate for {device_serial} is not what its profile says: {left[0].message}",
                hint="Mend the service's profile, or name the finding with a reason among the exceptions of ours.",
                device_serial=device_serial,
                findings=sorted({finding.code for finding in left}),
            )


def _check_chain(certificate: bytes, chain: Sequence[bytes], *, at: datetime, device_serial: str) -> None:
    try:
        verify_chain(certificate, chain[:-1], chain[-1:], at=at)
    except Tampered as fault:
        raise Tampered(
            "issuer.answer.chain",
            f"the certificate for {device_serial} is not of the recorded CA: {fault.message}",
            hint="If the service has another CA now, import it under a name of its own and order from it.",
            device_serial=device_serial,
            cause=fault.code,
        ) from fault
