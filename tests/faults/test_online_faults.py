"""The connection cut after any octet, the service killed at its syncs: the same attempt gets one identity, always."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.sqlite.replay import replay_ledger
from birthmark.adapters.sources.online import OnlineAuthority, Patience, client_tls
from birthmark.model.events import decode_entry
from birthmark.ports import Credential, CredentialRequest
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.workflow.line.receive import ReceivingSource
from support.cutter import Cutter
from support.serviceworld import BORN, POOLED, World, build_world, device_csr
from support.serving import BIRTHMARK

UP = (*range(0, 700, 100), *range(700, 3300, 130))
DOWN = (*range(0, 700, 100), *range(700, 6000, 265))
PATIENCE = Patience(total_s=90.0, answer_s=30.0, first_wait_s=0.01, most_wait_s=0.3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("faults") / "world")


@pytest.fixture(scope="module")
def cut_world(built: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Cutter]]:
    world = built.copy(tmp_path_factory.mktemp("cut") / "world")
    with world.running() as running:
        cutter = Cutter(running.port)
        yield world, cutter
        cutter.close()
        assert cutter.cuts >= (len(UP) + len(DOWN)) * 2 // 3, "most of the cuts are within what is said"
    require_invariants(world)


def source_through(site: Workspace, port: int, world: World) -> ReceivingSource:
    tls = client_tls(world.pki / "access.pem", world.pki / "line1.pem", world.pki / "line1.key", None)
    authority = OnlineAuthority(f"https://127.0.0.1:{port}", tls, patience=PATIENCE)
    site.close_later(authority.close)
    return ReceivingSource(
        authority=authority,
        ledger=site.ledger,
        records=site.records,
        vault_key=lambda: site.vault_key,
        chain_of=site.chain,
        profile=site.profile,
        values=lambda product: site.product(product).values,
        clock=site.clock,
    )


def require_invariants(world: World) -> None:
    """What holds at both ends after every fault."""
    for root in (world.hq, world.site):
        with open_workspace(root) as workspace:
            replay_ledger(workspace.ledger, progress=lambda done: None)
            events = [decode_entry(entry)[0] for _, entry in workspace.ledger.entries(0, workspace.ledger.head().size)]
            for kind in ("Reserved", "Issued", "Requested", "Received", "Drawn"):
                named = [event.device for event in events if type(event).__name__ == kind and event.device is not None]
                bulk = kind in ("Reserved", "Issued")
                named = [device for device in named if not (bulk and device.startswith("SN-"))]
                assert len(named) == len(set(named)), f"{kind} twice for one device"


def certificate_on_record(world: World, device_serial: str) -> bytes:
    from birthmark.workflow.handout import known_device, stored_certificate

    with open_workspace(world.hq, publish=False) as hq:
        return stored_certificate(hq.ledger, known_device(hq.records, device_serial))


_born, _pooled = iter(BORN), iter(POOLED)
_attempts = count()


@pytest.mark.parametrize("at", [*({"up": n} for n in UP), *({"down": n} for n in DOWN)], ids=str)
def test_connection_cut_anywhere_yields_one_identity(cut_world: tuple[World, Cutter], at: dict[str, int]) -> None:
    world, cutter = cut_world
    device_serial = next(_born)
    request = CredentialRequest(f"attempt-{next(_attempts):06d}", "line1", device_serial, device_csr(device_serial))
    with open_workspace(world.site, publish=False) as site:
        source = source_through(site, cutter.port, world)
        cutter.cut(**at)
        got = source.obtain(request)
        again = source.obtain(request)
    assert got.certificate == again.certificate == certificate_on_record(world, device_serial)


@pytest.mark.parametrize("down", [2400, 3000, 4000])
def test_cut_answer_with_a_sealed_key_is_drawn_once(cut_world: tuple[World, Cutter], down: int) -> None:
    world, cutter = cut_world
    device_serial = next(_pooled)
    request = CredentialRequest(f"attempt-{next(_attempts):06d}", "line1", device_serial)
    with open_workspace(world.site, publish=False) as site:
        source = source_through(site, cutter.port, world)
        cutter.cut(down=down)
        got = source.obtain(request)
    assert got.private_key is not None
    assert got.certificate == certificate_on_record(world, device_serial)


class _Server:
    """A service that may die at any moment, also before it serves."""

    def __init__(self, world: World, fault: str | None) -> None:
        self._traced = fault is not None
        command = [BIRTHMARK, "serve", "-C", str(world.hq), "--port", "0"]
        if fault is not None:
            call = fault.partition(":")[0]
            command = [
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                f"trace={call}",
                "-e",
                f"inject={fault}",
                *command,
            ]
        with (world.root / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=os.environ.copy())
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        self.port = int(line.rpartition(":")[2]) if line.startswith("serving") else 1

    def end(self) -> None:
        if self.process.poll() is None:
            pid = self.process.pid
            # strace keeps SIGTERM to itself; the service is its child.
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if self._traced else [str(pid)]
            for child in children:
                os.kill(int(child), signal.SIGTERM)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


KILLS = (
    *((f"fdatasync:signal=SIGKILL:when={number}", "issue") for number in range(1, 5)),
    ("fdatasync:signal=SIGKILL:when=2", "pool"),
    ("sendto:signal=SIGKILL:when=2", "issue"),
)


@pytest.mark.parametrize(("fault", "kind"), KILLS)
def test_service_killed_at_a_sync_yields_one_identity(built: World, tmp_path: Path, fault: str, kind: str) -> None:
    world = built.copy(tmp_path / "world")
    device_serial = BORN[0] if kind == "issue" else POOLED[0]
    csr = device_csr(device_serial) if kind == "issue" else None
    request = CredentialRequest("attempt-0001", "line1", device_serial, csr)
    server = _Server(world, fault)
    cutter = Cutter(server.port)
    got: list[Credential | BaseException] = []

    def ask(source: Any) -> None:
        try:
            got.append(source.obtain(request))
        except BaseException as problem:  # noqa: BLE001  shown by the assertion below
            got.append(problem)

    with open_workspace(world.site, publish=False) as site:
        thread = threading.Thread(target=ask, args=(source_through(site, cutter.port, world),))
        thread.start()
        while server.process.poll() is None and thread.is_alive():
            thread.join(0.05)
        server.end()
        fresh = _Server(world, None)
        cutter.backend = fresh.port
        thread.join(120)
        (credential,) = got
        assert isinstance(credential, Credential), credential
    fresh.end()
    cutter.close()
    assert credential.certificate == certificate_on_record(world, device_serial)
    require_invariants(world)
