"""An authority and its sites on disk, in every mode, with real stations: what bundles and grants do is done by hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from birthmark.adapters.engines.worker import BulkWorker
from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.model import events as e
from birthmark.model.ids import OrderId
from birthmark.pki.issuer import issue_ca_certificate
from birthmark.pki.profile import parse_profile
from birthmark.ports import CredentialRequest, SealedChunk, Source
from birthmark.shell.line.heads import open_heads
from birthmark.shell.sites.ingest import IngestResult, ingest_file
from birthmark.shell.sites.report import write_report_file
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.setup import SetupRequest, create_workspace
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.wire.receipt import station_key_name
from birthmark.wire.service import CredentialAnswer, CredentialAsked
from birthmark.workflow.line.handover import credential_answer
from birthmark.workflow.line.receive import ReceivingSource
from birthmark.workflow.line.rework import Rework
from birthmark.workflow.orders.fulfil import Fulfilment
from birthmark.workflow.orders.order import NewOrder, create_order
from support.stationworld import InlineEngine

__all__ = [
    "Mode",
    "Pair",
    "Site",
    "findings",
    "made_again",
    "make_pool",
    "open_bundle",
    "open_order",
    "provision",
    "provision_online",
    "report",
    "take",
    "totals",
]

Mode = Literal["online", "factory_ca", "pool"]
VALUES = {"pen": "99999", "hw_type": "1.3.6.1.4.1.99999.1.1", "vid": "FFF1", "pid": "8000"}


@dataclass
class Site:
    """A site's workspace directory and what its authority calls it."""

    name: str
    root: Path
    mode: Mode
    prefix: str

    @contextmanager
    def open(self) -> Iterator[Workspace]:
        with open_workspace(self.root) as workspace:
            yield workspace

    def copy(self, to: Path) -> Site:
        shutil.copytree(self.root, to)
        return Site(self.name, to, self.mode, self.prefix)


class Pair:
    """The authority below ``root / "hq"`` and its sites beside it."""

    def __init__(self, root: Path, hq: Path) -> None:
        self.root = root
        self.hq = hq

    @classmethod
    def make(cls, root: Path) -> Pair:
        """Make the authority."""
        make_workspace(root / "hq")
        return cls.at(root)

    @classmethod
    def at(cls, root: Path) -> Pair:
        """Return what was made before."""
        return cls(root, root / "hq")

    @contextmanager
    def authority(self) -> Iterator[Workspace]:
        with open_workspace(self.hq) as workspace:
            yield workspace

    def add_site(self, name: str, mode: Mode) -> Site:
        """Make a site and its grant: log, station and, where it signs for itself, a delegated CA."""
        site = Site(name, self.root / name, mode, f"02{len(list(self.root.glob('*/birthmark.toml'))):02x}")
        with self.authority() as hq:
            _make_site(site, hq)
            with open_workspace(site.root, publish=False) as own:
                settings = own.settings
                log_key: Any = own.private_key(settings.log.key)
                station_key: Any = own.private_key(settings.stations["line1"].key)
                station_vkey = encode_vkey(station_key_name(settings.origin, "line1"), public_octets(station_key))
                at = e.utc_text(own.clock())
                added = e.SiteAdded(
                    at=at, site=name, origin=settings.origin, vkey=encode_vkey(settings.origin, public_octets(log_key)),
                    site_prefix=site.prefix, mode=mode, by="test",
                )  # fmt: skip
                with hq.ledger.transaction() as tx:
                    tx.append(added, b"request")
                    tx.append(e.StationAdded(at=at, station=f"{name}/line1", vkey=station_vkey, by="test"))
                _grant(hq, own, site)
        return site

    def order(self, name: str, site: Site | None, serials: list[str], *, origin: str = "injected") -> None:
        """Order devices and assign them to a site; make them where the authority makes them."""
        with self.authority() as hq:
            _create_order(hq, name, serials, origin)
            if site is None or site.mode != "factory_ca":
                make_pool(hq, name)
            if site is not None:
                with hq.ledger.transaction() as tx:
                    tx.append(
                        e.OrderAssigned(
                            at=e.utc_text(hq.clock()), order=name, site=site.name, mode=site.mode, by="test"
                        )
                    )

    def send(self, name: str, site: Site, *, bundle: str | None = None) -> None:
        """Let an order travel to its site, in mode ``pool`` with its identities."""
        bundle = bundle or sha256(name.encode()).hexdigest()[:32]
        with self.authority() as hq, site.open() as own:
            order = hq.records.order(name)
            if site.mode == "pool" and hq.records.bundle(bundle) is None:
                _consign(hq, name, site, bundle)
            open_order(own, hq, name)
            if site.mode == "pool":
                open_bundle(own, hq, name, bundle)
            elif order.key_origin == "injected":
                make_pool(own, name)

    def replay(self) -> None:
        from birthmark.adapters.ledgers.sqlite.replay import replay_ledger

        with open_workspace(self.hq, publish=False) as hq:
            replay_ledger(hq.ledger, progress=lambda count: None)


