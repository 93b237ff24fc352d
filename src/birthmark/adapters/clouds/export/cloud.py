"""``export:DIRECTORY``: any registry can follow a file that only grows, without an account and without a network."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Lock

from birthmark.adapters.clouds.export.lines import line_of
from birthmark.adapters.clouds.export.store import ExportStore
from birthmark.adapters.durable import naming_os_errors, write_durably
from birthmark.errors import Misconfigured, Refused
from birthmark.ports import (
    CloudAuthority,
    CloudLimits,
    CloudPage,
    CloudRecord,
    Estimate,
    EstimatedStep,
    Outcome,
    ProvePossession,
    Registration,
    SecretsHandler,
)

__all__ = ["ExportCloud"]

_BATCH = 500
_CALLS_A_MINUTE = 60_000.0
_PAGE = 1000


class ExportCloud:
    """Implements ``ports.Cloud`` as files: ``devices.jsonl``, and ``ca/`` with the CA certificates that it names."""

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        scheme, colon, place = uri.partition(":")
        if scheme != "export" or not colon or not place or "?" in place or "\0" in place:
            raise Misconfigured(
                "cloud.export.uri",
                f"{uri[:200]!a} does not name an export",
                hint="Write export:DIRECTORY, without options; a relative directory is below the workspace.",
            )
        self._directory = base / place
        self._place = place
        self._lock = Lock()
        self._store: ExportStore | None = None
        self._kept: set[str] = set()

    @property
    def name(self) -> str:
        return f"export:{self._place}"

    @property
    def limits(self) -> CloudLimits:
        return CloudLimits(batch=_BATCH, calls_a_minute=_CALLS_A_MINUTE)

    def expected(self, registration: Registration) -> CloudRecord:
        if registration.standing == "enabled" and not registration.certificates:
            raise Refused(
                "cloud.export.certificate",
                f"{registration.device_serial} is to be let in and has no certificate",
                hint="Run `birthmark audit verify`: a verified device has one on record.",
                device_serial=registration.device_serial,
            )
        hashes = tuple(sorted(sha256(der).hexdigest() for der in registration.certificates))
        return CloudRecord(registration.device_serial, registration.device_serial, registration.standing, hashes)

    def estimate(self, devices: int, authorities: Sequence[CloudAuthority]) -> Estimate:
        calls = -(-devices // _BATCH)
        step = EstimatedStep(
            "write lines into devices.jsonl",
            calls,
            calls / _CALLS_A_MINUTE,
            f"up to {_BATCH} lines are written at once",
        )
        return Estimate((step,))

    def prepare(self, authorities: Sequence[CloudAuthority], prove: ProvePossession) -> Sequence[str]:
        with self._opened():
            return [
                self._keep(der, authority.name)
                for authority in authorities
                for der in (*authority.certificates, *authority.chain)
            ]

    def calls_of(self, registrations: Sequence[Registration]) -> int:
        return 1 if registrations else 0

    def tell(self, registrations: Sequence[Registration]) -> Sequence[Outcome]:
        told: list[tuple[Registration, CloudRecord]] = []
        outcomes: list[Outcome] = []
        with self._opened() as store:
            for registration in registrations:
                serial = registration.device_serial
                try:
                    record = self.expected(registration)
                except Refused as refusal:
                    outcomes.append(Outcome(serial, "refused", refusal.code, refusal.message))
                    continue
                same = store.find(serial) == record
                outcomes.append(Outcome(serial, "same" if same else "done"))
                if not same:
                    told.append((registration, record))
            for der in {der: None for registration, _ in told for der in registration.chain}:
                self._keep(der, "")
            if told:
                store.append([line_of(registration) for registration, _ in told], [record for _, record in told])
        return outcomes

    def page(self, after: str) -> CloudPage:
        with self._opened() as store:
            if not after:
                store.read_again()  # what holds is the file, also where somebody changed it
            records = store.page(after, _PAGE)
        return CloudPage(records, records[-1].key if len(records) == _PAGE else None)

    def close(self) -> None:
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    @contextmanager
    def _opened(self) -> Iterator[ExportStore]:
        with self._lock:
            if self._store is None:
                self._store = ExportStore(self._directory)
            with self._store.alone():
                yield self._store

    def _keep(self, der: bytes, name: str) -> str:
        digest = sha256(der).hexdigest()
        path = self._directory / "ca" / f"{digest}.pem"
        if digest in self._kept or path.is_file():
            self._kept.add(digest)
            return f"{name or digest}: {path.name} is there"
        with naming_os_errors(path):
            path.parent.mkdir(mode=0o755, exist_ok=True)
        write_durably(path, ssl.DER_cert_to_PEM_cert(der).encode(), mode=0o644)
        self._kept.add(digest)
        return f"{name or digest}: {path.name} written"
