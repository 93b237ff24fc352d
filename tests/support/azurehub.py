"""Runs in the environment of ``tests/tools/azure.in``: the registry of a hub through Microsoft's service client.

Arguments: connection string (from the environment: it is a secret), root file, what to do, device ids. One JSON line.
"""

import json
import os
import sys

root, act, *devices = sys.argv[1:]
os.environ["REQUESTS_CA_BUNDLE"] = root

from azure.iot.hub import IoTHubRegistryManager  # noqa: E402  it reads the roots when it is loaded
from msrest.exceptions import HttpOperationError  # noqa: E402

client = IoTHubRegistryManager.from_connection_string(os.environ["HUB_CONNECTION"])
client.protocol.config.connection.verify = root
client.protocol.config.retry_policy.retries = 0


def said(work):
    """Return status and code of what the client raises."""
    try:
        work()
    except HttpOperationError as problem:
        return [problem.response.status_code, problem.response.headers.get("iothub-errorcode")]
    return None


def shown(device):
    known = device.authentication
    prints = known.x509_thumbprint
    return {"status": device.status, "reason": device.status_reason, "type": known.type, "etag": device.etag,
            "thumbprint": prints and prints.primary_thumbprint, "generation": device.generation_id}  # fmt: skip


def look():
    return {name: said(lambda name=name: client.get_device(name)) or shown(client.get_device(name)) for name in devices}


def story():
    """Read, disable, meet a stale etag, enable, make, list, count, delete."""
    (name,) = devices
    seen = {"first": shown(client.get_device(name))}
    first = client.get_device(name)
    prints = first.authentication.x509_thumbprint
    both = (prints.primary_thumbprint, prints.secondary_thumbprint)
    changed = client.update_device_with_x509(name, first.etag, *both, status="disabled", status_reason="by hand")
    seen["disabled"] = shown(changed)
    stale = (name, first.etag, *both)
    seen["stale"] = said(lambda: client.update_device_with_x509(*stale, status="enabled"))
    seen["again"] = said(lambda: client.create_device_with_certificate_authority(name, "enabled"))
    made = client.create_device_with_certificate_authority("by-ca", "disabled", status_reason="not yet")
    seen["ca"] = shown(made)
    seen["keys"] = client.create_device_with_sas("by-key", None, None, "enabled").authentication.type
    seen["listed"] = [one.device_id for one in client.get_devices(10)]
    counts = client.get_device_registry_statistics()
    seen["counts"] = [counts.total_device_count, counts.enabled_device_count, counts.disabled_device_count]
    client.delete_device("by-ca", made.etag)
    seen["gone"] = said(lambda: client.get_device("by-ca"))
    seen["none"] = said(lambda: client.update_device_with_certificate_authority("nobody", "*", "disabled"))
    foreign = IoTHubRegistryManager.from_connection_string(os.environ["HUB_CONNECTION"].replace("Key=", "Key=AAAA"))
    foreign.protocol.config.connection.verify = root
    seen["foreign"] = said(lambda: foreign.get_device(name))
    return seen


print(json.dumps({"look": look, "story": story}[act]()))
