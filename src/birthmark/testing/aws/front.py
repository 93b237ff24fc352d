"""The endpoint: AWS IoT's own part in front, moto behind it for all else, faults and limits over both.

A WSGI application. The service and region are those that the request's signature is for; signatures are not checked.
So a browser on this machine is turned away whatever it sends: any page that is open in it reaches the loopback, and
moto would let every page read every answer (CORS).
"""

from __future__ import annotations

import hmac
import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from threading import RLock
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from birthmark.testing.aws import bulk, certificates, provisioning, register, relations, things
from birthmark.testing.aws.api import Api
from birthmark.testing.aws.desk import Desk, Operation
from birthmark.testing.aws.limits import Rates
from birthmark.testing.aws.refusal import Refusal, invalid
from birthmark.testing.aws.registry import registry_of
from birthmark.testing.dps.answers import Problem
from birthmark.testing.dps.faults import Faults

__all__ = ["Front"]

_OURS: Mapping[str, Operation] = {
    **certificates.OPERATIONS,
    **things.OPERATIONS,
    **relations.OPERATIONS,
    **register.OPERATIONS,
    **provisioning.OPERATIONS,
    **bulk.OPERATIONS,
}
_MOST = 4_194_304
_REASONS = {200: "OK", 204: "No Content", 400: "Bad Request", 404: "Not Found"}
_NOBODYS = ("localhost", "internal", "amazonaws.com")
"""Names, with all below them, that nobody can let point at the loopback of others (DNS rebinding)."""
_Answer = tuple[int, Mapping[str, str], bytes]


