"""The source of a site that holds its own CA and pool: which of the two is asked follows from the request."""

from __future__ import annotations

from collections.abc import Callable

from birthmark.ports import Credential, CredentialRequest, Records, Source

__all__ = ["ByCaSource", "LocalSource"]


class LocalSource:
    """Implements ``ports.Source``: a request with a CSR is issued for, one without draws from the pool."""

    def __init__(self, *, pool: Source, issue: Source) -> None:
        self._pool = pool
        self._issue = issue

    def obtain(self, request: CredentialRequest) -> Credential:
        """Return the credential of the device, or refuse as the source that is asked does."""
        return (self._pool if request.csr is None else self._issue).obtain(request)


class ByCaSource:
    """Implements ``ports.Source`` for keys born in devices: our own CA signs, or a third party's service.

    ``is_external`` says of a CA's name whether somebody else holds its key.
    """

    def __init__(self, *, own: Source, external: Source, records: Records, is_external: Callable[[str], bool]) -> None:
        self._own = own
        self._external = external
        self._records = records
        self._is_external = is_external

    def obtain(self, request: CredentialRequest) -> Credential:
        """Return the credential of the device, or refuse as the source that is asked does."""
        device = self._records.device(request.device_serial)
        order = None if device is None else self._records.order(device.order)
        external = order is not None and self._is_external(order.ca)
        return (self._external if external else self._own).obtain(request)
