"""Profiles of the TLS certificates of a workspace's own service: never for devices, so not in a file to be changed."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from birthmark.errors import Misconfigured
from birthmark.pki.profile import Profile
from birthmark.pki.profileparts import (
    AlgorithmName,
    BasicConstraints,
    DeviceSerialRule,
    ExtendedKeyUsage,
    GeneralName,
    KeyUsage,
    LintException,
    SubjectAlternativeName,
    SubjectAttribute,
    Validity,
)

__all__ = ["ACCESS_CA_DAYS", "access_ca_profile", "client_profile", "server_profile"]

ACCESS_CA_DAYS = 7300
_KEYS: tuple[AlgorithmName, ...] = ("p256", "p384", "ed25519", "rsa2048", "rsa3072")
_NAME = r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?"
_BACKDATE_MINUTES = 60
"""Stations without a network have slow clocks."""
_ONE_LABEL = LintException(
    code="pkix.invalid_domain_name_syntax",
    reason="a host of a factory's own network may have a name of one label, such as localhost",
)


def access_ca_profile() -> Profile:
    """Return the profile of the CA itself; its name is the value ``ca_name``."""
    return Profile(
        name="access-ca",
        kind="root-ca",
        description="Signs the TLS certificates of one workspace; never devices",
        key_algorithms=("p256",),
        validity=Validity(days=ACCESS_CA_DAYS),
        subject=(SubjectAttribute(type="CN", value="{ca_name}"),),
        basic_constraints=BasicConstraints(ca=True, path_length=0),
        key_usage=KeyUsage(bits=("keyCertSign", "cRLSign")),
        ski=True,
        aki=False,
    )


def client_profile(days: int) -> Profile:
    """Return the profile of a caller: its name (SITE/STATION or a person's) is the CN."""
    return Profile(
        name="access-client",
        kind="end-entity",
        description="TLS client of the workspace's service",
        key_algorithms=_KEYS,
        validity=Validity(days=days, backdate_minutes=_BACKDATE_MINUTES),
        subject=(SubjectAttribute(type="CN", value="{device_serial}"),),
        basic_constraints=BasicConstraints(ca=False),
        key_usage=KeyUsage(bits=("digitalSignature",)),
        extended_key_usage=ExtendedKeyUsage(purposes=("clientAuth",)),
        ski=True,
        aki=True,
        device_serial=DeviceSerialRule(pattern=rf"(?:{_NAME}/)?{_NAME}", example="site/station"),
    )


def server_profile(hosts: Sequence[str], days: int) -> Profile:
    """Return the profile of the service: DNS names and IP addresses, the first is the CN as well.

    ``Misconfigured("access.host")``: no host, or a first one that is longer than a CN may be.
    """
    if not hosts or not 1 <= len(hosts[0]) <= 64:
        raise Misconfigured(
            "access.host",
            "the service needs a name, the first of at most 64 characters",
            hint="Give --name HOST, once for each DNS name or IP address it is called by.",
        )
    return Profile(
        name="access-server",
        kind="end-entity",
        description="The workspace's service",
        key_algorithms=_KEYS,
        validity=Validity(days=days, backdate_minutes=_BACKDATE_MINUTES),
        subject=(SubjectAttribute(type="CN", value="{device_serial}"),),
        subject_alternative_name=SubjectAlternativeName(names=tuple(_host(host) for host in hosts)),
        basic_constraints=BasicConstraints(ca=False),
        key_usage=KeyUsage(bits=("digitalSignature",)),
        extended_key_usage=ExtendedKeyUsage(purposes=("serverAuth",)),
        ski=True,
        aki=True,
        device_serial=DeviceSerialRule(pattern=r"[A-Za-z0-9.:-]{1,64}", example=hosts[0]),
        exceptions=(_ONE_LABEL,),
    )


def _host(host: str) -> GeneralName:
    try:
        ip_address(host)
    except ValueError:
        return GeneralName(type="dns", value=host)
    return GeneralName(type="ip", value=host)
