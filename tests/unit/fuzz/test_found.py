"""What fuzzing and reading found once; each stays refused by name."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.adapters.audit.logcheck import read_vkey
from birthmark.adapters.clouds.aws_iot.reports import fetch_report
from birthmark.adapters.issuers import web
from birthmark.adapters.issuers.uri import parse_issuer_uri
from birthmark.adapters.issuers.web import WEB_OPTIONS, WebService
from birthmark.adapters.sources.online import OnlineAuthority, Patience
from birthmark.adapters.targets.layouts import LAYOUTS, first_certificate
from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered, Unavailable
from birthmark.pki.profile import parse_profile
from birthmark.shell.workspace.config import parse_part, parse_settings
from birthmark.wire.service import CredentialAsked, read_asked
from birthmark.workflow.authority.ceremonyfile import parse_ceremony
from birthmark.workflow.line.readback import spki_hash_of

DEEP = b"a = " + b"[" * 100_000
DIGITS = b"a = " + b"9" * 5000


@pytest.mark.parametrize("toml", [DEEP, b"a = " + b"{b = " * 50_000, DIGITS])
def test_toml_that_is_too_deep_or_a_number_too_long_is_malformed(toml: bytes) -> None:
    for parse, code in (
        (lambda: parse_settings(toml, "birthmark.toml"), "settings.malformed"),
        (lambda: parse_part(toml, "grant.toml"), "settings.malformed"),
        (lambda: parse_ceremony(toml), "ceremony.malformed"),
        (lambda: parse_profile(toml), "profile.toml"),
    ):
        with pytest.raises(Misconfigured) as refusal:
            parse()
        assert refusal.value.code == code


def test_verifier_key_with_stray_octets_is_none() -> None:
    name = b"log\xff".decode("utf-8", "surrogateescape")
    with pytest.raises(Misconfigured):
        read_vkey(f"{name}+00000000+{base64.b64encode(bytes((1, *bytes(32)))).decode()}")


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b'{"attempt":"attempt-0001","attempt":"\\ud800"}'])
def test_body_that_asks_for_nothing_is_malformed(body: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        read_asked(body)
    assert refusal.value.code == "service.request.malformed"


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """Serve one answer to everybody; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append(self.headers["accept-encoding"])
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *arguments: object) -> None:
            pass

    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert set(asked) == {"identity"}


def third_party(url: str) -> WebService:
    uri = parse_issuer_uri(f"cmp:{url}", scheme="cmp", options=WEB_OPTIONS)
    return WebService(uri, secrets=lambda reference: pytest.fail(reference), base=Path())


def post(url: str) -> bytes:
    service = third_party(url)
    try:
        return service.post(url, b"asked", content_type="application/pkixcmp", accept="application/pkixcmp")
    finally:
        service.close()


BOMB = gzip.compress(bytes(64 << 20))


def test_compressed_answer_of_a_signing_service_is_not_unpacked() -> None:
    with answering(200, {"content-encoding": "gzip"}, BOMB) as url, pytest.raises(Tampered) as refusal:
        post(url)
    assert refusal.value.code == "issuer.answer.encoding"


class _Turn:
    """A task whose report lies behind one link."""

    def __init__(self, link: str) -> None:
        self._link = link

    def iot(self, operation: str, **asked: object) -> dict[str, object]:
        return {"resourceLinks": [self._link]}

    def follow(self) -> None:
        pass

    def now(self) -> float:
        return 0.0


def test_compressed_report_of_a_cloud_is_not_unpacked() -> None:
    with answering(200, {"content-encoding": "gzip, gzip"}, gzip.compress(BOMB)) as url:
        turn: Any = _Turn(f"{url}/report")
        with pytest.raises(Unavailable) as refusal:
            list(fetch_report(turn, "task", "RESULTS", origin=url))
    assert "compressed" in refusal.value.message


