"""The source of a site that holds its own CA and pool: which of the two is asked follows from the request."""

from __future__ import annotations

from birthmark.ports import Credential, CredentialRequest, Source

__all__ = ["LocalSource"]


class LocalSource:
    """Implements ``ports.Source``: a request with a CSR is issued for, one without draws from the pool."""

    def __init__(self, *, pool: Source, issue: Source) -> None:
        self._pool = pool
        self._issue = issue

    def obtain(self, request: CredentialRequest) -> Credential:
        """Return the credential of the device, or refuse as the source that is asked does."""
        return (self._pool if request.csr is None else self._issue).obtain(request)
