"""The mutual-TLS connection of a device at the line: which identity connects, and who verifies it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from birthmark.shell.line.identity import ca_of, identity_at

if TYPE_CHECKING:
    from birthmark.adapters.handshake import TlsVerifier
    from birthmark.shell.workspace.wiring import Workspace
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
        ca = ca_of(self._post, device_serial)
        return self._verifier(ca).connect(identity_at(self._workspace, self._post, device_serial, uri))

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
