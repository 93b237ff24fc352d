"""The URI of one provisioning service: ``azure-dps:NAME.azure-devices-provisioning.net?option=value``.

Secrets stand in it by reference. What is left out has the value of the service itself, or is not sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import parse_qsl, quote

from birthmark.errors import Misconfigured

__all__ = ["DpsUri", "parse_dps_uri", "uri_with_hubs"]

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?", re.ASCII)
_HUB = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_ARM = re.compile(
    r"/subscriptions/[0-9A-Za-z-]{1,64}/resourceGroups/[0-9A-Za-z._()-]{1,90}"
    r"/providers/Microsoft\.Devices/provisioningServices/[0-9A-Za-z-]{1,64}",
    re.ASCII,
)
_POLICY = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_HUB_OPTION, _MOST_HUBS = "hub.", 50
"""Microsoft's limit of hubs that are linked to one service."""
_DEVICE_HOST = "global.azure-devices-provisioning.net"
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "mode": ("groups", "individual"),
    "auth": ("sas", "entra"),
    "reprovision": ("migrate", "reset", "never"),
    "allocation": ("service", "hashed", "geoLatency", "static"),
    "ca": ("reference", "upload"),
    "proof": ("possession", "upload"),
    "verified": ("here", "elsewhere"),
}
"""The first of each is what holds if nothing is said; without ``arm`` no CA can be referred to."""
_NUMBERS: Mapping[str, tuple[int, int]] = {
    "rate": (1000, 100_000),
    "lanes": (4, 16),
    "most-devices": (1_000_000, 100_000_000),
    "most-groups": (100, 100_000),
    "most-cas": (25, 100_000),
}
"""(what holds if nothing is said, the most that may be said); the quotas are those that Microsoft publishes."""
_TEXTS = (
    "scope", "device-host", "key", "policy", "hubs", "hub-policy", "hub-host", "arm", "arm-host", "arm-token", "trust",
    "endorsements",
)  # fmt: skip
_OPTIONS = (*_CHOICES, *_NUMBERS, *_TEXTS)


@dataclass(frozen=True, slots=True)
class DpsUri:
    """One service and how it is told. ``key``, ``arm_token``: references to secrets, never secrets.

    ``verified``: who sees to it that a CA of each device's chain is verified there: ``here`` this program does.
    ``registries``: hub (lower case) → reference to the key of its policy, or ``entra``: where blocked devices are
    disabled. ``hub_host``: where they are reached, None: each by its name.
    """

    host: str
    mode: str
    auth: str
    reprovision: str
    allocation: str
    ca: str
    proof: str
    verified: str
    rate: int
    lanes: int
    most_devices: int
    most_groups: int
    most_cas: int
    hubs: tuple[str, ...]
    registries: tuple[tuple[str, str], ...]
    hub_policy: str
    hub_host: str | None
    policy: str
    key: str | None
    arm: str | None
    arm_host: str
    arm_token: str | None
    trust: str | None
    scope: str | None
    device_host: str
    endorsements: str | None

    @property
    def name(self) -> str:
        """Who is told, as it goes on record: without options, hence without references to secrets."""
        return f"azure-dps:{self.host}"

    @property
    def proves(self) -> bool:
        """Whether CAs are made known and proven through the resource manager."""
        return self.mode == "groups" and self.arm is not None

    @property
    def leaves_unverified(self) -> bool:
        """Whether groups would let in nobody: neither we nor anybody else sees to a verified CA."""
        return self.mode == "groups" and self.arm is None and self.verified == "here"


def parse_dps_uri(uri: str) -> DpsUri:
    """Take a URI apart; ``Misconfigured("cloud.uri")`` if an option is unknown, wrong, twice there or missing.

    ``scope`` and ``device-host`` are of the device side alone: they stand here so that one text names the service.
    """
    scheme, _, rest = uri.partition(":")
    host, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    registries = _registries({name: found.pop(name) for name in sorted(found) if name.startswith(_HUB_OPTION)})
    if scheme != "azure-dps" or not _HOST.fullmatch(host):
        _wrong("write azure-dps:NAME.azure-devices-provisioning.net?option=value")
    if set(found) - set(_OPTIONS) or len(found) + len(registries) != len(pairs) or "" in found.values():
        _wrong(f"options, each once and with a value: {', '.join(_OPTIONS)}", sorted(set(found) - set(_OPTIONS)))
    chosen = {name: found.get(name, values[0]) for name, values in _CHOICES.items()}
    if not {"arm", "ca"} & set(found):
        chosen["ca"] = "upload"
    for name, value in chosen.items():
        if value not in _CHOICES[name]:
            _wrong(f"{name} is one of {', '.join(_CHOICES[name])}")
    numbers = {name: _number(found, name) for name in _NUMBERS}
    hubs = tuple(found["hubs"].split(",")) if "hubs" in found else ()
    if not all(map(_HUB.fullmatch, hubs)) or len({hub.lower() for hub in hubs}) != len(hubs):
        _wrong("hubs are host names of IoT hubs, each once, with commas between them")
    if chosen["allocation"] == "static" and len(hubs) != 1:
        _wrong("allocation=static takes one hub: say which with hubs=NAME")
    _require_whole(found, chosen)
    _require_hubs(found, registries)
    return DpsUri(
        host=host.lower(),
        mode=chosen["mode"],
        auth=chosen["auth"],
        reprovision=chosen["reprovision"],
        allocation=chosen["allocation"],
        ca=chosen["ca"],
        proof=chosen["proof"],
        verified=chosen["verified"],
        rate=numbers["rate"],
        lanes=numbers["lanes"],
        most_devices=numbers["most-devices"],
        most_groups=numbers["most-groups"],
        most_cas=numbers["most-cas"],
        hubs=hubs,
        registries=registries,
        hub_policy=found.get("hub-policy", "registryReadWrite"),
        hub_host=found.get("hub-host"),
        policy=found.get("policy", "provisioningserviceowner"),
        key=found.get("key"),
        arm=found.get("arm"),
        arm_host=found.get("arm-host", "management.azure.com").lower(),
        arm_token=found.get("arm-token"),
        trust=found.get("trust"),
        scope=found.get("scope"),
        device_host=found.get("device-host", _DEVICE_HOST).lower(),
        endorsements=found.get("endorsements"),
    )


