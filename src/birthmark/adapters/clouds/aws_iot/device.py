"""A device connects to its account's endpoint over MQTT, with its own certificate.

Server name (SNI) always; ``x-amzn-mqtt-ca`` as application protocol on port 443 and none on 8883 (AWS IoT Core,
"Device communication protocols"). With just-in-time registration the first connections are dropped while the cloud
makes the device known: they are made again until it is, or until it can be said that it will not be.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from birthmark.adapters.clouds.aws_iot.mqtt import CONNACK_NAMES, connect, disconnect, subscribe
from birthmark.adapters.clouds.knock import Knock, Visitor, unreachable
from birthmark.adapters.clouds.said import shown
from birthmark.errors import BirthmarkError, Refused
from birthmark.ports import Fence
from birthmark.ports.admission import Admission, DeviceTls, TlsServer

__all__ = ["AwsIotDevices"]

_SERVICE: Final = "aws-iot"
_ALPN: Final = "x-amzn-mqtt-ca"
_CLIENT_ID = re.compile(r"[A-Za-z0-9:_.-]{1,128}")
_EXCHANGE_S = 15.0
_SILENT_TRIES = 3
_MOST_TRIES = 7
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
_UNAVAILABLE = 3
_DROPPED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLError)


class AwsIotDevices:
    """Implements ``ports.Door`` for one endpoint. ``trust``: PEM file of its CAs, "" for the system's.

    ``topic``: a topic that the policy of each device lets it subscribe to, with ``{name}`` for its name; subscribed to
    once, so that the policy is seen to be in force. Without it being let in is enough.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int = 8883,
        trust: str = "",
        topic: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = TlsServer(host, port, host, trust, (_ALPN,) if port == 443 else ())
        self._topic = topic
        self._sleep = sleep

    def admit(self, device: DeviceTls, fence: Fence) -> Admission:
        visitor = Visitor(device)
        visitor.require_name(_CLIENT_ID, cloud="AWS IoT", hint="It takes 128 letters, digits and :_-. at most.")
        self._until_let_in(visitor, Knock(fence, most_s=_EXCHANGE_S, sleep=self._sleep))
        return Admission(
            service=_SERVICE,
            host=self._server.name,
            scope="",
            assigned_to=self._server.name,
            device_name=visitor.name,
            cert_sha256=visitor.cert_sha256,
            held_by=device.held_by,
        )

    def _until_let_in(self, visitor: Visitor, knock: Knock) -> None:
        silent = dropped = 0
        while True:
            trouble: BirthmarkError
            try:
                code = self._knock_once(visitor, knock.begin())
                if code == 0:
                    return
                if code != _UNAVAILABLE:
                    raise self._refused(visitor, f"connack {code}", CONNACK_NAMES.get(code, "unknown"))
                silent, trouble = silent + 1, unreachable(self._server.host, CONNACK_NAMES[code])
            except _DROPPED as problem:
                dropped, trouble = dropped + 1, self._dropped(visitor, problem)
            except OSError as problem:
                silent, trouble = silent + 1, unreachable(self._server.host, problem)
            if silent == _SILENT_TRIES or dropped == _MOST_TRIES:
                raise trouble
            knock.wait(_PAUSES_S[min(silent + dropped, len(_PAUSES_S)) - 1], trouble)

    def _knock_once(self, visitor: Visitor, left: Callable[[], float]) -> int:
        stream = visitor.tls.connect(self._server, left())
        try:
            code = connect(stream, visitor.name, left)
            if code == 0 and self._topic is not None:
                topic = self._topic.replace("{name}", visitor.name)
                if not subscribe(stream, topic, left):
                    raise self._refused(visitor, "suback 128", f"its policy does not let it subscribe to {topic}")
            if code == 0:
                with suppress(OSError):  # it let us in: how we part does not count
                    disconnect(stream, left())
            return code
        finally:
            stream.close()

    def _refused(self, visitor: Visitor, answer: str, says: str) -> Refused:
        return Refused(
            "cloud.admit.refused",
            f"AWS IoT does not let {visitor.name} in: {answer}, {shown(says)}",
            hint="Check that the certificate is ACTIVE there and has a policy that allows iot:Connect for its name.",
            answer=answer,
            endpoint=self._server.host,
        )

    def _dropped(self, visitor: Visitor, problem: OSError) -> Refused:
        return Refused(
            "cloud.admit.dropped",
            f"AWS IoT ends the connection of {visitor.name} whenever it is made: {shown(problem)}",
            hint="Register the certificate or its CA; look whether it is ACTIVE there and has its template or rule.",
            answer=shown(problem),
            endpoint=self._server.host,
        )
