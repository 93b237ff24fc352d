"""Bulk making: wires an order, its permit and an engine together."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from birthmark.adapters.engines.start import BulkStart, WorkerStart
from birthmark.adapters.engines.worker import BulkWorker, ChunkSigner
from birthmark.adapters.memory import peak_mb
from birthmark.model.secret import Secret
from birthmark.ports import Engine
from birthmark.shell.workspace.plugins import adapter
from birthmark.shell.workspace.publishing import signing_heads
from birthmark.shell.workspace.wiring import Workspace, open_private_key, utc_now
from birthmark.workflow.orders.fulfil import Fulfilment

if TYPE_CHECKING:
    from birthmark.model.records import OrderRecord
    from birthmark.pki.issuer import Issuer, Permit

__all__ = [
    "DEFAULT_ENGINE",
    "EngineChoice",
    "RunningEngine",
    "build_signer",
    "build_worker",
    "default_processes",
    "make_order",
    "start_engine",
]

_DEPTH_PER_WORKER = 8


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine of the entry point group ``birthmark.engines``, and where it is if it is not here."""

    name: str = "processes"
    address: str | None = None


DEFAULT_ENGINE = EngineChoice()


class RunningEngine(Engine, Protocol):
    """An engine with its workers up."""

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers on this machine."""
        ...


def default_processes() -> int:
    """Return how many workers this machine keeps busy."""
    return len(os.sched_getaffinity(0))


def build_signer(key: Any, chain: tuple[bytes, ...], template: bytes) -> tuple[Issuer, Permit]:
    """Prepare the template again for the CA with ``key``, lint included."""
    from cryptography import x509

    from birthmark.pki.issuer import Issuer
    from birthmark.pki.lint import lint_certificate
    from birthmark.pki.template import Template

    certificates = [x509.load_der_x509_certificate(der) for der in chain]
    issuer = Issuer(certificates[0], key, certificates[1:])
    compiled = Template.from_bytes(template)

    def lint(der: bytes, issuer_der: bytes) -> list[object]:
        return list(lint_certificate(der, issuer_der=issuer_der, profile=compiled.profile))

    return issuer, issuer.prepare(compiled, now=utc_now(), lint=lint)  # type: ignore[arg-type]


def build_worker(
    secrets: dict[str, bytes], root: Path, key_uri: str, chain: tuple[bytes, ...], template: bytes, recipient: bytes
) -> BulkWorker:
    """Build a worker in its own process: open the CA key, prepare the template again."""
    from birthmark.wire.vault import VaultRecipient

    key = open_private_key(key_uri, lambda reference: Secret(secrets[reference]), root)
    return BulkWorker(*build_signer(key, chain, template), VaultRecipient(recipient), os.urandom)


def start_engine(
    workspace: Workspace, order: OrderRecord, template: bytes, processes: int, choice: EngineChoice = DEFAULT_ENGINE
) -> RunningEngine:
    """Start the workers for an order; they are ready to work when this returns."""
    key_uri = workspace.ca_key_uri(order.ca)
    key = workspace.private_key(key_uri)  # resolves its secret here, where a person can be asked
    chain, recipient = workspace.chain(order.ca), workspace.vault_recipient.public
    worker = WorkerStart(
        build=build_worker,
        arguments=(workspace.root.resolve(), key_uri, chain, template, recipient),
        secrets=workspace.secrets.resolved(),
    )
    start = BulkStart(
        worker=worker,
        signer=lambda: ChunkSigner(*build_signer(key, chain, template)),
        template=template,
        recipient=recipient,
    )
    engine: RunningEngine = adapter("engines", choice.name).open(start, workers=processes, address=choice.address)
    return engine


def make_order(
    workspace: Workspace,
    order: OrderRecord,
    *,
    processes: int,
    progress: Callable[[int], None],
    choice: EngineChoice = DEFAULT_ENGINE,
    ready: Callable[[], None] = lambda: None,
    finished: Callable[[float], None] = lambda peak_mb: None,
) -> int:
    """Make everything that is open in ``order``; return how many identities were made.

    ``ready`` is called when the workers are up and the work starts, ``finished`` when it is done, with the sum of the
    largest resident sets of this process and its workers (MB).
    """
    with workspace.lock(f"make-{order.order}"):
        permit = workspace.permits.for_order(order)
        engine = start_engine(workspace, order, permit.template.to_bytes(), processes, choice)
        try:
            fulfilment = Fulfilment(
                order,
                template=permit.template.template_hash.hex(),
                ledger=workspace.ledger,
                records=workspace.records,
                engine=engine,
                clock=workspace.clock,
                depth=_DEPTH_PER_WORKER * processes,
            )
            ready()
            with signing_heads(workspace) as signed, _no_collector():
                made = fulfilment.run(signed.before(progress))
            finished(sum(peak_mb(pid) for pid in (os.getpid(), *engine.pids)))
            return made
        finally:
            engine.close()


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the cycle collector from walking the known keys again and again; the loop makes no cycles."""
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
