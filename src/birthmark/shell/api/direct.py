"""The short way of a request that is whole and plain: function calls from the parser to one write, no coroutine.

Nearly every request for a credential comes with its length and nothing odd. It needs no task, no messages between
server and application and no second look at its headers: an ``Endpoint`` says who may call, a handler takes the body
and tells later what came of it. What differs from that goes the long way of every other request, to the same rules.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from birthmark.errors import BirthmarkError
from birthmark.shell.api.answers import error_response, json_response, unexpected
from birthmark.shell.api.callers import Caller
from birthmark.shell.api.service import Endpoint

__all__ = ["Direct", "is_plain"]

_ODD = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"})
_MOST_OCTETS = 16 * 1024
"""Of a body. Uvicorn stops reading at 64 KiB until somebody takes what is there, and on the short way nobody does."""


def is_plain(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Say whether a body follows that has one length, at most 16 KiB, and is what it is."""
    length = b""
    for name, value in headers:
        if name == b"content-length":
            length = value
        elif name in _ODD:
            return False
    return length.isdigit() and len(length) <= 5 and int(length) <= _MOST_OCTETS


class Direct:
    """Answers whole requests of one route; ``respond`` is called once for each, on the event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __call__(self, scope: Mapping[str, Any], body: bytes, respond: Callable[[Response], None]) -> None:
        """Take one request. A defect becomes an error that says nothing of itself."""
        began = time.perf_counter()
        endpoint = self._endpoint
        caller: Caller | None = None

        def tell(outcome: msgspec.Struct | BirthmarkError) -> None:
            if isinstance(outcome, BirthmarkError):
                response, code = error_response(outcome), outcome.code
            else:
                response, code = json_response(outcome), None
            endpoint.note(response.status_code, began, caller, code)
            respond(response)

        try:
            caller = endpoint.caller(scope)
            endpoint.require(caller)
            endpoint.ask(caller, body, tell)
        except BirthmarkError as error:
            tell(error)
        except Exception as problem:  # noqa: BLE001  it is told to the one who asked, and to nobody else
            tell(unexpected(problem))
