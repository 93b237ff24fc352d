"""Sealed private keys (docs/formats/vault.md): HPKE once per chunk, AES-256-GCM once per key.

The recipient is a hybrid of ML-KEM-768 and X25519: what is recorded today stays closed as long as either of them
holds. In the vault its suite is the hybrid one (``hpke.py``); in a bundle it may be its X25519 half alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from birthmark.errors import Misconfigured, Refused, Tampered
from birthmark.model.secret import Secret
from birthmark.wire.hpke import CONTENT_KEY_OCTETS, DEFAULT_SUITE, SUITES, PrivateKey, PublicKey, SuiteName

__all__ = [
    "ENCAPSULATED_OCTETS",
    "PKCS8_OCTETS",
    "VAULT_INFO",
    "ChunkSealer",
    "VaultKey",
    "VaultRecipient",
    "keep_content_key",
    "keep_slot",
    "open_content_key",
    "open_slot",
    "open_slot_with",
    "seal_content_key",
    "slot_octets",
]

_MLKEM_PUBLIC, _X25519_PUBLIC, _TAG = 1184, 32, 16
_SUITE = SUITES[DEFAULT_SUITE]
ENCAPSULATED_OCTETS = _SUITE.sealed_octets
"""HPKE encapsulated key | sealed content key | tag."""
VAULT_INFO = b"birthmark-vault/1"
"""HPKE ``info`` of a chunk of device keys."""

PKCS8_OCTETS = {
    "p256": 138,
    "p384": 185,
    "ed25519": 48,
    "rsa2048": 1220,
    "rsa3072": 1796,
    "mldsa44": 54,
    "mldsa65": 54,
}
"""The longest PKCS#8 DER of each algorithm. RSA: every number at its full size plus a sign octet."""

_LABEL = rb"ENCRYPTED PRIVATE KEY"
_PEM_BLOCK = re.compile(rb"-----BEGIN %b-----\n[A-Za-z0-9+/=\n]+-----END %b-----\n" % (_LABEL, _LABEL))


@dataclass(frozen=True)
class VaultRecipient:
    """The public half of a vault key: ML-KEM-768 encapsulation key (1184, FIPS 203) | X25519 (32, RFC 7748)."""

    public: bytes

    def __post_init__(self) -> None:
        _ = self.hpke_key

    @cached_property
    def hpke_key(self) -> MLKEM768X25519PublicKey:
        """The key as HPKE takes it; ``Misconfigured("vault.recipient.malformed")`` if the octets are none."""
        try:
            if len(self.public) != _MLKEM_PUBLIC + _X25519_PUBLIC:
                raise ValueError("wrong length")
            mlkem = MLKEM768PublicKey.from_public_bytes(self.public[:_MLKEM_PUBLIC])
            x25519 = X25519PublicKey.from_public_bytes(self.public[_MLKEM_PUBLIC:])
        except ValueError:
            raise Misconfigured(
                "vault.recipient.malformed",
                "this is not the public half of a vault key",
                hint="Take the public half from the vault key of the site the keys are for.",
                octets=len(self.public),
            ) from None
        return MLKEM768X25519PublicKey(mlkem, x25519)

    def key_for(self, suite: SuiteName) -> PublicKey:
        """Return the key of a suite: the hybrid, or its X25519 half (``SealingKeys``)."""
        if suite == "x25519":
            return X25519PublicKey.from_public_bytes(self.public[_MLKEM_PUBLIC:])
        _require_hybrid(suite)
        return self.hpke_key

    def __reduce__(self) -> tuple[type[VaultRecipient], tuple[bytes]]:
        return VaultRecipient, (self.public,)


