"""Running the service: TLS, the parts of a workspace, heads that are signed every second, an orderly end."""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from birthmark.errors import BirthmarkError, Misconfigured, StationFault
from birthmark.shell.api.app import build_app
from birthmark.shell.api.batcher import Batcher
from birthmark.shell.api.callers import Callers
from birthmark.shell.api.connection import close_slow
from birthmark.shell.api.observing import Metrics, RequestLog
from birthmark.shell.api.orderly import OrderlyServer, beside, server_config, write_log
from birthmark.shell.api.service import Service
from birthmark.shell.api.taking import take_report
from birthmark.shell.workspace.config import ServeSettings
from birthmark.shell.workspace.publishing import publication_defect
from birthmark.shell.workspace.wiring import Workspace
from birthmark.workflow.line.draw import Drawing
from birthmark.workflow.line.issuebatch import IssueBatch
from birthmark.workflow.line.issuing import Issuing

__all__ = ["serve"]

_PUBLISH_EVERY_S = 1.0
_GRACE_S = 20
_KEEP_ALIVE_S = 75
_BACKLOG = 512


def serve(
    workspace: Workspace,
    *,
    host: str | None = None,
    port: int | None = None,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGTERM or SIGINT; what was taken by then is finished first.

    ``ready`` gets the address when requests are taken. Raises ``Misconfigured``: ``serve.settings``, ``serve.tls``,
    ``serve.access_ca``, ``serve.socket``; ``StationFault("serve.listen")`` and others that stop the
    publication of the log.
    """
    settings = _settings(workspace)
    access = _access_cas(workspace, settings)
    log = RequestLog(write_log)
    server: _Server

    def open_service() -> Service:
        try:
            return _open_service(workspace, settings, access, log)
        except BirthmarkError as problem:
            server.failure = problem
            raise

    def background() -> AbstractAsyncContextManager[None]:
        return beside(_publish(workspace, log, server), close_slow(server.server_state.connections))

    app = build_app(open_service, background)
    config = _config(workspace, settings, access, app, host or settings.host, settings.port if port is None else port)
    server = _Server(config, ready)
    try:
        server.run()
    except SystemExit:
        # So uvicorn ends when it cannot start.
        if server.failure is None:
            raise _cannot_listen(config) from None
    if server.failure is not None:
        raise server.failure


def _config(
    workspace: Workspace, settings: ServeSettings, access: tuple[bytes, ...], app: Any, host: str, port: int
) -> uvicorn.Config:
    unix_socket = settings.unix_socket
    if unix_socket is not None:
        _require_own_directory(workspace.root / unix_socket)
    return server_config(
        app,
        connections=settings.connections,
        grace_s=_GRACE_S,
        host=host,
        port=port,
        uds=None if unix_socket is None else str(workspace.root / unix_socket),
        ssl_context_factory=None if unix_socket else (lambda _, __: _tls(workspace, settings, access)),
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )


def _require_own_directory(unix_socket: Path) -> None:
    """Return if some directory above the socket keeps other users out: who connects there may name any caller.

    The socket itself can be written by everybody, since the proxy seldom runs as the user of the service.
    """
    directory = unix_socket.parent.resolve()
    try:
        if any(not one.stat().st_mode & stat.S_IXOTH for one in (directory, *directory.parents)):
            return
    except OSError as problem:
        raise StationFault(
            "serve.listen",
            f"the service cannot listen at {unix_socket}: {problem.strerror}",
            hint="Make the directory of unix_socket, and let nobody but the proxy's group enter it.",
            path=str(unix_socket),
        ) from problem
    raise Misconfigured(
        "serve.socket",
        f"every user of this machine can connect to {unix_socket}, and say there that he is anybody",
        hint=f"Let only the proxy's group in: chgrp PROXY {directory} && chmod 0750 {directory}",
        path=str(unix_socket),
    )


class _Server(OrderlyServer):
    """Tells when it listens, and keeps what made it stop."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self.failure: BirthmarkError | None = None

    def _log_started_message(self, listeners: object) -> None:
        if self.config.uds:
            self._ready(f"unix:{self.config.uds}")
            return
        name = self.servers[0].sockets[0].getsockname()
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        self._ready(f"https://{host}:{name[1]}")


def _cannot_listen(config: uvicorn.Config) -> StationFault:
    return StationFault(
        "serve.listen",
        f"the service cannot listen at {config.uds or f'{config.host} port {config.port}'}",
        hint="Another program may have the port: stop it, or choose another one with --port.",
        port=config.port,
    )


def _settings(workspace: Workspace) -> ServeSettings:
    settings = workspace.settings.serve
    if settings is None:
        raise Misconfigured(
            "serve.settings",
            "the settings of this workspace say nothing of a service",
            hint="Run `birthmark access server --name HOST`, or add [serve] to birthmark.toml; see docs/service.md.",
        )
    return settings


def _access_cas(workspace: Workspace, settings: ServeSettings) -> tuple[bytes, ...]:
    """Return the certificates (DER) of the access CAs: those on record and the one that the settings name."""
    found = [record.certificate for record in workspace.records.cas() if record.kind == "access"]
    if settings.client_ca is not None:
        found.append(_pem_to_der(workspace.root / settings.client_ca))
    if not found:
        raise Misconfigured(
            "serve.access_ca",
            "there is no access CA, so nobody can be let in",
            hint="Run `birthmark access server --name HOST`, or name a CA certificate as client_ca in [serve].",
        )
    return tuple(dict.fromkeys(found))


def _pem_to_der(path: Path) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(path.read_text("ascii"))
    except (OSError, ValueError) as problem:
        raise _bad_tls(path, str(problem)) from problem


def _tls(workspace: Workspace, settings: ServeSettings, access: tuple[bytes, ...]) -> ssl.SSLContext:
    """Return the TLS of the service: 1.2 or 1.3, a client certificate of an access CA or none at all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Who shows no certificate gets the public files; one of another CA does not get through the handshake.
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=b"".join(access))
    # An access CA may stand below a root of its own; it is trusted by itself.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if settings.tls_certificate is None or settings.tls_key is None:
        raise Misconfigured(
            "serve.tls",
            "the service has no certificate of its own",
            hint="Set tls_certificate and tls_key in [serve], or a unix_socket behind your TLS proxy.",
        )
    certificate, key = workspace.root / settings.tls_certificate, workspace.root / settings.tls_key
    secret = settings.tls_secret
    password = workspace.secrets(secret).reveal() if secret is not None else b""
    try:
        context.load_cert_chain(certificate, key, password)
    except (OSError, ValueError) as problem:
        raise _bad_tls(key, str(problem)) from None
    return context


def _bad_tls(path: Path, reason: str) -> Misconfigured:
    return Misconfigured(
        "serve.tls",
        f"the TLS files of the service cannot be used: {reason}",
        hint="Check tls_certificate, tls_key, tls_secret and client_ca in [serve].",
        path=str(path),
    )


def _open_service(
    workspace: Workspace,
    settings: ServeSettings,
    access: tuple[bytes, ...],
    log: RequestLog,
) -> Service:
    records = workspace.records
    issuing = Issuing(records=records, permits=workspace.permits, entropy=workspace.entropy, lint_each=False)
    drawing = Drawing(
        ledger=workspace.ledger, records=records, vault_key=lambda: workspace.vault_key, chain_of=workspace.chain
    )
    # Read between its own commits, by the thread that makes them.
    own = workspace.ledger.writer_records
    batch = IssueBatch(
        ledger=workspace.ledger,
        records=own,
        sites=own,
        issuing=issuing,
        drawing=drawing,
        clock=workspace.clock,
    )
    batcher = Batcher(batch, room=settings.queue)
    metrics = Metrics(
        {
            "birthmark_waiting_requests": ("Requests that are not answered yet.", lambda: float(batcher.depth)),
            "birthmark_ledger_rounds": ("Rounds of group commit since the start.", lambda: float(batcher.rounds)),
            "birthmark_log_entries": ("Entries of the log.", lambda: float(workspace.ledger.head().size)),
            "birthmark_log_signed": (
                "Entries under the last signed head.",
                lambda: float(workspace.ledger.head().published),
            ),
        }
    )
    callers = Callers(
        records,
        issuers=access,
        clock=workspace.clock,
        proxy=settings.proxy,
        header=settings.proxy_header,
    )
    for left_over in workspace.root.glob("sites/*/inbox/.spool-*"):
        left_over.unlink(missing_ok=True)
    log.add("started")
    return Service(workspace, callers, batcher, log, metrics, settings.public_log, partial(take_report, workspace))


async def _publish(workspace: Workspace, log: RequestLog, server: _Server) -> None:
    """Sign and show a head every second; if that fails for good, stop: an unwitnessed log must not grow."""
    while server.failure is None:
        await asyncio.sleep(_PUBLISH_EVERY_S)
        try:
            await asyncio.to_thread(workspace.publish)
        except BirthmarkError as problem:
            log.add("publish_failed", code=problem.code)
            if not problem.retry_safe:
                server.failure = problem
        except Exception as problem:  # noqa: BLE001  a task that dies in silence would let the log grow unseen
            server.failure = publication_defect(problem)
            log.add("publish_failed", code=server.failure.code)
    server.should_exit = True
