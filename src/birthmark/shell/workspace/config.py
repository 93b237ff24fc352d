"""The settings of a workspace: ``birthmark.toml``, strict. They describe this place, never the flow."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from birthmark.errors import Misconfigured
from birthmark.model.siteevents import SiteMode

__all__ = [
    "CONFIG_NAME",
    "PARTS_NAME",
    "PART_FORMAT",
    "AuthoritySettings",
    "CaSettings",
    "CloudSettings",
    "LedgerSettings",
    "MesSettings",
    "ServeSettings",
    "SettingsPart",
    "SiteSettings",
    "StationSettings",
    "VendorSettings",
    "WorkspaceSettings",
    "load_settings",
    "parse_part",
    "parse_settings",
]

CONFIG_NAME = "birthmark.toml"
PARTS_NAME = "settings.d"
"""Directory of further settings that commands write, so that a file that people edit is never rewritten."""
PART_FORMAT = "birthmark-settings/1"
_FORMAT = "birthmark-workspace/1"
_MAX_OCTETS = 1 << 20

_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")]
_Vendor = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?\Z")]
_Origin = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{2,120}\Z")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class _Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CaSettings(_Settings, frozen=True):
    """A CA that signs for this workspace: with a ``key`` of its own, or as the service ``issuer`` of a third party.

    ``key``: key URI; ``issuer``: issuer URI; a secret in either is a reference, never the secret. ``rate``: how many
    requests a second the service gets at most; ``outstanding``: how many at once.
    """

    key: _Text | None = None
    issuer: _Text | None = None
    rate: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 10.0
    outstanding: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8

    def __post_init__(self) -> None:
        if (self.key is None) == (self.issuer is None):
            raise ValueError("a CA has either a key or an issuer")


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


class MesSettings(_Settings, frozen=True):
    """The factory's own system. Programs and their arguments: ``route_check`` is asked before a device is begun,
    ``result`` told after; each gets one JSON object on stdin and has ``timeout_s`` seconds.
    """

    route_check: tuple[_Text, ...] = ()
    result: tuple[_Text, ...] = ()
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0


class StationSettings(_Settings, frozen=True):
    """A station of this site: the key that signs its receipts and its journal file.

    ``tls_certificate`` (chain), ``tls_key``: PEM files of its client certificate; ``tls_secret``: reference to the
    key's passphrase. ``deadline_s``: after so many seconds nothing more is done to a device that is not done.
    ``mes``: hooks to the factory's own system.
    """

    key: _Text
    journal: _Text
    tls_certificate: _Text | None = None
    tls_key: _Text | None = None
    tls_secret: _Text | None = None
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 120.0
    mes: MesSettings | None = None


class ServeSettings(_Settings, frozen=True):
    """The service. Files are PEM, relative to the workspace; ``tls_secret``: reference to the key's passphrase.

    ``client_ca``: a further access CA beside those on record. ``proxy``: name of the TLS proxy (role ``server``) that
    may forward client certificates in ``proxy_header``; with ``unix_socket`` that socket is the proxy's alone.
    ``queue``: requests that may wait; ``connections``: how many may be open, a quarter of them by clients without a
    certificate.
    """

    host: _Text = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8443
    tls_certificate: _Text | None = None
    tls_key: _Text | None = None
    tls_secret: _Text | None = None
    client_ca: _Text | None = None
    unix_socket: _Text | None = None
    proxy: _Text | None = None
    proxy_header: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")] = "client-cert"
    public_log: bool = False
    queue: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 1024
    connections: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 1024


class ProductSettings(_Settings, frozen=True):
    """A product: which profile its devices get, from which CA, and the values the profile asks for.

    ``residency``: ``attested`` means no certificate before the device has shown that the key cannot leave it.
    """

    profile: _Name
    ca: _Name
    key_algorithm: _Text
    values: dict[str, str] = {}
    residency: Literal["any", "attested"] = "any"


class VendorSettings(_Settings, frozen=True):
    """A vendor of chips that come with an identity. Files are PEM, relative to the workspace.

    ``roots``: root certificates that are trusted for this vendor's chips; ``signers``: certificates that may sign its
    manifests. Without ``roots`` only what was signed below ``birthmark preload delegate`` is taken in.
    """

    roots: _Text | None = None
    signers: _Text | None = None


class CloudSettings(_Settings, frozen=True):
    """A cloud or registry that is told of devices. ``uri``: cloud URI; a secret in it is a reference.

    ``cas``, ``products``: only devices of orders that name one of these CAs, and of these products; default: all.
    ``hubs``: host name of an IoT hub → secret reference, or ``entra``: where blocked devices are disabled as well.
    """

    uri: _Text
    cas: tuple[_Name, ...] | None = None
    products: tuple[_Name, ...] | None = None
    hubs: dict[_Text, _Text] = {}


class SiteSettings(_Settings, frozen=True):
    """A site: the origin of its authority's log, and where its credentials come from."""

    authority: _Origin
    mode: SiteMode


class AuthoritySettings(_Settings, frozen=True):
    """At a site in mode ``online``: the service of its authority. ``service_ca``: PEM file of its TLS root."""

    url: _Text
    service_ca: _Text