@contextmanager
def dripping() -> Iterator[str]:
    """Serve an answer of which an octet comes now and then, and never the last; yield the address."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not ended.wait(0.05):
                connection.sendall(b"x")

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


def test_answer_that_never_ends_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_TIMEOUT_S", 0.3)
    with dripping() as url, pytest.raises(Unavailable) as refusal:
        post(url)
    assert refusal.value.code == "issuer.unreachable"
    with dripping() as url:
        assert ask(url).code == "authority.unreachable"


def test_words_of_a_service_are_one_line_that_moves_no_cursor() -> None:
    words = "no\n\x1b[2J\x9bPASS  EL-0001"
    with answering(400, {}, words.encode()) as url, pytest.raises(Refused) as refusal:
        post(url)
    assert refusal.value.message.isprintable()
    told = {"error": "x.y", "family": "Refused", "message": words, "facts": {}, "hint": words, "retry_safe": False}
    with answering(409, {}, json.dumps(told).encode()) as url:
        error = ask(url)
    assert error.message.isprintable()
    assert error.hint.isprintable()
    with answering(409, {}, json.dumps({**told, "error": words}).encode()) as url:
        assert ask(url).code == "authority.unreachable"


@pytest.mark.parametrize("after", ["9" * 5000, "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "-1", "\u0661", "x"])
def test_retry_after_of_any_length_is_a_busy_service(after: str) -> None:
    header = after.encode("utf-8").decode("latin-1")
    with answering(503, {"retry-after": header}, b"") as url, pytest.raises(Unavailable) as refusal:
        post(url)
    assert refusal.value.code == "issuer.busy"
    assert "retry_after" not in refusal.value.facts


_ANSWER_S = 0.5


class _Plain(OnlineAuthority):
    """The source without TLS: its address is checked before it is changed here."""

    def __init__(self, url: str) -> None:
        super().__init__("https://x", ssl.create_default_context(), patience=Patience(total_s=0.0, answer_s=_ANSWER_S))
        self._url = url


def ask(url: str) -> BirthmarkError:
    authority = _Plain(url)
    try:
        with pytest.raises(BirthmarkError) as refusal:
            authority.credential(CredentialAsked(attempt="attempt-0001", device_serial="TH-0001"))
    finally:
        authority.close()
    return refusal.value


@pytest.mark.parametrize("body", [BOMB, b"no gzip at all"])
def test_compressed_answer_of_the_authority_is_not_unpacked(body: bytes) -> None:
    with answering(200, {"content-encoding": "gzip"}, body) as url:
        assert ask(url).code == "service.answer.encoding"


def test_error_of_the_authority_is_its_words_and_no_more() -> None:
    told = {"error": "x" * 5000, "family": "Nonsense", "message": "m" * 5000, "facts": {}, "hint": "h", "retry_safe": 0}
    told["retry_safe"] = False
    with answering(409, {}, json.dumps(told).encode()) as url:
        error = ask(url)
    assert (type(error), len(error.code), len(error.message)) == (Unavailable, 100, 500)


@pytest.mark.parametrize("pattern", ["[[a]]+", "a{99999999999}", "(" * 300])
def test_pattern_that_python_only_warns_about_is_none(pattern: str) -> None:
    toml = files("birthmark.pki.presets").joinpath("tls-client.toml").read_text()
    changed = re.sub(r"(?m)^pattern = .*$", lambda found: f"pattern = '{pattern}'", toml)
    assert changed != toml
    with pytest.raises(Misconfigured):
        parse_profile(changed.encode())


def test_certificate_of_an_impossible_version_is_no_certificate() -> None:
    good = make_certificate()
    at = good.index(b"\xa0\x03\x02\x01\x02") + 4
    odd = good[:at] + b"\x03" + good[at + 1 :]
    assert first_certificate(LAYOUTS["der"], good) is not None
    assert first_certificate(LAYOUTS["der"], odd) is None
    with pytest.raises(Tampered):
        spki_hash_of(odd)


def make_certificate() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)
