"""The key algorithms of the product: one table of how to make, recognise, sign with and verify each.

The private-key object may be any that behaves like those of ``cryptography``: a subclass of
``ec.EllipticCurvePrivateKey`` that forwards to a token is used exactly as a key in memory is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from birthmark.errors import Refused
from birthmark.pki.der import bit_string, oid, tlv

__all__ = [
    "ALGORITHMS",
    "KeyAlgorithm",
    "algorithm_named",
    "algorithm_of",
    "certified_key",
    "is_software_key",
    "spki_of",
]

PrivateKey = Any
"""A private key of ``cryptography`` or one that behaves like it."""
PublicKey = Any


@dataclass(frozen=True, slots=True)
class KeyAlgorithm:
    """One algorithm with one key size.

    ``spki_prefix``: the octets every SPKI of this kind starts with; ``spki_length``: octets of the whole;
    ``bits_offset``: where the contents of the BIT STRING start; ``signature_algorithm``: DER of the
    AlgorithmIdentifier that an *issuing* key of this kind puts into certificates; ``max_signature``: octets.
    """

    name: str
    title: str
    spki_prefix: bytes
    spki_length: int
    bits_offset: int
    signature_algorithm: bytes
    max_signature: int
    generate: Callable[[], PrivateKey]
    recognises: Callable[[PublicKey], bool]
    signer: Callable[[PrivateKey], Callable[[bytes], bytes]]
    verifier: Callable[[PublicKey], Callable[[bytes, bytes], None]]
    sha256_signer: Callable[[PrivateKey], Callable[[bytes], bytes]] | None = None
    """Signs a SHA-256 of the TBS that is already there (ECDSA with SHA-256 only): saves hashing it twice in bulk."""

    def sign(self, private_key: PrivateKey, tbs: bytes) -> bytes:
        """Return the signature over ``tbs`` as it stands in a certificate. Token errors pass through."""
        return self.signer(private_key)(tbs)

    def verify(self, public_key: PublicKey, signature: bytes, tbs: bytes) -> bool:
        """Say whether ``signature`` over ``tbs`` is good."""
        try:
            self.verifier(public_key)(signature, tbs)
        except InvalidSignature:
            return False
        return True

    def check_spki(self, spki: bytes, *, own_key: bool = False) -> None:
        """Return if ``spki`` has the one form of this algorithm, else ``Refused("key.algorithm.mismatch")``.

        RSA: modulus of exactly that many bits, exponent 65537. EC: named curve, uncompressed point, on the curve;
        ``own_key`` says that OpenSSL made or loaded the key in this process: looking for its curve again is a waste.
        """
        good = len(spki) == self.spki_length and spki.startswith(self.spki_prefix)
        if good and self.name.startswith("rsa"):
            good = bool(spki[len(self.spki_prefix)] & 0x80) and spki.endswith(_RSA_EXPONENT)
        if good and not own_key and self.name in _ON_CURVE:
            good = _loads(spki)
        if not good:
            raise Refused(
                "key.algorithm.mismatch",
                f"the public key is not a plain {self.title} key",
                hint="Use a key of the algorithm the order names, in the usual encoding.",
                algorithm=self.name,
                octets=len(spki),
            )

    def key_id(self, spki: bytes) -> bytes:
        """Return the key identifier: SHA-1 of the key bits, 20 octets (RFC 5280, 4.2.1.2, method 1)."""
        return hashlib.sha1(spki[self.bits_offset :], usedforsecurity=False).digest()


def algorithm_named(name: str) -> KeyAlgorithm:
    """Return the algorithm; ``Refused("key.algorithm.unsupported")`` if there is none of that name."""
    if name not in ALGORITHMS:
        raise _unsupported(ascii(name[:40]))
    return ALGORITHMS[name]


def algorithm_of(public_key: PublicKey) -> KeyAlgorithm:
    """Return the algorithm of a public key; ``Refused("key.algorithm.unsupported")`` for anything else."""
    for algorithm in ALGORITHMS.values():
        if algorithm.recognises(public_key):
            return algorithm
    size = getattr(public_key, "key_size", None)
    raise _unsupported(f"{type(public_key).__name__}{f' of {size} bits' if isinstance(size, int) else ''}")


def certified_key(certificate: x509.Certificate) -> PublicKey:
    """Return the public key in a certificate; ``Refused("key.algorithm.unsupported")`` if it cannot be read."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unsupported(certificate.public_key_algorithm_oid.dotted_string) from error