class Front:
    """``account``: to whom every request belongs; ``token``: for the control endpoint."""

    def __init__(self, account: str, region: str, endpoint: str, token: str, faults: Faults, rates: Rates) -> None:
        self._account, self._region, self._endpoint, self._token = account, region, endpoint, token
        self._faults, self._rates = faults, rates
        self._api = Api()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.lock = RLock()
        self.url = ""
        self.is_local = True
        """Whether it listens at the loopback, so that nobody comes by a name that is known outside."""
        self._desks: dict[str, Desk] = {}

    def desk(self, region: str) -> Desk:
        """Return what the operations of a region work with."""
        with self.lock:
            registry = registry_of(self._account, region)
            desk = self._desks.get(region)
            if desk is None or desk.registry is not registry:
                desk = Desk(registry, self.url, self._endpoint, self._faults, self.lock)
                self._desks[region] = desk
            return desk

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = self._account
        if self._is_page(environ):
            return _send(start, (403, {}, b'{"message":"the emulator answers no web page"}'))
        path, (service, region) = environ.get("PATH_INFO", ""), self._scope(environ)
        if path.startswith("/moto-api"):
            return _send(start, (404, {}, b""))  # moto's own switches, which ask for no token
        if path.startswith("/_emulator/"):
            return _send(start, self._control(environ, path.split("/")[2:]))
        if service != "iot":
            return self._moto(environ, start)  # type: ignore[no-any-return]
        if self._faults.plan.latency_s:
            time.sleep(self._faults.plan.latency_s)
        answer = self._iot(environ, region)
        with self.lock:
            lost = self._faults.loses_answer()
        if lost:
            raise ConnectionAbortedError("the answer is lost, as asked for")
        return _send(start, answer)

    def _is_page(self, environ: Mapping[str, Any]) -> bool:
        """Say whether a web page asks: no SDK names an origin or tells of sites, and none comes by a foreign name."""
        if "HTTP_ORIGIN" in environ or environ.get("HTTP_SEC_FETCH_SITE", "none") != "none":
            return True
        return self.is_local and not self._is_known(environ.get("HTTP_HOST", ""))

    def _is_known(self, host: str) -> bool:
        """Say whether a client of ours comes by this name: an address, one of a single label, or a name of nobody's."""
        name = re.sub(r":[0-9]*\Z", "", host).lower()
        mine = name in ("", self._endpoint.lower()) or "." not in name
        return mine or bool(re.fullmatch(r"[0-9.]+", name)) or any(f".{name}".endswith(f".{one}") for one in _NOBODYS)

    def _iot(self, environ: dict[str, Any], region: str) -> _Answer:
        try:
            name, place = self._api.find(environ["REQUEST_METHOD"], environ.get("RAW_URI", "").split("?")[0])
            with self.lock:
                self._throttle(name)
                desk = self.desk(region)
                work = _OURS.get(name)
                if work is None:
                    return self._by_moto(environ)
                desk.url = f"http://{environ.get('HTTP_HOST') or self.url}"  # links lead to where the client came
                query, headers = environ.get("QUERY_STRING", ""), _headers(environ)
                asked = self._api.parameters(name, place, query, headers, _body(environ))
                return 200, {}, self._api.octets(work(desk, asked))
        except Refusal as refusal:
            return self._api.refused(refusal)
        except JsonRESTError as refusal:
            return self._api.refused(_as_refusal(refusal.description, refusal.error_type))
        except Exception as defect:  # noqa: BLE001  the client is told what broke here; a traceback tells nobody
            return self._api.refused(Refusal("InternalFailureException", f"The emulator failed: {defect!r}"))

    def _by_moto(self, environ: dict[str, Any]) -> _Answer:
        """Return moto's answer, with the headers of REST-JSON where it refuses."""
        status = 500

        def start(line: str, _headers: Any, _failure: Any = None) -> None:
            nonlocal status
            status = int(line.split()[0])

        body = b"".join(self._moto(environ, start))
        return (status, {}, body) if status < 400 else self._api.refused(_as_refusal(body))

    def _throttle(self, name: str) -> None:
        try:
            self._faults.throttle()
        except Problem:
            raise Refusal("ThrottlingException", "Rate exceeded") from None
        self._rates.take(name)

    def _scope(self, environ: Mapping[str, Any]) -> tuple[str, str]:
        """Return service and region of the signature: ``Credential=KEY/DATE/REGION/SERVICE/aws4_request``."""
        _, _, text = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")
        parts = text.split(",")[0].split("/")
        return (parts[3], parts[2]) if len(parts) == 5 else ("", self._region)

    def _control(self, environ: dict[str, Any], path: list[str]) -> _Answer:
        try:
            match environ["REQUEST_METHOD"], path:
                case "GET", ["reports", secret]:
                    return self._report(secret)
                case "PUT", ["faults"]:
                    sent = environ.get("HTTP_AUTHORIZATION", "").encode()
                    if not hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
                        raise Refusal("UnauthorizedException", "The control token is missing.")
                    self._configure(_body(environ))
                    return 204, {}, b""
        except Refusal as refusal:
            return self._api.refused(refusal)
        return 404, {}, b""

    def _configure(self, body: bytes) -> None:
        try:
            document = json.loads(body)
            with self.lock:
                self._faults.configure(document)
        except (Problem, ValueError, RecursionError) as problem:
            raise invalid(str(problem)) from None

    def _report(self, secret: str) -> _Answer:
        with self.lock:
            found = next((desk.reports[secret] for desk in self._desks.values() if secret in desk.reports), None)
        return (404, {}, b"") if found is None else (200, {"content-type": "application/json"}, found)


def _as_refusal(text: str | bytes, known: str = "InternalFailureException") -> Refusal:
    """Return what moto refuses with: ``__type``, ``message`` and the members of the exception."""
    try:
        found = dict(json.loads(text))
    except (ValueError, TypeError):
        return Refusal(known, "moto failed.")
    return Refusal(str(found.pop("__type", known)), str(found.pop("message", "")), found)


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    return {key[5:].replace("_", "-").lower(): text for key, text in environ.items() if key.startswith("HTTP_")}


def _body(environ: Mapping[str, Any]) -> bytes:
    text = environ.get("CONTENT_LENGTH") or "0"
    length = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else -1
    if not 0 <= length <= _MOST:
        raise invalid("The body is too large.")
    found: bytes = environ["wsgi.input"].read(length)
    return found


def _send(start: Callable[..., Any], answer: _Answer) -> Iterable[bytes]:
    status, headers, body = answer
    own = {"content-type": "application/json", "x-amzn-RequestId": str(uuid.uuid4())}
    sent = {**own, **headers, "content-length": str(len(body))}
    start(f"{status} {_REASONS.get(status, 'Refused')}", list(sent.items()))
    return [body]
