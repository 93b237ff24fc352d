"""``azure-adr:HOST/ID-SCOPE?…``: certificates that Azure Device Registry issues in a registration with Azure DPS.

The device API of the Device Provisioning Service takes a request with the registration (``csr``) and answers with
``issuedCertificateChain`` (Azure REST API specifications, Device Provisioning Services data plane, device models, from
2025-07-01-preview on). The device is let in by a token of its group's symmetric key, or by its onboarding certificate.
The common name of the request is the registration id.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from cryptography.x509.oid import NameOID

from birthmark.adapters.issuers.adranswer import AdrAnswer, read_answer
from birthmark.adapters.issuers.uri import IssuerUri, parse_issuer_uri
from birthmark.adapters.issuers.web import WebAnswer, WebService
from birthmark.errors import Misconfigured, Refused, Unavailable
from birthmark.model.secret import Secret
from birthmark.pki.csr import parse_csr
from birthmark.ports import SecretsHandler, SigningRequest

__all__ = ["AzureAdrService"]

_OPTIONS = ("group-key", "certificate", "key", "key-secret", "trust", "api-version")
_ADDRESS = re.compile(r"([A-Za-z0-9.-]{1,253}(?::\d{1,5})?)/([A-Za-z0-9]{1,64})")
_VERSION = re.compile(r"\d{4}-\d\d-\d\d(?:-preview)?")
_DEFAULT_VERSION = "2025-07-01-preview"
_REGISTRATION_ID = re.compile(r"[A-Za-z0-9._:-]{0,63}[A-Za-z0-9-]")
"""The service's rule for X.509 attestation: 64 is the upper bound of a common name."""
_COMMON_NAME = NameOID.COMMON_NAME.dotted_string
_DEVICE = "{device_serial}"
_TOKEN_S = 3600
_PATIENCE_S = 60.0
_POLL_S, _LONGEST_POLL_S = 2.0, 30.0
_REMEMBERED = 10_000

_Call = Callable[[str, str, bytes], WebAnswer]


