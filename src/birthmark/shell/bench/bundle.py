"""``bench bundle``: identities a second that are sealed for a site and opened there, once their keys exist."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path

from birthmark.adapters.memory import peak_mb
from birthmark.errors import StationFault
from birthmark.shell.bench.pair import assign_order, introduce, make_site
from birthmark.shell.orders.bulk import default_processes, make_order
from birthmark.shell.sites.bundles import manifest_path, open_for_site, seal_for_site
from birthmark.shell.throwaway import bench_order, throw_away_workspace
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.wire.bundle import BUNDLE_MAGIC
from birthmark.wire.frames import read_whole_frames
from birthmark.wire.hpke import DEFAULT_SUITE, SUITES
from birthmark.wire.vault import VaultKey
from birthmark.workflow.orders.order import create_order, serial_range

__all__ = ["bench_bundle"]

_CHUNKS_A_COMMIT = 8
_INFO = b"floor"


@dataclass(frozen=True, slots=True)
class _Measured:
    """Of one run in a process of its own: seconds on the clock, of the processor, and MB at the most."""

    seconds: float
    cpu_s: float
    peak_mb: float


def bench_bundle(count: int, *, parent: Path, progress: Callable[[int], None]) -> dict[str, object]:
    """Make ``count`` identities, seal them and open them at a site, each in a fresh process on one core.

    The floor is made of the same octets: read, hashed, their content keys sealed or opened, written to a file and
    synced (seal) or put as blobs into SQLite in as many synced transactions (open). ``rate`` and ``floor`` count both
    ways together; rates ``per_core`` count processor time alone. The time that the keys took is in nothing.
    """
    with throw_away_workspace(parent) as authority:
        _prepare(authority, count, progress)
        root = authority.root
        bundle = root.parent / "bundle"
        sealed = _alone(_seal, root, bundle)
        opened = _alone(_open, root, bundle)
        floor_seal = _alone(_floor_seal, root, bundle)
        floor_open = _alone(_floor_open, root, bundle)
        octets = bundle.stat().st_size
    seconds, floor_s = sealed.seconds + opened.seconds, floor_seal.seconds + floor_open.seconds
    return {
        "bench": "bundle",
        "count": count,
        "octets_each": round(octets / count),
        "rate": round(count / seconds),
        "floor": round(count / floor_s),
        "ratio": round(floor_s / seconds, 3),
        "seal_rate": round(count / sealed.seconds),
        "seal_per_core": round(count / sealed.cpu_s),
        "seal_floor": round(count / floor_seal.seconds),
        "seal_ratio": round(floor_seal.seconds / sealed.seconds, 3),
        "open_rate": round(count / opened.seconds),
        "open_per_core": round(count / opened.cpu_s),
        "open_floor": round(count / floor_open.seconds),
        "open_ratio": round(floor_open.seconds / opened.seconds, 3),
        "p50_ms": None,
        "p99_ms": None,
        "peak_mb": round(max(sealed.peak_mb, opened.peak_mb)),
    }


def _prepare(authority: Workspace, count: int, progress: Callable[[int], None]) -> None:
    order = bench_order(authority)
    create_order(authority.ledger, order, serial_range("th-0000000001", count), clock=authority.clock)
    make_order(authority, authority.records.order("bench"), processes=default_processes(), progress=progress)
    site = authority.root.parent / "site"
    make_site(site, authority, name="bench-site", site_prefix="0202")
    introduce(authority, site, mode="pool")
    assign_order(authority, "bench", "bench-site", "pool")


def _alone(work: Callable[[Path, Path], tuple[float, float]], root: Path, bundle: Path) -> _Measured:
    """Run one part in a process of its own, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, root, bundle))
    process.start()
    theirs.close()
    try:
        measured: _Measured = ours.recv()
    except EOFError:
        raise StationFault(
            "bench.part.failed",
            "a part of the bench ended before it was done",
            hint="Look at what it wrote to stderr.",
        ) from None
    finally:
        process.join()
    return measured


def _serve(pipe: Connection, work: Callable[[Path, Path], tuple[float, float]], root: Path, bundle: Path) -> None:
    seconds, cpu_s = work(root, bundle)
    pipe.send(_Measured(seconds, cpu_s, peak_mb()))


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def _seal(root: Path, bundle: Path) -> tuple[float, float]:
    with open_workspace(root) as authority:
        _ = authority.vault_key
        return _timed(
            lambda: seal_for_site(
                authority,
                order="bench",
                site="bench-site",
                suite=DEFAULT_SUITE,
                recipient=None,
                output=bundle,
                progress=lambda count: None,
            )
        )


def _open(root: Path, bundle: Path) -> tuple[float, float]:
    with open_workspace(root.parent / "site") as site:
        _ = site.vault_key
        manifest = manifest_path(bundle)
        return _timed(
            lambda: open_for_site(site, bundle=bundle, manifest=manifest, key=None, progress=lambda count: None)
        )


def _floor_seal(root: Path, bundle: Path) -> tuple[float, float]:
    suite, key = SUITES[DEFAULT_SUITE], VaultKey.generate()
    sealed, public = suite.seal(key.recipient().hpke_key, bytes(32), _INFO), key.recipient().hpke_key

    def copy() -> None:
        digest = sha256()
        with bundle.open("rb") as source, bundle.with_name("floor").open("wb", buffering=0) as target:
            for _, payload in read_whole_frames(source.read, BUNDLE_MAGIC):
                digest.update(payload)
                suite.open(key.hpke_key, sealed, _INFO)
                suite.seal(public, bytes(32), _INFO)
                target.write(payload)
            os.fsync(target.fileno())

    return _timed(copy)


def _floor_open(root: Path, bundle: Path) -> tuple[float, float]:
    suite, key = SUITES[DEFAULT_SUITE], VaultKey.generate()
    sealed, public = suite.seal(key.recipient().hpke_key, bytes(32), _INFO), key.recipient().hpke_key
    with closing(sqlite3.connect(bundle.with_name("floor.db"), isolation_level=None)) as database:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 2000"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE chunk (id INTEGER PRIMARY KEY, body BLOB)")

        def store() -> None:
            digest = sha256()
            with bundle.open("rb") as source:
                for number, (_, payload) in enumerate(read_whole_frames(source.read, BUNDLE_MAGIC)):
                    if not database.in_transaction:
                        database.execute("BEGIN IMMEDIATE")
                    digest.update(payload)
                    suite.open(key.hpke_key, sealed, _INFO)
                    suite.seal(public, bytes(32), _INFO)
                    database.execute("INSERT INTO chunk VALUES (?, ?)", (number, payload))
                    if number % _CHUNKS_A_COMMIT == 0:
                        database.execute("COMMIT")
            if database.in_transaction:
                database.execute("COMMIT")

        return _timed(store)
