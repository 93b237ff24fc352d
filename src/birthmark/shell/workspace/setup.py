"""Making a workspace: directory, settings, profiles, ceremony file, and the keys of log, vault and stations."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark import __version__
from birthmark.adapters.durable import write_durably
from birthmark.model.events import WorkspaceCreated, utc_text
from birthmark.pki.profile import parse_profile
from birthmark.shell.workspace.config import CONFIG_NAME, parse_settings
from birthmark.shell.workspace.files import (
    begin_log,
    lay_out,
    make_log_key,
    make_station_keys,
    make_vault_key,
    require_no_workspace,
)
from birthmark.shell.workspace.settingstext import ca_key_uri, file_key_uri, toml_key, toml_text

if TYPE_CHECKING:
    from birthmark.shell.workspace.secrets import SecretsResolver

__all__ = ["SetupRequest", "create_workspace", "missing_values"]

_CEREMONY_NAME = "ceremony.toml"


@dataclass(frozen=True, slots=True)
class SetupRequest:
    """What a new workspace shall be. ``secret``: reference to the passphrase or PIN of its keys.

    ``root_days``, ``issuing_days`` and ``device_days``: validity; 0 means 99991231235959Z.
    ``ledger``: URL of a shared ledger, ``ledger_password``: reference to its password.
    ``token``: ``(module path, token label)`` when the CA keys live in a PKCS#11 token.
    """

    name: str
    origin: str
    maker: str
    product: str
    preset: str
    key_algorithm: str
    secret: str
    ca_key_algorithm: str = "p256"
    root_days: int = 0
    issuing_days: int = 0
    device_days: int | None = None
    token: tuple[str, str] | None = None
    site_prefix: str = "0101"
    sensitive: bool = False
    station: str = "line1"
    ledger: str | None = None
    ledger_password: str | None = None
    values: dict[str, str] = field(default_factory=dict)
    plan: bytes | None = None


def create_workspace(root: Path, request: SetupRequest, *, secrets: SecretsResolver) -> list[Path]:
    """Make the workspace; return the files a person should read. An existing workspace is never touched.

    Power cut: ``birthmark.toml`` is written last but one, the ledger last; a directory without a ledger is not a
    workspace yet, and is to be removed by hand.
    """
    from birthmark.shell.workspace.ledgers import require_ledger
    from birthmark.shell.workspace.wiring import Workspace

    require_no_workspace(root)
    config = _settings_text(request)
    settings = parse_settings(config.encode(), str(root / CONFIG_NAME))
    secrets(request.secret)  # whoever has to be asked is asked before anything is made
    require_ledger(settings.ledger, secrets=secrets)
    lay_out(root)
    workspace = Workspace(root, settings, secrets)
    make_log_key(workspace)
    stations = make_station_keys(workspace)
    make_vault_key(workspace)
    for name in ("root-ca", "issuing-ca", request.preset):
        write_durably(root / "profiles" / f"{name}.toml", _profile_text(name, request).encode(), mode=0o644)
    write_durably(root / _CEREMONY_NAME, _ceremony_text(request).encode(), mode=0o644)
    if request.plan is not None:
        write_durably(root / "plan.toml", request.plan, mode=0o644)
    write_durably(root / CONFIG_NAME, config.encode(), mode=0o644)
    first = WorkspaceCreated(
        at=utc_text(workspace.clock()),
        workspace=request.name,
        origin=request.origin,
        site_prefix=request.site_prefix,
        software=__version__,
        by=workspace.by,
        sensitive=request.sensitive,
    )
    begin_log(workspace, first, stations)
    return [root / CONFIG_NAME, root / _CEREMONY_NAME, root / "profiles" / f"{request.preset}.toml"]


def _settings_text(request: SetupRequest) -> str:
    values = "".join(f"{toml_key(name)} = {toml_text(value)}\n" for name, value in _values(request).items())
    return f"""# Settings of this workspace. Unknown keys are errors; docs/reference/settings.md explains each.
format = "birthmark-workspace/1"
name = {toml_text(request.name)}
origin = {toml_text(request.origin)}          # name of the log, for ever
site_prefix = {toml_text(request.site_prefix)}             # first two octets of every certificate serial made here
sensitive = {"true" if request.sensitive else "false"}

# A secret is named, never written: env:NAME, file:PATH, fd:3 or prompt:
[log]
key = {toml_text(file_key_uri("log", request.secret))}

[vault]
file = "keys/vault.pem"
secret = {toml_text(request.secret)}
{_ledger_text(request)}
[cas.root]
key = {toml_text(ca_key_uri("root", request.secret, request.token))}

[cas.issuing]
key = {toml_text(ca_key_uri("issuing", request.secret, request.token))}

[stations.{toml_key(request.station)}]
key = {toml_text(file_key_uri(f"station-{request.station}", request.secret))}
journal = {toml_text(f"journal/{request.station}.jsonl")}

[products.{toml_key(request.product)}]
profile = {toml_text(request.preset)}
ca = "issuing"
key_algorithm = {toml_text(request.key_algorithm)}

[products.{toml_key(request.product)}.values]
{values}"""


def _ledger_text(request: SetupRequest) -> str:
    if request.ledger is None:
        return ""
    password = f"password = {toml_text(request.ledger_password)}\n" if request.ledger_password else ""
    return f"\n[ledger]\nurl = {toml_text(request.ledger)}\n{password}"


def missing_values(request: SetupRequest) -> list[str]:
    """Return the names of the values that the device profile needs and nobody has said yet, sorted."""
    wanted = parse_profile(_profile_text(request.preset, request).encode()).placeholders()
    return sorted(wanted - _values(request).keys())


def _values(request: SetupRequest) -> dict[str, str]:
    return {"maker": request.maker, **request.values}


def _ceremony_text(request: SetupRequest) -> str:
    title = f"Root and issuing CA of {request.maker}"
    blocks = []
    for name, issuer in (("root", None), ("issuing", "root")):
        values = {
            **_values(request),
            "ca_name": f"{request.maker} {'Device Root' if issuer is None else 'Issuing'} CA 1",
        }
        lines = "".join(f"{toml_key(key)} = {toml_text(value)}\n" for key, value in values.items())
        blocks.append(f"""
[[step]]
do = "{name}"
name = "{name}"
profile = "{name}-ca"
key = {toml_text(ca_key_uri(name, request.secret, request.token))}
key_algorithm = {toml_text(request.ca_key_algorithm)}
{f'issuer = "{issuer}"' if issuer else ""}
[step.values]
{lines}""")
    return f"""# The whole ceremony in one file: review this, rehearse it with `birthmark ceremony check`, then run it.
format = "birthmark-ceremony/2"
title = {toml_text(title)}
participants = []                  # who stands here, in words
{"".join(blocks)}"""


def _profile_text(name: str, request: SetupRequest) -> str:
    """Return the preset with the validity that the plan decided."""
    text = files("birthmark.pki.presets").joinpath(f"{name}.toml").read_text()
    days = {"root-ca": request.root_days, "issuing-ca": request.issuing_days}.get(name, request.device_days)
    if days is None:
        return text
    value = '"none"' if days == 0 else str(days)
    return re.sub(r"^days = \S+", f"days = {value}", text, count=1, flags=re.MULTILINE)
