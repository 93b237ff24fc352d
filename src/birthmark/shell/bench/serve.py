"""``bench serve``: certificates a second through the real service, beside verifying a CSR and signing alone."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.adapters.memory import peak_mb
from birthmark.model import events as e
from birthmark.shell.bench.accessfiles import AccessFiles
from birthmark.shell.bench.floor import run_floor
from birthmark.shell.bench.httpload import LoadResult, run_load
from birthmark.shell.bench.serviceprocess import running_service
from birthmark.shell.throwaway import bench_order, throw_away_workspace
from birthmark.shell.workspace.config import CONFIG_NAME
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.orders.order import create_order, serial_range

__all__ = ["bench_serve"]

_SITE = "bench"
_WARM_UP = 50


def bench_serve(
    clients: Sequence[int], count: int, *, parent: Path, ledger: str | None = None
) -> list[dict[str, object]]:
    """Let one service process answer ``count`` requests of each number of clients; return a result for each.

    Mutual TLS 1.3, kept connections, P-256 keys born in devices, every certificate durable in the ledger before its
    answer. The floor is one process that verifies a CSR and makes one signature, in the same minute; it is measured
    before and after, and the better one counts. ``half_load``: requests come at half of the measured rate. Service and
    floor have one processor to themselves, the clients have the others, if there is more than one. ``ledger``: URL of
    an empty database, by default a file below ``parent``; what the database server needs is not in ``service_cpu_us``.
    """
    mine = os.sched_getaffinity(0)
    others = mine - {served := min(mine)} or mine
    with throw_away_workspace(parent, ledger=ledger) as workspace:
        files = AccessFiles(workspace.root.parent / "tls")
        total = sum(count + count // 2 for _ in clients) + _WARM_UP
        requests = _make_requests(_prepare(workspace, files, total))
        tls = _client_tls(workspace.root.parent / "tls")
        with _on({served}):
            floor = run_floor(verify_and_sign, max(2000, count), 1)
            floor_cpu = _cpu_of(verify_and_sign(1000)) / 1000
        found = []
        log = workspace.root.parent / "serve.log"
        with running_service(workspace.root, log=log, processors={served}) as (port, process), _on(others):
            run_load(port, tls, [next(requests) for _ in range(_WARM_UP)], clients=1)
            for number in clients:
                batch = [next(requests) for _ in range(count)]
                half = [next(requests) for _ in range(count // 2)]
                found.append(_measure(port, process, tls, batch, half, number))
        with _on({served}):
            floor = max(floor, run_floor(verify_and_sign, max(2000, count), 1))
            floor_cpu = (floor_cpu + _cpu_of(verify_and_sign(1000)) / 1000) / 2
    floors = {"floor": round(floor, 1), "floor_cpu_us": round(floor_cpu * 1e6)}
    kind = "sqlite" if ledger is None else "postgres"
    return [
        {**_result(number, count, floors, *measured), "ledger": kind}
        for number, measured in zip(clients, found, strict=True)
    ]


def _cpu_of(work: Callable[[], None]) -> float:
    """Return the processor seconds of some work in this process."""
    before = time.process_time()
    work()
    return time.process_time() - before


def verify_and_sign(count: int) -> Callable[[], None]:
    """Verify a P-256 CSR and make one P-256 signature over a TBS-sized message, ``count`` times."""
    csrs = [_csr(f"dev-{number:06d}", ec.generate_private_key(ec.SECP256R1())) for number in range(100)]
    sign, scheme, message = ec.generate_private_key(ec.SECP256R1()).sign, ec.ECDSA(SHA256()), os.urandom(400)

    def loop() -> None:
        for number in range(count):
            if not x509.load_der_x509_csr(csrs[number % 100]).is_signature_valid:
                raise RuntimeError("a CSR of the floor does not verify")
            sign(message, scheme)

    return loop


def _csr(device_serial: str, key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_serial)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return request.public_bytes(Encoding.DER)


def _prepare(workspace: Workspace, files: AccessFiles, total: int) -> list[str]:
    """Make the site, its station\'s access and the order; return its devices."""
    at = e.utc_text(workspace.clock())
    files.make("server", server=True)
    certificate, spki_sha256 = files.make("station")
    path = workspace.root / CONFIG_NAME
    lines = (
        "[serve]",
        'tls_certificate = "../tls/server.pem"',
        'tls_key = "../tls/server.key"',
        'client_ca = "../tls/ca.pem"',
    )
    path.write_text("\n".join((path.read_text(), *lines, "")))
    devices = list(serial_range("th-0000000001", total))
    order = bench_order(workspace, key_origin="device")
    create_order(workspace.ledger, order, devices, clock=workspace.clock)
    vkey = (workspace.root / "log" / "vkey").read_text().strip()
    by = workspace.by
    with workspace.ledger.transaction() as tx:
        tx.append(
            e.SiteAdded(at=at, site=_SITE, origin="bench/site", vkey=vkey, site_prefix="0202", mode="online", by=by)
        )
        granted = e.AccessGranted(
            at=at, name=f"{_SITE}/line", role="station", spki_sha256=spki_sha256, cert_sha256="", by=by, site=_SITE
        )
        tx.append(granted, certificate)
        tx.append(e.OrderAssigned(at=at, order="bench", site=_SITE, mode="online", by=by))
    return devices


