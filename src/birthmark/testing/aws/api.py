"""Requests and answers of AWS IoT by its API model: which operation, which parameters, which status.

REST-JSON: parameters come from path, query and body as the model says, what breaks the model's bounds is refused, and
moments are seconds since 1970. The model is botocore's, which knows nothing of this emulator.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote

from botocore.session import get_session
from botocore.validate import ParamValidator

from birthmark.testing.aws.refusal import Refusal, invalid

__all__ = ["Api"]

_BOOLEANS = {"true": True, "false": False}


class Api:
    """The operations of AWS IoT."""

    def __init__(self) -> None:
        model = get_session().get_service_model("iot")
        self._operations = {name: model.operation_model(name) for name in model.operation_names}
        self._routes = [
            (operation.http["method"], _pattern(operation.http["requestUri"]), name)
            for name, operation in self._operations.items()
        ]
        self._status = {
            shape.name: int(shape.metadata.get("error", {}).get("httpStatusCode", 400)) for shape in model.error_shapes
        }
        self._validator = ParamValidator()

    def find(self, method: str, path: str) -> tuple[str, Mapping[str, str]]:
        """Return the operation that a request is for and what its path (as sent) says, or raise ``Refusal``."""
        best: tuple[str, Mapping[str, str]] | None = None
        for verb, pattern, name in self._routes:
            match = pattern.fullmatch(path) if verb == method else None
            if match is not None and (best is None or len(match.groups()) < len(best[1])):
                best = name, {key: unquote(text) for key, text in match.groupdict().items()}
        if best is None:
            raise Refusal("ResourceNotFoundException", "No operation of AWS IoT has this path.")
        return best

    def parameters(
        self, name: str, place: Mapping[str, str], query: str, headers: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        """Return the parameters of an operation, or raise ``Refusal("InvalidRequestException")``.

        ``place``: what the path says; ``headers``: by lower-case name.
        """
        try:
            asked = {key: values[0] for key, values in parse_qs(query, max_num_fields=64).items()}
        except ValueError:
            raise invalid("The query cannot be read.") from None
        document = _document(body)
        found: dict[str, Any] = {}
        shape = self._operations[name].input_shape
        sources = {"uri": place, "querystring": asked, "header": headers}
        for member, kind in shape.members.items():
            location, key = kind.serialization.get("location"), kind.serialization.get("name", member)
            source: Mapping[str, Any] = sources.get(location, document)
            value = source.get(key)
            if value is None:
                continue
            found[member] = _scalar(value, kind.type_name) if location else value
            _bounds(member, found[member], kind)
        report = self._validator.validate(found, shape)
        if report.has_errors():
            raise invalid(report.generate_report())
        return found

    def octets(self, members: Mapping[str, Any]) -> bytes:
        """Return an answer's body."""
        return json.dumps({key: value for key, value in members.items() if value is not None}, default=_moment).encode()

    def refused(self, refusal: Refusal) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a refusal."""
        body = json.dumps({"message": refusal.message, **refusal.members}).encode()
        return self._status.get(refusal.code, 400), {"x-amzn-ErrorType": refusal.code}, body


def _pattern(uri: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\+?\}", uri.split("?")[0])
    names = [f"(?P<{part}>[^/]+)" if number % 2 else re.escape(part) for number, part in enumerate(parts)]
    return re.compile("".join(names))


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        raise invalid("The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise invalid("The body is not a JSON object.")
    return document


def _scalar(text: str, kind: str) -> Any:
    if kind == "boolean":
        return _BOOLEANS.get(text.lower(), text)
    if kind in ("integer", "long"):
        try:
            return int(text)
        except ValueError:
            raise invalid(f"{text[:40]!r} is not a number.") from None
    return text


def _bounds(member: str, value: Any, kind: Any) -> None:
    """botocore checks types and lower bounds; the service holds upper bounds, patterns and enumerations as well."""
    limits = kind.metadata
    if isinstance(value, str):
        if len(value) > limits.get("max", len(value)):
            raise invalid(f"{member} has more than {limits['max']} characters.")
        if "enum" in limits and value not in limits["enum"]:
            raise invalid(f"{member} is none of {', '.join(limits['enum'])}.")
        pattern = _compiled(limits.get("pattern", ".*"))
        if value and pattern is not None and pattern.fullmatch(value) is None:
            raise invalid(f"{member} does not match {limits['pattern']}.")
    elif isinstance(value, int) and not limits.get("min", value) <= value <= limits.get("max", value):
        raise invalid(f"{member} is out of range.")


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Return a pattern of the model; None for one that only Java understands (``\\p{...}``)."""
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error:
        return None


def _moment(value: object) -> float:
    if not isinstance(value, datetime):
        raise TypeError(type(value))
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
