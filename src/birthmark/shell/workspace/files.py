"""What every new workspace has: its directory, the keys of log, vault and stations, the first entries of its log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birthmark.adapters.durable import write_durably
from birthmark.errors import Refused
from birthmark.model.events import StationAdded, WorkspaceCreated
from birthmark.shell.workspace.config import CONFIG_NAME

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = [
    "begin_log",
    "lay_out",
    "make_log_key",
    "make_station_keys",
    "make_vault_key",
    "require_no_workspace",
    "station_vkey",
]

_PUBLIC = ("ca", "log", "profiles")
_PRIVATE = ("keys", "ledger", "journal")


def require_no_workspace(root: Path) -> None:
    """Return if there is no workspace yet, else ``Refused("workspace.exists")``: none is ever touched."""
    if (root / CONFIG_NAME).exists() or (root / "ledger").exists():
        raise Refused(
            "workspace.exists",
            f"{root} already holds a workspace",
            hint="Choose an empty directory; a workspace is never overwritten.",
            path=str(root),
        )


def lay_out(root: Path) -> None:
    """Make the directories of a workspace."""
    root.mkdir(parents=True, exist_ok=True, mode=0o755)
    for directory in (*_PUBLIC, *_PRIVATE):
        (root / directory).mkdir(parents=True, mode=0o755 if directory in _PUBLIC else 0o700)


def make_log_key(workspace: Workspace) -> str:
    """Make the key of the log and show its verifier key in ``log/vkey``; return that."""
    from birthmark.tlog.note import encode_vkey, public_octets

    uri, origin = workspace.settings.log.key, workspace.settings.origin
    key: Any = workspace.keys(uri).generate(uri, "ed25519")
    vkey = encode_vkey(origin, public_octets(key))
    write_durably(workspace.root / "log" / "vkey", vkey.encode() + b"\n", mode=0o644)
    return vkey


def make_vault_key(workspace: Workspace) -> bytes:
    """Make the vault key; return its public half."""
    from birthmark.wire.vault import VaultKey

    vault, key = workspace.settings.vault, VaultKey.generate()
    write_durably(workspace.root / vault.file, key.to_pem(workspace.secrets(vault.secret)), mode=0o600)
    return key.recipient().public


def make_station_keys(workspace: Workspace) -> dict[str, str]:
    """Make the receipt key of every station of the settings; return their verifier keys by station."""
    return {
        name: station_vkey(workspace, name, workspace.keys(station.key).generate(station.key, "ed25519"))
        for name, station in workspace.settings.stations.items()
    }


def station_vkey(workspace: Workspace, station: str, key: Any) -> str:
    """Return the verifier key of a station's receipts."""
    from birthmark.tlog.note import encode_vkey, public_octets
    from birthmark.wire.receipt import station_key_name

    return encode_vkey(station_key_name(workspace.settings.origin, station), public_octets(key))


def begin_log(workspace: Workspace, first: WorkspaceCreated, stations: Mapping[str, str]) -> None:
    """Make the ledger with its first entry and the stations (verifier keys), and show the first head."""
    from birthmark.shell.workspace.ledgers import create_ledger

    settings = workspace.settings.ledger
    ledger = create_ledger(workspace.root, settings, first=first, secrets=workspace.secrets, clock=workspace.clock)
    with ledger.transaction() as tx:
        for station, vkey in stations.items():
            tx.append(StationAdded(at=first.at, station=station, vkey=vkey, by=workspace.by))
    ledger.close()
    workspace.publish()
    workspace.close()
