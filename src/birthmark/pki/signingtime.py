"""When a CA may sign: while its certificate is valid, and within its private key usage period (X.509, 9.2.2.5)."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509

from birthmark.pki.certread import UNREADABLE

__all__ = ["signing_window"]


def signing_window(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """Return the first and the last moment at which a CA may sign: its validity and its private key usage period."""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    try:
        period = certificate.extensions.get_extension_for_class(x509.PrivateKeyUsagePeriod).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return first, last
    begin, end = period.not_before, period.not_after
    return (
        first if begin is None else max(first, begin.replace(tzinfo=UTC)),
        last if end is None else min(last, end.replace(tzinfo=UTC)),
    )
