"""A small EST server (RFC 7030): signs with a seller's CA, counts what it signs, and misbehaves when a test says so."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7

from support.seller import Authority, Seller, name_of, pem

__all__ = ["PASSWORD", "USER", "EstServer", "est_server", "write_tls_identity"]

USER, PASSWORD = "factory", "canary-est-7711"
Sign = Callable[[x509.CertificateSigningRequest], x509.Certificate]
Fault = Callable[[int], str | None]
"""Number of the request → ``drop`` (sign, then hang up), ``503``, ``202``, ``400``, ``401``, ``junk`` or None."""


class EstServer:
    """What the server knows: every request that came, every certificate that it signed."""

    def __init__(self, seller: Seller) -> None:
        self.seller = seller
        self.requests: list[bytes] = []
        self.signed: list[x509.Certificate] = []
        self.fault: Fault = lambda number: None
        self.sign: Sign = seller.issuing.sign_csr
        self.url = ""
        self.trust = Path()
        self.arrived = threading.Condition()
        self.now, self.most = 0, 0

    def wait_for(self, count: int) -> None:
        """Return when ``count`` requests have come in all."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.requests) >= count, timeout=60)

    def uri(self, **options: str) -> str:
        options = {"trust": str(self.trust), **options}
        return f"est:{self.url}?" + "&".join(f"{name}={value}" for name, value in options.items())

    def enrol(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        der = base64.b64decode(body)
        with self.arrived:
            number = len(self.requests)
            self.requests.append(der)
            self.arrived.notify_all()
        csr = x509.load_der_x509_csr(der)
        assert csr.is_signature_valid
        fault = self.fault(number)
        if fault in ("202", "503", "400", "401"):
            return int(fault), {"Retry-After": "3600"} if fault == "202" else {}, b"not now"
        certificate = self.sign(csr)
        with self.arrived:
            self.signed.append(certificate)
        if fault == "drop":
            raise ConnectionAbortedError
        answer = base64.b64encode(pkcs7.serialize_certificates([certificate], Encoding.DER))
        return 200, {"Content-Type": "application/pkcs7-mime; smime-type=certs-only"}, b"?" if fault else answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    est: EstServer

    def setup(self) -> None:
        self.request.settimeout(30)
        self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        assert self.path.endswith("/cacerts")
        chain = [self.est.seller.issuing.certificate, self.est.seller.root.certificate]
        answer = base64.b64encode(pkcs7.serialize_certificates(chain, Encoding.DER))
        self._send(200, {"Content-Type": "application/pkcs7-mime"}, answer)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._known():
            self._send(401, {"WWW-Authenticate": 'Basic realm="est"'}, b"")
            return
        assert self.path.endswith(("/simpleenroll", "/simplereenroll")), self.path
        assert self.headers["Content-Type"] == "application/pkcs10"
        with self.est.arrived:
            self.est.now += 1
            self.est.most = max(self.est.most, self.est.now)
        try:
            self._send(*self.est.enrol(body))
        except ConnectionAbortedError:
            self.close_connection = True
        finally:
            with self.est.arrived:
                self.est.now -= 1

    def _known(self) -> bool:
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return self.headers.get("Authorization") == wanted or bool(self.connection.getpeercert(binary_form=True))

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed or does not trust us is what the tests are about."""


def write_tls_identity(authority: Authority, directory: Path, name: str, *, server: bool) -> tuple[Path, Path]:
    """Write certificate chain and key (PEM) of a TLS party below ``authority``."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(name))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if server:
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    paths[0].write_bytes(pem(certificate))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@contextmanager
def est_server(seller: Seller, directory: Path) -> Iterator[EstServer]:
    """Run a server on a free port of 127.0.0.1 until the context ends."""
    est = EstServer(seller)
    est.trust = directory / "tls-root.pem"
    est.trust.write_bytes(pem(seller.root.certificate))
    certificate, key = write_tls_identity(seller.root, directory, "est-server", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(est.trust)
    context.verify_mode = ssl.CERT_OPTIONAL
    handler = type("Handler", (_Handler,), {"est": est})
    with _Quiet(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        est.url = f"https://localhost:{server.server_address[1]}/.well-known/est"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield est
        finally:
            server.shutdown()
            thread.join()
