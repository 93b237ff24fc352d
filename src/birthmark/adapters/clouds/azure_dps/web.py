"""HTTPS towards service, resource manager and hubs: bounded answers, bounded time, every failure in its family."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from birthmark.adapters.extras import require_extra
from birthmark.adapters.told import one_line
from birthmark.errors import Misconfigured, Refused, Unavailable

if TYPE_CHECKING:
    import httpx

    from birthmark.adapters.clouds.azure_dps.auth import Authorization

__all__ = ["Answer", "DpsWeb", "bad_answer", "plain", "tls_roots"]

_CONNECT_S, _CALL_S = 20.0, 60.0
_MAX_ANSWER = 16 << 20
"""A page of 500 enrolments with twins stays far below."""
_LONGEST_WAIT_S = 3600
_TOLD = 160
_encoder = msgspec.json.Encoder()


class _Problem(msgspec.Struct, rename="camel"):
    error_code: int | str | None = None
    message: str | None = None
    error: Any = None
    hub_message: str | None = msgspec.field(default=None, name="Message")


_problems = msgspec.json.Decoder(_Problem)


@dataclass(frozen=True, slots=True)
class Answer:
    """``status``: 200 to 204, or one that the caller has asked for; ``code``: the service's own, of a refusal."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    code: str = ""
    message: str = ""


