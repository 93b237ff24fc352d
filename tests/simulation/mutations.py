"""Bugs that somebody could write. The simulation is worth something only if it finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from birthmark.adapters.ledgers.sqlite.store import SqliteLedger
from birthmark.model.events import KeyErased, utc_text
from birthmark.workflow.homecoming.settle import Settlement
from birthmark.workflow.homecoming.sitefindings import FindingBook
from birthmark.workflow.line.draw import Drawing
from birthmark.workflow.line.station import _Run

__all__ = ["MUTATIONS"]


@contextmanager
def _patched(owner: Any, name: str, instead: Any) -> Iterator[None]:
    kept = getattr(owner, name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def _draw_without_a_record() -> AbstractContextManager[None]:
    """A key leaves the vault and nobody writes that down."""
    from birthmark.workflow.line.draw import _slot

    return _patched(Drawing, "draw", lambda self, tx, draw, at: _slot(tx, draw.device))


def _report_never_settled() -> AbstractContextManager[None]:
    """A report is taken in, and what it says of devices is not."""
    return _patched(Settlement, "run", lambda self, progress: 0)


def _finding_dropped() -> AbstractContextManager[None]:
    """A contradiction is seen and not put on record."""
    return _patched(FindingBook, "append", lambda self, tx, found: None)


def _key_erased_before_its_receipt() -> AbstractContextManager[None]:
    """The key is erased as soon as it is installed: a power cut before the receipt loses the identity."""
    prove = _Run._prove

    def erase(run: Any, certificate: bytes, chain: Any, credential: Any) -> Any:
        post = run._post
        device = post.records.device(run._serial)
        if credential is not None and credential.private_key is not None:
            at = utc_text(post.clock())
            event = KeyErased(at=at, device=run._serial, intent=credential.intent, reason="verified")
            with post.ledger.transaction() as tx:
                tx.vault.erase(credential.intent, device.position)
                tx.append(event)
        return prove(run, certificate, chain, credential)

    return _patched(_Run, "_prove", erase)


def _commit_lost() -> AbstractContextManager[None]:
    """Every now and then a commit returns, and its transaction is not there."""
    commit, count = SqliteLedger._commit, [0]

    def lose(ledger: Any) -> None:
        count[0] += 1
        if count[0] % 50:
            commit(ledger)
        else:
            ledger._database.execute("ROLLBACK")

    return _patched(SqliteLedger, "_commit", lose)


MUTATIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "commit-lost": _commit_lost,
    "draw-without-record": _draw_without_a_record,
    "finding-dropped": _finding_dropped,
    "key-erased-early": _key_erased_before_its_receipt,
    "never-settled": _report_never_settled,
}
