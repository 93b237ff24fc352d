"""The settings of a workspace: ``birthmark.toml``, strict. They describe this place, never the flow."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Annotated

import msgspec

from birthmark.errors import Misconfigured

__all__ = [
    "CONFIG_NAME",
    "CaSettings",
    "LedgerSettings",
    "StationSettings",
    "WorkspaceSettings",
    "load_settings",
    "parse_settings",
]

CONFIG_NAME = "birthmark.toml"
_FORMAT = "birthmark-workspace/1"
_MAX_OCTETS = 1 << 20

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CaSettings(_Settings, frozen=True):
    """A CA whose key this workspace can use. ``key``: key URI; a secret in it is a reference, never the secret."""

    key: _Text


class LogSettings(_Settings, frozen=True):
    """The Ed25519 key that signs checkpoints."""

    key: _Text


class VaultSettings(_Settings, frozen=True):
    """The HPKE key to which device keys are sealed. ``secret``: reference to its passphrase."""

    file: _Text
    secret: _Text


class LedgerSettings(_Settings, frozen=True):
    """A ledger that several machines share; without this table it is a file in the workspace.

    ``url``: ``postgres:`` and what libpq needs, without a password. ``password``: reference to it, unless
    ``~/.pgpass`` or the server itself knows who is asking.
    """

    url: _Text
    password: _Text | None = None


class StationSettings(_Settings, frozen=True):
    """A station of this site: the key that signs its receipts and its journal file."""

    key: _Text
    journal: _Text


class ProductSettings(_Settings, frozen=True):
    """A product: which profile its devices get, from which CA, and the values the profile asks for."""

    profile: _Name
    ca: _Name
    key_algorithm: _Text
    values: dict[str, str] = {}


class WorkspaceSettings(_Settings, frozen=True):
    """All settings. ``origin``: name of the log, for ever. ``site_prefix``: 2 octets in hex, 0100 to 7fff."""

    format: _Text
    name: _Name
    origin: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{2,120}\Z")]
    site_prefix: Annotated[str, msgspec.Meta(pattern=r"^(0[1-9a-f]|[1-7][0-9a-f])[0-9a-f]{2}\Z")]
    log: LogSettings
    vault: VaultSettings
    ledger: LedgerSettings | None = None
    sensitive: bool = False
    cas: dict[_Name, CaSettings] = {}
    stations: dict[_Name, StationSettings] = {}
    products: dict[_Name, ProductSettings] = {}


def load_settings(workspace: Path) -> WorkspaceSettings:
    """Read ``birthmark.toml`` of a workspace; ``Misconfigured("workspace.missing")`` if there is none."""
    path = workspace / CONFIG_NAME
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_OCTETS + 1)
    except OSError as problem:
        raise Misconfigured(
            "workspace.missing",
            f"{workspace} is not a birthmark workspace: {problem.strerror}",
            hint="Make one with `birthmark init DIR`, or name yours with --workspace.",
            path=str(path),
        ) from problem
    _require_ours(path, status)
    if len(data) > _MAX_OCTETS:
        raise Misconfigured(
            "settings.size",
            f"{path} is larger than {_MAX_OCTETS} octets",
            hint="Name the right directory with --workspace.",
            path=str(path),
        )
    return parse_settings(data, str(path))


def _require_ours(path: Path, status: os.stat_result) -> None:
    """The settings name libraries that are loaded: whoever writes them runs code as this user."""
    foreign = os.geteuid() != 0 and status.st_uid not in (0, os.geteuid())
    if foreign or status.st_mode & stat.S_IWOTH:
        raise Misconfigured(
            "settings.writable",
            f"{path} belongs to another user" if foreign else f"{path} can be written by everyone",
            hint="Read it; then make it yours with chown and chmod o-w, or name your own workspace with --workspace.",
            path=str(path),
        )


def parse_settings(data: bytes, where: str) -> WorkspaceSettings:
    """Return the settings in a TOML document; unknown keys and wrong values are ``Misconfigured("settings.*")``."""
    try:
        settings = msgspec.toml.decode(data, type=WorkspaceSettings)
    except (msgspec.MsgspecError, ValueError) as problem:
        raise Misconfigured(
            "settings.malformed",
            f"{where}: {problem}",
            hint=f"Keys of this table: {_allowed(str(problem))}. See docs/reference/settings.md.",
            path=where,
        ) from None
    if settings.format != _FORMAT:
        raise Misconfigured(
            "settings.format",
            f"{where} has the format {settings.format[:60]!r}",
            hint=f"This program reads {_FORMAT}.",
            path=where,
        )
    return settings


_TABLES: dict[str, type[_Settings]] = {
    "log": LogSettings,
    "vault": VaultSettings,
    "ledger": LedgerSettings,
    "cas": CaSettings,
    "stations": StationSettings,
    "products": ProductSettings,
}


def _allowed(problem: str) -> str:
    match = re.search(r"\$\.([a-z_]+)", problem)
    table = _TABLES.get(match[1], WorkspaceSettings) if match else WorkspaceSettings
    return ", ".join(field.encode_name for field in msgspec.structs.fields(table))
