"""The laws of ``ports.Source`` on a site that asks its authority online, over real TLS with the real service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import msgspec
import pytest

from birthmark.errors import BirthmarkError, Tampered
from birthmark.model import events as e
from birthmark.ports import CredentialRequest, Source
from birthmark.shell.line.sources import open_authority, source_of
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.wire.service import CredentialAsked
from birthmark.workflow.line.receive import ReceivingSource
from contracts import test_sources as laws
from support.serviceworld import BORN, POOLED, World, build_world, device_csr
from support.stationworld import events_of


@dataclass
class OnlineLine:
    """The site as the laws see it; what ends an identity here is put on record by hand."""

    workspace: Workspace

    @property
    def ledger(self) -> Any:
        return self.workspace.ledger

    @property
    def clock(self) -> Any:
        return self.workspace.clock

    def source(self) -> Source:
        return source_of(self.workspace, self.workspace.ledger, "line1")

    def reworks(self) -> OnlineLine:
        return self

    def append(self, event: e.Event) -> None:
        with self.ledger.transaction() as tx:
            tx.append(event)

    def rework(self, device_serial: str, *, reason: str, by: str) -> None:
        self.append(e.Superseded(at=e.utc_text(self.clock()), device=device_serial, reason=reason, by=by))

    def scrap(self, device_serial: str, *, reason: str, by: str) -> None:
        self.append(e.Scrapped(at=e.utc_text(self.clock()), device=device_serial, reason=reason, by=by))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    world = build_world(tmp_path_factory.mktemp("online") / "world")
    with world.running() as running:
        world.point_site_to(running.url)
        yield world, running.url


class OnlineCase(laws.Case):
    """Every test takes devices and attempts of its own, since they share one authority."""

    number = 0

    def request(self, device_serial: str, attempt: str = "attempt-0001") -> CredentialRequest:
        if attempt.startswith("attempt-"):
            attempt = f"{attempt}-{self.number}"
        return CredentialRequest(attempt, "line1", device_serial, self.csrs.get(device_serial))


_numbers = count()
_fresh = {"pool": iter(POOLED), "issue": iter(BORN)}


@pytest.fixture(params=["pool", "issue"])
def case(request: pytest.FixtureRequest, served: tuple[World, str]) -> Iterator[laws.Case]:
    world, _ = served
    number = next(_numbers)
    with open_workspace(world.site) as site:
        devices = tuple(islice(_fresh[request.param], 2))
        csrs = {} if request.param == "pool" else {d: device_csr(d) for d in (*devices, "EL-9999")}
        line: Any = OnlineLine(site)
        made = OnlineCase(line, line.source(), devices, csrs)
        made.number = number
        yield made


class TestOnlineSource(laws.TestSource):
    def test_every_refusal_is_on_record(self, case: laws.Case) -> None:
        unknown = replace(case.request(case.devices[0]), device_serial="EL-9999")
        assert case.code(unknown) == "device.unknown"
        last = events_of(case.line.ledger)[-1]
        assert (last.code, last.device, last.attempt) == ("device.unknown", "EL-9999", unknown.attempt)

    def test_failed_and_scrapped_devices_get_nothing(self, case: laws.Case) -> None:
        request = case.request(case.devices[0])
        case.source.obtain(request)
        failed = e.Failed(at=e.utc_text(case.line.clock()), device=request.device_serial, station="line1",
                          attempt=request.attempt, code="device.test")  # fmt: skip
        with case.line.ledger.transaction() as tx:
            tx.append(failed)
        assert case.code(request) == "device.failed"
        case.line.reworks().scrap(case.devices[0], reason="test", by="test")
        assert case.code(case.request(case.devices[0], "attempt-0003")) == "device.scrapped"


class _Lying:
    """An authority whose answers are changed on the way by somebody who holds its TLS key."""

    def __init__(self, honest: Any, change: Any) -> None:
        self._honest = honest
        self._change = change

    def credential(self, asked: Any) -> Any:
        return self._change(self._honest.credential(asked))


def _lied_to(site: Workspace, change: Any, request: CredentialRequest) -> str:
    source = ReceivingSource(
        authority=_Lying(open_authority(site, "line1"), change),
        ledger=site.ledger,
        records=site.records,
        vault_key=lambda: site.vault_key,
        chain_of=site.chain,
        profile=site.profile,
        values=lambda product: site.product(product).values,
        clock=site.clock,
    )
    before = site.ledger.head().size
    with pytest.raises(BirthmarkError) as caught:
        source.obtain(request)
    assert isinstance(caught.value, Tampered)
    assert site.ledger.head().size == before, "nothing of it is on record"
    return caught.value.code


def test_what_came_is_believed_only_if_it_is_what_was_asked_for(case: laws.Case, served: tuple[World, str]) -> None:
    site = case.line.workspace  # type: ignore[attr-defined]
    first, second = case.devices
    case_request = case.request(first)
    other = open_authority(site, "line1").credential(  # a lawful answer for another device
        CredentialAsked(
            attempt=case.request(second, "attempt-0009").attempt, device_serial=second, csr=case.csrs.get(second)
        )
    )
    put = msgspec.structs.replace
    assert _lied_to(site, lambda a: other, case_request) == "received.other"
    swapped = _lied_to(site, lambda a: put(a, certificate=other.certificate), case_request)
    assert swapped in ("received.key", "received.profile")
    assert _lied_to(site, lambda a: put(a, order=put(a.order, order="other")), case_request) == "received.order"
    root = site.chain("issuing")[1]
    assert _lied_to(site, lambda a: put(a, certificate=root), case_request).startswith(("received.", "chain."))
    if case_request.csr is None:
        assert _lied_to(site, lambda a: put(a, sealed=None), case_request) == "received.sealed"
        assert _lied_to(site, lambda a: put(a, sealed=other.sealed), case_request).startswith("vault.")
    assert case.source.obtain(case_request).device_serial == first
