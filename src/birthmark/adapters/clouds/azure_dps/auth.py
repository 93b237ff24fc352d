"""What lets us in: a SAS token made from a policy's key, a token of Entra ID, or a ready bearer token.

SAS (Azure documentation, control access to DPS): HMAC-SHA256 with the decoded key over the percent-encoded host, a line
feed and the second at which the token ends.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from threading import Lock
from typing import Any
from urllib.parse import quote

from birthmark.adapters.extras import require_extra
from birthmark.errors import Misconfigured, Unavailable
from birthmark.model.secret import Secret

__all__ = ["DPS_AUDIENCE", "HUB_AUDIENCE", "Authorization", "bearer_token", "entra_tokens", "sas_tokens"]

Authorization = Callable[[], str]
"""Returns the value of the header ``Authorization`` for a call that is made now."""
DPS_AUDIENCE = "https://azure-devices-provisioning.net/.default"
HUB_AUDIENCE = "https://iothubs.azure.net/.default"
_LIFE_S, _SPARE_S = 3600, 600


def sas_tokens(host: str, policy: str, key: Callable[[], Secret], clock: Callable[[], float]) -> Authorization:
    """Return what makes SAS tokens of an hour for ``host``. The key is looked up for the first of them: a plan, which
    sends nothing, needs none. Calling it raises ``Misconfigured("cloud.key")`` if the key is none, and what ``key``
    raises; threads may call it at once.
    """
    audience, last, lock = quote(host, safe=""), ("", 0.0), Lock()
    known: list[bytes] = []

    def token() -> str:
        nonlocal last
        with lock:
            text, ends = last
            if ends - clock() < _SPARE_S:
                if not known:
                    known.append(_policy_key(key(), policy))
                ends = int(clock()) + _LIFE_S
                signature = base64.b64encode(hmac.digest(known[0], f"{audience}\n{ends}".encode(), "sha256"))
                text = f"SharedAccessSignature sr={audience}&sig={quote(signature, safe='')}&se={ends}&skn={policy}"
                last = text, ends
            return text

    return token


def _policy_key(key: Secret, policy: str) -> bytes:
    try:
        secret = base64.b64decode(key.reveal().strip(), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not secret:
        raise Misconfigured(
            "cloud.key",
            "the key of the shared access policy is not base64",
            hint="Store the primary or secondary key of the policy as the portal shows it, nothing else.",
            policy=policy,
        )
    return secret


def bearer_token(token: Callable[[], Secret]) -> Authorization:
    """Return a ready token, as `az account get-access-token` gives it; it is looked up when it is needed."""
    return lambda: "Bearer " + token().reveal().decode("ascii", "replace").strip()


def entra_tokens(audience: str) -> Authorization:
    """Return what asks ``DefaultAzureCredential`` for tokens; they are kept and renewed by the SDK.

    Calling it raises ``Misconfigured("cloud.credentials")`` or ``Unavailable("cloud.unreachable")``.
    """
    for package in ("azure", "azure.identity"):
        require_extra("azure", package)
    opened: list[Any] = []

    def token() -> str:
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.identity import DefaultAzureCredential

        if not opened:
            opened.append(DefaultAzureCredential())
        try:
            return f"Bearer {opened[0].get_token(audience).token}"
        except ClientAuthenticationError:
            raise Misconfigured(
                "cloud.credentials",
                "Entra ID gives this program no token",
                hint="Give this machine an identity that may; birthmark uses DefaultAzureCredential.",
                audience=audience,
            ) from None
        except AzureError as problem:
            raise Unavailable(
                "cloud.unreachable",
                f"Entra ID did not answer: {type(problem).__name__}",
                hint="The same is asked again later; check the network if it repeats.",
                audience=audience,
            ) from None

    return token
