"""Network namespaces of our own: a hub and hosts, each on a cable that can be pulled. Needs root and iproute2."""

from __future__ import annotations

import os
import subprocess

__all__ = ["HUB", "Cables"]

HUB = "192.0.2.1"
"""Address of the hub, of the block for documentation (RFC 5737): it exists inside these namespaces alone."""


class Cables:
    """``names``: hosts, at most 200; host ``names[n]`` reaches the hub, and the hub it, while its cable is plugged."""

    def __init__(self, *names: str) -> None:
        assert os.geteuid() == 0, "this test makes network namespaces: run it as root, with iproute2 installed"
        self._mark = f"bm{os.getpid()}"
        self.hub = f"{self._mark}-hub"
        self._hosts = {name: f"{self._mark}-{name}" for name in names}
        _ip("netns", "add", self.hub)
        # One address for the hub on all cables: a route to each host leads over its own.
        _ip("-n", self.hub, "link", "set", "lo", "up")
        _ip("-n", self.hub, "address", "add", f"{HUB}/32", "dev", "lo")
        for number, (name, host) in enumerate(self._hosts.items()):
            self._connect(name, host, f"192.0.2.{number + 10}")

    def _connect(self, name: str, host: str, address: str) -> None:
        _ip("netns", "add", host)
        _ip("-n", host, "link", "set", "lo", "up")
        # Made inside the namespaces: nothing of it is ever seen on the machine's own network.
        _ip("-n", self.hub, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", host)
        _ip("-n", host, "link", "set", "eth0", "up")
        _ip("-n", host, "address", "add", f"{address}/32", "dev", "eth0")
        _ip("-n", host, "route", "add", HUB, "dev", "eth0", "src", address)
        self._plug(name, address)

    def _plug(self, name: str, address: str) -> None:
        _ip("-n", self.hub, "link", "set", f"to-{name}", "up")
        _ip("-n", self.hub, "route", "replace", address, "dev", f"to-{name}", "src", HUB)

    def pull(self, name: str) -> None:
        """Cut a host off: what is under way is lost, and nobody is told."""
        _ip("-n", self.hub, "link", "set", f"to-{name}", "down")

    def plug(self, name: str) -> None:
        """Heal it."""
        number = list(self._hosts).index(name)
        self._plug(name, f"192.0.2.{number + 10}")

    def command(self, name: str) -> tuple[str, ...]:
        """Return what stands before a command that runs on a host, or on ``hub``."""
        return ("ip", "netns", "exec", self.hub if name == "hub" else self._hosts[name])

    def remove(self) -> None:
        for namespace in (*self._hosts.values(), self.hub):
            _ip("netns", "delete", namespace)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