def _require_whole(found: Mapping[str, str], chosen: Mapping[str, str]) -> None:
    if (chosen["auth"] == "sas") != ("key" in found):
        _wrong("auth=sas needs key=REFERENCE of the policy's key; auth=entra takes none")
    if "policy" in found and not _POLICY.fullmatch(found["policy"]):
        _wrong("policy is the name of a shared access policy")
    if "arm" in found and not _ARM.fullmatch(found["arm"]):
        _wrong("arm is /subscriptions/…/resourceGroups/…/providers/Microsoft.Devices/provisioningServices/NAME")
    if "arm-host" in found and not _HOST.fullmatch(found["arm-host"]):
        _wrong("arm-host is the host of the resource manager")
    if "device-host" in found and not _HOST.fullmatch(found["device-host"]):
        _wrong("device-host is the host at which devices register")
    if "scope" in found and not re.fullmatch(r"[0-9A-Za-z]{1,32}", found["scope"]):
        _wrong("scope is the ID scope of the service, as 0ne00000000")
    if chosen["ca"] == "reference" and "arm" not in found:
        _wrong("ca=reference needs arm=…: CA certificates are made known through the resource manager")
    if "endorsements" in found and chosen["mode"] != "individual":
        _wrong("endorsements is for mode=individual: a group knows certificates only")
    if "arm" not in found and {"arm-host", "arm-token", "proof"} & set(found):
        _wrong("arm-host, arm-token and proof say how CAs are proven at arm=…, which is missing")
    if chosen["verified"] == "elsewhere" and (chosen["mode"], chosen["ca"], "arm" in found) != (
        "groups",
        "upload",
        False,
    ):
        _wrong("verified=elsewhere is for mode=groups with ca=upload, without arm: with it birthmark sees by itself")


def uri_with_hubs(uri: str, hubs: Mapping[str, str]) -> str:
    """Return ``uri`` with options ``hub.HOST=REFERENCE``; ``Misconfigured("cloud.uri")`` if that is no URI then."""
    options = [f"{_HUB_OPTION}{quote(host, safe='')}={quote(told, safe='')}" for host, told in hubs.items()]
    whole = "&".join([uri if "?" in uri else f"{uri}?", *options]) if options else uri
    parse_dps_uri(whole)
    return whole


def _registries(found: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the hubs whose registries are ours to write, by their names in lower case."""
    named = [(name.removeprefix(_HUB_OPTION), reference) for name, reference in found.items()]
    if not all(_HUB.fullmatch(hub) and reference for hub, reference in named):
        _wrong("hub.HOST=REFERENCE takes the host name of an IoT hub and a secret reference, or entra")
    if len({hub.lower() for hub, _ in named}) != len(named) or len(named) > _MOST_HUBS:
        _wrong(f"hub.HOST names each hub once, and {_MOST_HUBS} at most")
    return tuple((hub.lower(), reference) for hub, reference in named)


def _require_hubs(found: Mapping[str, str], registries: tuple[tuple[str, str], ...]) -> None:
    if not registries and {"hub-policy", "hub-host"} & set(found):
        _wrong("hub-policy and hub-host say how hubs are reached, and none is named (hub.HOST=REFERENCE)")
    if "hub-policy" in found and not _POLICY.fullmatch(found["hub-policy"]):
        _wrong("hub-policy is the name of a shared access policy of the hubs")
    if "hub-host" in found and not _HOST.fullmatch(found["hub-host"]):
        _wrong("hub-host is the host at which the hubs are reached, for an emulator")


def _number(found: Mapping[str, str], name: str) -> int:
    default, most = _NUMBERS[name]
    text = found.get(name, str(default))
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text) or int(text) > most:
        _wrong(f"{name} is a number from 1 to {most}")
    return int(text)


def _wrong(says: str, unknown: list[str] | None = None) -> NoReturn:
    raise Misconfigured(
        "cloud.uri",
        "this is not the URI of an Azure provisioning service",
        hint=f"In the uri of this cloud: {says}.",
        unknown=unknown or [],
    )
