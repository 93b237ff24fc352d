"""The visit of a device to its cloud before the box is closed: with its own key where TLS can use it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from birthmark.errors import Misconfigured
from birthmark.shell.line.identity import held_identity, identity_at

if TYPE_CHECKING:
    from birthmark.ports import Credential, Fence
    from birthmark.ports.admission import Admission, Door
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.workflow.line.stationpost import StationPost

__all__ = ["LineAdmissions"]


class LineAdmissions:
    """The doors of the clouds of a workspace, each opened when it is first needed. Threads may call it at once."""

    def __init__(self, workspace: Workspace, post: StationPost) -> None:
        self._workspace = workspace
        self._post = post
        self._doors: dict[str, Door] = {}
        self._lock = threading.Lock()

    def admit(self, cloud: str, device_serial: str, uri: str, credential: Credential | None, fence: Fence) -> Admission:
        """Let the device at ``uri`` in at the cloud named ``cloud``; raises what ``ports.Door`` and ``require`` do.

        ``Misconfigured("handshake.target")``: TLS can use neither the key in the device nor one that the station holds.
        """
        self.require(cloud)
        try:
            device = identity_at(self._workspace, self._post, device_serial, uri)
        except Misconfigured as unusable:
            held = held_identity(credential)
            if held is None or unusable.code != "handshake.target":
                raise
            device = held
        return self._doors[cloud].admit(device, fence)

    def require(self, cloud: str) -> None:
        """Return if devices can be let in there; nothing is sent.

        ``Misconfigured``: ``settings.cloud``, ``settings.hubs``, ``cloud.admit.impossible``, and what its URI lacks.
        """
        from birthmark.ports.admission import Admits
        from birthmark.shell.register.registration import chosen_clouds, cloud_of

        with self._lock:
            if cloud in self._doors:
                return
            kind, uri = cloud_of(chosen_clouds(self._workspace, [cloud])[cloud])
            if not isinstance(kind, Admits):
                raise Misconfigured(
                    "cloud.admit.impossible",
                    f"the cloud {cloud} lets no device in from here",
                    hint="Name a cloud of the kind azure-dps or aws-iot, or leave --cloud out.",
                    cloud=cloud,
                )
            self._doors[cloud] = kind.door(uri, base=str(self._workspace.root))
