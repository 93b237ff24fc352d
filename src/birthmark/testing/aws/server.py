"""The emulator as one object: moto with what it has not, on one HTTP endpoint, on threads of its own."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar

from moto.core.base_backend import BackendDict
from moto.core.config import default_user_config
from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer, make_server

from birthmark.testing.aws.dataplane import DataPlane
from birthmark.testing.aws.front import Front
from birthmark.testing.aws.limits import Rates
from birthmark.testing.aws.registry import Registry
from birthmark.testing.dps.faults import FaultPlan, Faults

__all__ = ["EmulatedAws"]


class _Handler(MotoRequestHandler):
    """Says nothing, and leaves a client without an answer when it is told to."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        """Close instead of waiting for the next request."""
        self.close_connection = True


class EmulatedAws:
    """AWS IoT (with S3, IAM and STS by moto) in this process; a context manager.

    Port 0 takes a free one: ``port`` for SDKs (HTTP), ``mqtt_port`` for devices, as 8883 of the service, ``alpn_port``
    for devices with ALPN, as its 443. Devices trust ``root_pem`` and connect to ``endpoint`` by name.

    Records are those of one account: two emulators at once need an account each. ``rates``: operation → calls a
    second, for those that are to be throttled.
    """

    _accounts: ClassVar[set[str]] = set()

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        mqtt_port: int = 0,
        alpn_port: int = 0,
        endpoint: str = "localhost",
        account: str = "123456789012",
        region: str = "us-east-1",
        rates: Mapping[str, float] | None = None,
        faults: FaultPlan | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host, self.port, self.account, self.region = host, port, account, region
        self.control_token = os.urandom(24).hex()
        self.faults = Faults(faults or FaultPlan())
        self.endpoint, self.mqtt_port, self.alpn_port = endpoint, mqtt_port, alpn_port
        self._front = Front(account, region, endpoint, self.control_token, self.faults, Rates(rates or {}, monotonic))
        hosts = sorted({endpoint, host})
        ports = (mqtt_port, alpn_port)
        self._data = DataPlane(host, ports, hosts, lambda: self.registry, self._front.lock, monotonic)
        self.root_pem = self._data.root_pem

    @property
    def url(self) -> str:
        """What boto3 is given as ``endpoint_url``."""
        return f"http://{self.host}:{self.port}"

    @property
    def registry(self) -> Registry:
        """What the account holds in the emulator's region."""
        return self._front.desk(self.region).registry

    def __enter__(self) -> EmulatedAws:
        if self.account in self._accounts:
            raise ValueError(f"account {self.account} is emulated in this process already")
        with socket.create_server((self.host, self.port)) as bound:  # werkzeug would end the program if it is taken
            self._server: BaseWSGIServer = make_server(
                self.host, self.port, self._front, threaded=True, request_handler=_Handler, fd=bound.fileno()
            )
        try:
            self._data.start()
        except (OSError, OverflowError):
            self._server.server_close()
            raise
        self.mqtt_port, self.alpn_port = self._data.ports
        self._accounts.add(self.account)
        self.port = int(self._server.server_address[1])
        self._front.url = self.url
        self._front.is_local = _is_loopback(self.host)
        # Nobody has to prove who he is here: what is asked of this port starts no programs, in containers either.
        default_user_config["lambda"] = default_user_config["batch"] = {"use_docker": False}
        self._forget()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.stop()
        self._server.shutdown()
        self._thread.join(timeout=10)
        self._server.server_close()
        self._forget()
        self._accounts.discard(self.account)

    def _forget(self) -> None:
        """Drop what moto holds for this account, whatever the service."""
        for backends in list(BackendDict._instances):  # type: ignore[misc]  # one list for every kind of service
            if self.account in backends:
                backends[self.account].reset()
                del backends[self.account]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
