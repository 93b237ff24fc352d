"""Runs in the environment of ``tests/tools/azure.in``: asks for a catalog with Microsoft's own management client.

Arguments: address of the manager, root file, token file, catalog, nonce. Prints one JSON object.
"""

import json
import sys
import time
from pathlib import Path

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.mgmt.sphere import AzureSphereMgmtClient

address, root, token, catalog, nonce = sys.argv[1:]


class Token:
    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        return AccessToken(Path(token).read_text(), int(time.time()) + 3600)


client = AzureSphereMgmtClient(Token(), "s1", base_url=address, connection_verify=root)
listed = [one.serialize(keep_readonly=True) for one in client.certificates.list_by_catalog("rg", catalog)]
active = client.certificates.get("rg", catalog, ".default")
serial = active.name
try:
    client.certificates.get("rg", catalog, "nothing")
    missing = ""
except HttpResponseError as problem:
    missing = f"{problem.status_code} {problem.error.code}"
print(
    json.dumps(
        {
            "catalog": client.catalogs.get("rg", catalog).name,
            "listed": listed,
            "active": serial,
            "ends": active.properties.expiry_utc.isoformat(),
            "chain": client.certificates.retrieve_cert_chain("rg", catalog, serial).certificate_chain,
            "proof": client.certificates.retrieve_proof_of_possession_nonce(
                "rg", catalog, serial, {"proofOfPossessionNonce": nonce}
            ).certificate,
            "missing": missing,
        }
    )
)
