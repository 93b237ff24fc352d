"""Runs in the environment of ``tests/tools/azure.in``: registers devices with Microsoft's own client by symmetric keys.

Arguments: host, id scope, root file, file with one JSON object {name: key}. One JSON line per device.
"""

import json
import sys
from pathlib import Path

from azure.iot.device import ProvisioningDeviceClient

host, scope, root, keys = sys.argv[1:]
for name, key in json.loads(Path(keys).read_text()).items():
    client = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=host,
        registration_id=name,
        id_scope=scope,
        symmetric_key=key,
        server_verification_cert=Path(root).read_text(),
    )
    try:
        result = client.register()
        state = result.registration_state
        said = {"status": result.status, "hub": state.assigned_hub, "device": state.device_id, "sub": state.sub_status}
    except Exception as problem:  # noqa: BLE001  what the client says is the result
        said = {"error": str(problem.__cause__ or problem)}
    print(json.dumps({"name": name, **said}), flush=True)
