"""The mutual-TLS connection of a device at the line: which identity connects, and who verifies it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.errors import Misconfigured

if TYPE_CHECKING:
    from birthmark.adapters.handshake import FileIdentity, TlsVerifier, TokenIdentity
    from birthmark.shell.wiring import Workspace
    from birthmark.wire.receipt import Handshake
    from birthmark.workflow.line.stationpost import StationPost

__all__ = ["LineHandshakes"]


class LineHandshakes:
    """One TLS server for each issuing CA, started when it is first needed. Threads may call it at once."""

    def __init__(self, workspace: Workspace, post: StationPost) -> None:
        self._workspace = workspace
        self._post = post
        self._verifiers: dict[str, TlsVerifier] = {}
        self._lock = threading.Lock()

    def connect(self, device_serial: str, uri: str) -> Handshake:
        """Connect with the identity that lies at ``uri``; ``Misconfigured("handshake.target")`` where none can."""
        from birthmark.workflow.handout import known_device

        records = self._post.records
        order = records.order(known_device(records, device_serial).order)
        ca = "" if order is None else order.ca
        return self._verifier(ca).connect(self._identity(device_serial, uri, ca))

    def close(self) -> None:
        """Stop the servers."""
        for verifier in self._verifiers.values():
            verifier.close()

    def _verifier(self, ca: str) -> TlsVerifier:
        from birthmark.adapters.handshake import TlsVerifier

        with self._lock:
            if ca not in self._verifiers:
                self._verifiers[ca] = TlsVerifier(self._workspace.chain(ca)[:1])
            return self._verifiers[ca]

    def _identity(self, device_serial: str, uri: str, ca: str) -> FileIdentity | TokenIdentity:
        from birthmark.adapters.handshake import FileIdentity, TokenIdentity
        from birthmark.adapters.pkcs11_uri import parse_pkcs11_uri
        from birthmark.adapters.targets.uri import decoded
        from birthmark.workflow.handout import known_device, stored_certificate

        scheme, _, rest = uri.partition(":")
        path, _, query = rest.partition("?")
        options = dict(item.partition("=")[::2] for item in query.split("&"))
        if scheme == "files" and options.get("layout", "pem") == "pem":
            directory = Path.cwd() / decoded(uri, path)
            return FileIdentity(directory / "device.crt", directory / "device.key")
        if scheme == "pkcs11":
            kept = "&".join(item for item in query.split("&") if not item.startswith("chain="))
            token = parse_pkcs11_uri(f"{scheme}:{path}?{kept}", base=Path.cwd())
            device = known_device(self._post.records, device_serial)
            return TokenIdentity(
                module=token.module,
                token=token.token,
                key_label=token.label or "",
                pin=self._workspace.secrets(token.pin_source),
                chain=(stored_certificate(self._post.ledger, device), *self._workspace.chain(ca)[:1]),
            )
        raise Misconfigured(
            "handshake.target",
            f"no TLS connection can be made from the target {uri[:200]}",
            hint="Use files: with layout=pem or pkcs11:, or leave --handshake out.",
            target=uri[:200],
        )
