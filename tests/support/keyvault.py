"""A fake Azure Key Vault: the HTTPS surface that the real SDK talks to, and a token endpoint.

It is not the real service. What it knows: challenge authentication, create, get and sign of EC and RSA keys.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature

from support.estserver import write_tls_identity
from support.seller import Seller, pem

__all__ = ["KeyVault", "key_vault"]

TOKEN = "canary-token-4242"
_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}


class KeyVault:
    """What the vault holds: (name) → (version, private key). ``swap``: sign with this key instead; ``status``: fail."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {}
        self.url = ""
        self.token_url = ""
        self.trust = Path()
        self.swap: Any = None
        self.status: int | None = None
        self.signed: list[dict[str, str]] = []

    def uri(self, name: str) -> str:
        return f"azure-kv:{self.url}/keys/{name}"

    def get(self, name: str) -> tuple[int, dict[str, Any]]:
        if name not in self.keys:
            return 404, {"error": {"code": "KeyNotFound", "message": "no"}}
        version, key = self.keys[name]
        return 200, {"key": self._jwk(name, version, key), "attributes": {"enabled": True}}

    def create(self, name: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        key: Any
        if body["kty"].startswith("RSA"):
            key = rsa.generate_private_key(public_exponent=65537, key_size=body["key_size"])
        else:
            key = ec.generate_private_key(_CURVES[body["crv"]])
        self.keys[name] = (f"{len(self.keys):032x}", key)
        return self.get(name)

    def sign(self, name: str, version: str, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        stored, key = self.keys[name]
        assert version == stored
        self.signed.append(body)
        key, digest = self.swap or key, _decoded(body["value"])
        hash_ = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "RS256": hashes.SHA256()}[body["alg"]]
        if isinstance(key, rsa.RSAPrivateKey):
            raw = key.sign(digest, PKCS1v15(), Prehashed(hash_))
        else:
            size = (key.key_size + 7) // 8
            raw = b"".join(
                n.to_bytes(size, "big") for n in decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(hash_))))
            )
        return 200, {"kid": f"{self.url}/keys/{name}/{version}", "value": _encoded(raw)}

    def _jwk(self, name: str, version: str, key: Any) -> dict[str, Any]:
        numbers = key.public_key().public_numbers()
        jwk: dict[str, Any] = {"kid": f"{self.url}/keys/{name}/{version}", "key_ops": ["sign", "verify"]}
        if isinstance(key, rsa.RSAPrivateKey):
            parts = {"n": (numbers.n, key.key_size // 8), "e": (numbers.e, 3)}
            return jwk | {"kty": "RSA", **{k: _encoded(n.to_bytes(size, "big")) for k, (n, size) in parts.items()}}
        size = (key.key_size + 7) // 8
        curve = f"P-{key.key_size}"
        x, y = (_encoded(n.to_bytes(size, "big")) for n in (numbers.x, numbers.y))
        return jwk | {"kty": "EC", "crv": curve, "x": x, "y": y}


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vault: KeyVault

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path.startswith("/token"):
            token = {"access_token": TOKEN, "expires_on": "4102444800", "resource": "x", "token_type": "Bearer"}
            self._send(200, token)
            return
        self._answer("GET", {})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._answer("POST", json.loads(self.rfile.read(length) or b"{}"))

    def _answer(self, method: str, body: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            # The SDK wants the vault's host below the resource's domain, and has no other name for this machine.
            domain = self.vault.url.removeprefix("https://").partition(".")[2]
            challenge = f'Bearer authorization="https://login.example/tenant", resource="https://{domain}"'
            self._send(401, {}, {"WWW-Authenticate": challenge})
            return
        if self.vault.status is not None:
            self._send(self.vault.status, {"error": {"code": "x", "message": "x"}})
            return
        _, _, name, *rest = self.path.partition("?")[0].rstrip("/").split("/")
        if rest and rest[0] == "create":
            self._send(*self.vault.create(name, body))
        elif method == "POST" and rest[-1] == "sign":
            self._send(*self.vault.sign(name, rest[0], body))
        else:
            self._send(*self.vault.get(name))

    def _send(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@contextmanager
def key_vault(directory: Path) -> Iterator[KeyVault]:
    """Run a vault (HTTPS) and a token endpoint (HTTP) on 127.0.0.1 until the context ends."""
    vault, seller = KeyVault(), Seller()
    vault.trust = directory / "vault-root.pem"
    vault.trust.write_bytes(pem(seller.root.certificate))
    certificate, key = write_tls_identity(seller.root, directory, "vault", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = type("Handler", (_Handler,), {"vault": vault})
    with _Quiet(("127.0.0.1", 0), handler) as server, _Quiet(("127.0.0.1", 0), handler) as tokens:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        vault.url = f"https://127.0.0.1:{server.server_address[1]}"
        vault.token_url = f"http://127.0.0.1:{tokens.server_address[1]}/token"
        threads = [
            threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            for one in (server, tokens)
        ]
        for thread in threads:
            thread.start()
        try:
            yield vault
        finally:
            for one in (server, tokens):
                one.shutdown()
            for thread in threads:
                thread.join()
