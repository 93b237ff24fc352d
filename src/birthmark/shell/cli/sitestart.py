"""``birthmark site init``, ``site ca`` and ``site station``: at the site, keys are born and requests are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit

if TYPE_CHECKING:
    from birthmark.model.siteevents import SiteMode

__all__ = ["init", "next_ca", "next_station"]

_REFERENCE = "env:BIRTHMARK_PASSPHRASE"
_SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"

TokenOption = Annotated[str | None, typer.Option(help="Label of the PKCS#11 token for the key of the CA.")]
ModuleOption = Annotated[str, typer.Option(help="PKCS#11 module of the token.")]
KeyOption = Annotated[str, typer.Option(help="Kind of the CA's key: p256, p384, ed25519, rsa2048, rsa3072.")]


def init(
    directory: Annotated[Path, typer.Argument(help="The site's new workspace.")],
    mode: Annotated[str, typer.Option(help="online, factory_ca or pool: where identities come from.")],
    authority_origin: Annotated[
        str, typer.Option(help="Name of the authority's log (`origin` in its birthmark.toml).")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the site; default: that of the directory.")] = None,
    station: Annotated[list[str] | None, typer.Option(help="A station of the site; repeat for more.")] = None,
    ca: Annotated[str | None, typer.Option(help="Name of its issuing CA (factory_ca); default: NAME-ca-1.")] = None,
    ca_key_algorithm: KeyOption = "p256",
    token: TokenOption = None,
    module: ModuleOption = _SOFTHSM,
    secret: Annotated[
        str, typer.Option(help="Where the passphrase of key files (or the PIN) is: env:, file:, fd: or prompt:.")
    ] = _REFERENCE,
    origin: Annotated[str | None, typer.Option(help="Name of the site's log; default: AUTHORITY/site/NAME.")] = None,
    site_prefix: Annotated[str | None, typer.Option(help="First 2 octets of certificate serials (hex): 0100-7fff.")] = (
        None
    ),
    as_json: JsonOption = False,
) -> None:
    """At the site: make its workspace with all keys, and the signed request for the authority."""
    from hashlib import sha256

    from birthmark.shell.sites.setup import REQUEST_NAME, NewSite, create_site_workspace
    from birthmark.shell.workspace.secrets import SecretsResolver

    chosen, called = _mode(mode), name or directory.resolve().name.lower()
    site = NewSite(
        name=called,
        mode=chosen,
        authority=authority_origin,
        origin=origin or f"{authority_origin}/site/{called}",
        site_prefix=site_prefix or _random_prefix(),
        secret=secret,
        stations=tuple(station or ["line1"]),
        ca=(ca or f"{called}-ca-1") if chosen == "factory_ca" else None,
        ca_key_algorithm=ca_key_algorithm,
        token=_token(token, module),
    )
    data = create_site_workspace(directory, site, secrets=SecretsResolver())
    request = directory / REQUEST_NAME
    digest = sha256(data).hexdigest()
    emit(
        {"site": called, "mode": chosen, "request": str(request), "sha256": digest, "site_prefix": site.site_prefix},
        f"Site {called} is ready to ask: {request}\nSHA-256 {digest}\n"
        "Read it to the authority by telephone: it must see the same.\n"
        f"Next, at the authority: birthmark site add {REQUEST_NAME} -C AUTHORITY",
        as_json=as_json,
    )


def _mode(text: str) -> SiteMode:
    modes: dict[str, SiteMode] = {"online": "online", "factory_ca": "factory_ca", "pool": "pool"}
    if text not in modes:
        raise Misconfigured("site.mode.unknown", f"no mode {text[:40]!r}", hint="Use online, factory_ca or pool.")
    return modes[text]


def _random_prefix() -> str:
    """Return a prefix that nobody else is likely to have; the authority refuses one it knows."""
    import os

    return f"{0x0100 + int.from_bytes(os.urandom(4), 'big') % 0x7F00:04x}"


def _token(label: str | None, module: str) -> tuple[str, str] | None:
    return None if label is None else (str(Path(module).resolve()), label)


def next_ca(
    name: Annotated[str, typer.Argument(help="Name of the new CA, never used before.")],
    output: Annotated[Path, typer.Option(help="Where its CSR goes.")],
    key_algorithm: KeyOption = "p256",
    token: TokenOption = None,
    module: ModuleOption = _SOFTHSM,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At a site of mode factory_ca: make the key of its next issuing CA, and the request for it."""
    from birthmark.adapters.durable import write_durably
    from birthmark.shell.sites.setup import make_ca_request
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        csr = make_ca_request(opened, name, algorithm=key_algorithm, token=_token(token, module))
    write_durably(output, csr, mode=0o644)
    scheme = "file" if token is None else "pkcs11"
    emit(
        {"ca": name, "csr": str(output), "key_scheme": scheme},
        f"Request of CA {name}: {output}\nNext, at the authority: "
        f"birthmark site delegate SITE --name {name} --csr {output.name} --key-scheme {scheme}",
        as_json=as_json,
    )


def next_station(
    name: Annotated[str, typer.Argument(help="Name of the new station.")],
    output: Annotated[Path, typer.Option(help="Where the CSR of its TLS key goes.")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At a site: make the keys of one more station, and the request for the authority."""
    from birthmark.adapters.durable import write_durably
    from birthmark.shell.sites.setup import make_station_request
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        vkey, csr = make_station_request(opened, name)
        site = opened.settings.name
    write_durably(output, csr, mode=0o644)
    emit(
        {"station": name, "vkey": vkey, "csr": str(output)},
        f"Request of station {name}: {output}\nNext, at the authority: "
        f"birthmark station add {name} --site {site} --csr {output.name} --vkey '{vkey}'",
        as_json=as_json,
    )