def spki_of(public_key: PublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo."""
    return bytes(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def is_software_key(private_key: PrivateKey) -> bool:
    """Say whether OpenSSL holds this key in memory. Anything else may sign with another key than it shows."""
    return type(private_key).__module__.startswith("cryptography.hazmat.bindings.")


def _unsupported(what: str) -> Refused:
    return Refused(
        "key.algorithm.unsupported",
        f"keys of this kind are not used: {what}",
        hint=f"Use one of {', '.join(ALGORITHMS)}.",
        algorithm=what,
    )


def _loads(spki: bytes) -> bool:
    try:
        load_der_public_key(spki)
    except ValueError:
        return False
    return True


_RSA_EXPONENT = b"\x02\x03\x01\x00\x01"
_EC_KEY, _RSA_KEY = oid("1.2.840.10045.2.1"), oid("1.2.840.113549.1.1.1")
_NULL = b"\x05\x00"


def _spki(algorithm: bytes, key: bytes, fixed: int) -> tuple[bytes, int, int]:
    """Return prefix, length and offset of the key bits of an SPKI whose key starts with ``fixed`` known octets."""
    identifier = tlv(0x30, algorithm)
    whole = tlv(0x30, identifier + bit_string(key))
    offset = len(whole) - len(key)
    return whole[: offset + fixed], len(whole), offset


def _ecdsa(
    name: str, title: str, curve: ec.EllipticCurve, curve_oid: str, digest: hashes.HashAlgorithm, signature_oid: str
) -> KeyAlgorithm:
    octets = (curve.key_size + 7) // 8
    prefix, length, offset = _spki(_EC_KEY + oid(curve_oid), b"\x04" + bytes(2 * octets), 1)
    scheme = ec.ECDSA(digest)
    prehashed = ec.ECDSA(Prehashed(digest))

    def digest_signer(key: PrivateKey) -> Callable[[bytes], bytes]:
        sign = key.sign
        return lambda tbs_digest: sign(tbs_digest, prehashed)

    def signer(key: PrivateKey) -> Callable[[bytes], bytes]:
        sign = key.sign
        return lambda tbs: sign(tbs, scheme)

    def verifier(key: PublicKey) -> Callable[[bytes, bytes], None]:
        verify = key.verify
        return lambda signature, tbs: verify(signature, tbs, scheme)

    return KeyAlgorithm(
        name=name,
        title=title,
        spki_prefix=prefix,
        spki_length=length,
        bits_offset=offset,
        signature_algorithm=tlv(0x30, oid(signature_oid)),
        max_signature=2 * octets + 8,
        generate=lambda: ec.generate_private_key(curve),
        recognises=lambda key: isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == curve.name,
        signer=signer,
        verifier=verifier,
        sha256_signer=digest_signer if isinstance(digest, hashes.SHA256) else None,
    )


def _rsa(bits: int) -> KeyAlgorithm:
    numbers = tlv(0x30, tlv(0x02, b"\0" + b"\xff" * (bits // 8)) + _RSA_EXPONENT)
    prefix, length, offset = _spki(_RSA_KEY + _NULL, numbers, len(numbers) - len(_RSA_EXPONENT) - bits // 8)
    digest, scheme = hashes.SHA256(), padding.PKCS1v15()

    def signer(key: PrivateKey) -> Callable[[bytes], bytes]:
        sign = key.sign
        return lambda tbs: sign(tbs, scheme, digest)

    def verifier(key: PublicKey) -> Callable[[bytes, bytes], None]:
        verify = key.verify
        return lambda signature, tbs: verify(signature, tbs, scheme, digest)

    return KeyAlgorithm(
        name=f"rsa{bits}",
        title=f"RSA-{bits}",
        spki_prefix=prefix,
        spki_length=length,
        bits_offset=offset,
        signature_algorithm=tlv(0x30, oid("1.2.840.113549.1.1.11") + _NULL),
        max_signature=bits // 8,
        generate=lambda: rsa.generate_private_key(public_exponent=65537, key_size=bits),
        recognises=lambda key: isinstance(key, rsa.RSAPublicKey) and key.key_size == bits,
        signer=signer,
        verifier=verifier,
    )


def _pure(name: str, title: str, dotted: str, key: int, signature: int, private: Any, public: type) -> KeyAlgorithm:
    """Algorithms that take the message itself; ML-DSA with the empty context (RFC 9881, section 2)."""
    prefix, length, offset = _spki(oid(dotted), bytes(key), 0)

    def signer(key: PrivateKey) -> Callable[[bytes], bytes]:
        sign: Callable[[bytes], bytes] = key.sign
        return sign

    def verifier(key: PublicKey) -> Callable[[bytes, bytes], None]:
        verify: Callable[[bytes, bytes], None] = key.verify
        return verify

    return KeyAlgorithm(
        name=name,
        title=title,
        spki_prefix=prefix,
        spki_length=length,
        bits_offset=offset,
        signature_algorithm=tlv(0x30, oid(dotted)),
        max_signature=signature,
        generate=private.generate,
        recognises=lambda candidate: isinstance(candidate, public),
        signer=signer,
        verifier=verifier,
    )


_ON_CURVE = frozenset({"p256", "p384"})
_SHA256, _SHA384 = hashes.SHA256(), hashes.SHA384()
_P256, _P384 = ec.SECP256R1(), ec.SECP384R1()
_ML_DSA_44, _ML_DSA_65 = "2.16.840.1.101.3.4.3.17", "2.16.840.1.101.3.4.3.18"

ALGORITHMS: Mapping[str, KeyAlgorithm] = MappingProxyType(
    {
        algorithm.name: algorithm
        for algorithm in (
            _ecdsa("p256", "EC P-256", _P256, "1.2.840.10045.3.1.7", _SHA256, "1.2.840.10045.4.3.2"),
            _ecdsa("p384", "EC P-384", _P384, "1.3.132.0.34", _SHA384, "1.2.840.10045.4.3.3"),
            _pure("ed25519", "Ed25519", "1.3.101.112", 32, 64, ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey),
            _rsa(2048),
            _rsa(3072),
            _pure("mldsa44", "ML-DSA-44", _ML_DSA_44, 1312, 2420, mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
            _pure("mldsa65", "ML-DSA-65", _ML_DSA_65, 1952, 3309, mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
        )
    }
)
"""Name → algorithm (RFC 5480, 5758, 4055, 8410, 9881)."""
