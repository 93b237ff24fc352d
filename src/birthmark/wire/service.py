"""What a site and the authority's service say to each other over HTTPS (docs/service.md). Octets are standard base64.

These structs are the wire: the OpenAPI description is made from them. Unknown members are refused in requests and
ignored in answers, so that a newer authority can say more.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from birthmark.errors import Refused, Tampered

__all__ = [
    "MAX_REQUEST_OCTETS",
    "Base64",
    "CredentialAnswer",
    "CredentialAsked",
    "DeviceShown",
    "ErrorShown",
    "OrderFacts",
    "OrdersShown",
    "ReportOutcomeName",
    "ReportTaken",
    "SealedKey",
    "read_answer",
    "read_asked",
    "read_taken",
]

MAX_REQUEST_OCTETS = 128 * 1024
"""The longest body of a request for a credential: a CSR of 64 KiB in base64, and room for the rest."""

Base64 = Annotated[bytes, msgspec.Meta(max_length=MAX_REQUEST_OCTETS)]
AttemptText = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{8,64}$", max_length=64)]
SerialText = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?$", max_length=64)]


ReportOutcomeName = Literal["taken", "old", "gap", "fork"]


class CredentialAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /v1/credentials``. ``csr`` (DER) when the key was born in the device; else a pooled identity is drawn."""

    attempt: AttemptText
    device_serial: SerialText
    csr: Base64 | None = None


class OrderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The order a device belongs to."""

    order: str
    product: str
    profile: str
    key_algorithm: str
    key_origin: Literal["injected", "device"]
    ca: str
    quantity: int


class SealedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A private key sealed to the site's vault key as docs/formats/vault.md has it: one slot, position 0."""

    encapsulated: Base64
    slot: Base64


class CredentialAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of one device. ``intent`` and ``entry`` are numbers in the authority's log.

    ``chain``: issuing CA first, root last (DER). ``sealed`` is null when the device made its key.
    """

    attempt: str
    device_serial: str
    certificate: Base64
    chain: tuple[Base64, ...]
    order: OrderFacts
    intent: int
    entry: int
    sealed: SealedKey | None = None


class OrdersShown(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /v1/orders``: what the caller may see."""

    orders: tuple[OrderFacts, ...]


class DeviceShown(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /v1/devices/{device_serial}``."""

    device_serial: str
    order: str
    state: str
    attempt: str | None
    certificate: Base64 | None


class ReportTaken(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /v1/reports``: what became of it. ``sha256`` is that of what arrived.

    ``acknowledged``: entries of the site's log that the authority has verified; ``acknowledgement``: the signed
    document that says so. ``findings``: new ones; what they are the authority tells its own people.
    """

    site: str
    octets: int
    sha256: str
    outcome: ReportOutcomeName
    settled: int
    findings: int
    acknowledged: int
    acknowledgement: Base64


class ErrorShown(msgspec.Struct, frozen=True, kw_only=True):
    """Every refusal: ``error`` is the stable code, ``family`` says who must act (docs/reference/errors.md)."""

    error: str
    family: str
    message: str
    facts: dict[str, str | int | float | bool | list[str] | None]
    hint: str
    retry_safe: bool


_asked = msgspec.json.Decoder(CredentialAsked)
_answer = msgspec.json.Decoder(CredentialAnswer)
_taken = msgspec.json.Decoder(ReportTaken)


def read_asked(body: bytes) -> CredentialAsked:
    """Return a request; ``Refused("service.request.malformed")`` if it is none."""
    try:
        return _asked.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise Refused(
            "service.request.malformed",
            f"the body is no request for a credential: {str(problem)[:200]}",
            hint="Send JSON as /openapi.json describes it.",
        ) from None


def read_answer(body: bytes) -> CredentialAnswer:
    """Return an answer; ``Tampered("service.answer.malformed")`` if it is none."""
    try:
        return _answer.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise _no_answer("a credential", problem) from None


def read_taken(body: bytes) -> ReportTaken:
    """Return the answer to a report; ``Tampered("service.answer.malformed")`` if it is none."""
    try:
        return _taken.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise _no_answer("what became of the report", problem) from None


def _no_answer(wanted: str, problem: Exception) -> Tampered:
    return Tampered(
        "service.answer.malformed",
        f"the service did not answer with {wanted}: {str(problem)[:200]}",
        hint="Check that the address in the settings is that of your authority's service.",
    )
