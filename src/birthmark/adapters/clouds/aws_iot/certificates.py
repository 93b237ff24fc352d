"""One certificate in AWS IoT: registered, or compared with what is there, and given its status."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from birthmark.adapters.clouds.aws_iot.calls import AwsSays, AwsTurn
from birthmark.adapters.clouds.aws_iot.facts import id_of, pem_of, read_pem
from birthmark.errors import Unavailable

__all__ = [
    "HeldCertificate",
    "NotThisDevice",
    "certificate_id",
    "describe_certificate",
    "hold_certificate",
    "rows_of",
    "text_of",
]

_ARN = re.compile(r"arn:aws[a-z-]*:iot:[a-z0-9-]{1,40}:[0-9]{12}:cert/([0-9a-f]{64})", re.ASCII)
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


class NotThisDevice(Exception):
    """AWS, or what it holds, stands against this one device. ``code``: ours, dotted; ``detail``: words for a person."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code)
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class HeldCertificate:
    """A certificate as AWS holds it now. ``fresh``: this call registered it; ``changed``: this call changed it."""

    arn: str
    der: bytes
    fresh: bool
    changed: bool


def text_of(answer: dict[str, Any], name: str) -> str:
    """Return a text that an answer must have; ``Unavailable("cloud.aws.answer")`` if it is not there."""
    found = answer.get(name)
    if isinstance(found, str) and found:
        return found
    raise _unanswered(name)


def rows_of(answer: dict[str, Any], name: str) -> list[Any]:
    """Return a list that an answer must have, empty or not: one that is left out is not one with nothing in it.

    ``Unavailable("cloud.aws.answer")``.
    """
    found = answer.get(name)
    if isinstance(found, list):
        return found
    raise _unanswered(name)


def _unanswered(name: str) -> Unavailable:
    return Unavailable(
        "cloud.aws.answer",
        f"an answer of AWS IoT has no {name}",
        hint="It is asked again; check the endpoint in the URI if it repeats.",
        member=name,
    )


def certificate_id(arn: str) -> str | None:
    """Return the id in the ARN of a certificate; None if the ARN is that of something else."""
    match = _ARN.fullmatch(arn)
    return match[1] if match else None


def describe_certificate(turn: AwsTurn, known_as: str) -> tuple[str, str, bytes] | None:
    """Return ARN, status and octets (DER) of a certificate; None if AWS knows none of that id."""
    found = turn.found("describe_certificate", certificateId=known_as)
    if found is None:
        return None
    said = found.get("certificateDescription") or {}
    der = read_pem(said.get("certificatePem"))
    if der is None:
        raise NotThisDevice("cloud.aws.certificate.unreadable", f"the certificate {known_as} at AWS cannot be read")
    return text_of(said, "certificateArn"), text_of(said, "status"), der


def hold_certificate(turn: AwsTurn, der: bytes, *, with_ca: bool, ca: bytes | None, wanted: str) -> HeldCertificate:
    """Have a certificate (DER) registered with status ``wanted``: ``ACTIVE``, or one that lets nobody in.

    ``ca``: the CA (DER) that signed it; None: AWS looks for it by its name. A certificate that is there already is
    believed only once its octets were compared. Any status but ``ACTIVE`` blocks, so one blocked status is not turned
    into another. Raises ``AwsSays`` and ``NotThisDevice("cloud.aws.certificate.other")``.
    """
    pem = pem_of(der)
    try:
        if with_ca:
            signer = None if ca is None else pem_of(ca)
            made = turn.iot("register_certificate", certificatePem=pem, caCertificatePem=signer, status=wanted)
        else:
            made = turn.iot("register_certificate_without_ca", certificatePem=pem, status=wanted)
        return HeldCertificate(text_of(made, "certificateArn"), der, fresh=True, changed=True)
    except AwsSays as answer:
        if answer.code != "ResourceAlreadyExistsException":
            raise
        said = str(answer.members.get("resourceId", ""))
    known_as = said if _ID.fullmatch(said) else id_of(der)
    found = describe_certificate(turn, known_as)
    if found is None:
        raise NotThisDevice(
            "cloud.aws.certificate.other",
            f"AWS says that the certificate {id_of(der)} exists, and does not show it to this account",
        )
    arn, status, held = found
    if held != der:
        raise NotThisDevice(
            "cloud.aws.certificate.other",
            f"AWS holds another certificate as {known_as}: the one that was told is {id_of(der)}",
        )
    if (status == "ACTIVE") != (wanted == "ACTIVE"):
        turn.iot("update_certificate", certificateId=known_as, newStatus=wanted)
        return HeldCertificate(arn, der, fresh=False, changed=True)
    return HeldCertificate(arn, der, fresh=False, changed=False)
