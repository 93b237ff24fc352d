"""The authority's service as an online site sees it, without sockets: answers are lost, doubled, or come too late."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from birthmark.errors import Unavailable
from birthmark.ports import CredentialRequest
from birthmark.shell.workspace.wiring import Workspace
from birthmark.wire.service import CredentialAnswer, CredentialAsked, read_answer, read_asked
from birthmark.workflow.line.draw import Drawing
from birthmark.workflow.line.handover import credential_answer, site_recipient
from birthmark.workflow.line.issuebatch import Asked, IssueBatch
from birthmark.workflow.line.issuing import Issuing
from simulation.faults import PowerCut
from simulation.machine import Machine

__all__ = ["Service", "StationLine"]


class Service:
    """The process at the authority that hands out identities; it lives as long as the machine is up."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._boot = 0
        self._batch: IssueBatch | None = None

    def answer(self, site: str, station: str, body: bytes) -> bytes:
        """Do what the service does with one request."""
        return self._machine.run(lambda workspace: self._answer(workspace, site, station, read_asked(body)))

    def _answer(self, workspace: Workspace, site: str, station: str, asked: CredentialAsked) -> bytes:
        name = f"{site}/{station}"
        access = next(record.spki_sha256 for record in workspace.records.accesses() if record.name == name)
        request = CredentialRequest(asked.attempt, name, asked.device_serial, asked.csr)
        batch = self._working(workspace)
        answers = batch.run([Asked(request, site, access)])
        while not answers and batch.is_busy:
            answers = batch.run([])
        (answer,) = answers
        if answer.error is not None:
            raise answer.error
        assert answer.credential is not None
        assert answer.order is not None
        recipient = None
        if answer.credential.private_key is not None:
            recipient = site_recipient(workspace.ledger, workspace.records, site)
        told = credential_answer(asked.attempt, answer.credential, answer.order, recipient, workspace.entropy)
        return msgspec.json.encode(told)

    def _working(self, workspace: Workspace) -> IssueBatch:
        if self._batch is None or self._boot != self._machine.boots:
            records = workspace.records
            self._boot = self._machine.boots
            self._batch = IssueBatch(
                ledger=workspace.ledger,
                records=records,
                sites=records,
                issuing=Issuing(records=records, permits=workspace.permits, entropy=workspace.entropy, lint_each=False),
                drawing=Drawing(
                    ledger=workspace.ledger,
                    records=records,
                    vault_key=lambda: workspace.vault_key,
                    chain_of=workspace.chain,
                ),
                clock=workspace.clock,
            )
        return self._batch


class StationLine:
    """Implements ``ports.Authority`` for one station: the network between it and the service.

    ``weather``: lost request, lost answer, doubled request, late request, or fine. ``late`` takes what arrives when
    nobody waits any more. ``down`` is called when the power of the authority goes.
    """

    def __init__(
        self,
        service: Service,
        site: str,
        station: str,
        *,
        random: Random,
        bad: Callable[[], bool],
        late: list[tuple[str, str, bytes]],
        down: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self._service = service
        self._names = (site, station)
        self._random = random
        self._bad = bad
        self._late = late
        self._down = down
        self._note = note

    def credential(self, asked: CredentialAsked) -> CredentialAnswer:
        """Return the answer, or ``Unavailable``: whether the service did something is then unknown."""
        body = msgspec.json.encode(asked)
        weather = self._random.choice(("lost", "unheard", "doubled", "late")) if self._bad() else "fine"
        if weather != "fine":
            self._note(f"network:{weather}")
        if weather == "lost":
            raise _unreachable()
        if weather == "late":
            self._late.append((*self._names, body))
            raise _unreachable()
        try:
            answer: Any = self._service.answer(*self._names, body)
            if weather == "doubled":
                answer = self._service.answer(*self._names, body)
        except PowerCut:
            self._down()
            raise _unreachable() from None
        if weather == "unheard":
            raise _unreachable()
        return read_answer(answer)


def _unreachable() -> Unavailable:
    return Unavailable("authority.unreachable", "no answer came", hint="Try again.")
