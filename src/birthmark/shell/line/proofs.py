"""What is asked of a device besides its signature: a mutual-TLS connection, and its cloud that lets it in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from birthmark.shell.line.cloud import LineAdmissions
from birthmark.shell.line.handshake import LineHandshakes
from birthmark.shell.line.identity import is_born, require_usable

if TYPE_CHECKING:
    from birthmark.ports import Fence
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.workflow.line.station import AdmitCall, HandshakeCall, ProvisionRequest
    from birthmark.workflow.line.stationpost import StationPost

__all__ = ["LineProofs", "Proofs"]


@dataclass(frozen=True, slots=True)
class Proofs:
    """``cloud``: name of the cloud that has to let the device in."""

    handshake: bool = False
    cloud: str | None = None


class LineProofs:
    """Makes the calls that the engine makes these proofs with, for all heads of a station."""

    def __init__(self, workspace: Workspace, post: StationPost) -> None:
        self._post = post
        self._handshakes = LineHandshakes(workspace, post)
        self._admissions = LineAdmissions(workspace, post)

    def handshake(self, proofs: Proofs, request: ProvisionRequest) -> HandshakeCall | None:
        """Return the call that connects, None if none is asked for."""
        if not proofs.handshake:
            return None
        return lambda: self._handshakes.connect(request.device_serial, request.target)

    def admit(self, proofs: Proofs, request: ProvisionRequest, fence: Fence) -> AdmitCall | None:
        """Return the call that shows the device to its cloud, None if none is asked for.

        ``Misconfigured`` before anything is done to a device: that cloud lets nobody in from here, or TLS cannot use
        the key in the device and the station will hold none.
        """
        if (cloud := proofs.cloud) is None:
            return None
        self._admissions.require(cloud)
        serial, uri = request.device_serial, request.target
        if request.proves_only or is_born(self._post, serial):
            require_usable(uri)
        return lambda credential: self._admissions.admit(cloud, serial, uri, credential, fence)

    def close(self) -> None:
        """Stop the servers."""
        self._handshakes.close()
