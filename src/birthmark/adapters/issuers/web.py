"""HTTP towards a signing service: TLS as the URI says, bounded answers, and every failure in its family."""

from __future__ import annotations

import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.extras import require_extra
from birthmark.adapters.told import one_line
from birthmark.errors import Misconfigured, Refused, Tampered, Unavailable
from birthmark.ports import SecretsHandler

if TYPE_CHECKING:
    import httpx

    from birthmark.adapters.issuers.uri import IssuerUri

__all__ = ["WEB_OPTIONS", "WebAnswer", "WebService"]

WEB_OPTIONS = ("trust", "certificate", "key", "key-secret", "user", "secret")
"""``trust``: PEM file of TLS roots; ``certificate``, ``key``, ``key-secret``: of the TLS client; or user and secret."""
_TIMEOUT_S = 30.0
_MAX_ANSWER = 256 * 1024
_DIGITS = 9
"""Of the seconds in a Retry-After header: about 30 years."""


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """``retry_after``: seconds, None if the service said nothing."""

    status: int
    retry_after: float | None
    body: bytes


class WebService:
    """One client for all threads. Redirects are not followed: a service moves by a change of the settings."""

    def __init__(self, uri: IssuerUri, *, secrets: SecretsHandler, base: Path) -> None:
        self._name = uri.name
        options = uri.options
        if ("user" in options) != ("secret" in options) or ("certificate" in options) != ("key" in options):
            raise Misconfigured(
                "issuer.uri",
                "half of a credential stands in the URI of a service",
                hint="Give user with secret, certificate with key.",
            )
        require_extra("online", "httpx")
        import httpx

        auth = None
        if "user" in options:
            auth = httpx.BasicAuth(options["user"].encode(), secrets(options["secret"]).reveal())
        self._client = httpx.Client(
            verify=_context(options, secrets=secrets, base=base),
            auth=auth,
            timeout=_TIMEOUT_S,
            follow_redirects=False,
        )

    def post(self, url: str, body: bytes, *, content_type: str, accept: str, keep_alive: bool = True) -> bytes:
        """Return the body of a 200 answer. Without ``keep_alive`` each message has a connection of its own."""
        headers = {"content-type": content_type, "accept": accept}
        if not keep_alive:
            headers["connection"] = "close"
        return self.exchange("POST", url, body, headers=headers, statuses=(200,)).body

    def exchange(
        self, method: str, url: str, body: bytes, *, headers: Mapping[str, str], statuses: Collection[int]
    ) -> WebAnswer:
        """Return an answer whose status is one of ``statuses``.

        Raises ``Unavailable``: ``issuer.unreachable``, ``issuer.busy``, ``issuer.pending`` (202);
        ``Misconfigured``: ``issuer.credentials``, ``issuer.address``; ``Refused("issuer.refused")``;
        ``Tampered``: ``issuer.answer.size``, ``issuer.answer.encoding`` (a compressed answer: small octets may stand
        for many).
        """
        import httpx

        sent = {**headers, "accept-encoding": "identity"}
        try:
            with self._client.stream(method, url, content=body, headers=sent) as response:
                answer = self._bounded(response)
        except httpx.HTTPError as problem:
            raise self._unreachable(problem) from None  # the library's own error holds the request and its token
        if response.status_code in statuses:
            after = _retry_after(response.headers.get("retry-after", ""))
            return WebAnswer(response.status_code, after, answer)
        raise self._problem(response, answer)

    def close(self) -> None:
        """Close all connections; closing twice is safe."""
        self._client.close()

    def _bounded(self, response: httpx.Response) -> bytes:
        import httpx

        if response.headers.get("content-encoding", "identity") != "identity":
            raise Tampered(
                "issuer.answer.encoding",
                "the service compressed its answer, which nobody asked for",
                hint="Check the address: this is not the answer of a signing service.",
                service=self._name,
            )
        body, end = bytearray(), time.monotonic() + _TIMEOUT_S
        for piece in response.iter_raw():
            body += piece
            if time.monotonic() > end:
                raise httpx.ReadTimeout("the answer does not end")  # httpx bounds the time of each piece alone
            if len(body) > _MAX_ANSWER:
                raise Tampered(
                    "issuer.answer.size",
                    f"the answer of the service has more than {_MAX_ANSWER} octets",
                    hint="Check the address: this is not the answer of a signing service.",
                    service=self._name,
                )
        return bytes(body)

    def _unreachable(self, problem: Exception) -> Unavailable | Misconfigured:
        if "CERTIFICATE_VERIFY_FAILED" in str(problem):
            return Misconfigured(
                "issuer.tls",
                "the TLS certificate of the service is not trusted",
                hint="Give its roots with trust=FILE in the URI, after comparing them with what the service publishes.",
                service=self._name,
            )
        return Unavailable(
            "issuer.unreachable",
            f"the service did not answer: {type(problem).__name__}",
            hint="Run the same command again: what was asked for is on record, and asked for again.",
            service=self._name,
        )

    def _problem(self, response: httpx.Response, answer: bytes) -> Refused | Unavailable | Misconfigured:
        status = response.status_code
        told = one_line(answer[:200].decode("utf-8", "replace"), 200)
        if status == 202 or status == 429 or status >= 500:
            after = _retry_after(response.headers.get("retry-after", ""))
            return Unavailable(
                "issuer.pending" if status == 202 else "issuer.busy",
                "the service will answer later" if status == 202 else f"the service is busy (HTTP {status})",
                hint="Run the same command again later; the same request is then sent again.",
                service=self._name,
                status=status,
                **({} if after is None else {"retry_after": after}),
            )
        if status in (401, 403):
            return Misconfigured(
                "issuer.credentials",
                f"the service does not let us in (HTTP {status})",
                hint="Check the credentials that the URI of this CA names.",
                service=self._name,
                status=status,
            )
        if status in (301, 302, 303, 307, 308, 404, 405):
            return Misconfigured(
                "issuer.address",
                f"there is no signing service at this address (HTTP {status})",
                hint="Check the issuer URI of this CA in birthmark.toml.",
                service=self._name,
                status=status,
            )
        return Refused(
            "issuer.refused",
            f"the service refuses the request (HTTP {status}): {told}",
            hint="Compare what the profile asks for with what the service allows.",
            service=self._name,
            status=status,
        )


def _retry_after(text: str) -> int | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), None if it says nothing."""
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS:
        return int(text)
    try:
        return max(0, round((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()))
    except (ValueError, TypeError, OverflowError):
        return None


def _context(options: Mapping[str, str], *, secrets: SecretsHandler, base: Path) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(base / options["trust"]) if "trust" in options else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "certificate" in options:
            password = secrets(options["key-secret"]).reveal() if "key-secret" in options else b""
            # A password that is asked for and not there is refused; without this OpenSSL would ask the terminal.
            context.load_cert_chain(base / options["certificate"], base / options["key"], password=lambda: password)
    except (OSError, ValueError) as problem:
        raise Misconfigured(
            "issuer.tls.files",
            f"the TLS files of a service cannot be used: {type(problem).__name__}",
            hint="Check trust, certificate, key and key-secret in the issuer URI of this CA.",
        ) from None
    return context
