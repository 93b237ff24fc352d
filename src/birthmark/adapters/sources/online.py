"""The authority's service over HTTPS with mutual TLS: one kept connection, one attempt until its answer is whole."""

from __future__ import annotations

import random
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from birthmark.adapters.durable import naming_os_errors
from birthmark.adapters.told import one_line
from birthmark.errors import (
    BirthmarkError,
    DeviceFault,
    Misconfigured,
    Refused,
    StationFault,
    Tampered,
    Unavailable,
)
from birthmark.model.secret import Secret
from birthmark.wire.service import (
    CredentialAnswer,
    CredentialAsked,
    ErrorShown,
    ReportTaken,
    read_answer,
    read_taken,
)

__all__ = ["OnlineAuthority", "Patience", "client_tls"]

_MAX_ANSWER_OCTETS = 1 << 20
_PART_OCTETS = 1 << 18
_JSON = {"content-type": "application/json"}
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed; 500 only where the error itself says so."""
_MOST_TOLD = 500
_CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_FAMILIES: dict[str, type[BirthmarkError]] = {
    family.__name__: family for family in (Misconfigured, Refused, DeviceFault, StationFault, Unavailable, Tampered)
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request is tried, in seconds: in all, for one connection, for one answer, between two tries.

    ``report_s``: for the answer to a report, which comes when all of it is checked.
    """

    total_s: float = 60.0
    connect_s: float = 5.0
    answer_s: float = 15.0
    report_s: float = 3600.0
    first_wait_s: float = 0.1
    most_wait_s: float = 5.0


class OnlineAuthority:
    """Implements ``ports.Authority``, and takes reports there. Threads may share it.

    Whatever is cut, wherever: the service does the same for the same attempt, so asking again is always safe.
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext,
        *,
        patience: Patience = Patience(),
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith("https://"):
            raise Misconfigured(
                "authority.url",
                f"{url[:200]} is not an https: address",
                hint="Set url in [authority] to the address of your authority's service.",
                url=url[:200],
            )
        self._url = url.rstrip("/")
        self._patience = patience
        self._monotonic = monotonic
        self._sleep = sleep
        limits = httpx.Limits(max_connections=8, max_keepalive_connections=8, keepalive_expiry=60.0)
        self._client = httpx.Client(verify=tls, limits=limits, trust_env=False)

    def credential(self, asked: CredentialAsked) -> CredentialAnswer:
        """Return the answer of the authority; raise what it refused, or ``Unavailable`` when time is over."""
        body = msgspec.json.encode(asked)
        return read_answer(self._until_answered("/v1/credentials", _JSON, lambda: body, self._patience.answer_s))

    def report(self, report: Path) -> ReportTaken:
        """Send a report file; return what became of it. Errors as of ``credential``; twice is once."""

        def content() -> Iterator[bytes]:
            with naming_os_errors(report), report.open("rb") as file:
                while part := file.read(_PART_OCTETS):
                    yield part

        size = {"content-length": str(report.stat().st_size)}
        headers = {"content-type": "application/octet-stream", **size}
        return read_taken(self._until_answered("/v1/reports", headers, content, self._patience.report_s))

    def _until_answered(
        self, path: str, headers: dict[str, str], body: Callable[[], bytes | Iterator[bytes]], answer_s: float
    ) -> bytes:
        """Return the content of a good answer; what may succeed later is tried until the patience ends."""
        end = self._monotonic() + self._patience.total_s
        wait = self._patience.first_wait_s
        while True:
            try:
                return self._once(path, headers, body(), answer_s)
            except _NotNow as trouble:
                pause = max(trouble.wait_s, wait * random.uniform(0.5, 1.5))  # noqa: S311  it only spreads the load
                if self._monotonic() + pause > end:
                    raise trouble.error from None
            self._sleep(pause)
            wait = min(2 * wait, self._patience.most_wait_s)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _once(self, path: str, headers: dict[str, str], body: bytes | Iterator[bytes], answer_s: float) -> bytes:
        timeout = httpx.Timeout(answer_s, connect=self._patience.connect_s)
        try:
            headers = {"accept-encoding": "identity", **headers}
            with self._client.stream(
                "POST", self._url + path, content=body, headers=headers, timeout=timeout
            ) as response:
                content = self._bounded(response, self._monotonic() + answer_s)
                status, wait_s = response.status_code, _retry_after(response)
        except httpx.TransportError as problem:
            raise _NotNow(_unreachable(f"{type(problem).__name__}: {problem}"), 0.0) from None
        if status == 200:
            return content
        error = _told(status, content)
        if status in _AGAIN and (error.retry_safe or status != 500):
            raise _NotNow(error, wait_s)
        raise error

    def _bounded(self, response: httpx.Response, end: float) -> bytes:
        """Return the whole body, which is there by ``end``: httpx bounds the time of each piece alone."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Tampered(
                "service.answer.encoding",
                "the service compressed its answer, which nobody asked for",
                hint="Check that the address in the settings is that of your authority's service.",
            )
        parts: list[bytes] = []
        octets = 0
        for part in response.iter_raw():
            octets += len(part)
            if octets > _MAX_ANSWER_OCTETS:
                raise Tampered(
                    "service.answer.too_long",
                    f"the service answers with more than {_MAX_ANSWER_OCTETS} octets",
                    hint="Check that the address in the settings is that of your authority's service.",
                )
            if self._monotonic() > end:
                raise httpx.ReadTimeout("the answer does not end")
            parts.append(part)
        return b"".join(parts)


class _NotNow(Exception):
    """Worth another try after ``wait_s`` seconds; ``error`` is what is told when there is no time left."""

    def __init__(self, error: BirthmarkError, wait_s: float) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


def client_tls(service_ca: Path, certificate: Path, key: Path, secret: Secret | None) -> ssl.SSLContext:
    """Return the TLS of a station: its own certificate, and no trust in anything but the service's CA.

    ``Misconfigured("authority.tls")`` if one of the PEM files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(service_ca)
        context.load_cert_chain(certificate, key, b"" if secret is None else secret.reveal())
    except (OSError, ValueError) as problem:
        raise Misconfigured(
            "authority.tls",
            f"the TLS files of this station cannot be used: {problem}",
            hint="Check service_ca in [authority] and tls_certificate, tls_key, tls_secret of the station.",
            certificate=str(certificate),
        ) from None
    return context


def _retry_after(response: httpx.Response) -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), 30.0) if text.isdecimal() else 0.0


_shown = msgspec.json.Decoder(ErrorShown)


def _told(status: int, content: bytes) -> BirthmarkError:
    """Return the error that the service told, as this program's own."""
    try:
        shown = _shown.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _unreachable(f"HTTP status {status} from something that is not the service")
    code = shown.error[:100]
    if _CODE.fullmatch(code) is None:
        return _unreachable(f"HTTP status {status} from something that is not the service")
    family = _FAMILIES.get(shown.family, Unavailable)
    return family(code, one_line(shown.message, _MOST_TOLD), hint=one_line(shown.hint, _MOST_TOLD))


def _unreachable(reason: str) -> Unavailable:
    return Unavailable(
        "authority.unreachable",
        f"the authority did not answer: {reason[:300]}",
        hint="Check the network; then run the same command again, the attempt goes on where it stopped.",
    )
