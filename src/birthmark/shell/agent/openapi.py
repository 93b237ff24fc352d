"""The OpenAPI description of the agent, made from its routes and the message structs themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from birthmark import __version__
from birthmark.shell.agent.routes import AgentOffer
from birthmark.wire.service import ErrorShown

__all__ = ["openapi_document"]

_REASONS = {
    400: "The request is malformed.",
    401: "The token of the agent is needed.",
    403: "The request was made by another web page.",
    404: "There is no such thing.",
    409: "Refused: a rule forbids it; repeating it changes nothing.",
    413: "The body is too long.",
    415: "The body is compressed or encoded.",
    421: "This agent has another name.",
    500: "The station cannot work; somebody must look.",
    503: "Not now; the same request may succeed later.",
}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "in": "header",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!#-~]{8,200}$"},
        "description": "One for each try. The same key gets the same run; with another body it is refused (409).",
    },
    "wait": {
        "in": "query",
        "required": False,
        "schema": {"type": "integer", "minimum": 0, "maximum": 60},
        "description": "Answer when the run ends, after so many seconds at the latest.",
    },
}
_SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "nothing": [],
    "look": [{"token": []}, {"page": []}],
    "token": [{"token": []}],
}


def openapi_document(offers: Sequence[AgentOffer]) -> dict[str, Any]:
    """Return the description (OpenAPI 3.1) as JSON-ready values."""
    structs = [part for offer in offers for part in (offer.answer, offer.asks) if isinstance(part, type)]
    _, components = msgspec.json.schema_components(
        [*dict.fromkeys(structs), ErrorShown], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for offer in offers:
        paths.setdefault(offer.path, {})[offer.method.lower()] = _operation(offer)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "birthmark agent",
            "version": __version__,
            "description": "One station for test executives that speak HTTP (docs/station.md).",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "page": {"type": "apiKey", "in": "cookie", "name": "birthmark_page"},
            },
        },
    }


def _operation(offer: AgentOffer) -> dict[str, Any]:
    errors = {*offer.errors, 403, 421, *((401,) if offer.need != "nothing" else ())}
    answers: dict[str, Any] = {str(status): _answer(_REASONS[status], ErrorShown) for status in sorted(errors)}
    for status in offer.statuses:
        answers[str(status)] = _answer(_DONE.get(status, "Done."), offer.answer)
    operation: dict[str, Any] = {
        "summary": offer.summary,
        "operationId": offer.handler.__name__,
        "responses": answers,
        "security": _SECURITY[offer.need],
    }
    in_path = re.findall(r"\{([a-z_]+)\}", offer.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in in_path]
    parameters += [{"name": name, **_PARAMETERS[name]} for name in offer.parameters]
    if parameters:
        operation["parameters"] = parameters
    if offer.asks is not None:
        operation["requestBody"] = {"required": True, "content": _content(offer.asks)}
    return operation


_DONE = {202: "Begun; Location says where to look.", 503: "The station cannot go on; the document says why."}


def _answer(description: str, body: type[msgspec.Struct] | str) -> dict[str, Any]:
    return {"description": description, "content": _content(body)}


def _content(body: type[msgspec.Struct] | str) -> dict[str, Any]:
    if isinstance(body, str):
        return {body: {"schema": {}}}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
