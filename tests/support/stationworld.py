"""A small factory on disk: two CAs, an order with a pool, an order with keys born in devices, a station with heads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from birthmark.adapters.engines.worker import BulkWorker
from birthmark.adapters.journal import FileJournal
from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.adapters.targets.files import FilesTarget
from birthmark.model.events import CaCreated, StationAdded, WorkspaceCreated, decode_entry, utc_text
from birthmark.model.ids import OrderId
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import ALGORITHMS
from birthmark.pki.issuer import Issuer, issue_ca_certificate
from birthmark.pki.profile import load_preset
from birthmark.ports import Journal, Ledger, MadeChunk, MakeTask, SignedChunk, SignTask, Target
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.wire.receipt import station_key_name
from birthmark.wire.vault import VaultKey
from birthmark.workflow.line.draw import PoolSource
from birthmark.workflow.line.issue import IssueSource
from birthmark.workflow.line.localsource import LocalSource
from birthmark.workflow.line.rework import Rework
from birthmark.workflow.line.station import Outcome, ProvisionRequest, StationPost, provision
from birthmark.workflow.orders.fulfil import Fulfilment
from birthmark.workflow.orders.order import NewOrder, create_order
from birthmark.workflow.orders.permits import Permits
from support.fences import OPEN

__all__ = ["BORN", "ORIGIN", "POOLED", "STATION", "Factory", "InlineEngine", "Line", "build_factory", "events_of"]

ORIGIN, STATION = "birthmark.test/line", "line-1"
POOLED = tuple(f"SN-{number:04d}" for number in range(4))
BORN = tuple(f"EL-{number:04d}" for number in range(4))
VALUES = {"pen": "32473"}
PASSPHRASE = Secret(b"only a test")


class InlineEngine:
    """Implements ``ports.Engine`` without processes."""

    def __init__(self, worker: BulkWorker) -> None:
        self._worker = worker
        self._done: list[MadeChunk | SignedChunk] = []

    def make(self, task: MakeTask) -> None:
        self._done.append(self._worker.make(task))

    def sign(self, task: SignTask) -> None:
        self._done.append(self._worker.sign(task))

    def results(self) -> list[MadeChunk | SignedChunk]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        return


@dataclass
class Factory:
    """What survives a power cut: files."""

    root: Path
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    @property
    def ledger_path(self) -> Path:
        return self.root / "ledger" / "ledger.db"

    def copy(self, to: Path) -> Factory:
        shutil.copytree(self.root, to)
        return Factory(to, self.clock)

    def read_key(self, name: str) -> Any:
        return load_pem_private_key((self.root / f"{name}.pem").read_bytes(), None)

    @contextmanager
    def line(self, *, station: str = STATION, journal: bool = True) -> Iterator[Line]:
        ledger = SqliteLedger(self.ledger_path, clock=self.clock)
        opened = FileJournal(self.root / f"{station}.jsonl") if journal else None
        try:
            yield Line(self, ledger, opened, station)
        finally:
            if opened is not None:
                opened.close()
            ledger.close()


class Line:
    """One running station process: everything opened on the files of a factory."""

    def __init__(self, factory: Factory, ledger: SqliteLedger, journal: FileJournal | None, station: str) -> None:
        self.factory = factory
        self.ledger = ledger
        self.records = ledger.records
        self.journal = journal
        self.station = station
        self.clock = factory.clock
        self.vault_key = VaultKey.from_pem((factory.root / "vault.pem").read_bytes(), PASSPHRASE)
        self.permits = self.make_permits(ledger)
        self.receipt_key: Ed25519PrivateKey = factory.read_key("station")

    def make_permits(self, ledger: Ledger) -> Permits:
        return Permits(
            ledger=ledger,
            records=self.records,
            issuer=self.issuer,
            profile=load_preset,
            values=lambda product: VALUES,
            clock=self.clock,
        )

    def chain_of(self, ca: str) -> tuple[bytes, ...]:
        return tuple(self.records.ca(name).certificate for name in (ca, "root"))

    def issuer(self, ca: str) -> Issuer:
        issuing, root = (x509.load_der_x509_certificate(der) for der in self.chain_of(ca))
        return Issuer(issuing, self.factory.read_key(ca), [root])

    def source(self, ledger: Ledger | None = None) -> LocalSource:
        used: Any = ledger or self.ledger
        pool = PoolSource(
            ledger=used, records=self.records, vault_key=self.vault_key, chain_of=self.chain_of, clock=self.clock
        )
        permits = self.permits if ledger is None else self.make_permits(used)
        issue = IssueSource(ledger=used, records=self.records, permits=permits, clock=self.clock, entropy=os.urandom)
        return LocalSource(pool=pool, issue=issue)

    def reworks(self, ledger: Ledger | None = None) -> Rework:
        return Rework(
            ledger=ledger or self.ledger,
            records=self.records,
            permits=self.permits,
            recipient=self.vault_key.recipient(),
            clock=self.clock,
            entropy=os.urandom,
        )

    def post(self, ledger: Ledger | None = None, journal: Journal | None = None) -> StationPost:
        used = journal or self.journal
        assert used is not None
        return StationPost(
            name=self.station,
            origin=ORIGIN,
            software="birthmark test",
            ledger=ledger or self.ledger,
            records=self.records,
            journal=used,
            receipt_key=self.receipt_key,
            chain_of=self.chain_of,
            clock=self.clock,
            monotonic=time.perf_counter,
            entropy=os.urandom,
        )

    def uri(self, device_serial: str) -> str:
        born = "?key=born" if device_serial.startswith("EL") else ""
        return f"files:out/{device_serial}{born}"

    def target(self, device_serial: str, uri: str | None = None) -> FilesTarget:
        directory = self.factory.root / "out" / device_serial
        directory.mkdir(parents=True, exist_ok=True)
        return FilesTarget(uri or self.uri(device_serial), secrets=lambda reference: PASSPHRASE, base=self.factory.root)

    def provision(self, device_serial: str, *, target: Target | None = None, **options: Any) -> Outcome:
        """Provision at this station with its real parts, or with those named in ``options``."""
        ledger, journal = options.pop("ledger", None), options.pop("journal", None)
        uri = options.pop("uri", None) or self.uri(device_serial)
        return provision(
            self.post(ledger, journal),
            ProvisionRequest(device_serial, uri, options.pop("attempt", None)),
            target=target or self.target(device_serial),
            source=options.pop("source", None) or self.source(ledger),
            fence=options.pop("fence", None) or OPEN,
            **options,
        )

    def vkey(self) -> str:
        return encode_vkey(station_key_name(ORIGIN, self.station), public_octets(self.receipt_key))


def events_of(ledger: SqliteLedger, device_serial: str | None = None) -> list[Any]:
    """Return all events of the log, or those that name one device."""
    events = [decode_entry(entry)[0] for _, entry in ledger.entries(0, ledger.head().size)]
    return [e for e in events if device_serial is None or getattr(e, "device", None) == device_serial]


def build_factory(root: Path, *, clock: Callable[[], datetime] | None = None, ca_days: int = 7300) -> Factory:
    """Make the files of a factory: orders ``pooled`` (made) and ``born`` (open), one station."""
    factory = Factory(root) if clock is None else Factory(root, clock)
    now = factory.clock()
    root.mkdir(parents=True, exist_ok=True)
    (root / "vault.pem").write_bytes(VaultKey.generate().to_pem(PASSPHRASE))
    keys = {"root": ALGORITHMS["p256"].generate(), "issuing": ALGORITHMS["p256"].generate()}
    for name, key in {**keys, "station": Ed25519PrivateKey.generate()}.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (root / f"{name}.pem").write_bytes(pem)
    first = WorkspaceCreated(
        at=utc_text(now), workspace="test", origin=ORIGIN, site_prefix="0101", software="test", by="test"
    )
    ledger = SqliteLedger.create(factory.ledger_path, first=first, clock=factory.clock)
    _make_cas(ledger, keys, now - timedelta(days=1), ca_days)
    ledger.close()
    with factory.line() as line:
        station = StationAdded(at=utc_text(now), station=STATION, vkey=line.vkey(), by="test")
        with line.ledger.transaction() as tx:
            tx.append(station)
        _make_orders(line)
    return factory


def _make_cas(ledger: SqliteLedger, keys: dict[str, Any], moment: datetime, days: int) -> None:
    import msgspec

    issuer: Issuer | None = None
    for name in ("root", "issuing"):
        profile = load_preset(f"{name}-ca" if name == "root" else "issuing-ca")
        if name == "issuing":
            profile = msgspec.structs.replace(profile, validity=msgspec.structs.replace(profile.validity, days=days))
        der = issue_ca_certificate(
            profile,
            subject_key=keys[name].public_key(),
            issuer=issuer,
            cert_serial=b"\x01" + os.urandom(15),
            not_before=moment,
            values={"maker": "Test Maker", "ca_name": f"Test {name}"},
            lint=lambda certificate, issuer_der: [],
            self_key=keys[name] if issuer is None else None,
        )
        issuer = Issuer(x509.load_der_x509_certificate(der), keys[name]) if issuer is None else issuer
        event = CaCreated(
            at=utc_text(moment),
            ca=name,
            kind="root" if name == "root" else "issuing",
            key_scheme="file",
            profile=profile.name,
            cert_sha256="00" * 32,
            transcript_sha256="00" * 32,
            by="test",
            issuer=None if name == "root" else "root",
        )
        with ledger.transaction() as tx:
            tx.append(event, der)


def _make_orders(line: Line) -> None:
    for name, origin, serials in (("pooled", "injected", POOLED), ("born", "device", BORN)):
        order = NewOrder(
            order=OrderId(name),
            product="thermometer",
            profile=DEVICE_PROFILE,
            key_algorithm="p256",
            key_origin="injected" if origin == "injected" else "device",
            ca="issuing",
            by="test",
        )
        create_order(line.ledger, order, serials, clock=line.clock)
    make_pool(line, "pooled")


def make_pool(line: Line, name: str) -> None:
    """Make the identities of an injected order."""
    order = line.records.order(name)
    assert order is not None
    permit = line.permits.for_order(order)
    worker = BulkWorker(line.permits.issuer("issuing"), permit, line.vault_key.recipient(), os.urandom)
    Fulfilment(
        order,
        template=permit.template.template_hash.hex(),
        ledger=line.ledger,
        records=line.records,
        engine=InlineEngine(worker),
        clock=line.clock,
        depth=2,
    ).run(lambda count: None)


DEVICE_PROFILE = load_preset("tls-client")
