"""Making a site's workspace: all keys are born here, and a signed request says what the authority must know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birthmark import __version__
from birthmark.adapters.durable import write_durably
from birthmark.errors import Refused
from birthmark.model.events import StationAdded, WorkspaceCreated, utc_text
from birthmark.model.ids import parse_site_id, parse_station_id
from birthmark.model.siteevents import SiteMode
from birthmark.pki.request import unnamed_request
from birthmark.shell.authority.access import require_role
from birthmark.shell.workspace.config import CONFIG_NAME, PARTS_NAME, parse_settings
from birthmark.shell.workspace.files import (
    begin_log,
    lay_out,
    make_log_key,
    make_station_keys,
    make_vault_key,
    require_no_workspace,
    station_vkey,
)
from birthmark.shell.workspace.settingsparts import read_part, write_part
from birthmark.shell.workspace.settingstext import ca_key_uri, file_key_uri, file_uri, toml_key, toml_text
from birthmark.wire.site import RequestedCa, RequestedStation, SiteRequest, sign_request

if TYPE_CHECKING:
    from birthmark.shell.workspace.config import StationSettings
    from birthmark.shell.workspace.secrets import SecretsResolver
    from birthmark.shell.workspace.wiring import Workspace

__all__ = [
    "REQUEST_NAME",
    "NewSite",
    "create_site_workspace",
    "make_ca_request",
    "make_station_request",
    "station_tls_uri",
]

REQUEST_NAME = "site-request.note"
_TLS_KEYS = "p256"


@dataclass(frozen=True, slots=True)
class NewSite:
    """What a new site shall be. ``secret``: reference to the passphrase (or PIN) of its keys.

    ``ca``: name of the issuing CA to be delegated (mode ``factory_ca``), ``token``: (PKCS#11 module, token label) when
    its key lives in a token.
    """

    name: str
    mode: SiteMode
    authority: str
    origin: str
    site_prefix: str
    secret: str
    stations: tuple[str, ...]
    ca: str | None = None
    ca_key_algorithm: str = "p256"
    token: tuple[str, str] | None = None


def create_site_workspace(root: Path, site: NewSite, *, secrets: SecretsResolver) -> bytes:
    """Make the workspace with all its keys and return the signed request, which is also ``site-request.note`` in it.

    Power cut: as of ``create_workspace``; what has no ledger yet is removed by hand and made again.
    """
    from birthmark.shell.workspace.wiring import Workspace

    parse_site_id(site.name)
    require_no_workspace(root)
    config = _settings_text(site)
    settings = parse_settings(config.encode(), str(root / CONFIG_NAME))
    secrets(site.secret)  # whoever has to be asked is asked before anything is made
    lay_out(root)
    for directory in ("tls", PARTS_NAME):
        (root / directory).mkdir(mode=0o755)
    workspace = Workspace(root, settings, secrets)
    vkey = make_log_key(workspace)
    vkeys = make_station_keys(workspace)
    request = SiteRequest(
        site=site.name,
        origin=site.origin,
        vkey=vkey,
        site_prefix=site.site_prefix,
        mode=site.mode,
        vault=make_vault_key(workspace),
        stations=tuple(
            RequestedStation(name=name, vkey=vkeys[name], csr=_tls_request(workspace, name)) for name in vkeys
        ),
        ca=_requested_ca(workspace, site),
        software=f"birthmark {__version__}",
        at=utc_text(workspace.clock()),
    )
    data = sign_request(request, workspace.private_key(settings.log.key))
    write_durably(root / REQUEST_NAME, data, mode=0o644)
    write_durably(root / CONFIG_NAME, config.encode(), mode=0o644)
    first = WorkspaceCreated(
        at=request.at,
        workspace=site.name,
        origin=site.origin,
        site_prefix=site.site_prefix,
        software=__version__,
        by=workspace.by,
        role="site",
    )
    begin_log(workspace, first, vkeys)
    return data


def station_tls_uri(station: StationSettings) -> str | None:
    """Return the URI of the key of a station's TLS certificate, None if it has none."""
    if station.tls_key is None or station.tls_secret is None:
        return None
    return file_uri(station.tls_key, station.tls_secret)


def _tls_request(workspace: Workspace, station: str) -> bytes:
    uri = station_tls_uri(workspace.settings.stations[station]) or ""
    return unnamed_request(workspace.keys(uri).generate(uri, _TLS_KEYS))


def _requested_ca(workspace: Workspace, site: NewSite) -> RequestedCa | None:
    if site.ca is None:
        return None
    uri = workspace.ca_key_uri(site.ca)
    key: Any = workspace.keys(uri).generate(uri, site.ca_key_algorithm)
    return RequestedCa(name=site.ca, csr=unnamed_request(key), key_scheme=uri.partition(":")[0])


def make_station_request(workspace: Workspace, name: str) -> tuple[str, bytes]:
    """Make the keys of one more station of this site; return its verifier key and the CSR (DER) of its TLS key.

    Power cut: the settings of the station come last; a key without them is never taken over (``key.exists``), so the
    station gets another name.
    """
    require_role(workspace, "site")
    parse_station_id(name)
    if name in workspace.settings.stations or "/" in name:
        raise Refused(
            "station.exists",
            f"this site has a station {name} already, or the name is none of one site",
            hint="Choose another name: lower-case letters, digits, hyphens.",
            station=name,
        )
    table = _station_table(name, workspace.settings.vault.secret)
    station = read_part(f"station-{name}", table).stations[name]
    tls_uri = station_tls_uri(station) or ""
    vkey = station_vkey(workspace, name, workspace.keys(station.key).generate(station.key, "ed25519"))
    csr = unnamed_request(workspace.keys(tls_uri).generate(tls_uri, _TLS_KEYS))
    with workspace.ledger.transaction() as tx:
        tx.append(StationAdded(at=utc_text(workspace.clock()), station=name, vkey=vkey, by=workspace.by))
    write_part(workspace.root, f"station-{name}", table)
    return vkey, csr


def make_ca_request(workspace: Workspace, name: str, *, algorithm: str, token: tuple[str, str] | None) -> bytes:
    """Make the key of the site's next issuing CA and return its CSR (DER).

    Power cut: as of ``make_station_request``. ``Refused("site.ca.exists")`` if the site has a CA of that name.
    """
    require_role(workspace, "site")
    parse_site_id(name)
    if name in workspace.settings.cas or workspace.records.ca(name) is not None:
        raise Refused(
            "site.ca.exists",
            f"CA {name} is already on record",
            hint="A CA is never renewed: give the next one another name.",
            ca=name,
        )
    uri = ca_key_uri(name, workspace.settings.vault.secret, token)
    table = _ca_table(name, uri)
    read_part(f"ca-{name}", table)
    csr = unnamed_request(workspace.keys(uri).generate(uri, algorithm))
    write_part(workspace.root, f"ca-{name}", table)
    return csr


def _station_table(name: str, secret: str) -> str:
    return f"""[stations.{toml_key(name)}]
key = {toml_text(file_key_uri(f"station-{name}", secret))}
journal = {toml_text(f"journal/{name}.jsonl")}
tls_certificate = {toml_text(f"tls/{name}.pem")}
tls_key = {toml_text(f"keys/tls-{name}.pem")}
tls_secret = {toml_text(secret)}
"""


def _ca_table(name: str, uri: str) -> str:
    return f"[cas.{toml_key(name)}]\nkey = {toml_text(uri)}\n"


def _settings_text(site: NewSite) -> str:
    stations = "\n".join(_station_table(name, site.secret) for name in site.stations)
    ca = "" if site.ca is None else "\n" + _ca_table(site.ca, ca_key_uri(site.ca, site.secret, site.token))
    return f"""# Settings of this site. Unknown keys are errors; docs/reference/settings.md explains each.
# What the authority grants is written to {PARTS_NAME}/ by `birthmark site accept`.
format = "birthmark-workspace/1"
name = {toml_text(site.name)}
origin = {toml_text(site.origin)}          # name of the log, for ever
site_prefix = {toml_text(site.site_prefix)}             # first two octets of every certificate serial made here
role = "site"

[site]
authority = {toml_text(site.authority)}          # name of the authority's log
mode = {toml_text(site.mode)}

# A secret is named, never written: env:NAME, file:PATH, fd:3 or prompt:
[log]
key = {toml_text(file_key_uri("log", site.secret))}

[vault]
file = "keys/vault.pem"
secret = {toml_text(site.secret)}
{ca}
{stations}"""
