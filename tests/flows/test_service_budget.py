"""What one certificate of the service costs, counted: statements, commits, signatures, verifications, parses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.pki import csr as parsing
from birthmark.pki import csrplain, issuer
from birthmark.ports import CredentialRequest
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.workflow.line.draw import Drawing
from birthmark.workflow.line.issuebatch import Answer, Asked, IssueBatch
from birthmark.workflow.line.issuing import Issuing
from support.serviceworld import BORN, SITE, STATION, World, build_world, device_csr

ROUND, WARM_UP, COUNT = 8, 8, 80


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("budget"))


@pytest.fixture
def hq(world: World) -> Iterator[Workspace]:
    with open_workspace(world.hq) as workspace:
        yield workspace


def batch_of(hq: Workspace) -> IssueBatch:
    records = hq.records
    drawing = Drawing(ledger=hq.ledger, records=records, vault_key=lambda: hq.vault_key, chain_of=hq.chain)
    issuing = Issuing(records=records, permits=hq.permits, entropy=hq.entropy, lint_each=False)
    return IssueBatch(
        ledger=hq.ledger, records=records, sites=records, issuing=issuing, drawing=drawing, clock=hq.clock
    )


def asked(world: World, numbers: range) -> list[Asked]:
    access = world.pairs["line1"].spki_sha256
    found = []
    for number in numbers:
        der = device_csr(BORN[number], ec.generate_private_key(ec.SECP256R1()))
        request = CredentialRequest(f"budget-{number:06d}", STATION, BORN[number], der)
        found.append(Asked(request, SITE, access))
    return found


def drive(batch: IssueBatch, requests: list[Asked]) -> list[Answer]:
    """Give it ``ROUND`` requests a round, until all are answered."""
    answers = []
    for first in range(0, len(requests), ROUND):
        answers += batch.run(requests[first : first + ROUND])
    while batch.is_busy:
        answers += batch.run([])
    assert [answer.error for answer in answers] == [None] * len(requests)
    return answers


def counting(monkeypatch: pytest.MonkeyPatch, counts: Counter[str], owner: Any, name: str) -> None:
    real = getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        counts[name] += 1
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)


def test_a_certificate_costs_few_statements(world: World, hq: Workspace):
    """Five rows are written for a device; all else is paid once a round, and two commits serve two rounds' devices."""
    batch = batch_of(hq)
    drive(batch, asked(world, range(WARM_UP)))
    requests = asked(world, range(WARM_UP, WARM_UP + COUNT))
    said: list[str] = []
    ledger: Any = hq.ledger
    for database in (ledger._database, ledger._reader):
        database.set_trace_callback(said.append)
    drive(batch, requests)
    for database in (ledger._database, ledger._reader):
        database.set_trace_callback(None)
    rounds = COUNT // ROUND + 1
    kinds = Counter(re.match(r"\s*(\w+)", statement)[1] for statement in said)  # type: ignore[index]
    assert kinds["COMMIT"] == rounds
    assert kinds["INSERT"] == 2 * COUNT + rounds
    assert kinds["UPDATE"] == 3 * COUNT + rounds
    assert kinds["SELECT"] <= 9 * rounds
    assert kinds["SAVEPOINT"] == kinds["RELEASE"] == 0
    assert sum(kinds.values()) <= 5 * COUNT + 13 * rounds


def test_a_request_is_read_once_and_a_key_loaded_once(world: World, hq: Workspace, monkeypatch: pytest.MonkeyPatch):
    batch = batch_of(hq)
    first = WARM_UP + COUNT
    drive(batch, asked(world, range(first, first + WARM_UP)))
    counts: Counter[str] = Counter()
    counting(monkeypatch, counts, parsing, "_parse_any")
    counting(monkeypatch, counts, csrplain, "load_sound_p256")
    counting(monkeypatch, counts, issuer, "check_result")
    counting(monkeypatch, counts, issuer, "assemble")
    many = 6 * ROUND
    drive(batch, asked(world, range(first + WARM_UP, first + WARM_UP + many)))
    assert counts == {"load_sound_p256": many, "assemble": many, "check_result": many // ROUND}


def test_one_refusal_in_a_round_costs_nobody_else_the_answer(world: World, hq: Workspace):
    """The round is written as one first; a key that is known undoes that, and it is written again in parts."""
    batch = batch_of(hq)
    first = WARM_UP + COUNT + WARM_UP + 6 * ROUND
    key = ec.generate_private_key(ec.SECP256R1())
    (other,) = asked(world, range(first, first + 1))
    twins = [
        Asked(CredentialRequest(f"budget-twin-{serial}", STATION, serial, device_csr(serial, key)), SITE, other.access)
        for serial in BORN[first + 1 : first + 3]
    ]
    answers = batch.run([*twins, other])
    while batch.is_busy:
        answers += batch.run([])
    told = {answer.asked: answer.error for answer in answers}
    assert getattr(told.pop(twins[1]), "code", None) == "key.reused"
    assert list(told.values()) == [None, None]
