"""The pace at which a service is asked: never more at once, never faster, every request answered once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from birthmark.adapters.issuers.paced import PacedQueue
from birthmark.errors import BirthmarkError, Refused, Unavailable
from birthmark.ports import SigningRequest


def requests(count: int) -> Iterator[SigningRequest]:
    for number in range(count):
        yield SigningRequest(f"{number:032x}", b"%d" % number, f"SN-{number}", datetime(2036, 1, 1, tzinfo=UTC))


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class Service:
    name = "test:service"

    def __init__(self, time: Time) -> None:
        self.time, self.asked, self.at_once, self.most = time, [], 0, 0
        self.problems: dict[str, list[BirthmarkError]] = {}
        self._lock = threading.Lock()

    def sign(self, request: SigningRequest) -> bytes:
        with self._lock:
            self.asked.append((self.time.now, request.device_serial))
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        try:
            waiting = self.problems.get(request.device_serial)
            if waiting:
                raise waiting.pop(0)
            return b"certificate of " + request.csr
        finally:
            with self._lock:
                self.at_once -= 1

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def service(time: Time) -> Service:
    return Service(time)


def queue(service: Service, *, rate: float = 10, outstanding: int = 1) -> PacedQueue:
    time = service.time
    return PacedQueue(service, rate=rate, outstanding=outstanding, monotonic=time.monotonic, sleep=time.sleep)


def busy(**facts: int) -> Unavailable:
    return Unavailable("issuer.busy", "busy", hint="Wait.", **facts)


def test_every_request_gets_one_answer(service: Service):
    answers = list(queue(service, outstanding=8).answers(requests(50)))
    assert {request.device_serial: answer for request, answer in answers} == {
        request.device_serial: b"certificate of " + request.csr for request in requests(50)
    }
    assert len(service.asked) == 50
    assert service.most <= 8


def test_never_faster_than_the_rate(service: Service):
    list(queue(service, rate=10).answers(requests(20)))
    times = [at for at, _ in service.asked]
    assert all(later - earlier > 0.0999 for earlier, later in pairwise(times))
    assert service.time.now == pytest.approx(1.9)


def test_a_request_is_taken_only_when_there_is_room(service: Service):
    taken: list[int] = []

    def counted() -> Iterator[SigningRequest]:
        for number, request in enumerate(requests(10)):
            taken.append(number)
            yield request

    answers = queue(service, outstanding=3).answers(counted())
    next(answers)
    assert len(taken) <= 3
    answers.close()
    assert service.at_once == 0


def test_what_was_not_decided_is_asked_again_with_longer_pauses(service: Service):
    service.problems["SN-0"] = [busy(), busy(retry_after=7), busy()]
    ((_, answer),) = queue(service, rate=1000).answers(requests(1))
    assert answer == b"certificate of 0"
    times = [at for at, _ in service.asked]
    assert [later - earlier for earlier, later in pairwise(times)] == [0.5, 7, 14]


def test_a_service_that_is_never_ready_is_left_alone(service: Service):
    service.problems["SN-0"] = [busy() for _ in range(9)]
    ((_, answer),) = queue(service).answers(requests(1))
    assert isinstance(answer, Unavailable)
    assert len(service.asked) == 5


def test_a_long_wait_is_the_callers(service: Service):
    service.problems["SN-0"] = [busy(retry_after=3600)]
    ((_, answer),) = queue(service).answers(requests(1))
    assert isinstance(answer, Unavailable)
    assert len(service.asked) == 1


def test_a_no_is_not_asked_again(service: Service):
    service.problems["SN-1"] = [Refused("issuer.refused", "no", hint="Change it.")]
    answers = {request.device_serial: answer for request, answer in queue(service).answers(requests(3))}
    assert isinstance(answers["SN-1"], Refused)
    assert answers["SN-2"] == b"certificate of 2"
    assert len(service.asked) == 3
