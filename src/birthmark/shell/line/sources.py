"""Which source a station of this workspace has: its own CA and pool, or the authority's service."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from birthmark.errors import Misconfigured
from birthmark.ports import Credential, CredentialRequest, Ledger, Source

if TYPE_CHECKING:
    from birthmark.adapters.sources.online import OnlineAuthority
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["open_authority", "source_of"]


def source_of(workspace: Workspace, ledger: Ledger, station: str) -> Source:
    """Return the source of a station; its parts are opened when it is first asked."""
    authority = workspace.records.authority()
    if authority is not None and authority.mode == "online":
        return _Later(lambda: _online_source(workspace, ledger, station))
    return _local_source(workspace, ledger)


def open_authority(workspace: Workspace, station: str) -> OnlineAuthority:
    """Return the authority's service as ``station`` reaches it; ``Misconfigured("settings.authority")``."""
    from birthmark.adapters.sources.online import OnlineAuthority, client_tls

    settings = workspace.settings.authority
    own = workspace.settings.stations.get(station)
    if settings is None or own is None or own.tls_certificate is None or own.tls_key is None:
        raise Misconfigured(
            "settings.authority",
            f"the settings do not say how station {station} reaches the authority",
            hint="Set [authority] url and service_ca, and tls_certificate and tls_key of the station.",
            station=station,
        )
    tls = client_tls(
        workspace.root / settings.service_ca,
        workspace.root / own.tls_certificate,
        workspace.root / own.tls_key,
        None if own.tls_secret is None else workspace.secrets(own.tls_secret),
    )
    authority = OnlineAuthority(settings.url, tls)
    workspace.close_later(authority.close)
    return authority


def _online_source(workspace: Workspace, ledger: Ledger, station: str) -> Source:
    from birthmark.workflow.line.receive import ReceivingSource

    return ReceivingSource(
        authority=open_authority(workspace, station),
        ledger=ledger,
        records=workspace.records,
        vault_key=lambda: workspace.vault_key,
        chain_of=workspace.chain,
        profile=workspace.profile,
        values=lambda product: workspace.product(product).values,
        clock=workspace.clock,
    )


class _Later:
    """A source that is opened when it is first asked, so that nobody waits for a key that is not needed."""

    def __init__(self, make: Callable[[], Source]) -> None:
        self._make = make
        self._made: Source | None = None
        self._lock = threading.Lock()

    def obtain(self, request: CredentialRequest) -> Credential:
        with self._lock:
            if self._made is None:
                self._made = self._make()
        return self._made.obtain(request)


def _local_source(workspace: Workspace, ledger: Ledger) -> Source:
    from birthmark.workflow.line.localsource import ByCaSource, LocalSource

    def pool() -> Source:
        from birthmark.workflow.line.draw import PoolSource

        return PoolSource(
            ledger=ledger,
            records=workspace.records,
            vault_key=workspace.vault_key,
            chain_of=workspace.chain,
            clock=workspace.clock,
        )

    def issue() -> Source:
        from birthmark.workflow.line.issue import IssueSource

        return IssueSource(
            ledger=ledger,
            records=workspace.records,
            permits=workspace.permits,
            clock=workspace.clock,
            entropy=workspace.entropy,
        )

    def acquire() -> Source:
        from birthmark.shell.orders.procurement import acquire_source

        return acquire_source(workspace, ledger)

    born = ByCaSource(
        own=_Later(issue), external=_Later(acquire), records=workspace.records, is_external=workspace.is_external
    )
    return LocalSource(pool=_Later(pool), issue=born)
