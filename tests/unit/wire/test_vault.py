"""The vault: nobody opens, swaps, moves or changes a sealed key without being noticed."""

from __future__ import annotations

import json
import os
import pickle
from hashlib import shake_256
from importlib import resources

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import ALGORITHMS
from birthmark.wire.vault import (
    ENCAPSULATED_OCTETS,
    PKCS8_OCTETS,
    VAULT_INFO,
    ChunkSealer,
    VaultKey,
    VaultRecipient,
    open_content_key,
    open_slot,
    seal_content_key,
    slot_octets,
)

KEY = VaultKey.generate()
HASH = bytes(range(32))


def pkcs8(algorithm: str) -> bytes:
    return ALGORITHMS[algorithm].generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def published(name: str) -> list[dict[str, object]]:
    return json.loads(resources.files("cryptography_vectors").joinpath("HPKE", name).read_text())


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_every_algorithm_fits_its_slot_and_comes_back(algorithm: str) -> None:
    sealer = ChunkSealer(KEY.recipient(), os.urandom, algorithm)
    secret = pkcs8(algorithm)
    slot = sealer.seal(3, HASH, secret)
    assert len(slot) == sealer.slot_size == slot_octets(algorithm)
    assert len(sealer.encapsulated) == ENCAPSULATED_OCTETS
    opened = open_slot(KEY, sealer.encapsulated, slot, 3, HASH).reveal()
    assert opened == secret
    load_der_private_key(opened, None)


def test_p256_slot_has_the_promised_size() -> None:
    assert slot_octets("p256") == 154


def test_rsa_slots_have_room_for_numbers_with_every_top_bit_set() -> None:
    def tlv(length: int) -> int:
        return length + (2 if length < 128 else 3 if length < 256 else 4)

    for bits, name in ((2048, "rsa2048"), (3072, "rsa3072")):
        n, half = bits // 8 + 1, bits // 16 + 1
        numbers = 3 + tlv(n) + 5 + tlv(n) + 5 * tlv(half)
        assert PKCS8_OCTETS[name] == tlv(3 + 15 + tlv(tlv(numbers)))


def test_key_that_does_not_fit_is_refused_not_cut() -> None:
    sealer = ChunkSealer(KEY.recipient(), os.urandom, "ed25519")
    with pytest.raises(Refused) as caught:
        sealer.seal(0, HASH, pkcs8("p256"))
    assert caught.value.code == "vault.key.too_long"


def test_vault_keeps_no_keys_of_unknown_kind() -> None:
    with pytest.raises(Refused) as caught:
        ChunkSealer(KEY.recipient(), os.urandom, "dsa512")
    assert caught.value.code == "vault.algorithm"


@pytest.mark.parametrize(("position", "spki_hash"), [(4, HASH), (3, bytes(32)), (-1, HASH), (1 << 97, HASH)], ids=str)
def test_slot_moved_to_another_device_does_not_open(position: int, spki_hash: bytes) -> None:
    sealer = ChunkSealer(KEY.recipient(), os.urandom)
    slot = sealer.seal(3, HASH, pkcs8("p256"))
    with pytest.raises(Tampered) as caught:
        open_slot(KEY, sealer.encapsulated, slot, position, spki_hash)
    assert caught.value.code == "vault.slot"


def test_slot_of_another_chunk_does_not_open() -> None:
    one, two = ChunkSealer(KEY.recipient(), os.urandom), ChunkSealer(KEY.recipient(), os.urandom)
    with pytest.raises(Tampered):
        open_slot(KEY, two.encapsulated, one.seal(0, HASH, pkcs8("p256")), 0, HASH)


def test_another_vault_key_opens_nothing() -> None:
    sealer = ChunkSealer(KEY.recipient(), os.urandom)
    with pytest.raises(Tampered) as caught:
        open_slot(VaultKey.generate(), sealer.encapsulated, sealer.seal(0, HASH, pkcs8("p256")), 0, HASH)
    assert caught.value.code == "vault.content_key"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bit_anywhere_is_noticed(data: st.DataObject) -> None:
    sealer = ChunkSealer(KEY.recipient(), os.urandom)
    both = bytearray(sealer.encapsulated + sealer.seal(0, HASH, pkcs8("p256")))
    at = data.draw(st.integers(0, len(both) - 1))
    both[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Tampered):
        open_slot(KEY, bytes(both[:ENCAPSULATED_OCTETS]), bytes(both[ENCAPSULATED_OCTETS:]), 0, HASH)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=1300), st.binary(max_size=200))
def test_garbage_ends_in_a_named_error(encapsulated: bytes, slot: bytes) -> None:
    with pytest.raises(BirthmarkError):
        open_slot(KEY, encapsulated, slot, 0, HASH)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=138))