class SettingsPart(_Settings, frozen=True):
    """A file of ``settings.d``: what a command adds to ``birthmark.toml``."""

    format: _Text
    authority: AuthoritySettings | None = None
    serve: ServeSettings | None = None
    cas: dict[_Name, CaSettings] = {}
    stations: dict[_Name, StationSettings] = {}
    products: dict[_Name, ProductSettings] = {}


class WorkspaceSettings(_Settings, frozen=True):
    """All settings. ``origin``: name of the log, for ever. ``site_prefix``: 2 octets in hex, 0100 to 7fff.

    ``role``: ``authority`` (default) decides for itself, ``site`` works for one and has a table ``[site]``.
    """

    format: _Text
    name: _Name
    origin: _Origin
    site_prefix: Annotated[str, msgspec.Meta(pattern=r"^(0[1-9a-f]|[1-7][0-9a-f])[0-9a-f]{2}\Z")]
    log: LogSettings
    vault: VaultSettings
    ledger: LedgerSettings | None = None
    role: Literal["authority", "site"] = "authority"
    sensitive: bool = False
    serve: ServeSettings | None = None
    site: SiteSettings | None = None
    authority: AuthoritySettings | None = None
    cas: dict[_Name, CaSettings] = {}
    stations: dict[_Name, StationSettings] = {}
    products: dict[_Name, ProductSettings] = {}
    vendors: dict[_Vendor, VendorSettings] = {}
    clouds: dict[_Name, CloudSettings] = {}


_S = TypeVar("_S", WorkspaceSettings, SettingsPart)


def load_settings(workspace: Path) -> WorkspaceSettings:
    """Read ``birthmark.toml`` and the files of ``settings.d`` of a workspace.

    ``Misconfigured("workspace.missing")`` if there is none, ``settings.twice`` if two files say the same thing.
    """
    path = workspace / CONFIG_NAME
    settings = parse_settings(_read(path), str(path))
    for part in sorted((workspace / PARTS_NAME).glob("*.toml")):
        settings = _with_part(settings, parse_part(_read(part), str(part)), part)
    return settings


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_OCTETS + 1)
    except OSError as problem:
        raise Misconfigured(
            "workspace.missing",
            f"{path.parent} is not a birthmark workspace: {problem.strerror}",
            hint="Name yours with -C DIR, or make one with `birthmark init DIR --maker NAME`.",
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
    return data


def _with_part(settings: WorkspaceSettings, part: SettingsPart, path: Path) -> WorkspaceSettings:
    for table in ("cas", "stations", "products"):
        twice = sorted(getattr(settings, table).keys() & getattr(part, table).keys())
        if twice:
            raise _said_twice(path, f"[{table}.{twice[0]}]")
    for table in ("authority", "serve"):
        if getattr(settings, table) is not None and getattr(part, table) is not None:
            raise _said_twice(path, f"[{table}]")
    return msgspec.structs.replace(
        settings,
        authority=settings.authority or part.authority,
        serve=settings.serve or part.serve,
        cas={**settings.cas, **part.cas},
        stations={**settings.stations, **part.stations},
        products={**settings.products, **part.products},
    )


def _said_twice(path: Path, what: str) -> Misconfigured:
    return Misconfigured(
        "settings.twice",
        f"{path} has {what}, which another file of this workspace has as well",
        hint=f"Keep it in one of them; the files of {PARTS_NAME} are written by commands.",
        path=str(path),
    )


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
    settings = _decode(data, where, WorkspaceSettings, _FORMAT)
    if (settings.role == "site") != (settings.site is not None):
        raise Misconfigured(
            "settings.role",
            f"{where}: a workspace has a table [site] if and only if its role is site",
            hint='Make a site\'s workspace with `birthmark site init`, or take [site] and role = "site" out together.',
            path=where,
        )
    return settings


def parse_part(data: bytes, where: str) -> SettingsPart:
    """Return the settings in a file of ``settings.d``; errors as of ``parse_settings``."""
    return _decode(data, where, SettingsPart, PART_FORMAT)


def _decode(data: bytes, where: str, kind: type[_S], wanted: str) -> _S:
    try:
        settings = msgspec.toml.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise Misconfigured(
            "settings.malformed",
            f"{where}: {problem}",
            hint=f"Keys of this table: {_allowed(str(problem))}. See docs/reference/settings.md.",
            path=where,
        ) from None
    if settings.format != wanted:
        raise Misconfigured(
            "settings.format",
            f"{where} has the format {settings.format[:60]!r}",
            hint=f"This program reads {wanted}.",
            path=where,
        )
    return settings


_TABLES: dict[str, type[_Settings]] = {
    "log": LogSettings,
    "vault": VaultSettings,
    "site": SiteSettings,
    "authority": AuthoritySettings,
    "ledger": LedgerSettings,
    "cas": CaSettings,
    "serve": ServeSettings,
    "stations": StationSettings,
    "products": ProductSettings,
    "vendors": VendorSettings,
    "clouds": CloudSettings,
}


def _allowed(problem: str) -> str:
    match = re.search(r"\$\.([a-z_]+)", problem)
    table = _TABLES.get(match[1], WorkspaceSettings) if match else WorkspaceSettings
    return ", ".join(field.encode_name for field in msgspec.structs.fields(table))
