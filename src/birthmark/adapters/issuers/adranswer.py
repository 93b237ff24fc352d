"""What the device API of Azure DPS answers to a registration with a request: under way, issued, or no."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from birthmark.adapters.issuers.web import WebAnswer
from birthmark.errors import Misconfigured, Refused, Tampered, Unavailable
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import SigningRequest

__all__ = ["AdrAnswer", "read_answer"]

_MAX_CHAIN = 10
_MAX_TOLD = 200
_OPERATION = re.compile(r"[A-Za-z0-9.-]{1,256}")
_UNDER_WAY = ("assigning", "unassigned")


class _State(msgspec.Struct, rename="camel"):
    error_code: int | None = None
    error_message: str | None = None
    issued_certificate_chain: list[str] | None = None


class _Document(msgspec.Struct, rename="camel"):
    operation_id: str
    status: str = "assigning"
    registration_state: _State | None = None


_DECODER = msgspec.json.Decoder(_Document)


@dataclass(frozen=True, slots=True)
class AdrAnswer:
    """``certificate`` (DER): the leaf, None as long as it is under way. ``retry_after``: seconds, if the service said.
    ``forgotten``: the service knows no such operation."""

    operation_id: str
    certificate: bytes | None = None
    retry_after: float | None = None
    forgotten: bool = False


def read_answer(answer: WebAnswer, service: str, request: SigningRequest) -> AdrAnswer:
    """Return what an answer (200, 202, 404) says.

    Raises ``Refused("issuer.refused")``: failed or disabled; ``Unavailable("issuer.busy")``: failed on the service's
    side; ``Misconfigured("issuer.policy")``: assigned without a certificate; ``Tampered("issuer.answer.form")``.
    """
    if answer.status == 404:
        return AdrAnswer("", forgotten=True)
    try:
        document = _DECODER.decode(answer.body)
    except msgspec.MsgspecError as problem:
        raise _strange(service, "it is no operation") from problem
    if not _OPERATION.fullmatch(document.operation_id):
        raise _strange(service, "its operation has no good name")
    state = document.registration_state or _State()
    if document.status in _UNDER_WAY:
        return AdrAnswer(document.operation_id, retry_after=answer.retry_after)
    if document.status != "assigned":
        raise _no(document.status, state, service, request)
    if not state.issued_certificate_chain:
        raise Misconfigured(
            "issuer.policy",
            "the service assigned the device and issued no certificate",
            hint="Give the enrolment a credential policy (credentialPolicyName), or ask for a newer api-version.",
            service=service,
            device_serial=request.device_serial,
        )
    return AdrAnswer(document.operation_id, _leaf(state.issued_certificate_chain, service))


def _leaf(chain: Sequence[str], service: str) -> bytes:
    """Return the first of leaf, issuing CAs and root; each has to have signed the one before it."""
    if len(chain) > _MAX_CHAIN:
        raise _strange(service, f"its chain has {len(chain)} certificates")
    try:
        ders = [base64.b64decode(text, validate=True) for text in chain]
        certificates = [x509.load_der_x509_certificate(der) for der in ders]
        for child, issuer in pairwise(certificates):
            child.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature) as problem:
        raise _strange(service, "its certificates are no chain in base64 of DER") from problem
    return ders[0]


def _no(status: str, state: _State, service: str, request: SigningRequest) -> Refused | Unavailable:
    code, told = state.error_code or 0, (state.error_message or "")[:_MAX_TOLD]
    if code // 1000 == 429 or code // 1000 >= 500:
        return Unavailable(
            "issuer.busy",
            f"the service could not do it (error {code}): {told}",
            hint="Run the same command again later; the same request is then sent again.",
            service=service,
            status=code // 1000,
        )
    return Refused(
        "issuer.refused",
        f"the service refuses {request.device_serial} ({status[:32]}, error {code}): {told}",
        hint="Look at the enrolment of this device and at the credential policy that it names.",
        service=service,
        device_serial=request.device_serial,
        status=code // 1000,
    )


def _strange(service: str, reason: str) -> Tampered:
    return Tampered(
        "issuer.answer.form",
        f"the service answered something else than one certificate: {reason}",
        hint="Check the address of the service; nothing of the answer was kept.",
        service=service,
    )