class DpsWeb:
    """One client of one host for all threads. Redirects are not followed: credentials go to this host alone."""

    def __init__(
        self,
        name: str,
        host: str,
        authorization: Authorization,
        *,
        version: str,
        trust: str | None,
        base: Path,
        roots: ssl.SSLContext | None = None,
    ) -> None:
        """``roots``: those of ``trust``, read already: reading takes a tenth of a second."""
        require_extra("online", "httpx")
        import httpx

        self._name, self._root, self._version = name, f"https://{host}", version
        self._authorization = authorization
        self._counting = threading.Lock()
        self.calls = 0
        """Requests that were sent, answered or not."""
        self._client = httpx.Client(
            verify=roots or tls_roots(trust, base),
            timeout=httpx.Timeout(_CALL_S, connect=_CONNECT_S),
            follow_redirects=False,
        )

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        also: tuple[int, ...] = (),
    ) -> Answer:
        """Send one request and return its answer of 2xx, or of a status in ``also``.

        Raises ``Unavailable``: ``cloud.unreachable``, ``cloud.throttled``, ``cloud.busy`` (fact ``retry_after`` in
        seconds if the service said it); ``Misconfigured``: ``cloud.credentials``, ``cloud.address``, ``cloud.tls``,
        ``cloud.answer``; ``Refused("cloud.call.refused")``.
        """
        import httpx

        sent = {
            "authorization": self._authorization(),
            "accept": "application/json",
            "accept-encoding": "identity",
            **(headers or {}),
        }
        content = None
        if body is not None:
            content, sent["content-type"] = _encoder.encode(body), "application/json; charset=utf-8"
        url = f"{self._root}{path}?api-version={self._version}"
        with self._counting:
            self.calls += 1
        try:
            with self._client.stream(method, url, content=content, headers=sent) as response:
                octets = self._bounded(response)
        except (httpx.HTTPError, TimeoutError) as problem:
            raise self._unreachable(problem) from None  # the library's own error holds the request and its token
        code, message = _problem_of(octets) if response.status_code >= 300 else ("", "")
        answer = Answer(response.status_code, octets, response.headers, code, message)
        if response.status_code // 100 == 2 or response.status_code in also:
            return answer
        raise self._failure(answer)

    def close(self) -> None:
        """Close all connections; closing twice is safe."""
        self._client.close()

    def _bounded(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise bad_answer(self._name, "a compressed answer, which nobody asked for")
        body, end = bytearray(), time.monotonic() + _CALL_S
        for piece in response.iter_raw():
            body += piece
            if len(body) > _MAX_ANSWER:
                raise bad_answer(self._name, f"more than {_MAX_ANSWER} octets")
            if time.monotonic() > end:
                raise TimeoutError
        return bytes(body)

    def _unreachable(self, problem: Exception) -> Unavailable | Misconfigured:
        if "CERTIFICATE_VERIFY_FAILED" in str(problem):
            return Misconfigured(
                "cloud.tls",
                "the TLS certificate of the service is not trusted",
                hint="Check the host in the uri of this cloud, and what stands between it and here; trust=FILE names "
                "other roots.",
                cloud=self._name,
            )
        return Unavailable(
            "cloud.unreachable",
            f"the service did not answer: {type(problem).__name__}",
            hint="The same is told again later: what was done already is compared then, not doubled.",
            cloud=self._name,
        )

    def _failure(self, answer: Answer) -> Unavailable | Misconfigured | Refused:
        status = answer.status
        facts: dict[str, Any] = {"cloud": self._name, "status": status, "service_code": answer.code}
        if status == 429 or status == 408 or status >= 500:
            after = _retry_after(answer.headers.get("retry-after", ""), lambda: datetime.now(UTC))
            facts |= {} if after is None else {"retry_after": after}
            if status == 429:
                return Unavailable(
                    "cloud.throttled", "the service wants fewer calls", hint="Told again when it said.", **facts
                )
            return Unavailable("cloud.busy", f"the service failed (HTTP {status})", hint="Told again later.", **facts)
        if status in (401, 403):
            return Misconfigured(
                "cloud.credentials",
                f"the service does not let us in (HTTP {status}): {answer.message}",
                hint="Check policy and key or the rights of the identity, and the clock of this machine.",
                **facts,
            )
        if status in (301, 302, 303, 307, 308, 404, 405):
            return Misconfigured(
                "cloud.address",
                f"there is no such thing at this address (HTTP {status}): {answer.message}",
                hint="Check host and arm in the uri of this cloud, and the names of its hubs.",
                **facts,
            )
        return Refused(
            "cloud.call.refused",
            f"the service refuses the call (HTTP {status} {answer.code}): {answer.message}",
            hint="Compare hubs, allocation and the certificates with what the service allows.",
            **facts,
        )


def bad_answer(cloud: str, what: str) -> Misconfigured:
    """Return the error for an answer that is not one of this service."""
    return Misconfigured(
        "cloud.answer",
        f"the answer is not one of a provisioning service: {what}",
        hint="Check the host in the uri of this cloud, and proxies on the way to it.",
        cloud=cloud,
    )


def plain(text: object) -> str:
    """Return what a service said in one bounded line of printable characters."""
    return " ".join(one_line(text, 4 * _TOLD).split())[:_TOLD]


def _problem_of(body: bytes) -> tuple[str, str]:
    """Return (code, message) of an error body of the service, resource manager or a hub; empty if there is none."""
    try:
        told = _problems.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", ""
    if isinstance(told.error, dict):
        return plain(told.error.get("code", "")), plain(told.error.get("message", ""))
    return plain(told.error_code or ""), plain(told.message or told.hub_message or "")


def _retry_after(text: str, clock: Callable[[], datetime]) -> int | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), at most an hour; None if it says nothing."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(int(text), _LONGEST_WAIT_S)
    try:
        seconds = round((parsedate_to_datetime(text) - clock()).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0, seconds), _LONGEST_WAIT_S)


def tls_roots(trust: str | None, base: Path) -> ssl.SSLContext:
    """Return a context with the roots in a PEM file, or the system's; ``Misconfigured("cloud.tls.files")``."""
    try:
        context = ssl.create_default_context(cafile=None if trust is None else str(base / trust))
    except (OSError, ValueError) as problem:
        raise Misconfigured(
            "cloud.tls.files",
            f"the roots of a cloud cannot be read: {type(problem).__name__}",
            hint="Check trust in the uri of this cloud: a file of PEM certificates.",
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
