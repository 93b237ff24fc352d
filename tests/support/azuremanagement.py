"""Runs in the environment of ``tests/tools/azure.in``: the resource manager through Microsoft's own client.

Arguments: base URL, root file, token, resource id of the service, then nothing (list the CA certificates) or the name
of one and its PEM file: upload it, ask for its code, and print both. One JSON line at the end.
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from azure.core import MatchConditions
from azure.core.credentials import AccessToken
from azure.mgmt.iothubprovisioningservices import IotDpsClient

base_url, root, token, resource, *upload = sys.argv[1:]
parts = resource.split("/")
subscription, group, service = parts[2], parts[4], parts[8]


def credential(*scopes: str, **options: Any) -> AccessToken:
    return AccessToken(token, int(time.time()) + 3600)


client = IotDpsClient(
    SimpleNamespace(get_token=credential),  # type: ignore[arg-type]
    subscription,
    base_url=base_url,
    connection_verify=root,
    credential_scopes=["https://management.azure.com/.default"],
    api_version="2022-12-12",
)
calls = client.dps_certificate
if upload:
    name, file = upload
    body = {"properties": {"certificate": Path(file).read_bytes()}}
    made = calls.create_or_update(group, service, name, body)  # type: ignore[call-overload]
    same = MatchConditions.IfNotModified
    asked = calls.generate_verification_code(name, group, service, etag=str(made.etag), match_condition=same)
    print(json.dumps({"verified": made.properties.is_verified, "code": asked.properties.verification_code}))
else:
    listed = calls.list(group, service).value or []
    print(json.dumps({one.name: [one.properties.is_verified, one.properties.thumbprint] for one in listed}))
