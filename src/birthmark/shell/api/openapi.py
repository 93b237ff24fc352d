"""The OpenAPI description, made from the routes and the message structs themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from birthmark import __version__
from birthmark.shell.api.service import Offer
from birthmark.wire.service import ErrorShown

__all__ = ["openapi_document"]

_PARAMETER = re.compile(r"\{([a-z_]+)(?::path)?\}")
_PARAMETERS: dict[str, dict[str, object]] = {
    "kind": {"enum": ["bundle", "manifest"]},
    "form": {"enum": ["pem", "der"]},
}
_REASONS = {
    400: "The request is malformed.",
    401: "A client certificate is needed.",
    403: "The caller may not do this.",
    404: "There is no such thing.",
    409: "Refused: a rule forbids it; repeating it changes nothing.",
    413: "The body is too long.",
    415: "The body is compressed or encoded.",
    422: "The CSR, its key or the report is not accepted.",
    429: "Too many requests wait; Retry-After says when to come again.",
    500: "The service cannot work; somebody must look.",
    503: "Not now; the same request may succeed later.",
}


def openapi_document(offers: Sequence[Offer]) -> dict[str, Any]:
    """Return the description (OpenAPI 3.1) as JSON-ready values."""
    structs = [part for offer in offers for part in (offer.answer, offer.asks) if isinstance(part, type)]
    _, components = msgspec.json.schema_components(
        [*dict.fromkeys(structs), ErrorShown], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for offer in offers:
        path = _PARAMETER.sub(lambda match: "{" + match[1] + "}", offer.path)
        paths.setdefault(path, {})[offer.method.lower()] = _operation(offer)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "birthmark",
            "version": __version__,
            "description": "The authority's service (docs/service.md).",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"clientCertificate": {"type": "mutualTLS"}},
        },
    }


def _operation(offer: Offer) -> dict[str, Any]:
    statuses = {*offer.errors, *((400, 401, 403) if offer.roles else (400, 403))}
    answers = {str(status): _error(status) for status in sorted(statuses)}
    operation: dict[str, Any] = {
        "summary": offer.summary,
        "operationId": offer.handler.__name__.strip("_"),
        "responses": {"200": {"description": "Done.", "content": _content(offer.answer)}, **answers},
        "security": [{"clientCertificate": []}] if offer.roles else [],
    }
    if offer.roles:
        operation["description"] = f"Roles: {', '.join(sorted(offer.roles))}."
    if offer.method == "GET" and isinstance(offer.answer, tuple):
        operation["responses"]["304"] = {"description": "Not changed."}
    names = _PARAMETER.findall(offer.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", **_PARAMETERS.get(name, {})}}
            for name in names
        ]
    if offer.asks is not None:
        operation["requestBody"] = {"required": True, "content": _content(offer.asks)}
    return operation


def _error(status: int) -> dict[str, Any]:
    return {"description": _REASONS[status], "content": _content(ErrorShown)}


def _content(body: type[msgspec.Struct] | tuple[str, ...] | str) -> dict[str, Any]:
    if isinstance(body, type):
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
    return {kind: {"schema": {}} for kind in ((body,) if isinstance(body, str) else body)}
