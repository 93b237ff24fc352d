"""A device with its certificate at an MQTT broker, by paho-mqtt: no threads, so that a test sees each step."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

__all__ = ["connected", "run", "said_back", "subscribed"]


def connected(
    place: Path,
    name: str,
    root_pem: str,
    host: str,
    port: int,
    *,
    alpn: str | None = None,
    will: tuple[str, bytes] | None = None,
    protocol: int = paho.MQTTv311,
) -> paho.Client | None:
    """Connect with ``device.crt`` and ``device.key`` of a directory; None: it is not let in.

    The name of the server goes into the handshake (SNI), an address does not. ``user_data_get()``: what it hears.
    """
    context = ssl.create_default_context(cadata=root_pem)
    context.check_hostname = False
    context.load_cert_chain(place / "device.crt", place / "device.key")
    if alpn:
        context.set_alpn_protocols([alpn])
    made = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, reconnect_on_failure=False)
    made.tls_set_context(context)
    if will is not None:
        made.will_set(*will)
    made.user_data_set([])
    made.on_message = lambda _client, held, message: held.append((message.topic, message.payload))
    try:
        made.connect(host, port)
    except OSError:
        return None
    return made if run(made, made.is_connected) else None


def run(made: paho.Client, until: Callable[[], object], times: int = 100) -> bool:
    """Work until something is so, for five seconds at most or until the connection ends."""
    for _ in range(times):
        if until():
            return True
        if made.loop(0.05) != paho.MQTT_ERR_SUCCESS:
            break
    return bool(until())


def subscribed(made: paho.Client, topic: str) -> bool:
    """Subscribe; return whether it is allowed."""
    done: list[int] = []
    made.on_subscribe = lambda _client, _data, _mid, reasons, _properties: done.extend(one.value for one in reasons)
    made.subscribe(topic, 1)
    assert run(made, lambda: done)
    return done[0] < 0x80


def said_back(made: paho.Client, topic: str, payload: bytes) -> bytes | None:
    """Subscribe to a topic, publish there, and return what comes back, or None for nothing."""
    heard = made.user_data_get()
    heard.clear()
    if not subscribed(made, topic):
        return None
    made.publish(topic, payload, 1)
    run(made, lambda: heard, 20)
    return bytes(heard[0][1]) if heard else None
