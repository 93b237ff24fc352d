"""The visit of a device to its cloud before the box is closed: with its own key where TLS can use it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from birthmark.errors import Misconfigured
from birthmark.shell.lineidentity import held_identity, identity_at

if TYPE_CHECKING:
    from birthmark.ports import Credential, Fence
    from birthmark.ports.admission import Admission, Admits
    from birthmark.shell.wiring import Workspace
    from birthmark.workflow.line.stationpost import StationPost

__all__ = ["LineAdmissions"]


class LineAdmissions:
    """The clouds of a workspace, each opened when it is first needed. Threads may call it at once."""

    def __init__(self, workspace: Workspace, post: StationPost) -> None:
        self._workspace = workspace
        self._post = post
        self._clouds: dict[str, Admits] = {}
        self._lock = threading.Lock()

    def admit(self, cloud: str, device_serial: str, uri: str, credential: Credential | None, fence: Fence) -> Admission:
        """Let the device at ``uri`` in at the cloud named ``cloud``; raises what ``ports.Admits`` does.

        ``Misconfigured``: ``settings.cloud``, ``cloud.admit.impossible`` (that cloud lets nobody in from here),
        ``handshake.target`` (TLS can use neither the key in the device nor one that the station holds).
        """
        admits = self._cloud(cloud)
        try:
            device = identity_at(self._workspace, self._post, device_serial, uri)
        except Misconfigured as unusable:
            held = held_identity(credential)
            if held is None or unusable.code != "handshake.target":
                raise
            device = held
        return admits.admit(device, fence)

    def require(self, cloud: str) -> None:
        """Return if devices can be let in there; nothing is sent."""
        self._cloud(cloud)

    def close(self) -> None:
        """Close what was opened."""
        with self._lock:
            for cloud in self._clouds.values():
                cloud.close()  # type: ignore[attr-defined]
            self._clouds.clear()

    def _cloud(self, name: str) -> Admits:
        from birthmark.ports.admission import Admits

        with self._lock:
            if name not in self._clouds:
                opened = self._workspace.cloud(name)
                if not isinstance(opened, Admits):
                    opened.close()
                    raise Misconfigured(
                        "cloud.admit.impossible",
                        f"the cloud {name} lets no device in from here",
                        hint="Name a cloud of the kind azure-dps or aws-iot, or leave --cloud out.",
                        cloud=name,
                    )
                self._clouds[name] = opened
            return self._clouds[name]
