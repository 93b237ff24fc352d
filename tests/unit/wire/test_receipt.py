"""Receipts: nobody speaks for another station, another device, another certificate or with an old proof."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.adapters.targets import proof
from birthmark.errors import BirthmarkError, Misconfigured, Tampered
from birthmark.pki.algorithms import ALGORITHMS, algorithm_of, spki_of
from birthmark.ports import Credential
from birthmark.tlog.note import encode_vkey, public_octets, sign_note
from birthmark.wire.receipt import (
    PROOF_PREFIX,
    CloudPart,
    Handshake,
    Receipt,
    Step,
    challenge_of,
    cloud_in,
    encode_signature,
    open_receipt,
    sign_receipt,
    station_key_name,
    verify_evidence,
)
from support.devicepki import pool_credential

ORIGIN, STATION, ATTEMPT = "maker.example/log", "line-1", "attempt-0001"
KEY = Ed25519PrivateKey.generate()
NAME = station_key_name(ORIGIN, STATION)
VKEY = encode_vkey(NAME, public_octets(KEY))


def made(algorithm: str = "p256", **changes: Any) -> tuple[Receipt, Credential]:
    credential = pool_credential("SN-1", algorithm)
    assert credential.private_key is not None
    key: Any = load_der_private_key(credential.private_key.reveal(), None)
    cert_sha256, nonce = sha256(credential.certificate).hexdigest(), os.urandom(32).hex()
    challenge = challenge_of(
        origin=ORIGIN, station=STATION, attempt=ATTEMPT, device_serial="SN-1", cert_sha256=cert_sha256, nonce=nonce
    )
    members: dict[str, Any] = {
        "origin": ORIGIN,
        "station": STATION,
        "attempt": ATTEMPT,
        "device_serial": "SN-1",
        "target": "files:out/SN-1",
        "cert_sha256": cert_sha256,
        "spki_sha256": sha256(spki_of(key.public_key())).hexdigest(),
        "key_origin": "injected",
        "evidence": "signature",
        "nonce": nonce,
        "challenge": challenge.hex(),
        "signature": encode_signature(algorithm_of(key.public_key()).sign(key, PROOF_PREFIX + challenge)),
        "key_digest": None,
        "started_at": "2026-11-24T02:10:11.123Z",
        "finished_at": "2026-11-24T02:10:12.123Z",
        "steps": (Step(name="probe", ms=1.5),),
        "software": "birthmark 0.1.0",
        "handshake": Handshake(peer_cert_sha256=cert_sha256, tls_version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384"),
    }
    return Receipt(**{**members, **changes}), credential


def code_of(data: bytes, vkey: str = VKEY) -> str:
    with pytest.raises(Tampered) as caught:
        open_receipt(data, vkey)
    return caught.value.code


def test_targets_sign_what_receipts_verify() -> None:
    assert proof.PROOF_PREFIX == PROOF_PREFIX


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_receipt_of_every_algorithm_is_verified_by_a_stranger(algorithm: str) -> None:
    receipt, credential = made(algorithm)
    opened = open_receipt(sign_receipt(receipt, KEY, NAME), VKEY)
    assert opened == receipt
    verify_evidence(opened, credential.certificate)


def test_text_is_one_line_of_canonical_json() -> None:
    receipt, _ = made()
    text = sign_receipt(receipt, KEY, NAME).split(b"\n\n")[0]
    assert b"\n" not in text
    assert list(msgspec.json.decode(text)) == sorted(msgspec.json.decode(text))


def test_receipt_in_the_name_of_another_station() -> None:
    receipt, _ = made()
    other = Ed25519PrivateKey.generate()
    other_name = station_key_name(ORIGIN, "line-2")
    other_vkey = encode_vkey(other_name, public_octets(other))
    assert code_of(sign_receipt(receipt, other, other_name), other_vkey) == "receipt.station"
    assert code_of(sign_receipt(receipt, other, NAME)) == "receipt.signature"
    assert code_of(sign_receipt(receipt, KEY, NAME), other_vkey) == "receipt.signature"


@pytest.mark.parametrize(
    ("member", "value"),
    [("attempt", "attempt-0002"), ("device_serial", "SN-2"), ("nonce", "00" * 32), ("cert_sha256", "00" * 32)],
)
def test_old_proof_in_a_new_receipt_is_found(member: str, value: str) -> None:
    """The station itself lies: it signs a receipt for another device with a signature it once saw."""
    receipt, _ = made(**{member: value})
    assert code_of(sign_receipt(receipt, KEY, NAME)) == "receipt.challenge"


def test_receipt_shown_with_another_certificate() -> None:
    receipt, _ = made()
    for other in (pool_credential("SN-1").certificate, b"", b"\x30\x00"):
        with pytest.raises(Tampered) as caught:
            verify_evidence(receipt, other)
        assert caught.value.code == "receipt.certificate"


def test_spki_hash_of_another_key() -> None:
    receipt, credential = made(spki_sha256="00" * 32)
    with pytest.raises(Tampered) as caught:
        verify_evidence(receipt, credential.certificate)
    assert caught.value.code == "receipt.certificate"


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": None},
        {"signature": ""},
        {"signature": "AAAA"},
        {"signature": "not base64"},
        {"evidence": "digest"},
        {"evidence": "digest", "signature": None},
    ],
    ids=str,
)
def test_evidence_that_proves_nothing(changes: dict[str, Any]) -> None:
    receipt, credential = made(**changes)
    with pytest.raises(Tampered) as caught:
        verify_evidence(receipt, credential.certificate)
    assert caught.value.code == "receipt.evidence"


def test_digest_evidence_says_so_and_claims_no_signature() -> None:
    receipt, credential = made(evidence="digest", signature=None, key_digest="11" * 32)
    verify_evidence(open_receipt(sign_receipt(receipt, KEY, NAME), VKEY), credential.certificate)


@pytest.mark.parametrize(
    "text",
    [
        "\n",
        "{}\n",
        "[]\n",
        '{"format":"birthmark-receipt/2"}\n',
        "not json\n",
        '{"format":"birthmark-receipt/1"}\n\n',
    ],
    ids=repr,
)
def test_signed_text_that_is_no_receipt(text: str) -> None:
    assert code_of(sign_note(text, NAME, KEY).encode()) in ("receipt.malformed", "receipt.signature")


def test_other_spelling_of_the_same_receipt_is_refused() -> None:
    receipt, _ = made()
    text = msgspec.json.format(msgspec.json.encode(receipt), indent=0).decode() + "\n"
    spaced = text.replace(":", ": ", 1)
    assert code_of(sign_note(spaced, NAME, KEY).encode()) == "receipt.malformed"
    more = msgspec.json.encode({**msgspec.to_builtins(receipt), "more": 1}, order="sorted").decode() + "\n"
    assert code_of(sign_note(more, NAME, KEY).encode()) == "receipt.malformed"


NOTE = sign_receipt(made()[0], KEY, NAME)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_octet_anywhere_is_noticed(data: st.DataObject) -> None:
    note = bytearray(NOTE)
    at = data.draw(st.integers(0, len(note) - 1))
    note[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BirthmarkError):
        open_receipt(bytes(note), VKEY)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600))
def test_garbage_ends_in_a_named_error(data: bytes) -> None:
    assert code_of(data) == "receipt.signature"


def test_garbage_for_a_verifier_key_is_a_mistake() -> None:
    with pytest.raises(Misconfigured):
        open_receipt(b"", "no key")


CLOUD = CloudPart(
    service="azure-dps", host="global.example", scope="0ne1", assigned_to="hub", device_name="SN-1", key="device",
    at="2026-11-24T02:10:12.000Z",
)  # fmt: skip


def test_a_receipt_may_say_where_the_device_was_let_in_and_old_ones_stay_as_they_are() -> None:
    old, _ = made()
    new, _ = made(cloud=CLOUD)
    assert b'"cloud"' not in sign_receipt(old, KEY, NAME)
    assert cloud_in(sign_receipt(old, KEY, NAME)) is None
    note = sign_receipt(new, KEY, NAME)
    opened = open_receipt(note, VKEY)
    assert opened.cloud == cloud_in(note) == CLOUD
    assert code_of(note.replace(b"0ne1", b"0ne2")) == "receipt.signature"
    told = {**msgspec.to_builtins(CLOUD), "more": 1}
    text = json.dumps({**msgspec.to_builtins(new), "cloud": told}, sort_keys=True, separators=(",", ":"))
    assert code_of(sign_note(text + "\n", NAME, KEY).encode()) == "receipt.malformed"


@pytest.mark.parametrize(
    "data", [b"", b'"cloud":{', b'{"cloud":{}}\n', b'{"cloud":' + b"[" * 9000 + b'"cloud":{\n', b"\xff\n"]
)
def test_what_is_no_receipt_says_nothing_of_a_cloud(data: bytes) -> None:
    assert cloud_in(data) is None
