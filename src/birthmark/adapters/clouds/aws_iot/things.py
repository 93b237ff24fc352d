"""Devices as things: a thing is the one place where AWS IoT ties certificates to a device, so every record is one.

Whatever AWS acts on by itself is brought about in an order that lets nobody in too early: a certificate without a
policy can do nothing, so the policy comes after the thing; a device that is blocked loses the status of its
certificates first, because that alone ends its connections and lets in no new one, whatever policies say; the policy
goes after it, so that who sets the certificate to ACTIVE by hand later does not let the device in by that.
"""

from __future__ import annotations

from birthmark.adapters.clouds.aws_iot.calls import AwsSays, AwsTurn
from birthmark.adapters.clouds.aws_iot.certificates import (
    HeldCertificate,
    NotThisDevice,
    certificate_id,
    describe_certificate,
    hold_certificate,
    rows_of,
)
from birthmark.adapters.clouds.aws_iot.facts import signer_of, subject_names
from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.ports import Registration

__all__ = ["BLOCKED_MARK", "principals_of", "tell_thing", "things_calls"]

BLOCKED_MARK = ("birthmark-standing", "blocked")
"""Attribute that marks a blocked thing where devices become known just in time: AWS lists things by it."""
_STRAYS = 2
_MOST_PAGES = 8


def things_calls(registration: Registration) -> int:
    """Return the most calls that ``tell_thing`` makes, with up to two certificates on the thing that were not told."""
    return 7 * len(registration.certificates) + 8 + 4 * _STRAYS


def tell_thing(options: AwsIotOptions, turn: AwsTurn, registration: Registration) -> bool:
    """Bring thing, certificates and policy to what is told; return whether anything was changed.

    Raises ``AwsSays`` and ``NotThisDevice``.
    """
    name = registration.device_serial
    if not registration.certificates:
        return _blocked_without(options, turn, registration)
    wanted = "ACTIVE" if registration.standing == "enabled" else options.blocked
    held = [
        hold_certificate(turn, der, with_ca=options.with_ca, ca=signer_of(registration, der), wanted=wanted)
        for der in registration.certificates
    ]
    changed = any(one.changed for one in held)
    if registration.standing == "blocked":
        for one in held:
            changed |= _without_policy(options, turn, one)
    changed |= _thing(options, turn, name, fresh=all(one.fresh for one in held))
    attached = set(principals_of(turn, name) or ())
    if registration.standing == "enabled":
        for one in held:
            changed |= _with_policy(options, turn, one)
    for one in held:
        if one.arn not in attached:
            turn.iot("attach_thing_principal", thingName=name, principal=one.arn)
            changed = True
    return _retire(options, turn, registration, attached - {one.arn for one in held}) or changed


def principals_of(turn: AwsTurn, name: str) -> list[str] | None:
    """Return the ARNs that are attached to a thing; None if there is no such thing."""
    found: list[str] = []
    token: str | None = None
    for _ in range(_MOST_PAGES):
        page = turn.found("list_thing_principals", thingName=name, nextToken=token)
        if page is None:
            return None
        found += [one for one in rows_of(page, "principals") if isinstance(one, str)]
        token = page.get("nextToken")
        if not token:
            return found
    raise NotThisDevice("cloud.aws.thing.principals", f"the thing {name} has more principals than a device can have")


def _thing(options: AwsIotOptions, turn: AwsTurn, name: str, *, fresh: bool) -> bool:
    """Have the thing; ``fresh``: nothing of this device was known, so it is made without a look."""
    made = False
    if fresh or not _is_there(options, turn, name):
        try:
            turn.iot("create_thing", thingName=name, thingTypeName=options.thing_type)
            made = True
        except AwsSays as answer:
            # It is there with other attributes; those are not ours.
            if answer.code != "ResourceAlreadyExistsException" or not _is_there(options, turn, name):
                raise
    if options.thing_group is None or options.just_in_time:
        return made
    if not fresh:
        groups = turn.iot("list_thing_groups_for_thing", thingName=name, maxResults=250).get("thingGroups", ())
        if options.thing_group in {one.get("groupName") for one in groups}:
            return made
    turn.iot("add_thing_to_thing_group", thingGroupName=options.thing_group, thingName=name)
    return True


def _is_there(options: AwsIotOptions, turn: AwsTurn, name: str) -> bool:
    found = turn.found("describe_thing", thingName=name)
    if found is None:
        return False
    kind = found.get("thingTypeName")
    if options.thing_type is not None and kind != options.thing_type:
        raise NotThisDevice(
            "cloud.aws.thing.type",
            f"there is a thing {name} of type {kind}, not {options.thing_type}: it is not changed from here",
        )
    return True


def _with_policy(options: AwsIotOptions, turn: AwsTurn, held: HeldCertificate) -> bool:
    if options.policy is None or (not held.fresh and _has_policy(options, turn, held.arn)):
        return False
    turn.iot("attach_policy", policyName=options.policy, target=held.arn)
    return True


def _without_policy(options: AwsIotOptions, turn: AwsTurn, held: HeldCertificate) -> bool:
    if options.policy is None or held.fresh or not _has_policy(options, turn, held.arn):
        return False
    turn.iot("detach_policy", policyName=options.policy, target=held.arn)
    return True


def _has_policy(options: AwsIotOptions, turn: AwsTurn, arn: str) -> bool:
    found = turn.iot("list_attached_policies", target=arn, pageSize=250).get("policies", ())
    return options.policy in {one.get("policyName") for one in found}


def _blocked_without(options: AwsIotOptions, turn: AwsTurn, registration: Registration) -> bool:
    attached = principals_of(turn, registration.device_serial)
    return _retire(options, turn, registration, set(attached or ()))


def _retire(options: AwsIotOptions, turn: AwsTurn, registration: Registration, strays: set[str]) -> bool:
    """Let in no more what is attached to the thing and was not told: what the device had before."""
    name, changed = registration.device_serial, False
    for arn in sorted(strays):
        known_as = certificate_id(arn)
        if known_as is None:
            continue  # an identity of another service: no certificate, hence not ours to take away
        found = describe_certificate(turn, known_as)
        if found is not None:
            _require_ours(registration, known_as, found[2])
            if found[1] == "ACTIVE":
                turn.iot("update_certificate", certificateId=known_as, newStatus=options.blocked)
            if options.policy is not None:
                turn.found("detach_policy", policyName=options.policy, target=arn)
        turn.found("detach_thing_principal", thingName=name, principal=arn)
        changed = True
    return changed


def _require_ours(registration: Registration, known_as: str, der: bytes) -> None:
    """A thing of this name may be somebody else's: only a certificate that names the device is taken away."""
    ours = {registration.device_serial}.union(*map(subject_names, registration.certificates))
    if not ours & subject_names(der):
        raise NotThisDevice(
            "cloud.aws.thing.foreign",
            f"the thing {registration.device_serial} has the certificate {known_as}, which names another device",
        )
