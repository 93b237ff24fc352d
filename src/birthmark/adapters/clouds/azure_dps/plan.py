"""What a registration will take, and which published quota stands in its way. Sends nothing.

Quotas (Azure documentation, limits of the Device Provisioning Service): 1,000,000 enrolments, 1,000,000 registrations,
100 enrolment groups by X.509, 25 CA certificates, 1,000 calls and 1,000 registrations a minute for each service.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from birthmark.adapters.clouds.azure_dps.hubs import most_calls
from birthmark.adapters.clouds.azure_dps.individual import BULK
from birthmark.adapters.clouds.azure_dps.judge import judge_authority
from birthmark.adapters.clouds.azure_dps.uri import DpsUri
from birthmark.errors import Misconfigured, Refused
from birthmark.ports.cloud import CloudAuthority, Estimate, EstimatedStep, Obstacle

__all__ = ["estimate", "require_possible", "too_many_cas", "too_many_groups", "unverified"]

_REGISTRATIONS_A_MINUTE = 1000
_CA_CALLS = 3
"""Upload, ask for the code, prove."""


def estimate(uri: DpsUri, devices: int, authorities: Sequence[CloudAuthority]) -> Estimate:
    """Return the steps of telling this service of so many devices below these CAs."""
    steps = [_prepare(uri, authorities), _tell(uri, devices), _hubs(uri), _first_start(devices)]
    obstacles = (Obstacle(one.code, one.message, one.hint) for one in _obstacles(uri, devices, authorities))
    return Estimate(tuple(step for step in steps if step is not None), tuple(obstacles))


def require_possible(uri: DpsUri, authorities: Sequence[CloudAuthority]) -> None:
    """Raise the first obstacle that these CAs have: ``Refused``, or ``Misconfigured("cloud.ca.unverified")``."""
    for found in _obstacles(uri, 0, authorities):
        raise found


def _prepare(uri: DpsUri, authorities: Sequence[CloudAuthority]) -> EstimatedStep | None:
    if uri.mode == "individual":
        return None
    certificates = sum(len(one.certificates) for one in authorities)
    calls = 1 + len(authorities) + (1 + _CA_CALLS * certificates if uri.proves else 0)
    what = f"an enrolment group for each of {len(authorities)} issuing CAs"
    if uri.ca == "reference":
        what = f"{certificates} CA certificates proven, and {what}"
    elif uri.proves:
        what = f"{certificates} CA certificates proven unless a CA above is verified there, and {what}"
    why = "a group lets in every device below its CA, if a CA of the device's chain is verified there"
    return EstimatedStep(what, calls, calls / uri.rate, why)


def _tell(uri: DpsUri, devices: int) -> EstimatedStep:
    bulk = ceil(devices / BULK)
    cost = f"{devices} individual enrolments would be {bulk} bulk calls of {BULK}, {bulk / uri.rate:.0f} minutes"
    if uri.mode == "individual":
        why = (
            "mode=individual: each device has an enrolment of its own. It is needed where devices of one CA go to "
            "different hubs, where there are more issuing CAs than groups, or where only listed devices may come"
        )
        return EstimatedStep(f"{devices} individual enrolments in bulk calls of {BULK}", bulk, bulk / uri.rate, why)
    why = (
        f"mode=groups: the CA lets them in, and a blocked device alone gets an enrolment, a disabled one; {cost}, "
        "needed only where devices of one CA go to different hubs or only listed devices may come (mode=individual)"
    )
    return EstimatedStep(f"{devices} devices covered by the groups of their CAs", 0, 0.0, why)


def _hubs(uri: DpsUri) -> EstimatedStep | None:
    count = len(uri.registries)
    if not count:
        return None
    return EstimatedStep(
        f"each blocked device disabled in its hub as well: 3 calls as a rule, {most_calls(count)} at most",
        0,
        0.0,
        f"one asks where it was assigned; then its identity is read and written there, or looked for in {count} hubs "
        "where no registration says so. One unit S1 or S2 of a hub takes 100 calls of its registry a minute",
    )


def _first_start(devices: int) -> EstimatedStep:
    return EstimatedStep(
        "every device registers itself when it first starts",
        0,
        devices / _REGISTRATIONS_A_MINUTE,
        f"not a call of ours: the service takes {_REGISTRATIONS_A_MINUTE} registrations a minute",
    )


def _obstacles(uri: DpsUri, devices: int, authorities: Sequence[CloudAuthority]) -> list[Refused | Misconfigured]:
    found: list[Refused | Misconfigured] = []
    if devices > uri.most_devices:
        found.append(
            Refused(
                "cloud.devices.too_many",
                f"{devices} devices, and one service takes {uri.most_devices} registrations",
                hint="Spread products over several services, a cloud each; most-devices is for raised quotas.",
                devices=devices,
            )
        )
    if uri.mode == "individual":
        return found
    certificates = sum(len(one.certificates) for one in authorities)
    if len(authorities) > uri.most_groups:
        found.append(too_many_groups(uri, devices, len(authorities)))
    elif uri.ca == "reference" and certificates > uri.most_cas:
        found.append(too_many_cas(uri, certificates))
    if uri.leaves_unverified:
        found.append(unverified(uri))
    return [*found, *_names_and_kinds(authorities)]


def unverified(uri: DpsUri) -> Misconfigured:
    """Return the error for groups whose devices the service would turn away (401002): no CA above them is verified.

    Azure documentation, X.509 attestation, "DPS device chain requirements".
    """
    return Misconfigured(
        "cloud.ca.unverified",
        "the service lets devices in by a group only if a CA of their chain is verified there, and none is known to be",
        hint="Say ca=reference&arm=… in the uri of this cloud: birthmark then proves the CA there. Or verify a CA "
        "above in the portal yourself, and say ca=upload&verified=elsewhere.",
        cloud=uri.name,
    )


def too_many_groups(uri: DpsUri, devices: int, groups: int) -> Refused:
    """Return the error for more groups than one service takes; ``devices``: 0 if their number is not known."""
    bulk = ceil(devices / BULK)
    cost = f": {bulk} bulk calls, {bulk / uri.rate:.0f} minutes for {devices} devices" if devices else ""
    return Refused(
        "cloud.groups.too_many",
        f"{groups} enrolment groups by X.509, and one service takes {uri.most_groups}",
        hint=f"Have fewer issuing CAs, spread them over several services, or say mode=individual{cost}.",
        groups=groups,
    )


def too_many_cas(uri: DpsUri, certificates: int) -> Refused:
    """Return the error for more CA certificates than one service takes."""
    return Refused(
        "cloud.cas.too_many",
        f"{certificates} CA certificates, and one service takes {uri.most_cas}",
        hint="Verify a CA above them all there and say ca=upload: the certificates then stand in the groups.",
        certificates=certificates,
    )


def _names_and_kinds(authorities: Sequence[CloudAuthority]) -> list[Refused]:
    found: list[Refused] = []
    names: set[str] = set()
    for one in authorities:
        if one.name.lower() in names:
            found.append(
                Refused(
                    "cloud.name.taken",
                    f"the CA {one.name} has the name of another one there: case does not count",
                    hint="Leave one of them out of cas of this cloud.",
                    ca=one.name,
                )
            )
        names.add(one.name.lower())
        try:
            judge_authority(one)
        except Refused as problem:
            found.append(problem)
    return found
