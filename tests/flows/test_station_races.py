"""Stations and heads that want the same things at once: every identity goes out exactly once."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from birthmark.errors import BirthmarkError
from birthmark.model import events as e
from birthmark.model.device import DeviceState
from birthmark.ports import CredentialRequest
from support.stationworld import BORN, POOLED, Factory, build_factory, events_of

WIN = "pass"


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return build_factory(tmp_path / "factory")


def draw_all(root: Path, station: str) -> list[tuple[str, str, bytes]]:
    """Draw every pooled device as one station process; return (device serial, result, certificate)."""
    results = []
    with Factory(root).line(station=station, journal=False) as line:
        source = line.source()
        for device_serial in POOLED:
            request = CredentialRequest(f"{station}-{device_serial}", station, device_serial)
            try:
                results.append((device_serial, "drawn", source.obtain(request).certificate))
            except BirthmarkError as problem:
                results.append((device_serial, problem.code, b""))
    return results


def test_station_processes_racing_for_one_pool_get_each_identity_once(factory: Factory) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        jobs = [pool.apply_async(draw_all, (factory.root, f"station-{number}")) for number in range(3)]
        results = [result for job in jobs for result in job.get(timeout=120)]
    assert Counter(code for _, code, _ in results) == {"drawn": len(POOLED), "pool.drawn": 2 * len(POOLED)}
    won = [certificate for _, code, certificate in results if code == "drawn"]
    assert len(set(won)) == len(POOLED)
    with factory.line() as line:
        drawn = [event.device for event in events_of(line.ledger) if isinstance(event, e.Drawn)]
        assert sorted(drawn) == sorted(POOLED)


@pytest.mark.parametrize("device_serial", [POOLED[0], BORN[0]], ids=["pool", "born"])
def test_heads_with_the_same_device_never_make_two_identities(factory: Factory, device_serial: str) -> None:
    with factory.line() as line:

        def head(number: int) -> str:
            try:
                return line.provision(device_serial).outcome
            except BirthmarkError as problem:
                return problem.code

        with ThreadPoolExecutor(6) as heads:
            results = list(heads.map(head, range(6)))
        device = line.records.device(device_serial)
        assert device is not None
        issued = [event for event in events_of(line.ledger, device_serial) if isinstance(event, e.Issued)]
        verified = [event for event in events_of(line.ledger, device_serial) if isinstance(event, e.Verified)]
        # Six heads on one directory may also spoil it for each other; what counts is that nothing is doubled.
        assert len(issued) <= 1
        assert len(verified) <= 1
        assert (device.state is DeviceState.VERIFIED) == (WIN in results), results


def test_eight_heads_with_different_devices_do_not_disturb_each_other(factory: Factory) -> None:
    with factory.line() as line:
        with ThreadPoolExecutor(8) as heads:
            outcomes = list(heads.map(line.provision, (*POOLED, *BORN)))
        assert [outcome.outcome for outcome in outcomes] == ["pass"] * 8
        assert len({outcome.cert_sha256 for outcome in outcomes}) == 8
        assert len({outcome.attempt for outcome in outcomes}) == 8
        assert not line.journal.open_attempts()


def test_same_attempt_twice_at_once_gets_the_same_credential(factory: Factory) -> None:
    with factory.line() as line:
        source = line.source()
        request = CredentialRequest("attempt-0001", "line-1", POOLED[0])
        with ThreadPoolExecutor(6) as threads:
            got = list(threads.map(lambda _: source.obtain(request), range(6)))
        assert len({one.certificate for one in got}) == 1
        keys = {one.private_key.reveal() for one in got if one.private_key is not None}
        assert len(keys) == 1
        assert [type(event) for event in events_of(line.ledger, POOLED[0])] == [e.Issued, e.Drawn]