def test_slot_that_holds_no_key_is_refused_though_it_opens(content: bytes) -> None:
    sealer = ChunkSealer(KEY.recipient(), os.urandom)
    slot = sealer.seal(0, HASH, b"\x04" + content[1:])
    with pytest.raises(Tampered) as caught:
        open_slot(KEY, sealer.encapsulated, slot, 0, HASH)
    assert caught.value.code == "vault.slot"


def test_content_key_sealed_for_one_purpose_does_not_open_for_another() -> None:
    sealed = seal_content_key(KEY.recipient(), bytes(32), b"another purpose")
    assert open_content_key(KEY, sealed, b"another purpose").reveal() == bytes(32)
    with pytest.raises(Tampered):
        open_content_key(KEY, sealed, VAULT_INFO)


def test_key_survives_storage_and_shows_only_encrypted_blocks() -> None:
    pem = KEY.to_pem(Secret(b"correct horse"))
    assert pem.count(b"BEGIN ENCRYPTED PRIVATE KEY") == 2
    assert VaultKey.from_pem(pem, Secret(b"correct horse")).recipient() == KEY.recipient()


@pytest.mark.parametrize("passphrase", [b"", b"wrong"])
def test_wrong_passphrase_is_named(passphrase: bytes) -> None:
    with pytest.raises(Misconfigured) as caught:
        VaultKey.from_pem(KEY.to_pem(Secret(b"right")), Secret(passphrase))
    assert caught.value.code == "vault.key.passphrase"


def test_vault_key_is_never_written_in_the_clear() -> None:
    with pytest.raises(Misconfigured) as caught:
        KEY.to_pem(Secret(b""))
    assert caught.value.code == "vault.key.passphrase"


def test_foreign_key_file_is_not_a_vault_key() -> None:
    other = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    for data in (b"", other, other + other, KEY.to_pem(Secret(b"x")) + b"more", other * 3):
        with pytest.raises(Misconfigured) as caught:
            VaultKey.from_pem(data, Secret(b"x"))
        assert caught.value.code == "vault.key.malformed"


def test_recipient_travels_to_another_process() -> None:
    recipient = pickle.loads(pickle.dumps(KEY.recipient()))  # noqa: S301
    sealer = ChunkSealer(recipient, os.urandom)
    assert open_slot(KEY, sealer.encapsulated, sealer.seal(0, HASH, pkcs8("p256")), 0, HASH)


@pytest.mark.parametrize("octets", [0, 1215, 1217])
def test_recipient_of_the_wrong_size_is_named(octets: int) -> None:
    with pytest.raises(Misconfigured) as caught:
        VaultRecipient(bytes(octets))
    assert caught.value.code == "vault.recipient.malformed"


def test_published_vectors_of_the_hybrid_kem_open() -> None:
    """KEM 0x647A of draft-ietf-hpke-pq: the private key is a seed, SHAKE-256 makes both halves of it."""
    vectors = [v for v in published("hpke-pq-test-vectors.json") if v["kem_id"] == 0x647A and v["kdf_id"] == 1]
    assert vectors
    for vector in vectors:
        seeds = shake_256(bytes.fromhex(str(vector["skRm"]))).digest(96)
        mlkem, x25519 = MLKEM768PrivateKey.from_seed_bytes(seeds[:64]), X25519PrivateKey.from_private_bytes(seeds[64:])
        assert VaultKey(mlkem, x25519).recipient().public.hex() == vector["pkRm"]
        assert opened(vector, MLKEM768X25519PrivateKey(mlkem, x25519), KEM.MLKEM768_X25519)


def test_published_vectors_of_rfc_9180_open() -> None:
    vectors = [v for v in published("test-vectors.json") if v["mode"] == 0 and v["kem_id"] == 0x20 and v["kdf_id"] == 1]
    checked = [
        opened(v, X25519PrivateKey.from_private_bytes(bytes.fromhex(str(v["skRm"]))), KEM.X25519)
        for v in vectors
        if v["aead_id"] in (1, 2, 3)
    ]
    assert checked.count(True) == len(checked) >= 3


def opened(vector: dict[str, object], private_key: object, kem: KEM) -> bool:
    aead = {1: AEAD.AES_128_GCM, 2: AEAD.AES_256_GCM, 3: AEAD.CHACHA20_POLY1305}[vector["aead_id"]]
    first = vector["encryptions"][0]
    plain = openssl.hpke._decrypt_with_aad(
        Suite(kem, KDF.HKDF_SHA256, aead),
        bytes.fromhex(vector["enc"] + first["ct"]),
        private_key,
        bytes.fromhex(vector["info"]),
        bytes.fromhex(first["aad"]),
    )
    return plain.hex() == first["pt"]
