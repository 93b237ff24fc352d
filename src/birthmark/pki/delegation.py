"""The limits of an issuing CA that is delegated to a site: names, time to sign, and a life that covers its devices.

A device's certificate must not outlive its issuer, so a CA that lived ninety days could only sign certificates of
ninety days. What has to be short is the time in which the site can *sign*: that stands in the private key usage
period (X.509, 9.2.2.5), and the CA's certificate lives on for as long as its devices may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import msgspec
from cryptography import x509

from birthmark.errors import Misconfigured
from birthmark.pki.expected import attribute_oid, fill
from birthmark.pki.profile import Extension, Profile
from birthmark.pki.profileparts import Validity
from birthmark.pki.rules_profile import rulesets_of

__all__ = ["DeviceNames", "delegated_profile"]

_NAME_CONSTRAINTS, _KEY_USAGE_PERIOD = "2.5.29.30", "2.5.29.16"
_NO_ADDRESS = (ip_network("0.0.0.0/0"), ip_network("::/0"))

DeviceNames = tuple[Profile, Mapping[str, str]]
"""The profile of a product and the values of its placeholders."""


def delegated_profile(
    profile: Profile, products: Sequence[DeviceNames], *, days: int, now: datetime, constrained: bool = True
) -> Profile:
    """Return ``profile`` (an issuing CA) narrowed to ``products`` and to ``days`` of signing from ``now`` on.

    Name constraints: no IP address; no DNS name unless a product has one; the constant head of the subjects (such as
    O) if all products have one. Matter's list of extensions has no place for them (6.2.2.4), nor for the period: there
    the CA itself lives ``days``, and the devices with it.
    ``Misconfigured("site.ca.profile")``: a profile of no issuing CA, or one that lets a CA stand below.
    """
    constraints = profile.basic_constraints
    if profile.kind != "issuing-ca" or constraints is None or constraints.path_length != 0:
        raise Misconfigured(
            "site.ca.profile",
            f"profile {profile.name} is not one of an issuing CA with path length 0",
            hint="Use the preset site-ca, or a copy of it.",
            profile=profile.name,
        )
    if "matter" in rulesets_of(profile):
        return msgspec.structs.replace(profile, validity=Validity(days=days))
    extensions = [*profile.extensions, _signing_period(now, days)]
    if constrained:
        extensions.append(_name_constraints(products))
    return msgspec.structs.replace(profile, validity=_life(products, days), extensions=tuple(extensions))


def _life(products: Sequence[DeviceNames], days: int) -> Validity:
    lives = [profile.validity.days for profile, _ in products]
    numbers = [life for life in lives if isinstance(life, int)]
    return Validity(days="none") if len(numbers) < len(lives) else Validity(days=days + max(numbers, default=0))


def _signing_period(now: datetime, days: int) -> Extension:
    begin = now.astimezone(UTC).replace(microsecond=0, tzinfo=None)
    period = x509.PrivateKeyUsagePeriod(begin, begin + timedelta(days=days))
    return Extension(oid=_KEY_USAGE_PERIOD, der=period.public_bytes().hex())


def _name_constraints(products: Sequence[DeviceNames]) -> Extension:
    heads = [_constant_head(profile, values) for profile, values in products]
    permitted = [x509.DirectoryName(head) for head in dict.fromkeys(heads) if head is not None]
    excluded: list[x509.GeneralName] = [x509.IPAddress(network) for network in _NO_ADDRESS]
    if not any(_has_dns_name(profile) for profile, _ in products):
        excluded.append(x509.DNSName(""))
    limits = x509.NameConstraints(permitted if permitted and None not in heads else None, excluded)
    return Extension(oid=_NAME_CONSTRAINTS, der=limits.public_bytes().hex(), critical=True)


def _constant_head(profile: Profile, values: Mapping[str, str]) -> x509.Name | None:
    """Return the first RDNs of a subject that are the same for all devices, None if there are none."""
    constant: list[x509.NameAttribute[str]] = []
    for attribute in profile.subject:
        if "{device_serial}" in attribute.value:
            break
        oid = x509.ObjectIdentifier(attribute_oid(attribute.type))
        constant.append(x509.NameAttribute(oid, fill(attribute.value, None, values)))
    return x509.Name(constant) if constant else None


def _has_dns_name(profile: Profile) -> bool:
    san = profile.subject_alternative_name
    return san is not None and any(name.type == "dns" for name in san.names)
