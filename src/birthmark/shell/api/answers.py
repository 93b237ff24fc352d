"""What the service answers: JSON of the message structs, errors as documents, files with validators."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault, Tampered, Unavailable

__all__ = ["error_response", "file_response", "json_response", "status_of", "unexpected", "whole_answer"]

_JSON = "application/json"
_encoder = msgspec.json.Encoder()
_FAMILY_STATUS: dict[type[BirthmarkError], int] = {
    Misconfigured: 500,
    Refused: 409,
    DeviceFault: 422,
    StationFault: 500,
    Unavailable: 503,
    Tampered: 500,
}
_CODE_STATUS = {
    "service.access.missing": 401,
    "service.access.unknown": 403,
    "service.access.withdrawn": 403,
    "service.access.expired": 403,
    "service.access.ended": 403,
    "service.access.issuer": 403,
    "service.role": 403,
    "service.other_site": 403,
    "service.site_stopped": 403,
    "service.header.forbidden": 400,
    "service.header.malformed": 400,
    "service.request.malformed": 400,
    "service.request.too_long": 413,
    "service.request.encoding": 415,
    "service.not_found": 404,
    "service.method": 405,
    "service.busy": 429,
    "agent.token": 401,
    "agent.link": 403,
    "agent.host": 421,
    "agent.origin": 403,
    "agent.key": 400,
    "agent.wait": 400,
    "agent.head_unknown": 404,
    "agent.run_unknown": 404,
    "service.refusals": 429,
    "report.waiting": 409,
    "log.note.malformed": 422,
    "log.note.signature": 422,
    "log.checkpoint.malformed": 422,
    "log.checkpoint.origin": 422,
    "device.unknown": 404,
    "device.serial.malformed": 400,
    "attempt.id.malformed": 400,
}
_PREFIX_STATUS = {"csr": 422, "key": 422, "frames": 422, "report": 422}
_RETRY_AFTER_S = "1"
_STATUS_LINES = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n".encode("ascii") for one in HTTPStatus}
_JSON_HEADERS = ((b"content-type", _JSON.encode()), (b"cache-control", b"no-store"))


class _Json(Response):
    """A response whose headers are all known: nothing is looked for in them."""

    def __init__(self, body: bytes, status: int) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), *_JSON_HEADERS]


def status_of(error: BirthmarkError) -> int:
    """Return the HTTP status of an error."""
    known = _CODE_STATUS.get(error.code) or _PREFIX_STATUS.get(error.code.partition(".")[0])
    return known or _FAMILY_STATUS.get(type(error), 500)


def json_response(message: msgspec.Struct, status: int = 200) -> Response:
    """Return a message; it is for this caller and nobody's cache."""
    return _Json(_encoder.encode(message), status)


def error_response(error: BirthmarkError) -> Response:
    """Return an error as every skin shows it (docs/reference/errors.md)."""
    status = status_of(error)
    headers = {"cache-control": "no-store"}
    if status in (429, 503):
        headers["retry-after"] = _RETRY_AFTER_S
    return Response(_encoder.encode(error.document()), status, headers, _JSON)


def unexpected(problem: Exception) -> Unavailable:
    """A defect is told without its words: they may hold what nobody outside should read."""
    return Unavailable(
        "service.failed",
        f"the service could not finish this request ({type(problem).__name__})",
        hint="Send the same request again; if it repeats, tell the authority the time.",
    )


def whole_answer(response: Response, more: Iterable[tuple[bytes, bytes]], *, close: bool) -> bytes:
    """Return an answer as it goes over the wire (RFC 9112), with the headers ``more`` of the server."""
    parts = [_STATUS_LINES[response.status_code]]
    for name, value in (*more, *response.raw_headers):
        parts += (name, b": ", value, b"\r\n")
    if close:
        parts.append(b"connection: close\r\n")
    parts += (b"\r\n", bytes(response.body))
    return b"".join(parts)


def file_response(request: Request, data: bytes, media_type: str, cache: str) -> Response:
    """Return a file with its validator; 304 if the caller has it already (RFC 9110, 13.1.2)."""
    tag = f'"{sha256(data).hexdigest()[:32]}"'
    headers = {"etag": tag, "cache-control": cache}
    if tag in [part.strip() for part in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(data, 200, headers, media_type)
