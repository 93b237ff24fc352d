"""Runs in the environment of ``tests/tools/azure.in``: registers devices with Microsoft's own client.

Arguments: host, id scope, root file, then DEVICE=CHAIN=KEY each, or @FILE with one a line. One JSON line per device,
in the order they end: eight are under way at once.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from azure.iot.device import X509, ProvisioningDeviceClient

AT_ONCE = 8
host, scope, root, *told = sys.argv[1:]
trust = Path(root).read_text()
devices = [line for one in told for line in (Path(one[1:]).read_text().split() if one[0] == "@" else [one])]


def register(device):
    name, chain, key = device.split("=")
    client = ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=host,
        registration_id=name,
        id_scope=scope,
        x509=X509(chain, key),
        server_verification_cert=trust,
    )
    try:
        result = client.register()
        state = result.registration_state
        said = {"status": result.status, "hub": state.assigned_hub, "device": state.device_id, "sub": state.sub_status}
    except Exception as problem:  # noqa: BLE001  what the client says is the result
        said = {"error": str(problem.__cause__ or problem)}
    return {"name": name, **said}


with ThreadPoolExecutor(AT_ONCE) as pool:
    for done in as_completed([pool.submit(register, device) for device in devices]):
        print(json.dumps(done.result()), flush=True)
