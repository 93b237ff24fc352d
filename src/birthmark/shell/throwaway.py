"""A throw-away workspace for benches and the demo, on a real disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from birthmark.model.events import KeyOrigin
from birthmark.model.ids import OrderId
from birthmark.shell.authority.ceremony import hold_ceremony
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.setup import SetupRequest, create_workspace
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.workflow.orders.order import NewOrder

__all__ = ["bench_order", "make_workspace", "throw_away_workspace"]


def make_workspace(root: Path, *, preset: str = "tls-client", product: str = "device", **choices: object) -> None:
    """Make a workspace with root and issuing CA in encrypted files; the passphrase lies beside it, mode 0600."""
    secrets = root / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    passphrase = secrets / "passphrase"
    descriptor = os.open(passphrase, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(os.urandom(24).hex())
    request = SetupRequest(
        name=root.name.lower(),
        origin=f"{root.name.lower()}.example/birthmark",
        maker="Example Devices",
        product=product,
        preset=preset,
        key_algorithm="p256",
        secret=f"file:{passphrase.resolve()}",
        values={"pen": "99999", "hw_type": "1.3.6.1.4.1.99999.1.1", "vid": "FFF1", "pid": "8000"},
        **choices,  # type: ignore[arg-type]
    )
    create_workspace(root, request, secrets=SecretsResolver())
    with open_workspace(root) as workspace:
        hold_ceremony(workspace, (root / "ceremony.toml").read_bytes())


@contextmanager
def throw_away_workspace(parent: Path, *, preset: str = "tls-client", ledger: str | None = None) -> Iterator[Workspace]:
    """Yield an open workspace below ``parent`` and remove it afterwards; a shared ``ledger`` keeps its tables."""
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        make_workspace(directory / "bench", preset=preset, ledger=ledger)
        with open_workspace(directory / "bench") as workspace:
            yield workspace
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def bench_order(
    workspace: Workspace, name: str = "bench", *, key_origin: KeyOrigin = "injected", key_algorithm: str | None = None
) -> NewOrder:
    """Return an order of the product that ``make_workspace`` makes. ``key_algorithm``: other than the product's."""
    settings = workspace.product("device")
    return NewOrder(
        order=OrderId(name),
        product="device",
        profile=workspace.profile(settings.profile),
        key_algorithm=key_algorithm or settings.key_algorithm,
        key_origin=key_origin,
        ca=settings.ca,
        by=workspace.by,
    )
