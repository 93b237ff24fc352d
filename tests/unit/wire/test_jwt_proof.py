"""Proofs in the form of a token: by the key of the certificate, for this challenge, for nothing else."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from birthmark.adapters.audit.evidencecheck import token_parts
from birthmark.adapters.audit.receipts import ReceiptCase, receipt_fault
from birthmark.errors import Tampered
from birthmark.pki.algorithms import spki_of
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.wire.jwtproof import jwt_holds
from birthmark.wire.receipt import Receipt, challenge_of, open_receipt, sign_receipt, station_key_name, verify_evidence
from support.devicepki import pool_credential

KEY = ec.generate_private_key(ec.SECP256R1())
CHALLENGE = bytes(range(32))
HEADER: dict[str, Any] = {"typ": "JWT", "alg": "ES256"}
CLAIMS: dict[str, Any] = {"iss": "nRF9160.x", "sub": CHALLENGE.hex(), "aud": "birthmark-proof-v1"}


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(header: Any = HEADER, claims: Any = CLAIMS, key: Any = KEY) -> bytes:
    signed = b".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    numbers = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return signed + b"." + encoded(b"".join(number.to_bytes(32, "big") for number in numbers))


FORGED = {
    "another key": token(key=ec.generate_private_key(ec.SECP256R1())),
    "another challenge": token(claims={**CLAIMS, "sub": bytes(32).hex()}),
    "challenge in capitals": token(claims={**CLAIMS, "sub": CHALLENGE.hex().upper()}),
    "for access to something": token(claims={**CLAIMS, "aud": "nrfcloud"}),
    "for several": token(claims={**CLAIMS, "aud": ["birthmark-proof-v1"]}),
    "no audience": token(claims={"sub": CHALLENGE.hex()}),
    "no algorithm": token(header={"typ": "JWT", "alg": "none"}),
    "secret key": token(header={"typ": "JWT", "alg": "HS256"}),
    "no objects": token(header=[], claims="x"),
    "claims changed": token().replace(token().split(b".")[1], encoded(json.dumps({**CLAIMS, "x": 1}).encode())),
    "empty signature": token().rpartition(b".")[0] + b".",
    "zeros": token().rpartition(b".")[0] + b"." + encoded(bytes(64)),
    "padded": token() + b"=",
    "line end": token() + b"\n",
    "two parts": token().partition(b".")[2],
    "huge": token(claims={**CLAIMS, "x": "y" * 4000}),
    "deep": encoded(b"[" * 1000) + token()[token().index(b".") :],
    "empty": b"",
    "no text": b"\xff" * 99,
}


def test_a_token_for_the_challenge_by_the_key_holds() -> None:
    assert jwt_holds(KEY.public_key(), CHALLENGE, token())


@pytest.mark.parametrize("name", sorted(FORGED))
def test_a_forged_token_does_not_hold(name: str) -> None:
    assert not jwt_holds(KEY.public_key(), CHALLENGE, FORGED[name])


def test_other_kinds_of_keys_sign_no_tokens() -> None:
    assert not jwt_holds(ec.generate_private_key(ec.SECP384R1()).public_key(), CHALLENGE, token())
    assert not jwt_holds(Ed25519PrivateKey.generate().public_key(), CHALLENGE, token())


def test_openssl_verifies_the_token_that_we_accept(tmp_path: Path) -> None:
    """What the exported evidence gives to openssl: the parts taken out with the standard library alone."""
    signed, signature = token_parts(token(), CHALLENGE)
    (tmp_path / "message").write_bytes(signed)
    (tmp_path / "signature").write_bytes(signature)
    spki = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key").write_bytes(spki)
    command = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "signature", "message"]
    assert subprocess.check_output(command, cwd=tmp_path) == b"Verified OK\n"


@pytest.mark.parametrize("name", ["another challenge", "for access to something", "no algorithm"])
def test_the_exported_check_stops_at_a_token_for_something_else(name: str) -> None:
    with pytest.raises(SystemExit):
        token_parts(FORGED[name], CHALLENGE)


def receipt_with(make_token: Any) -> tuple[bytes, str, bytes, ReceiptCase]:
    """Return a receipt whose proof is a token, the station's verifier key, the certificate and the audit's case."""
    credential = pool_credential("SN-1")
    assert credential.private_key is not None
    key: Any = load_der_private_key(credential.private_key.reveal(), None)
    station_key, name = Ed25519PrivateKey.generate(), station_key_name("maker.example/log", "line-1")
    said = {
        "origin": "maker.example/log",
        "station": "line-1",
        "attempt": "attempt-0001",
        "device_serial": "SN-1",
        "cert_sha256": sha256(credential.certificate).hexdigest(),
        "nonce": os.urandom(32).hex(),
    }
    challenge = challenge_of(**said)
    moment = "2026-01-01T00:00:00.000Z"
    public_key = x509.load_der_x509_certificate(credential.certificate).public_key()
    receipt = Receipt(
        **said,
        target="nrf:/dev/ttyACM0",
        spki_sha256=sha256(spki_of(public_key)).hexdigest(),
        key_origin="device",
        evidence="jwt",
        challenge=challenge.hex(),
        signature=base64.b64encode(make_token(key, challenge)).decode(),
        key_digest=None,
        started_at=moment,
        finished_at=moment,
        steps=(),
        software="test",
        handshake=None,
    )
    note = sign_receipt(receipt, station_key, name)
    vkey = encode_vkey(name, public_octets(station_key))
    case = ReceiptCase(
        origin=said["origin"],
        station=said["station"],
        attempt=said["attempt"],
        device_serial=said["device_serial"],
        evidence="jwt",
        receipt_sha256=sha256(note).hexdigest(),
        vkey=vkey,
        certificate=credential.certificate,
    )
    return note, vkey, credential.certificate, case


def test_reader_and_audit_accept_a_receipt_with_a_good_token() -> None:
    def good(key: Any, challenge: bytes) -> bytes:
        return token(claims={**CLAIMS, "sub": challenge.hex()}, key=key)

    note, vkey, certificate, case = receipt_with(good)
    verify_evidence(open_receipt(note, vkey), certificate)
    assert receipt_fault(note, case) is None


LIES: dict[str, Any] = {
    "another key": lambda key, challenge: token(claims={**CLAIMS, "sub": challenge.hex()}),
    "another challenge": lambda key, challenge: token(key=key),
    "for access": lambda key, challenge: token(claims={"sub": challenge.hex(), "aud": "nrfcloud"}, key=key),
    "a plain signature": lambda key, challenge: key.sign(
        b"birthmark-proof-v1\0" + challenge, ec.ECDSA(hashes.SHA256())
    ),
    "garbage": lambda key, challenge: b"a.b.c",
    "nothing": lambda key, challenge: b"",
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_reader_and_audit_refuse_a_receipt_with_a_forged_token(lie: str) -> None:
    note, vkey, certificate, case = receipt_with(LIES[lie])
    with pytest.raises(Tampered) as caught:
        verify_evidence(open_receipt(note, vkey), certificate)
    assert caught.value.code == "receipt.evidence"
    fault = receipt_fault(note, case)
    assert fault is not None
    assert fault[0] == "audit.receipt.proof"
