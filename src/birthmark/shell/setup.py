"""Making a workspace: directory, settings, profiles, ceremony file, and the keys of log, vault and stations."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from birthmark import __version__
from birthmark.adapters.durable import write_durably
from birthmark.errors import Refused
from birthmark.model.events import StationAdded, WorkspaceCreated, utc_text
from birthmark.shell.config import CONFIG_NAME, parse_settings

if TYPE_CHECKING:
    from birthmark.shell.secrets import SecretsResolver

__all__ = ["SetupRequest", "create_workspace"]

_PLAIN = "/:._-"
"""What stands in a URI as it is; everything else is percent-encoded (RFC 3986, 2.1)."""
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
    from birthmark.shell.ledgers import create_ledger, require_ledger
    from birthmark.shell.wiring import Workspace
    from birthmark.tlog.note import encode_vkey, public_octets
    from birthmark.wire.vault import VaultKey

    if (root / CONFIG_NAME).exists() or (root / "ledger").exists():
        raise Refused(
            "workspace.exists",
            f"{root} already holds a workspace",
            hint="Choose an empty directory; a workspace is never overwritten.",
            path=str(root),
        )
    config = _settings_text(request)
    settings = parse_settings(config.encode(), str(root / CONFIG_NAME))
    secrets(request.secret)  # whoever has to be asked is asked before anything is made
    require_ledger(settings.ledger, secrets=secrets)
    root.mkdir(parents=True, exist_ok=True, mode=0o755)
    for directory in ("profiles", "keys", "ca", "ledger", "log", "journal"):
        (root / directory).mkdir(parents=True, mode=0o755 if directory in ("ca", "log", "profiles") else 0o700)
    workspace = Workspace(root, settings, secrets)
    log_key: Any = workspace.keys(settings.log.key).generate(settings.log.key, "ed25519")
    station = settings.stations[request.station]
    station_key: Any = workspace.keys(station.key).generate(station.key, "ed25519")
    vault = VaultKey.generate().to_pem(secrets(request.secret))
    write_durably(root / settings.vault.file, vault, mode=0o600)
    for name in ("root-ca", "issuing-ca", request.preset):
        write_durably(root / "profiles" / f"{name}.toml", _profile_text(name, request).encode(), mode=0o644)
    write_durably(root / _CEREMONY_NAME, _ceremony_text(request).encode(), mode=0o644)
    if request.plan is not None:
        write_durably(root / "plan.toml", request.plan, mode=0o644)
    write_durably(
        root / "log" / "vkey", encode_vkey(request.origin, public_octets(log_key)).encode() + b"\n", mode=0o644
    )
    write_durably(root / CONFIG_NAME, config.encode(), mode=0o644)
    now = workspace.clock()
    first = WorkspaceCreated(
        at=utc_text(now),
        workspace=request.name,
        origin=request.origin,
        site_prefix=request.site_prefix,
        software=__version__,
        by=workspace.by,
        sensitive=request.sensitive,
    )
    ledger = create_ledger(root, settings.ledger, first=first, secrets=secrets, clock=workspace.clock)
    vkey = encode_vkey(f"{request.origin}/station/{request.station}", public_octets(station_key))
    with ledger.transaction() as tx:
        tx.append(StationAdded(at=utc_text(now), station=request.station, vkey=vkey, by=workspace.by))
    ledger.close()
    workspace.publish()
    workspace.close()
    return [root / CONFIG_NAME, root / _CEREMONY_NAME, root / "profiles" / f"{request.preset}.toml"]


def _quoted(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(text: str) -> str:
    """Return a TOML key: bare where it can be, else quoted."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _quoted(text)


def _key_uri(name: str, request: SetupRequest) -> str:
    return f"file:keys/{name}.pem?secret={quote(request.secret, safe=_PLAIN)}"


def _ca_key_uri(name: str, request: SetupRequest) -> str:
    if request.token is None:
        return _key_uri(name, request)
    module, token = request.token
    where = f"module-path={quote(module, safe=_PLAIN)}&pin-source={quote(request.secret, safe=_PLAIN)}"
    return f"pkcs11:token={quote(token, safe='')};object={name}?{where}"


def _settings_text(request: SetupRequest) -> str:
    values = "".join(f"{_key(name)} = {_quoted(value)}\n" for name, value in _values(request).items())
    return f"""# Settings of this workspace. Unknown keys are errors; docs/reference/settings.md explains each.
format = "birthmark-workspace/1"
name = {_quoted(request.name)}
origin = {_quoted(request.origin)}          # name of the log, for ever
site_prefix = {_quoted(request.site_prefix)}             # first two octets of every certificate serial made here
sensitive = {"true" if request.sensitive else "false"}

# A secret is named, never written: env:NAME, file:PATH, fd:3 or prompt:
[log]
key = {_quoted(_key_uri("log", request))}

[vault]
file = "keys/vault.pem"
secret = {_quoted(request.secret)}
{_ledger_text(request)}
[cas.root]
key = {_quoted(_ca_key_uri("root", request))}

[cas.issuing]
key = {_quoted(_ca_key_uri("issuing", request))}

[stations.{_key(request.station)}]
key = {_quoted(_key_uri(f"station-{request.station}", request))}
journal = {_quoted(f"journal/{request.station}.jsonl")}

[products.{_key(request.product)}]
profile = {_quoted(request.preset)}
ca = "issuing"
key_algorithm = {_quoted(request.key_algorithm)}

[products.{_key(request.product)}.values]
{values}"""


def _ledger_text(request: SetupRequest) -> str:
    if request.ledger is None:
        return ""
    password = f"password = {_quoted(request.ledger_password)}\n" if request.ledger_password else ""
    return f"\n[ledger]\nurl = {_quoted(request.ledger)}\n{password}"


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
        lines = "".join(f"{_key(key)} = {_quoted(value)}\n" for key, value in values.items())
        blocks.append(f"""
[[ca]]
name = "{name}"
kind = "{name}"
profile = "{name}-ca"
key = {_quoted(_ca_key_uri(name, request))}
key_algorithm = {_quoted(request.ca_key_algorithm)}
{f'issuer = "{issuer}"' if issuer else ""}
[ca.values]
{lines}""")
    return f"""# The whole ceremony in one file: review this, then run `birthmark ceremony run {_CEREMONY_NAME}`.
format = "birthmark-ceremony/1"
title = {_quoted(title)}
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
