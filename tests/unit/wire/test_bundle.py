"""Bundle payloads and manifests: one spelling, lengths that lie are refused, keys open for nobody else."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import Misconfigured, Tampered
from birthmark.model.secret import Secret
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.wire.bundle import (
    BundleChunk,
    BundleHeader,
    bits_of_places,
    content_key_info,
    decode_chunk,
    decode_header,
    encode_chunk,
    encode_header,
)
from birthmark.wire.hpke import SUITES, P256Key, P256Recipient, SuiteName, seal_anew, suite_named
from birthmark.wire.manifest import Manifest, open_manifest, sign_manifest
from birthmark.wire.vault import VaultKey

SLOT = 20
HEADER = BundleHeader(
    bundle="0f" * 16, authority="hq.example/log", site="shenzhen", site_prefix="0202", order="lot", mode="pool",
    suite="x25519", slot_octets=SLOT, created_at="2026-11-24T02:10:11.123Z",
)  # fmt: skip
PLAIN = BundleHeader(**{f: getattr(HEADER, f) for f in HEADER.__struct_fields__} | {
    "mode": "online", "suite": None, "slot_octets": 0})  # fmt: skip


def chunk(places: list[int], count: int = 11) -> BundleChunk:
    slots = b"".join(bytes([1 + p]) * SLOT if p in places else bytes(SLOT) for p in range(count))
    serials = "\n".join(f"SN-{p:04d}" for p in range(count)).encode()
    certificates = [b"certificate %d" % p for p in places]
    sealed = os.urandom(SUITES["x25519"].sealed_octets) if places else b""
    return BundleChunk(3, 33, count, serials, places, certificates, sealed, slots if places else b"")


def refused(payload: bytes, header: BundleHeader = HEADER) -> bool:
    with pytest.raises(Tampered) as caught:
        decode_chunk(payload, header)
    return caught.value.code == "bundle.malformed"


@pytest.mark.parametrize("places", [list(range(11)), [0], [10], [1, 2, 7, 8], []], ids=str)
def test_chunk_comes_back(places: list[int]) -> None:
    made = chunk(places)
    back = decode_chunk(encode_chunk(made, sealed=True), HEADER)
    assert replace(back, places=list(back.places), certificates=list(back.certificates)) == made
    again = decode_chunk(encode_chunk(made, sealed=True), HEADER, seen=True)
    assert again == back


def test_work_order_comes_back_and_holds_no_key() -> None:
    made = BundleChunk(0, 0, 3, b"A-1\nA-2\nA-3", range(3))
    payload = encode_chunk(made, sealed=False)
    assert decode_chunk(payload, PLAIN) == made
    assert refused(payload)
    assert refused(encode_chunk(chunk([1]), sealed=True), PLAIN)


def test_first_device_is_the_highest_bit() -> None:
    assert bits_of_places([0, 9], 11) == bytes([0b10000000, 0b01000000])


def parts_of(payload: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(payload):
        length = int.from_bytes(payload[at : at + 4], "big")
        parts.append(payload[at + 4 : at + 4 + length])
        at += 4 + length
    return parts


def packed(parts: list[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    good = parts_of(encode_chunk(chunk([1, 2, 7]), sealed=True))
    assert decode_chunk(packed(good), HEADER).places == [1, 2, 7]
    bits, certificates, key, slots = good[2:]
    bad = [
        {0: good[0].replace(b'"count":11', b'"count":12')},
        {0: good[0].replace(b'"present":3', b'"present":4')},
        {0: good[0].replace(b",", b", ", 1)},
        {0: good[0][:-1] + b',"x":1}'},
        {0: good[0].replace(b'"count":11', b'"count":99999999999')},
        {1: good[1] + b"\n"},
        {1: good[1].replace(b"SN-0004", b"SN 0004")},
        {1: good[1].replace(b"SN-0004", b"../../x")},
        {2: bits + b"\0"},
        {2: bits[:1]},
        {2: bytes([bits[0] | 8, bits[1]])},
        {2: bytes([bits[0], bits[1] | 1])},
        {3: certificates[:-1]},
        {3: certificates + b"\0\0"},
        {3: b"\xff\xff" + certificates[2:]},
        {4: key[:-1]},
        {4: key[:32] + bytes(len(key) - 32)},
        {4: b""},
        {5: slots[:-1]},
        {5: slots + bytes(SLOT)},
        {5: bytes(len(slots))},
        {5: b"\1" + slots[1:]},
    ]
    for change in bad:
        assert refused(packed([change.get(number, part) for number, part in enumerate(good)])), change
    assert refused(packed(good[:5]))
    assert refused(packed([*good, b""]))
    assert refused(packed(good)[:-1])
    assert refused(packed(good) + b"\0")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mangled_chunk_is_refused_or_says_what_it_says(data: st.DataObject) -> None:
    """Whatever decodes has one spelling: it encodes to the same octets."""
    payload = bytearray(encode_chunk(chunk([1, 2, 7]), sealed=True))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        decoded = decode_chunk(bytes(payload), HEADER)
    except Tampered:
        assert refused(bytes(payload))
        return
    assert encode_chunk(decoded, sealed=True) == bytes(payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_no_chunk_and_no_header(noise: bytes) -> None:
    assert refused(noise)
    assert refused(packed([noise, b"", b"", b"", b"", b""]))
    with pytest.raises(Tampered) as caught:
        decode_header(noise)
    assert caught.value.code == "bundle.malformed"


def test_header_has_one_spelling() -> None:
    good = encode_header(HEADER)
    assert decode_header(good) == HEADER
    assert decode_header(encode_header(PLAIN)) == PLAIN
    for bad in (
        good + b" ",
        good.replace(b'"x25519"', b"null"),
        good.replace(b'"slot_octets":20', b'"slot_octets":0'),
        good.replace(b'"suite":"x25519"', b'"suite":"rot13"'),
        good.replace(b'"shenzhen"', b'"../etc"'),
        good.replace(b'"pool"', b'"online"'),
        b"[" * 5000,
    ):
        with pytest.raises(Tampered):
            decode_header(bad)


def test_info_binds_header_and_place() -> None:
    infos = {content_key_info(header, number) for header in (b"a", b"b") for number in (0, 1, 1 << 40)}
    assert len(infos) == 6


@pytest.mark.parametrize("name", list(SUITES))
def test_suite_opens_for_its_key_and_its_place_alone(name: SuiteName) -> None:
    suite = SUITES[name]
    private = ec.generate_private_key(ec.SECP256R1())
    keys = P256Key(private) if name == "p256" else VaultKey.generate()
    other = P256Key(ec.generate_private_key(ec.SECP256R1())) if name == "p256" else VaultKey.generate()
    recipient = P256Recipient(private.public_key()) if name == "p256" else keys.recipient()
    sealed = seal_anew(Secret(bytes(range(32))), suite, recipient.key_for(name), b"here")
    assert len(sealed) == suite.sealed_octets
    assert suite.open(keys.key_for(name), sealed, b"here").reveal() == bytes(range(32))
    torn = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for key, octets, info in ((keys, sealed, b"there"), (other, sealed, b"here"), (keys, torn, b"here")):
        with pytest.raises(Tampered) as caught:
            suite.open(key.key_for(name), octets, info)
        assert caught.value.code == "vault.content_key"
    for length in (0, 1, suite.sealed_octets - 1, suite.sealed_octets + 1):
        with pytest.raises(Tampered):
            suite.open(keys.key_for(name), bytes(length), b"here")


def test_keys_of_another_suite_are_named() -> None:
    vault, p256 = VaultKey.generate(), ec.generate_private_key(ec.SECP256R1())
    p384 = ec.generate_private_key(ec.SECP384R1())
    asks = [
        lambda: vault.key_for("p256"),
        lambda: vault.recipient().key_for("p256"),
        lambda: P256Key(p256).key_for("x25519"),
        lambda: P256Recipient(p384.public_key()).key_for("p256"),
    ]
    for ask in asks:
        with pytest.raises(Misconfigured) as caught:
            ask()
        assert caught.value.code == "bundle.recipient"
    with pytest.raises(Misconfigured) as unknown:
        suite_named("rsa\n")
    assert unknown.value.code == "bundle.suite.unknown"


def test_manifest_is_worth_the_key_that_signed_it() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    manifest = Manifest(
        bundle="0f" * 16, authority="hq.example/log", site="shenzhen", order="lot", mode="pool", product="device",
        profile="idevid", key_algorithm="p256", key_origin="injected", ca="issuing", quantity=9, chunks=1, devices=8,
        bundle_sha256="00" * 32, created_at="2026-11-24T02:10:11.123Z",
    )  # fmt: skip
    note = sign_manifest(manifest, key)
    assert open_manifest(note, encode_vkey("hq.example/log", public_octets(key))) == manifest
    for data, vkey in (
        (note, encode_vkey("hq.example/log", public_octets(other))),
        (note.replace(b'"devices":8', b'"devices":9'), encode_vkey("hq.example/log", public_octets(key))),
    ):
        with pytest.raises(Tampered) as caught:
            open_manifest(data, vkey)
        assert caught.value.code == "document.signature"
