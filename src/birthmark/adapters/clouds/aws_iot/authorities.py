"""Our CAs in AWS IoT: looked at first, all of them, then registered with proof of possession or for SNI only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from birthmark.adapters.clouds.aws_iot.calls import AwsTurn
from birthmark.adapters.clouds.aws_iot.certificates import text_of
from birthmark.adapters.clouds.aws_iot.facts import id_of, pem_of, read_pem
from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.errors import Refused
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import CloudAuthority, Obstacle, ProvePossession

__all__ = ["SAME_SUBJECT", "CaPlan", "ca_obstacles", "look_at_authorities", "register_authorities", "same_json"]

SAME_SUBJECT = 10
"""Most CA certificates of one subject that an account holds."""
_PAGE = 250
_MOST_PAGES = 40


@dataclass(frozen=True, slots=True)
class CaPlan:
    """One certificate of one of our CAs. ``held``: AWS has it as it should be."""

    name: str
    der: bytes
    held: bool


def ca_obstacles(authorities: Sequence[CloudAuthority]) -> tuple[Obstacle, ...]:
    """Return what stands against these CAs, known without a question to AWS."""
    counts = Counter(_subject(der) for one in authorities for der in set(one.certificates))
    return tuple(
        Obstacle(
            "cloud.aws.ca.subject",
            f"{count} CA certificates have the subject {subject[:100]}, and an account holds {SAME_SUBJECT} of one",
            "Give CAs subjects of their own, use mode=no-ca, or take expired ones out.",
        )
        for subject, count in counts.items()
        if count > SAME_SUBJECT
    )


def look_at_authorities(
    options: AwsIotOptions, turn: AwsTurn, authorities: Sequence[CloudAuthority], config: Mapping[str, str]
) -> list[CaPlan]:
    """Return what is to be done, having changed nothing.

    ``Refused``: ``cloud.aws.ca.different`` (AWS has it with other settings: what lets more devices in, or fewer, is
    for a person to change), ``cloud.aws.ca.subject`` (ten of this subject are there).
    """
    plans = [
        CaPlan(name, der, _is_held(options, turn, name, der, config))
        for der, name in {der: one.name for one in reversed(authorities) for der in one.certificates}.items()
    ]
    fresh = Counter(_subject(plan.der) for plan in plans if not plan.held)
    if fresh:
        there = Counter(_subject(der) for der in _registered(turn))
        for subject, count in fresh.items():
            if there[subject] + count > SAME_SUBJECT:
                raise Refused(
                    "cloud.aws.ca.subject",
                    f"the account has {there[subject]} CA certificates with the subject {subject[:100]}: "
                    f"{count} more are above its limit of {SAME_SUBJECT}",
                    hint="Delete expired ones in AWS, give CAs subjects of their own, or use mode=no-ca.",
                    there=there[subject],
                    more=count,
                )
    return plans


def register_authorities(
    options: AwsIotOptions,
    turn: AwsTurn,
    plans: Sequence[CaPlan],
    config: Mapping[str, str],
    prove: ProvePossession,
) -> list[str]:
    """Register what is not held; return a line on each. Power cut: what was registered is found the next time."""
    lines = []
    code: str | None = None
    for plan in plans:
        known_as = id_of(plan.der)
        if plan.held:
            lines.append(f"CA {plan.name}: certificate {known_as[:16]} is known, unchanged")
            continue
        proof = None
        if not options.sni_only:
            code = code or text_of(turn.iot("get_registration_code"), "registrationCode")
            proof = pem_of(_proven(plan, prove(plan.name, code)))
        turn.iot(
            "register_ca_certificate",
            caCertificate=pem_of(plan.der),
            verificationCertificate=proof,
            certificateMode="SNI_ONLY" if options.sni_only else "DEFAULT",
            setAsActive=True,
            allowAutoRegistration=options.just_in_time,
            registrationConfig=dict(config) or None,
        )
        how = "for SNI only" if options.sni_only else "with proof of possession"
        lines.append(f"CA {plan.name}: certificate {known_as[:16]} registered {how}")
    return lines


def _proven(plan: CaPlan, proof: bytes) -> bytes:
    """A proof by another key than that of this certificate would be refused, and tell AWS nothing."""
    try:
        x509.load_der_x509_certificate(proof).verify_directly_issued_by(x509.load_der_x509_certificate(plan.der))
    except (*UNREADABLE, InvalidSignature):
        raise Refused(
            "cloud.aws.ca.unproven",
            f"the key that proves possession for {plan.name} is not that of its certificate {id_of(plan.der)[:16]}",
            hint="Prepare again once the successor signs, or register it with ca=sni-only.",
            ca=plan.name,
            certificate=id_of(plan.der),
        ) from None
    return proof


def _is_held(options: AwsIotOptions, turn: AwsTurn, name: str, der: bytes, config: Mapping[str, str]) -> bool:
    found = turn.found("describe_ca_certificate", certificateId=id_of(der))
    if found is None:
        return False
    said = found.get("certificateDescription") or {}
    unlike = _differences(options, said, found.get("registrationConfig") or {}, config)
    if read_pem(said.get("certificatePem")) != der:
        unlike.insert(0, "the certificate itself")
    if unlike:
        raise Refused(
            "cloud.aws.ca.different",
            f"AWS holds the CA {name} otherwise than it is wanted: {', '.join(unlike)}",
            hint="Change it in AWS, or the URI: what AWS lets in by a CA is never changed from here.",
            ca=name,
            different=unlike,
        )
    return True


def _differences(
    options: AwsIotOptions, said: Mapping[str, Any], held: Mapping[str, Any], config: Mapping[str, str]
) -> list[str]:
    wanted = {
        "status": "ACTIVE",
        "autoRegistrationStatus": "ENABLE" if options.just_in_time else "DISABLE",
        "certificateMode": "SNI_ONLY" if options.sni_only else "DEFAULT",
    }
    unlike = [f"{key} is {str(said[key])[:20]}" for key, value in wanted.items() if said.get(key, value) != value]
    for key in ("roleArn", "templateName"):
        if (held.get(key) or "") != config.get(key, ""):
            unlike.append(f"registrationConfig.{key}")
    if not same_json(held.get("templateBody"), config.get("templateBody")):
        unlike.append("registrationConfig.templateBody")
    return unlike


def same_json(one: object, other: object) -> bool:
    """Say whether two texts are the same JSON document, or both none."""
    if not one or not other:
        return not one and not other
    try:
        return bool(json.loads(str(one)) == json.loads(str(other)))
    except (ValueError, RecursionError):
        return False


def _registered(turn: AwsTurn) -> list[bytes]:
    """Return each CA certificate (DER) of the account."""
    found: list[bytes] = []
    marker: str | None = None
    for _ in range(_MOST_PAGES):
        page = turn.iot("list_ca_certificates", pageSize=_PAGE, marker=marker)
        for one in page.get("certificates", ()):
            shown = turn.found("describe_ca_certificate", certificateId=text_of(one, "certificateId"))
            der = read_pem(((shown or {}).get("certificateDescription") or {}).get("certificatePem"))
            if der is not None:
                found.append(der)
        marker = page.get("nextMarker")
        if not marker:
            break
    return found


def _subject(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).subject.rfc4514_string()