class AzureAdrService:
    """Implements ``ports.SigningService``. The service knows no idempotency keys: each registration with a request
    is signed anew. An operation that is known to be under way is asked for again, not begun again."""

    def __init__(
        self,
        uri: str,
        *,
        secrets: SecretsHandler,
        base: Path,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = parse_issuer_uri(uri, scheme="azure-adr", options=_OPTIONS)
        self._host, self._scope = _parse_address(self._uri)
        self._version = self._uri.options.get("api-version", _DEFAULT_VERSION)
        _check_credentials(self._uri)
        self._secrets, self._base = secrets, base
        self._sleep, self._clock = sleep, monotonic
        reference = self._uri.options.get("group-key")
        self._group_key = None if reference is None else _read_key(secrets(reference))
        self._shared = None if reference is None else WebService(self._uri, secrets=secrets, base=base)
        self._under_way: OrderedDict[str, str] = OrderedDict()

    @property
    def name(self) -> str:
        return self._uri.name

    def sign(self, request: SigningRequest) -> bytes:
        """Register the device with its request, wait until it is assigned, return the leaf of the issued chain."""
        registration_id = _registration_id(request)
        place = f"/registrations/{quote(registration_id, safe='')}"
        decided = True
        try:
            with self._caller(registration_id) as call:
                answer = self._resume(call, place, request) or self._register(call, place, registration_id, request)
                return self._await(call, place, answer, request)
        except Unavailable:
            decided = False
            raise
        finally:
            if decided:
                self._under_way.pop(request.idempotency_key, None)

    def close(self) -> None:
        """Close the connections; closing twice is safe."""
        if self._shared is not None:
            self._shared.close()

    def _register(self, call: _Call, place: str, registration_id: str, request: SigningRequest) -> AdrAnswer:
        csr = base64.b64encode(request.csr).decode()
        body = b'{"registrationId":"%s","csr":"%s"}' % (registration_id.encode(), csr.encode())
        answer = read_answer(call("PUT", f"{place}/register", body), self.name, request)
        if answer.operation_id:
            self._under_way[request.idempotency_key] = answer.operation_id
            while len(self._under_way) > _REMEMBERED:
                self._under_way.popitem(last=False)
        return answer

    def _resume(self, call: _Call, place: str, request: SigningRequest) -> AdrAnswer | None:
        """Return how an operation of before goes on; None if there is none, or the service forgot it."""
        known = self._under_way.get(request.idempotency_key)
        if known is None:
            return None
        answer = read_answer(call("GET", f"{place}/operations/{known}", b""), self.name, request)
        if answer.forgotten:
            self._under_way.pop(request.idempotency_key, None)
            return None
        return answer

    def _await(self, call: _Call, place: str, answer: AdrAnswer, request: SigningRequest) -> bytes:
        until = self._clock() + _PATIENCE_S
        while answer.certificate is None:
            pause = min(_POLL_S if answer.retry_after is None else max(answer.retry_after, 0.1), _LONGEST_POLL_S)
            if not answer.operation_id or self._clock() + pause > until:
                raise Unavailable(
                    "issuer.pending",
                    "the service took the registration and has not issued the certificate yet",
                    hint="Run the same command again later.",
                    service=self.name,
                    retry_after=pause,
                )
            self._sleep(pause)
            answer = self._poll(call, place, answer, request)
        return answer.certificate

    def _poll(self, call: _Call, place: str, before: AdrAnswer, request: SigningRequest) -> AdrAnswer:
        """Ask once more. That it cannot be answered now is no reason to register, hence to be issued to, anew."""
        try:
            found = read_answer(call("GET", f"{place}/operations/{before.operation_id}", b""), self.name, request)
        except Unavailable as problem:
            after = problem.facts.get("retry_after")
            return replace(before, retry_after=float(after) if isinstance(after, int | float) else None)
        return replace(found, operation_id=before.operation_id)

    @contextmanager
    def _caller(self, registration_id: str) -> Iterator[_Call]:
        headers = {"accept": "application/json", "content-type": "application/json"}
        if self._group_key is not None and self._shared is not None:
            audience = quote(f"{self._scope}/registrations/{registration_id}", safe="")
            token = _token(self._group_key, registration_id, audience, int(time.time()) + _TOKEN_S)
            yield self._call(self._shared, {**headers, "authorization": token})
            return
        options = {
            name: value.replace(_DEVICE, registration_id) if name in ("certificate", "key") else value
            for name, value in self._uri.options.items()
        }
        own = WebService(replace(self._uri, options=options), secrets=self._secrets, base=self._base)
        try:
            yield self._call(own, headers)
        finally:
            own.close()

    def _call(self, web: WebService, headers: dict[str, str]) -> _Call:
        def call(method: str, path: str, body: bytes) -> WebAnswer:
            url = f"https://{self._host}/{self._scope}{path}?api-version={self._version}"
            statuses = (200, 202) if method == "PUT" else (200, 202, 404)
            return web.exchange(method, url, body, headers=headers, statuses=statuses)

        return call


def _parse_address(uri: IssuerUri) -> tuple[str, str]:
    match = _ADDRESS.fullmatch(uri.address)
    if match is None or not _VERSION.fullmatch(uri.options.get("api-version", _DEFAULT_VERSION)):
        raise Misconfigured(
            "issuer.uri",
            "this names no ID scope of a provisioning service, or no version of its API",
            hint="Write azure-adr:global.azure-devices-provisioning.net/ID-SCOPE?group-key=…; api-version=YYYY-MM-DD.",
            unknown=[],
            missing=[],
        )
    return match[1], match[2]


def _check_credentials(uri: IssuerUri) -> None:
    options = uri.options
    pair = [options[name] for name in ("certificate", "key") if name in options]
    if ("group-key" in options) == bool(pair) or not all(_DEVICE in each for each in pair):
        raise Misconfigured(
            "issuer.uri",
            "devices are let in by the symmetric key of their group, or each by a certificate of its own",
            hint="Give group-key=REFERENCE, or certificate and key with {device_serial} in both paths.",
            unknown=[],
            missing=[],
        )


def _read_key(secret: Secret) -> Secret:
    try:
        return Secret(base64.b64decode(secret.reveal().strip(), validate=True))
    except (binascii.Error, ValueError):
        raise Misconfigured(
            "issuer.key",
            "the symmetric key of the group is not base64",
            hint="Take the primary or secondary key of the enrolment group as the service shows it.",
        ) from None


def _token(group_key: Secret, registration_id: str, audience: str, expiry: int) -> str:
    """Return the token of a device: its key is HMAC-SHA256(group key, registration id)."""
    device_key = hmac.digest(group_key.reveal(), registration_id.encode(), "sha256")
    signature = base64.b64encode(hmac.digest(device_key, f"{audience}\n{expiry}".encode(), "sha256")).decode()
    return f"SharedAccessSignature sr={audience}&sig={quote(signature, safe='')}&se={expiry}&skn=registration"


def _registration_id(request: SigningRequest) -> str:
    names = [value for oid, value in parse_csr(request.csr).names if oid == _COMMON_NAME]
    name = names[0] if len(names) == 1 else ""
    if not isinstance(name, str) or not _REGISTRATION_ID.fullmatch(name):
        raise Refused(
            "issuer.name",
            f"the request for {request.device_serial} has no common name that can be a registration id",
            hint="One common name, 1 to 64 of A-Z a-z 0-9 - . _ : with a letter, a digit or - at the end.",
            device_serial=request.device_serial,
        )
    return name
