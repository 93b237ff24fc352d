"""Runs in the environment of ``tests/tools/azure.in``: registers devices with Microsoft's own client.

Arguments: host, id scope, root file, then DEVICE=CHAIN=KEY each. One JSON line per device.
"""

import json
import sys
from pathlib import Path

from azure.iot.device import X509, ProvisioningDeviceClient

host, scope, root, *devices = sys.argv[1:]
for device in devices:
    name, chain, key = device.split("=")
    client = ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=host,
        registration_id=name,
        id_scope=scope,
        x509=X509(chain, key),
        server_verification_cert=Path(root).read_text(),
    )
    try:
        result = client.register()
        state = result.registration_state
        said = {"status": result.status, "hub": state.assigned_hub, "device": state.device_id, "sub": state.sub_status}
    except Exception as problem:  # noqa: BLE001  what the client says is the result
        said = {"error": str(problem.__cause__ or problem)}
    print(json.dumps({"name": name, **said}), flush=True)