def _make_requests(devices: Sequence[str]) -> Iterator[bytes]:
    """Make all requests before the clock runs; yield them as they go over the wire."""
    made = []
    for number, device_serial in enumerate(devices):
        csr = _csr(device_serial, ec.generate_private_key(ec.SECP256R1()))
        asked = {
            "attempt": f"bench-{number:010d}",
            "device_serial": device_serial,
            "csr": base64.b64encode(csr).decode(),
        }
        body = json.dumps(asked).encode()
        head = f"POST /v1/credentials HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
        made.append(head.encode() + body)
    return iter(made)


def _client_tls(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(directory / "ca.pem")
    context.load_cert_chain(directory / "station.pem", directory / "station.key")
    context.check_hostname = False
    return context


@contextmanager
def _on(processors: set[int]) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on some processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _measure(
    port: int,
    process: subprocess.Popen[bytes],
    tls: ssl.SSLContext,
    batch: Sequence[bytes],
    half: Sequence[bytes],
    clients: int,
) -> tuple[LoadResult, LoadResult, float, float]:
    """Return full load, half load, processor seconds of the service for one request at full load, and its peak (MB)."""
    before = _cpu_seconds(process.pid)
    full = run_load(port, tls, batch, clients=clients)
    cpu = (_cpu_seconds(process.pid) - before) / len(batch)
    paced = run_load(port, tls, half, clients=clients, rate=len(batch) / full.seconds / 2)
    for result in (full, paced):
        if result.failures:
            raise RuntimeError(f"{len(result.failures)} requests failed: {result.failures[0]!r}")
    return full, paced, cpu, peak_mb(process.pid)


def _cpu_seconds(pid: int) -> float:
    """Return user and system time of a process (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _result(
    clients: int, count: int, floors: dict[str, float], full: LoadResult, paced: LoadResult, cpu: float, peak: float
) -> dict[str, object]:
    rate = count / full.seconds
    return {
        "bench": "serve",
        "clients": clients,
        "count": count,
        "rate": round(rate, 1),
        **floors,
        "ratio": round(rate / floors["floor"], 3),
        "p50_ms": full.quantile_ms(0.5),
        "p99_ms": full.quantile_ms(0.99),
        "half_load_rate": round(len(paced.times) / paced.seconds, 1),
        "half_load_p50_ms": paced.quantile_ms(0.5),
        "half_load_p99_ms": paced.quantile_ms(0.99),
        "service_cpu_us": round(cpu * 1e6),
        "cpu_ratio": round(floors["floor_cpu_us"] / (cpu * 1e6), 3),
        "peak_mb": round(peak),
    }
