"""A cloud in memory, with every fault that the port knows, for tests of what tells clouds; it keeps the laws itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import RLock

from birthmark.errors import Misconfigured, Refused, Unavailable
from birthmark.ports import (
    Cloud,
    CloudAuthority,
    CloudLimits,
    CloudPage,
    CloudRecord,
    Estimate,
    EstimatedStep,
    Outcome,
    ProvePossession,
    Registration,
)
from support.clouds.fleet import Fleet
from support.clouds.world import CloudWorld

__all__ = ["CLOUDS", "MemoryCloud", "MemoryService"]

_PAGE = 7


@dataclass
class MemoryService:
    """What the cloud holds. ``faults`` are taken one a call: ``throttled``, ``lost``, ``half``, ``refuses``, ``shut``;
    ``always`` comes whenever there is none. ``heard`` is each registration as it came, done or not.
    """

    records: dict[str, CloudRecord] = field(default_factory=dict)
    heard: list[Registration] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    always: str = ""
    calls: int = 0
    made: int = 0
    prepared: set[str] = field(default_factory=set)
    watch: Callable[[Registration], None] = lambda registration: None
    lock: RLock = field(default_factory=RLock)

    def fault(self) -> str:
        self.calls += 1
        return self.faults.pop(0) if self.faults else self.always


class MemoryCloud:
    """Implements ``ports.Cloud`` and ``ports.CountsCalls``. A serial with ``bad`` in it is refused there alone."""

    def __init__(self, service: MemoryService, *, batch: int = 5, lanes: int = 2) -> None:
        self._service = service
        self._limits = CloudLimits(batch, 600.0, lanes)
        self._sent = 0

    @property
    def name(self) -> str:
        return "memory:cloud"

    @property
    def limits(self) -> CloudLimits:
        return self._limits

    @property
    def calls(self) -> int:
        return self._sent

    def expected(self, registration: Registration) -> CloudRecord:
        serial = registration.device_serial
        if "never" in serial:
            raise Refused("cloud.name", f"{serial} is no name there", hint="Use another.", device_serial=serial)
        hashes = tuple(sorted(sha256(der).hexdigest() for der in registration.certificates))
        return CloudRecord(serial.lower(), serial, registration.standing, hashes)

    def estimate(self, devices: int, authorities: Sequence[CloudAuthority]) -> Estimate:
        calls = -(-devices // self._limits.batch)
        return Estimate((EstimatedStep("tell", calls, calls / self._limits.calls_a_minute),))

    def prepare(self, authorities: Sequence[CloudAuthority], prove: ProvePossession) -> Sequence[str]:
        lines = []
        for one in authorities:
            for der in one.certificates:
                digest = sha256(der).hexdigest()
                if digest not in self._service.prepared:
                    prove(one.name, digest[:16])
                    self._service.prepared.add(digest)
                    self._service.calls += 1
                    self._sent += 1
                    lines.append(f"{one.name}: made known")
                else:
                    lines.append(f"{one.name}: is known")
        return lines

    def calls_of(self, registrations: Sequence[Registration]) -> int:
        return 2 if registrations else 0

    def tell(self, registrations: Sequence[Registration]) -> Sequence[Outcome]:
        outcomes: dict[str, Outcome] = {}
        good: list[Registration] = []
        for one in registrations:
            try:
                self.expected(one)
                good.append(one)
            except Refused as refusal:
                outcomes[one.device_serial] = Outcome(one.device_serial, "refused", refusal.code, refusal.message)
        if good:
            outcomes |= {outcome.device_serial: outcome for outcome in self._call(good)}
        return [outcomes[one.device_serial] for one in registrations]

    def _call(self, told: Sequence[Registration]) -> list[Outcome]:
        with self._service.lock:
            self._sent += 1
            fault = self._service.fault()
            self._raise_before(fault)
            done = told[: len(told) // 2] if fault == "half" else told
            outcomes = [self._take(one) for one in done]
            if fault in ("lost", "half"):
                raise Unavailable("cloud.lost", "no answer came", hint="Try again.")
            return outcomes

    def _raise_before(self, fault: str) -> None:
        if fault == "throttled":
            raise Unavailable("cloud.throttled", "too many calls", hint="Wait.", retry_after=3)
        if fault == "refuses":
            raise Refused("cloud.call.refused", "no", hint="One of them is wrong.")
        if fault == "shut":
            raise Misconfigured("cloud.credentials", "it does not let us in", hint="Check the key.")

    def _take(self, told: Registration) -> Outcome:
        self._service.heard.append(told)
        self._service.watch(told)
        if "bad" in told.device_serial:
            return Outcome(told.device_serial, "refused", "cloud.record.refused", "400001 bad")
        record = self.expected(told)
        held = self._service.records.get(record.key)
        if held == record:
            return Outcome(told.device_serial, "same")
        self._service.made += held is None
        self._service.records[record.key] = record
        return Outcome(told.device_serial, "done")

    def page(self, after: str) -> CloudPage:
        with self._service.lock:
            self._sent += 1
            fault = self._service.fault()
            self._raise_before(fault)
            if fault:
                raise Unavailable("cloud.lost", "no answer came", hint="Try again.")
            keys = sorted(key for key in self._service.records if key > after)[:_PAGE]
            records = [self._service.records[key] for key in keys]
            return CloudPage(records, keys[-1] if len(keys) == _PAGE else None)

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def memory(directory: Path) -> Iterator[CloudWorld]:
    """Yield a cloud in memory."""
    fleet, service = Fleet(), MemoryService()

    def open_cloud() -> Cloud:
        return MemoryCloud(service)

    def change(device_serial: str) -> None:
        held = service.records[device_serial.lower()]
        other = sha256(fleet.certificate("somebody-else")).hexdigest()
        service.records[held.key] = CloudRecord(held.key, held.name, held.standing, (other,))

    def add(registration: Registration) -> None:
        record = MemoryCloud(service).expected(registration)
        service.records[record.key] = record

    def begin(fault: str) -> Callable[[], None]:
        return lambda: setattr(service, "always", fault)

    yield CloudWorld(
        fleet=fleet,
        open=open_cloud,
        calls=lambda: service.calls,
        snapshot=lambda: (dict(service.records), set(service.prepared)),
        change=change,
        add=add,
        remove=lambda device_serial: service.records.pop(device_serial.lower()),
        impossible=Registration("unit-never", "blocked", (), ()),
        refused=fleet.registration("unit-bad"),
        secrets=[],
        heal=begin(""),
        faults={fault: begin(fault) for fault in ("throttled", "lost", "shut", "refuses")},
    )


CLOUDS: dict[str, Callable[[Path], AbstractContextManager[CloudWorld]]] = {"memory": memory}