class VaultKey:
    """The private half. It is stored as two encrypted PKCS#8 blocks, ML-KEM-768 first."""

    __slots__ = ("_hpke", "_mlkem", "_x25519")

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._mlkem = mlkem
        self._x25519 = x25519
        self._hpke = MLKEM768X25519PrivateKey(mlkem, x25519)

    @classmethod
    def generate(cls) -> VaultKey:
        """Make a new key."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @property
    def hpke_key(self) -> MLKEM768X25519PrivateKey:
        """The key as HPKE takes it."""
        return self._hpke

    def key_for(self, suite: SuiteName) -> PrivateKey:
        """Return the key of a suite: the hybrid, or its X25519 half (``OpeningKeys``)."""
        if suite == "x25519":
            return self._x25519
        _require_hybrid(suite)
        return self._hpke

    def recipient(self) -> VaultRecipient:
        """Return the public half."""
        mlkem = self._mlkem.public_key().public_bytes_raw()
        return VaultRecipient(mlkem + self._x25519.public_key().public_bytes_raw())

    def to_pem(self, passphrase: Secret) -> bytes:
        """Return the key encrypted under ``passphrase``; an empty one is ``Misconfigured("vault.key.passphrase")``."""
        if not passphrase:
            raise _wrong_passphrase("it is empty")
        encryption = BestAvailableEncryption(passphrase.reveal())
        return b"".join(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption) for key in (self._mlkem, self._x25519)
        )

    @classmethod
    def from_pem(cls, data: bytes, passphrase: Secret) -> VaultKey:
        """Return the key that ``to_pem`` wrote.

        Raises ``Misconfigured``: ``vault.key.malformed``, ``vault.key.passphrase``.
        """
        blocks = _PEM_BLOCK.findall(data)
        if len(blocks) != 2 or b"".join(blocks) != data:
            raise _malformed_key("it does not hold two encrypted private keys")
        if not passphrase:
            raise _wrong_passphrase("it is empty")
        try:
            mlkem, x25519 = (load_pem_private_key(block, passphrase.reveal()) for block in blocks)
        except (ValueError, TypeError):
            raise _wrong_passphrase("it does not open the key") from None
        if not isinstance(mlkem, MLKEM768PrivateKey) or not isinstance(x25519, X25519PrivateKey):
            raise _malformed_key("its keys are not ML-KEM-768 and X25519")
        return cls(mlkem, x25519)


def slot_octets(algorithm: str) -> int:
    """Return the size of a slot for keys of ``algorithm``; ``Refused("vault.algorithm")`` for an unknown one."""
    if algorithm not in PKCS8_OCTETS:
        raise Refused(
            "vault.algorithm",
            f"the vault keeps no keys of kind {algorithm[:40]!a}",
            hint=f"Use one of {', '.join(PKCS8_OCTETS)}.",
            algorithm=ascii(algorithm[:40]),
        )
    return PKCS8_OCTETS[algorithm] + _TAG


def seal_content_key(recipient: VaultRecipient, content_key: bytes, info: bytes) -> bytes:
    """Return ``content_key`` (32 octets) sealed to ``recipient``: HPKE enc (1120) | ciphertext | tag."""
    return _SUITE.seal(recipient.hpke_key, content_key, info)


def open_content_key(key: VaultKey, encapsulated: bytes, info: bytes = VAULT_INFO) -> Secret:
    """Return a sealed content key; ``Tampered("vault.content_key")`` if it was not sealed so for this key."""
    return _SUITE.open(key.hpke_key, encapsulated, info)


def keep_content_key(recipient: VaultRecipient, content_key: Secret) -> bytes:
    """Return a content key that came in a bundle, sealed for the vault."""
    return seal_content_key(recipient, content_key.reveal(), VAULT_INFO)


class ChunkSealer:
    """Seals the keys of one chunk under one fresh content key.

    ``seal(position, spki_hash, pkcs8)`` returns a slot. ``position`` counts from 0 and is the nonce: never seal two
    keys at one position.
    """

    __slots__ = ("encapsulated", "seal", "slot_size")

    def __init__(self, recipient: VaultRecipient, entropy: Callable[[int], bytes], algorithm: str = "p256") -> None:
        content_key = entropy(CONTENT_KEY_OCTETS)
        self.slot_size = slot_octets(algorithm)
        self.encapsulated = seal_content_key(recipient, content_key, VAULT_INFO)
        self.seal = _sealing(AESGCM(content_key).encrypt, self.slot_size - _TAG)


def _sealing(encrypt: Callable[[bytes, bytes, bytes], bytes], octets: int) -> Callable[[int, bytes, bytes], bytes]:
    def seal(position: int, spki_hash: bytes, pkcs8: bytes) -> bytes:
        if len(pkcs8) == octets:  # the usual case of EC keys, and a hot path
            return encrypt(position.to_bytes(12, "big"), pkcs8, spki_hash)
        padded = pkcs8.ljust(octets, b"\0")
        if len(padded) != octets:
            raise Refused(
                "vault.key.too_long",
                f"a private key of {len(pkcs8)} octets does not fit into its slot",
                hint="Seal keys of the algorithm the order names.",
                octets=len(pkcs8),
                room=octets,
            )
        return encrypt(position.to_bytes(12, "big"), padded, spki_hash)

    return seal


def keep_slot(
    recipient: VaultRecipient, entropy: Callable[[int], bytes], algorithm: str, spki_hash: bytes, pkcs8: Secret
) -> tuple[bytes, bytes]:
    """Return (encapsulated, slot) of one key that is kept by itself, at position 0 of a chunk of one."""
    sealer = ChunkSealer(recipient, entropy, algorithm)
    return sealer.encapsulated, sealer.seal(0, spki_hash, pkcs8.reveal())


def open_slot(key: VaultKey, encapsulated: bytes, slot: bytes, position: int, spki_hash: bytes) -> Secret:
    """Return the private key (PKCS#8 DER) in ``slot``; ``Tampered`` ``vault.content_key`` or ``vault.slot``."""
    return open_slot_with(open_content_key(key, encapsulated), slot, position, spki_hash)


def open_slot_with(content_key: Secret, slot: bytes, position: int, spki_hash: bytes) -> Secret:
    """Return the private key (PKCS#8 DER) in a slot of this content key; ``Tampered("vault.slot")``."""
    try:
        padded = AESGCM(content_key.reveal()).decrypt(position.to_bytes(12, "big"), slot, spki_hash)
    except (InvalidTag, ValueError, OverflowError):
        raise _bad_slot("it was changed or belongs to another device", position) from None
    octets = _der_octets(padded)
    if octets is None or padded[octets:].strip(b"\0"):
        raise _bad_slot("it does not hold one private key", position)
    return Secret(padded[:octets])


def _require_hybrid(suite: SuiteName) -> None:
    if suite != DEFAULT_SUITE:
        raise Misconfigured(
            "bundle.recipient",
            f"a vault key has no key of the suite {suite}",
            hint="Use --suite mlkem768-x25519 or x25519, or name a P-256 key of the site.",
            suite=suite,
        )


def _der_octets(data: bytes) -> int | None:
    """Return how many octets the DER SEQUENCE at the start of ``data`` has, None if there is none."""
    if len(data) < 2 or data[0] != 0x30:
        return None
    count = data[1] & 0x7F if data[1] & 0x80 else 0
    length = int.from_bytes(data[2 : 2 + count], "big") if count else data[1]
    octets = 2 + count + length
    return octets if octets <= len(data) else None


def _bad_slot(reason: str, position: int) -> Tampered:
    return Tampered(
        "vault.slot",
        f"a sealed private key cannot be used: {reason}",
        hint="Stop; run `birthmark audit verify`, then rework this device.",
        position=position,
    )


def _wrong_passphrase(reason: str) -> Misconfigured:
    return Misconfigured(
        "vault.key.passphrase",
        f"the passphrase of the vault key cannot be used: {reason}",
        hint="Check the secret that the settings name for the vault.",
    )


def _malformed_key(reason: str) -> Misconfigured:
    return Misconfigured(
        "vault.key.malformed",
        f"this is not a vault key: {reason}",
        hint="Name the file that `birthmark init` made for the vault.",
    )