def _make_site(site: Site, hq: Workspace) -> None:
    secrets = site.root / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    shutil.copy(hq.root / "secrets" / "passphrase", secrets / "passphrase")
    request = SetupRequest(
        name=site.name, origin=f"{hq.settings.origin}/site/{site.name}", maker="Example Devices", product="device",
        preset="tls-client", key_algorithm="p256", secret=f"file:{(secrets / 'passphrase').resolve()}",
        site_prefix=site.prefix, values=VALUES,
    )  # fmt: skip
    create_workspace(site.root, request, secrets=SecretsResolver())
    # The log of a site says what it is; a pooled key is opened with the vault key it was sealed to.
    shutil.rmtree(site.root / "ledger")
    (site.root / "ledger").mkdir(mode=0o700)
    for name in ("checkpoint", "tile"):
        path = site.root / "log" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copy(hq.root / "keys" / "vault.pem", site.root / "keys" / "vault.pem")
    first = e.WorkspaceCreated(
        at=e.utc_text(hq.clock()), workspace=site.name, origin=request.origin, site_prefix=site.prefix,
        software="test", by="test", role="site",
    )  # fmt: skip
    SqliteLedger.create(site.root / "ledger" / "ledger.db", first=first, clock=hq.clock).close()


def _grant(hq: Workspace, own: Workspace, site: Site) -> None:
    at = e.utc_text(own.clock())
    station_key: Any = own.private_key(own.settings.stations["line1"].key)
    vkey = encode_vkey(station_key_name(own.settings.origin, "line1"), public_octets(station_key))
    root, issuing = hq.ca_certificate("root"), hq.ca_certificate("issuing")
    kind = "external"
    if site.mode == "factory_ca":
        issuing, kind = _delegate(hq, own, site), "issuing"
    with own.ledger.transaction() as tx:
        tx.append(e.StationAdded(at=at, station="line1", vkey=vkey, by="test"))
        tx.append(
            e.GrantAccepted(
                at=at, authority=hq.settings.origin, vkey=hq.publication.vkey, mode=site.mode, grant_sha256="00" * 32,
                by="test",
            ),
            b"grant",
        )  # fmt: skip
        tx.append(_ca_created(at, "root", "external", None, root), root)
        tx.append(_ca_created(at, "issuing", kind, "root", issuing), issuing)
    own.publish()


def _ca_created(at: str, ca: str, kind: Any, issuer: str | None, der: bytes, site: str | None = None) -> e.CaCreated:
    return e.CaCreated(
        at=at, ca=ca, kind=kind, key_scheme="file", profile="issuing-ca", cert_sha256=sha256(der).hexdigest(),
        transcript_sha256="00" * 32, by="test", issuer=issuer, site=site,
    )  # fmt: skip


def _delegate(hq: Workspace, own: Workspace, site: Site) -> bytes:
    """Let the root sign an issuing CA whose key is born at the site."""
    uri = own.settings.cas["issuing"].key
    key = own.keys(uri).generate(uri, "p256")
    der = issue_ca_certificate(
        parse_profile((hq.root / "profiles" / "issuing-ca.toml").read_bytes()),
        subject_key=key.public_key(), issuer=hq.issuer("root"), cert_serial=b"\x01" + os.urandom(15),
        not_before=hq.clock(), values={"maker": "Example Devices", "ca_name": f"{site.name} CA"},
        lint=lambda certificate, issuer_der: [],
    )  # fmt: skip
    at = e.utc_text(hq.clock())
    with hq.ledger.transaction() as tx:
        tx.append(_ca_created(at, f"{site.name}-issuing", "issuing", "root", der, site.name), der)
    return der


