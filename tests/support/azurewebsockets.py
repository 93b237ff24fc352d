"""Runs in the environment of ``tests/tools/azure.in``: registers one device over WebSockets with Microsoft's client.

Arguments: host, port, id scope, root file, registration id, chain file, key file. The client knows only port 443, so
it is told the port of the emulator; nothing else of it is changed.
"""

import json
import sys
from pathlib import Path

import paho.mqtt.client
from azure.iot.device import X509, ProvisioningDeviceClient

host, port, scope, root, name, chain, key = sys.argv[1:]
original = paho.mqtt.client.Client.connect


def connect(self, host, port=None, keepalive=60, **more):
    assert port == 443
    return original(self, host=host, port=int(sys.argv[2]), keepalive=keepalive, **more)


paho.mqtt.client.Client.connect = connect
client = ProvisioningDeviceClient.create_from_x509_certificate(
    provisioning_host=host,
    registration_id=name,
    id_scope=scope,
    x509=X509(chain, key),
    server_verification_cert=Path(root).read_text(),
    websockets=True,
)
result = client.register()
print(json.dumps({"status": result.status, "device": result.registration_state.device_id}))
