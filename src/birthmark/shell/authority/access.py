"""The access CA in a workspace: where its key lives, and the files of the service's certificate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.adapters.durable import write_durably
from birthmark.errors import Refused
from birthmark.shell.workspace.config import CONFIG_NAME, ServeSettings, parse_settings
from birthmark.shell.workspace.settingsparts import write_part
from birthmark.shell.workspace.settingstext import file_key_uri, toml_text
from birthmark.workflow.authority.access import (
    ACCESS_CA,
    DEFAULT_DAYS,
    AccessTools,
    access_issuer,
    grant_access,
    sign_server,
)

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["access_tools", "certificate_pem", "make_server_certificate", "require_role", "write_serve_settings"]


def require_role(workspace: Workspace, role: str) -> None:
    """Return if the workspace has this role, else ``Refused("workspace.role")``."""
    if workspace.settings.role != role:
        raise Refused(
            "workspace.role",
            f"this is the workspace of a {workspace.settings.role}, and the command is for a {role}",
            hint="Name the right workspace with -C.",
            role=workspace.settings.role,
        )


def access_tools(workspace: Workspace) -> AccessTools:
    """Return what the access CA works with.

    Its key is the one of ``[cas.access]``; without that table it is ``keys/access.pem`` under the vault's passphrase.
    """
    configured = ACCESS_CA in workspace.settings.cas
    uri = workspace.ca_key_uri(ACCESS_CA) if configured else file_key_uri(ACCESS_CA, workspace.settings.vault.secret)

    def key() -> Any:
        if workspace.records.ca(ACCESS_CA) is not None:
            return workspace.private_key(uri)
        try:
            return workspace.keys(uri).generate(uri, "p256")
        except Refused as refusal:
            # Made by a run that ended before the record: nothing was ever signed with it.
            if refusal.code != "key.exists":
                raise
            return workspace.private_key(uri)

    return AccessTools(
        ledger=workspace.ledger,
        records=workspace.records,
        key=key,
        key_scheme=uri.partition(":")[0],
        origin=workspace.settings.origin,
        clock=workspace.clock,
        entropy=workspace.entropy,
        by=workspace.by,
    )


def certificate_pem(*certificates: bytes) -> bytes:
    """Return certificates (DER) as PEM, one after the other."""
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates)


def make_server_certificate(workspace: Workspace, hosts: Sequence[str], *, days: int = DEFAULT_DAYS) -> list[Path]:
    """Make key and certificate of the service; return the files.

    ``serve/server.key`` (mode 0600, not encrypted: the service starts without a person), ``serve/server.pem``, and
    ``serve/clients.pem``: the CA of those who are let in. Power cut: the pair may be of two runs; run it again.
    """
    from birthmark.pki.algorithms import algorithm_named

    with workspace.lock("access"):
        tools = access_tools(workspace)
        key: Any = algorithm_named("p256").generate()
        signed = grant_access(tools, sign_server(tools, hosts=hosts, public_key=key.public_key(), days=days))
        place = workspace.root / "serve"
        place.mkdir(mode=0o700, exist_ok=True)
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_durably(place / "server.key", text, mode=0o600)
        write_durably(place / "server.pem", certificate_pem(signed.certificate), mode=0o644)
        write_durably(place / "clients.pem", certificate_pem(access_issuer(tools).chain_der[0]), mode=0o644)
    return [place / name for name in ("server.key", "server.pem", "clients.pem")]


def write_serve_settings(workspace: Workspace, *, listen: str | None, port: int | None) -> Path | None:
    """Write the service's table ``[serve]`` to ``settings.d/serve.toml`` and return its path.

    None, and nothing is written, where ``birthmark.toml`` has that table: people wrote it. What is not given stays as
    it was.
    """
    config = workspace.root / CONFIG_NAME
    if parse_settings(config.read_bytes(), str(config)).serve is not None:
        return None
    before = workspace.settings.serve or ServeSettings()
    lines = [
        "[serve]",
        f"host = {toml_text(listen or before.host)}",
        f"port = {before.port if port is None else port}",
        'tls_certificate = "serve/server.pem"',
        'tls_key = "serve/server.key"',
    ]
    return write_part(workspace.root, "serve", "\n".join([*lines, ""]))