def _create_order(workspace: Workspace, name: str, serials: list[str], origin: Any) -> None:
    settings = workspace.product("device")
    order = NewOrder(
        order=OrderId(name), product="device", profile=workspace.profile(settings.profile),
        key_algorithm=settings.key_algorithm, key_origin=origin, ca=settings.ca, by="test",
    )  # fmt: skip
    create_order(workspace.ledger, order, serials, clock=workspace.clock)


def make_pool(workspace: Workspace, name: str) -> None:
    """Make the identities of an order."""
    order = workspace.records.order(name)
    permit = workspace.permits.for_order(order)
    worker = BulkWorker(workspace.permits.issuer(order.ca), permit, workspace.vault_recipient, os.urandom)
    Fulfilment(
        order, template=permit.template.template_hash.hex(), ledger=workspace.ledger, records=workspace.records,
        engine=InlineEngine(worker), clock=workspace.clock, depth=2,
    ).run(lambda count: None)  # fmt: skip


def _consign(hq: Workspace, name: str, site: Site, bundle: str) -> None:
    order, at = hq.records.order(name), e.utc_text(hq.clock())
    chunks = hq.records.chunks(name, "issued", -1, 999)
    sealed = e.BundleSealed(
        at=at, bundle=bundle, order=name, site=site.name, devices=order.quantity, suite="mlkem768-x25519", by="test"
    )
    with hq.ledger.transaction() as tx:
        tx.append(sealed)
        for chunk in chunks:
            tx.append(e.Consigned(at=at, bundle=bundle, order=name, chunk=chunk.chunk, count=chunk.count))


def chunk_serials(workspace: Workspace, seq: int) -> list[str]:
    ((_, entry),) = workspace.ledger.entries(seq, 1)
    return e.decode_entry(entry)[1].decode().split("\n")


def open_order(own: Workspace, hq: Workspace, name: str, **changes: Any) -> None:
    """Take a work order in at a site: the same order, the same chunks; ``changes`` are what a cheat makes of it."""
    at, order = e.utc_text(own.clock()), hq.records.order(name)
    chunks = [c for s in ("ordered", "issued", "consigned") for c in hq.records.chunks(name, s, -1, 999)]
    members = {
        "order": name, "product": order.product, "profile": order.profile, "key_algorithm": order.key_algorithm,
        "key_origin": order.key_origin, "ca": "issuing", "quantity": order.quantity, "chunks": order.chunks,
    }  # fmt: skip
    extra = changes.pop("extra", [])
    members.update(changes)
    with own.ledger.transaction() as tx:
        tx.append(e.OrderCreated(at=at, by="test", **members))
        for chunk in chunks:
            devices = chunk_serials(hq, chunk.seq)
            event = e.DevicesOrdered(at=at, order=name, chunk=chunk.chunk, first=chunk.first, count=chunk.count)
            tx.append(event, "\n".join(devices).encode())
        if extra:
            event = e.DevicesOrdered(at=at, order=name, chunk=len(chunks), first=order.quantity, count=len(extra))
            tx.append(event, "\n".join(extra).encode())


