"""Orders that a third party's service signs: wires the service, its pace, the engine and the request store together."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from birthmark.adapters.engines.processes import ProcessEngine
from birthmark.adapters.engines.requester import RequestWorker
from birthmark.adapters.engines.start import WorkerStart
from birthmark.adapters.issuers.paced import PacedQueue
from birthmark.adapters.requeststore import FileRequestStore
from birthmark.errors import Misconfigured
from birthmark.pki.answer import AnswerRule
from birthmark.shell.workspace.plugins import adapter
from birthmark.shell.workspace.publishing import signing_heads
from birthmark.workflow.line.acquire import AcquireSource
from birthmark.workflow.orders.procure import Procurement

if TYPE_CHECKING:
    from birthmark.model.records import OrderRecord
    from birthmark.ports import Ledger, SigningService
    from birthmark.shell.workspace.config import CaSettings
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["acquire_source", "build_requester", "open_service", "procure_order"]

_CHUNKS_UNDER_WAY = 2


def open_service(workspace: Workspace, ca: str) -> SigningService:
    """Return the service that signs for an external CA of this workspace."""
    uri = _settings(workspace, ca).issuer or ""
    service: SigningService = adapter("issuers", uri)(uri, secrets=workspace.secrets, base=workspace.root)
    return service


def _settings(workspace: Workspace, ca: str) -> CaSettings:
    settings = workspace.settings.cas.get(ca)
    if settings is None or settings.issuer is None:
        raise Misconfigured(
            "settings.ca",
            f"no service signs for a CA named {ca}",
            hint=f"Add [cas.{ca}] with an issuer to birthmark.toml.",
            ca=ca,
        )
    return settings


def _rule(workspace: Workspace, order: OrderRecord) -> AnswerRule:
    values = workspace.product(order.product).values
    return AnswerRule(workspace.profile(order.profile), values, workspace.chain(order.ca))


def _store(workspace: Workspace) -> FileRequestStore:
    return FileRequestStore(workspace.root / "ledger" / "requests")


def acquire_source(workspace: Workspace, ledger: Ledger) -> AcquireSource:
    """Return the source for keys born in devices whose CA is a service; services stay open with the workspace."""

    @cache
    def opened(ca: str) -> SigningService:
        service = open_service(workspace, ca)
        workspace.close_later(service.close)
        return service

    return AcquireSource(
        ledger=ledger,
        records=workspace.records,
        service=lambda order: opened(order.ca),
        rule=lambda order: _rule(workspace, order),
        store=_store(workspace),
        clock=workspace.clock,
    )


def build_requester(
    secrets: dict[str, bytes], profile: bytes, values: dict[str, str], key_algorithm: str, recipient: bytes
) -> RequestWorker:
    """Build a worker in its own process. It holds no secret: it makes keys and seals them."""
    from birthmark.pki.profile import Profile
    from birthmark.wire.vault import VaultRecipient

    asked = msgspec.json.decode(profile, type=Profile)
    return RequestWorker(asked, values, key_algorithm, VaultRecipient(recipient), os.urandom)


def procure_order(
    workspace: Workspace,
    order: OrderRecord,
    *,
    processes: int,
    progress: Callable[[int], None],
    rate: float | None = None,
) -> int:
    """Get everything that is open in ``order`` from its service; return how many identities came.

    ``rate``: requests a second, in place of the one in the settings.
    """
    settings = _settings(workspace, order.ca)
    rule = _rule(workspace, order)
    start = WorkerStart(
        build=build_requester,
        arguments=(
            rule.profile.canonical_json(),
            dict(rule.values),
            order.key_algorithm,
            workspace.vault_recipient.public,
        ),
        secrets={},
    )
    with workspace.lock(f"make-{order.order}"):
        service = open_service(workspace, order.ca)
        try:
            engine = ProcessEngine(start, processes)
            try:
                procurement = Procurement(
                    order,
                    source=service.name,
                    rule=rule,
                    ledger=workspace.ledger,
                    records=workspace.records,
                    engine=engine,
                    queue=PacedQueue(service, rate=_pace(rate, settings), outstanding=settings.outstanding),
                    store=_store(workspace),
                    clock=workspace.clock,
                    depth=_CHUNKS_UNDER_WAY,
                )
                with signing_heads(workspace) as signed:
                    return procurement.run(signed.before(progress))
            finally:
                engine.close()
        finally:
            service.close()


def _pace(rate: float | None, settings: CaSettings) -> float:
    chosen = settings.rate if rate is None else rate
    if not chosen > 0:
        raise Misconfigured(
            "order.rate",
            f"{chosen} requests a second",
            hint="Use a number above 0, no more than the service allows.",
        )
    return chosen
