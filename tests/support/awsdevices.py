"""Runs in the environment of ``tests/tools/aws.in``: connects devices with Amazon's own clients.

Arguments: client (crt, five for MQTT 5, old), what to do (echo, fleet:TEMPLATE:CSR), root file, host, port, ALPN
(or -), then NAME=CHAIN=KEY each. One JSON line per device.
"""

import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from awscrt import io, mqtt, mqtt5
from awsiot import iotidentity, mqtt5_client_builder

client, work, root, host, port, alpn, *devices = sys.argv[1:]


def crt_connection(name, chain, key):
    tls = io.TlsContextOptions.create_client_with_mtls_from_path(chain, key)
    tls.override_default_trust_store_from_path(None, root)
    if alpn != "-":
        tls.alpn_list = [alpn]
    bootstrap = io.ClientBootstrap.get_or_create_static_default()
    made = mqtt.Client(bootstrap, io.ClientTlsContext(tls))
    return mqtt.Connection(made, host, int(port), name, clean_session=True, keep_alive_secs=30, username="?SDK=test")


def crt_echo(name, chain, key):
    connection, heard = crt_connection(name, chain, key), Future()
    connection.connect().result(10)
    topic = f"things/{name}/echo"
    connection.subscribe(topic, mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **_: heard.set_result(payload))[
        0
    ].result(10)
    connection.publish(topic, b"hello " + name.encode(), mqtt.QoS.AT_LEAST_ONCE)[0].result(10)
    said = {"heard": heard.result(10).decode()}
    connection.disconnect().result(10)
    return said


def five_echo(name, chain, key):
    connected, ended, heard = Future(), Future(), Future()
    made = mqtt5_client_builder.mtls_from_path(
        endpoint=host,
        port=int(port),
        cert_filepath=chain,
        pri_key_filepath=key,
        ca_filepath=root,
        client_id=name,
        on_publish_received=lambda data: heard.set_result(data.publish_packet.payload),
        on_lifecycle_connection_success=connected.set_result,
        on_lifecycle_connection_failure=lambda data: connected.done() or connected.set_exception(data.exception),
        on_lifecycle_stopped=ended.set_result,
    )
    made.start()
    try:
        connected.result(10)
        topic = f"things/{name}/echo"
        wanted = mqtt5.SubscribePacket([mqtt5.Subscription(topic, mqtt5.QoS.AT_LEAST_ONCE)])
        granted = made.subscribe(wanted).result(10).reason_codes
        told = mqtt5.PublishPacket(topic=topic, payload=f"hello {name}", qos=mqtt5.QoS.AT_LEAST_ONCE)
        made.publish(told).result(10)
        said = {"heard": heard.result(10).decode(), "granted": [int(one) for one in granted]}
        made.unsubscribe(mqtt5.UnsubscribePacket([topic])).result(10)
        return said
    finally:
        made.stop()
        ended.result(10)


def old_echo(name, chain, key):
    from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient

    connection, heard = AWSIoTMQTTClient(name, useWebsocket=False), Future()
    connection.configureEndpoint(host, int(port))
    connection.configureCredentials(root, key, chain)
    connection.configureConnectDisconnectTimeout(4)
    connection.configureMQTTOperationTimeout(5)
    if alpn != "-":
        connection._mqtt_core.configure_alpn_protocols()
    connection.connect()
    topic = f"things/{name}/echo"
    connection.subscribe(topic, 1, lambda _client, _data, message: heard.set_result(message.payload))
    connection.publish(topic, f"hello {name}", 1)
    said = {"heard": heard.result(10).decode()}
    connection.disconnect()
    return said


def crt_fleet(name, chain, key):
    _, template, csr = work.split(":")
    connection = crt_connection(name, chain, key)
    connection.connect().result(10)
    service = iotidentity.IotIdentityClient(connection)
    answers = {kind: Future() for kind in ("made", "thing")}
    refused = lambda kind: lambda e: answers[kind].set_exception(RuntimeError(f"{e.status_code} {e.error_code}"))  # noqa: E731
    qos = mqtt.QoS.AT_LEAST_ONCE
    first = iotidentity.CreateCertificateFromCsrSubscriptionRequest()
    second = iotidentity.RegisterThingSubscriptionRequest(template_name=template)
    for waiting in (
        service.subscribe_to_create_certificate_from_csr_accepted(first, qos, answers["made"].set_result),
        service.subscribe_to_create_certificate_from_csr_rejected(first, qos, refused("made")),
        service.subscribe_to_register_thing_accepted(second, qos, answers["thing"].set_result),
        service.subscribe_to_register_thing_rejected(second, qos, refused("thing")),
    ):
        waiting[0].result(10)
    asked = iotidentity.CreateCertificateFromCsrRequest(certificate_signing_request=Path(csr).read_text())
    service.publish_create_certificate_from_csr(asked, qos).result(10)
    made = answers["made"].result(10)
    service.publish_register_thing(
        iotidentity.RegisterThingRequest(
            template_name=template,
            certificate_ownership_token=made.certificate_ownership_token,
            parameters={"SerialNumber": name},
        ),
        qos,
    ).result(10)
    thing = answers["thing"].result(10)
    connection.disconnect().result(10)
    return {"pem": made.certificate_pem, "thing": thing.thing_name, "configuration": thing.device_configuration}


clients = {"crt": {"echo": crt_echo, "fleet": crt_fleet}, "five": {"echo": five_echo}, "old": {"echo": old_echo}}
run = clients[client][work.split(":")[0]]


def told(device):
    name, chain, key = device.split("=")
    try:
        said = run(name, chain, key)
    except Exception as problem:  # noqa: BLE001  what the client says is the result
        said = {"error": f"{type(problem).__name__}: {problem}"}
    return {"name": name, **said}


with ThreadPoolExecutor(len(devices)) as pool:
    for line in pool.map(told, devices):
        print(json.dumps(line), flush=True)