def open_bundle(
    own: Workspace, hq: Workspace, name: str, bundle: str, *, change: Callable[[bytes], bytes] = lambda der: der
) -> None:
    """Take the identities of a bundle in at a site."""
    at = e.utc_text(own.clock())
    for chunk in hq.records.chunks(name, "consigned", -1, 999):
        devices = chunk_serials(hq, chunk.seq)
        intent = hq.records.intent(hq.records.device(devices[0]).intent)
        certificates = [
            change(e.decode_entry(entry)[1]) for _, entry in hq.ledger.entries(intent.issued_seq, intent.count)
        ]
        keys = [intent.records[at_ + 8 : at_ + 40] for at_ in range(0, len(intent.records), 72)]
        with own.ledger.transaction() as tx:
            requested = e.Requested(at=at, order=name, count=chunk.count, source=f"bundle:{bundle}", chunk=chunk.chunk)
            number = tx.append(requested, b"".join(key + bytes(32) for key in keys))
            entries = [
                e.encode_entry(e.Received(at=at, device=serial, intent=number), der)
                for serial, der in zip(devices, certificates, strict=True)
            ]
            tx.append_issued(
                number, count=chunk.count,
                entries=b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries),
                leaf_hashes=b"".join(sha256(b"\0" + entry).digest() for entry in entries),
            )  # fmt: skip
            with hq.ledger.transaction() as other:
                read = [other.vault.read(intent.intent, place) for place in range(chunk.count)]
            slots = [slot for _, slot in (item for item in read if item is not None)]
            encapsulated = next(item[0] for item in read if item is not None)
            tx.vault.put(number, SealedChunk(encapsulated, len(slots[0]), b"".join(slots)))
    opened = e.BundleOpened(at=at, bundle=bundle, order=name, devices=1, manifest_sha256="00" * 32, by="test")
    with own.ledger.transaction() as tx:
        tx.append(opened, b"manifest")


def provision(site: Site, *serials: str, born: bool = False) -> None:
    """Provision devices at the site's station into real directories."""
    with site.open() as own, open_heads(own) as heads:
        for serial in serials:
            directory = site.root / "out" / serial
            directory.mkdir(parents=True)
            heads.provision(serial, f"files:{directory}{'?key=born' if born else ''}")


class _Desk:
    """The authority's service without the network: what it draws it answers, the key sealed to the site."""

    def __init__(self, hq: Workspace, own: Workspace, source: Source, station: str) -> None:
        self._hq, self._own, self._source, self._station = hq, own, source, station

    def credential(self, asked: CredentialAsked) -> CredentialAnswer:
        request = CredentialRequest(asked.attempt, self._station, asked.device_serial, asked.csr)
        found = self._source.obtain(request)
        order = self._hq.records.order(self._hq.records.device(asked.device_serial).order)
        return credential_answer(asked.attempt, found, order, self._own.vault_recipient, os.urandom)


def provision_online(pair: Pair, site: Site, name: str, serials: list[str]) -> None:
    """Provision devices at an online site; the authority answers in this process."""
    with pair.authority() as hq, site.open() as own:
        open_order(own, hq, name)
        with open_heads(hq) as desk, open_heads(own) as heads:
            heads.source = ReceivingSource(
                authority=_Desk(hq, own, desk.source, f"{site.name}/line1"), ledger=heads.post.ledger,
                records=own.records, vault_key=lambda: own.vault_key, chain_of=own.chain, profile=own.profile,
                values=lambda product: own.product(product).values, clock=own.clock,
            )  # fmt: skip
            for serial in serials:
                directory = site.root / "out" / serial
                directory.mkdir(parents=True)
                heads.provision(serial, f"files:{directory}")


def report(site: Site, path: Path, *, since: int = 0) -> Path:
    """Write the site's report."""
    with site.open() as own:
        own.publish()
        write_report_file(own, path, since=since)
    return path


def take(pair: Pair, path: Path, **options: Any) -> IngestResult:
    """Ingest one report at the authority."""
    with pair.authority() as hq:
        return ingest_file(hq, path, **options)


def findings(result: IngestResult) -> list[tuple[str, str | None]]:
    return [(item.code, item.device) for item in result.findings]


def totals(pair: Pair, order: str) -> dict[str, int]:
    """Return what is not zero of an order's totals, after checking that nothing is lost."""
    with open_workspace(pair.hq, publish=False) as hq:
        record, quantity = hq.records.totals(order), hq.records.order(order).quantity
    counts = {name: getattr(record, name) for name in record.__slots__}
    assert counts.pop("ordered") == sum(counts.values()) == quantity
    return {name: count for name, count in counts.items() if count}


def made_again(workspace: Workspace) -> Rework:
    """Return what ends identities in a workspace."""
    return Rework(
        ledger=workspace.ledger, records=workspace.records, permits=workspace.permits,
        recipient=workspace.vault_recipient, clock=workspace.clock, entropy=workspace.entropy,
    )  # fmt: skip
