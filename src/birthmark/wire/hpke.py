"""The HPKE suites that content keys are sealed with (RFC 9180): single shot, base mode, HKDF-SHA256, AES-256-GCM.

They differ in the KEM alone: MLKEM768-X25519 (0x647A, draft-ietf-hpke-pq), DHKEM(X25519) and DHKEM(P-256).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from birthmark.errors import Misconfigured, Tampered
from birthmark.model.secret import Secret

__all__ = [
    "CONTENT_KEY_OCTETS",
    "DEFAULT_SUITE",
    "SUITES",
    "KeySuite",
    "OpeningKeys",
    "P256Key",
    "P256Recipient",
    "PrivateKey",
    "PublicKey",
    "SealingKeys",
    "SuiteName",
    "seal_anew",
    "suite_named",
]

SuiteName = Literal["mlkem768-x25519", "x25519", "p256"]
DEFAULT_SUITE: SuiteName = "mlkem768-x25519"
CONTENT_KEY_OCTETS = 32
_TAG = 16

PublicKey = MLKEM768X25519PublicKey | X25519PublicKey | EllipticCurvePublicKey
PrivateKey = MLKEM768X25519PrivateKey | X25519PrivateKey | EllipticCurvePrivateKey


class SealingKeys(Protocol):
    """A recipient: whoever has public keys of one or more suites."""

    def key_for(self, suite: SuiteName) -> PublicKey:
        """Return the public key of a suite; ``Misconfigured("bundle.recipient")`` if there is none."""
        ...


class OpeningKeys(Protocol):
    """The private side of a recipient."""

    def key_for(self, suite: SuiteName) -> PrivateKey:
        """Return the private key of a suite; ``Misconfigured("bundle.recipient")`` if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class KeySuite:
    """One suite. ``enc_octets``: length of the KEM's encapsulated key."""

    name: SuiteName
    enc_octets: int
    hpke: Suite

    @property
    def sealed_octets(self) -> int:
        """Octets of a sealed content key: enc | ciphertext (32) | tag (16)."""
        return self.enc_octets + CONTENT_KEY_OCTETS + _TAG

    def seal(self, key: PublicKey, content_key: bytes, info: bytes) -> bytes:
        """Return enc | ciphertext | tag of a content key (32 octets)."""
        return self.hpke.encrypt(content_key, key, info)

    def open(self, key: PrivateKey, sealed: bytes, info: bytes) -> Secret:
        """Return a sealed content key; ``Tampered("vault.content_key")`` if it was not sealed so for this key."""
        try:
            if len(sealed) != self.sealed_octets:
                raise ValueError("wrong length")
            return Secret(self.hpke.decrypt(sealed, key, info))
        except (InvalidTag, ValueError):
            raise Tampered(
                "vault.content_key",
                "a sealed content key does not open with this key",
                hint="Check that the key is the one of this site; if it is, the sealed data was changed.",
                octets=len(sealed),
            ) from None


def _suite(name: SuiteName, enc_octets: int, kem: KEM) -> KeySuite:
    return KeySuite(name, enc_octets, Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM))


SUITES: dict[SuiteName, KeySuite] = {
    "mlkem768-x25519": _suite("mlkem768-x25519", 1120, KEM.MLKEM768_X25519),
    "x25519": _suite("x25519", 32, KEM.X25519),
    "p256": _suite("p256", 65, KEM.P256),
}


def suite_named(name: str) -> KeySuite:
    """Return a suite; ``Misconfigured("bundle.suite.unknown")`` if there is none of that name."""
    for suite in SUITES.values():
        if suite.name == name:
            return suite
    raise Misconfigured(
        "bundle.suite.unknown",
        f"there is no suite {name[:40]!a}",
        hint=f"Use one of {', '.join(SUITES)}.",
        suite=ascii(name[:40]),
    )


def seal_anew(secret: Secret, suite: KeySuite, key: PublicKey, info: bytes) -> bytes:
    """Return an opened content key sealed to another key, or for another purpose."""
    return suite.seal(key, secret.reveal(), info)


@dataclass(frozen=True, slots=True)
class P256Recipient:
    """A P-256 key that a site uses for bundles alone."""

    public: EllipticCurvePublicKey

    def key_for(self, suite: SuiteName) -> PublicKey:
        """See ``SealingKeys``."""
        _require(suite == "p256" and self.public.curve.name == "secp256r1", suite)
        return self.public


@dataclass(frozen=True, slots=True)
class P256Key:
    """The private half of a ``P256Recipient``."""

    private: EllipticCurvePrivateKey

    def key_for(self, suite: SuiteName) -> PrivateKey:
        """See ``OpeningKeys``."""
        _require(suite == "p256" and self.private.curve.name == "secp256r1", suite)
        return self.private


def _require(fits: bool, suite: SuiteName) -> None:
    if not fits:
        raise Misconfigured(
            "bundle.recipient",
            f"this is no key of the suite {suite}",
            hint="A P-256 key goes with --suite p256, the site's vault key with the other suites.",
            suite=suite,
        )
