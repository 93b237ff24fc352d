"""``azure-sphere:SUBSCRIPTION/GROUP/CATALOG?dps=HOST&…``: a catalog, and the provisioning service that lets it in.

All other options are those of ``azure-dps:`` (adapters/clouds/azure_dps/uri.py), ``mode`` left out. ``ca=reference``
holds if nothing is said: the service then has the CA certificate of the catalog with its possession proven. With
``ca=upload`` somebody else has verified it, and ``verified=elsewhere`` says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import parse_qsl, quote

from birthmark.adapters.clouds.azure_dps.uri import DpsUri, parse_dps_uri
from birthmark.errors import Misconfigured

__all__ = ["SphereUri", "parse_sphere_uri"]

_ADDRESS = re.compile(r"([0-9A-Za-z-]{1,64})/([0-9A-Za-z._()-]{1,90})/([A-Za-z0-9_-]{1,50})", re.ASCII)
"""The name of a catalog: Azure REST API specifications, Microsoft.AzureSphere 2024-04-01."""
_OF_ARM = ("arm", "arm-host", "arm-token", "proof")


@dataclass(frozen=True, slots=True)
class SphereUri:
    """``dps``: the URI of the service; ``chain``: file with the CA certificate of the catalog and those above it, in
    place of asking the resource manager; ``arm_token``: a reference to a secret, never the secret."""

    subscription: str
    group: str
    catalog: str
    dps: str
    service: DpsUri
    arm_host: str
    arm_token: str | None
    trust: str | None
    chain: str | None

    @property
    def name(self) -> str:
        """Who is told, as it goes on record: without options, hence without references to secrets."""
        return f"azure-sphere:{self.subscription}/{self.group}/{self.catalog}@{self.service.host}"

    @property
    def path(self) -> str:
        """Where the resource manager has the catalog."""
        place = f"/subscriptions/{self.subscription}/resourceGroups/{quote(self.group)}"
        return f"{place}/providers/Microsoft.AzureSphere/catalogs/{self.catalog}"


def parse_sphere_uri(uri: str) -> SphereUri:
    """Take a URI apart; ``Misconfigured("cloud.uri")`` if an option is unknown, wrong, twice there or missing."""
    scheme, _, rest = uri.partition(":")
    address, _, query = rest.partition("?")
    match = _ADDRESS.fullmatch(address)
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    if scheme != "azure-sphere" or match is None:
        _wrong("write azure-sphere:SUBSCRIPTION/RESOURCE-GROUP/CATALOG?dps=NAME.azure-devices-provisioning.net")
    if len(found) != len(pairs) or "dps" not in found or "mode" in found:
        _wrong("each option once, dps=HOST among them; devices of a catalog come in by its group, so there is no mode")
    own = {"ca": "reference", **found}
    inner = {name: value for name, value in own.items() if name not in ("dps", "chain")}
    if own["ca"] == "upload":
        if "arm" in own or "proof" in own:
            _wrong("arm and proof are for ca=reference")
        inner = {name: value for name, value in inner.items() if name not in _OF_ARM}
    text = "&".join(f"{name}={quote(value, safe='')}" for name, value in inner.items())
    dps = f"azure-dps:{own['dps']}?{text}"
    service = parse_dps_uri(dps)
    host = own.get("arm-host", service.arm_host).lower()
    _require_host(host)
    return SphereUri(
        match[1], match[2], match[3], dps, service, host, own.get("arm-token"), own.get("trust"), own.get("chain")
    )


def _require_host(host: str) -> None:
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?", host, re.ASCII):
        _wrong("arm-host is the host of the resource manager")


def _wrong(says: str) -> NoReturn:
    raise Misconfigured(
        "cloud.uri",
        "this is not the URI of an Azure Sphere catalog",
        hint=f"In the uri of this cloud: {says}.",
        unknown=[],
    )
