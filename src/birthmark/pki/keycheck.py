"""Refuses public keys that nobody should certify: broken, guessable, degenerate or published.

What is looked for (each has a code ``key.weak.*``): RSA modulus and exponent sizes, small factors, the
ROCA fingerprint (CVE-2017-15361), primes so close that Fermat's method finds them; EC points off the
curve, compressed, or with a private key small enough to count to; Ed25519 encodings that are not a
point or a point of small order; ML-DSA keys of the wrong length; test keys printed in RFCs.

Not looked for: the Debian keys of CVE-2008-0166 (no list of them is part of this package, and their key
sizes of that time were mostly below today's minimum), and shared RSA primes, which need all keys at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache
from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from birthmark.errors import Refused
from birthmark.pki.derread import (
    INTEGER,
    NULL,
    OID,
    SEQUENCE,
    Node,
    bits_of,
    expect,
    oid_text,
    read_der,
    read_members,
)

__all__ = ["ML_DSA_OCTETS", "PUBLISHED_KEYS", "check_public_key", "key_kind", "load_sound_p256"]

_RSA = "1.2.840.113549.1.1.1"
_EC = "1.2.840.10045.2.1"
_ED25519 = "1.3.101.112"
_RSA_BITS = range(2048, 8193)
_RSA_EXPONENTS = range(65537, 1 << 256)  # FIPS 186-5, A.1.1: odd, 2^16 < e < 2^256
_FERMAT_ROUNDS = 100
_SMALL_FACTORS_BELOW = 10_000
_ROCA_PRIMES_BELOW = 168
_SMALL_SCALARS = 32

_CURVES: dict[str, tuple[str, ec.EllipticCurve, int]] = {
    "1.2.840.10045.3.1.7": ("p256", ec.SECP256R1(), 32),
    "1.3.132.0.34": ("p384", ec.SECP384R1(), 48),
}
_ML_DSA = {
    "2.16.840.1.101.3.4.3.17": "mldsa44",
    "2.16.840.1.101.3.4.3.18": "mldsa65",
    "2.16.840.1.101.3.4.3.19": "mldsa87",
}
ML_DSA_OCTETS = {"mldsa44": 1312, "mldsa65": 1952, "mldsa87": 2592}
"""Length of the public key, octets (FIPS 204, table 2; RFC 9881, section 4)."""

PUBLISHED_KEYS = {
    "8fb6bad671cfe698393c453357da61b56d757ab8c0f3fb9c87f2849e63131878": "RFC 9500, 2.1 testRSA2048",
    "b2b04340cfaee616ec9c2c62d261b208e54bb197498df52e8cadede23ac0ba5e": "RFC 9500, 2.3 testECCP256",
    "c4c10105a0be0ed4dd3354428dc38a9bfee64da141ce16e75c94eda272f9dd3a": "RFC 9500, 2.3 testECCP384",
    "5a7a78cca4a0f420d9bc62bb669c3c2759e39f723d3ae10dcbe0f0815a07ecd4": "RFC 6979, A.2.5 (P-256)",
    "2f95601fa82060b909bfc6b979dbd303d34d34e0afb27ea496beac362f242a4b": "RFC 6979, A.2.6 (P-384)",
    "06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9": "RFC 8032, 7.1 test 1",
    "deb2ded39dc26fce0e6085b6fc34bf6b5941913bbfe2ea614113cff9e004c170": "RFC 8032, 7.1 test 2",
    "8d39ba50abe50f77b6bb8ae7b6927aff7ffbeba35ad2837c0e51e82bcbcc60d5": "RFC 8032, 7.1 test 3",
    "a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f": "RFC 8410, 10.3 (Ed25519)",
    "837832708c5236d951581f1fddf2b79991b3424a0486d16da1ddad0fd69701be": "RFC 9881, C (ML-DSA-44)",
    "b8b62131bfbe84433efb2273d7f5b87f7a22854a2cfd366fc2aead86d837c52d": "RFC 9881, C (ML-DSA-65)",
    "07e57c4f14dbad1267f621ec3777b4e2e6c4fbc4c22fbb87510ff8e0b3c6a642": "RFC 9881, C (ML-DSA-87)",
}
"""SHA-256 of the SPKI of keys whose private half is printed in a standard → where."""

_NEW_KEY = "Make a new key in the device with a sound generator and ask again."


def check_public_key(spki_der: bytes) -> str:
    """Return the kind (as ``key_kind``) of ``spki_der`` (DER SubjectPublicKeyInfo) if it is worth a certificate.

    Raises ``Refused``: ``key.malformed``, ``key.kind`` or one of ``key.weak.*``.
    """
    kind, parameters, key = _open_spki(spki_der)
    printed = PUBLISHED_KEYS.get(hashlib.sha256(spki_der).hexdigest())
    if printed is not None:
        raise Refused(
            "key.weak.published",
            f"the private half of this key is printed in {printed}",
            hint=_NEW_KEY,
            printed_in=printed,
        )
    _CHECKS[kind](kind, parameters, key, spki_der)
    return _kind_name(kind, key)


def load_sound_p256(spki_der: bytes) -> ec.EllipticCurvePublicKey | None:
    """Return the key of an SPKI in the one form of P-256 that ``check_public_key`` accepts, None for any other.

    The caller has seen that the octets before the point are those of every P-256 key.
    """
    if hashlib.sha256(spki_der).hexdigest() in PUBLISHED_KEYS or spki_der[-64:-32] in _small_multiples("p256"):
        return None
    try:
        return cast("ec.EllipticCurvePublicKey", load_der_public_key(spki_der))
    except (ValueError, UnsupportedAlgorithm):
        return None


def key_kind(spki_der: bytes) -> str:
    """Name the algorithm of a key: rsa<bits>, p256, p384, ed25519, mldsa44, mldsa65 or mldsa87.

    Raises ``Refused`` ``key.malformed`` or ``key.kind`` (anything else, other curves included).
    """
    kind, _, key = _open_spki(spki_der)
    return _kind_name(kind, key)


def _kind_name(kind: str, key: bytes) -> str:
    return f"rsa{_rsa_numbers(key)[0].bit_length()}" if kind == "rsa" else kind


def _open_spki(spki_der: bytes) -> tuple[str, bytes, bytes]:
    """Return kind, parameters (DER or empty) and the key octets of an SPKI."""
    try:
        algorithm, bits = _pair(read_members(read_der(spki_der)))
        parts = read_members(expect(algorithm, SEQUENCE))
        if not 1 <= len(parts) <= 2:
            raise _malformed("its algorithm has no or too many parts")
        oid = oid_text(parts[0])
        parameters = parts[1].whole if len(parts) == 2 else b""
        if oid == _EC:
            curve = oid_text(parts[1]) if len(parts) == 2 and parts[1].tag == OID else ""
            if curve not in _CURVES:
                raise _unknown_kind(f"elliptic curve {curve or 'without a name'}")
            return _CURVES[curve][0], parameters, bits_of(bits)
        kind = {_RSA: "rsa", _ED25519: "ed25519", **_ML_DSA}.get(oid)
        if kind is None:
            raise _unknown_kind(f"algorithm {oid}")
        return kind, parameters, bits_of(bits)
    except Refused as error:
        if error.code == "der.malformed":
            raise _malformed(error.message) from error
        raise


def _pair(members: list[Node]) -> tuple[Node, Node]:
    if len(members) != 2:
        raise _malformed("it does not have exactly two parts")
    return members[0], members[1]


def _malformed(reason: str) -> Refused:
    return Refused(
        "key.malformed",
        f"this is not a SubjectPublicKeyInfo: {reason}",
        hint="Send the key as DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).",
        reason=reason,
    )


def _unknown_kind(what: str) -> Refused:
    return Refused(
        "key.kind",
        f"{what} is not a kind of key this product certifies",
        hint="Use P-256, P-384, Ed25519, RSA of 2048 bits or more, or ML-DSA.",
        kind=what,
    )


def _rsa_numbers(key: bytes) -> tuple[int, int]:
    try:
        modulus, exponent = _pair(read_members(read_der(key)))
        expect(modulus, INTEGER)
        expect(exponent, INTEGER)
    except Refused as error:
        raise _malformed(error.message) from error
    for number in (modulus.content, exponent.content):
        if not number or number[0] & 0x80 or (number[0] == 0 and number[1:2] < b"\x80"):
            raise _malformed("an RSA number is negative or not the shortest")
    return int.from_bytes(modulus.content, "big"), int.from_bytes(exponent.content, "big")


def _check_rsa(_kind: str, parameters: bytes, key: bytes, _spki: bytes) -> None:
    if parameters != bytes((NULL, 0)):
        raise _malformed("RSA parameters are not NULL (RFC 3279, 2.3.1)")
    modulus, exponent = _rsa_numbers(key)
    if modulus.bit_length() not in _RSA_BITS:
        raise Refused(
            "key.weak.rsa.size",
            f"an RSA modulus of {modulus.bit_length()} bits",
            hint="Use 2048 to 8192 bits.",
            bits=modulus.bit_length(),
        )
    if exponent not in _RSA_EXPONENTS or exponent % 2 == 0:
        raise Refused(
            "key.weak.rsa.exponent",
            "the RSA exponent is even, below 65537 or above 2^256",
            hint="Use the exponent 65537.",
            exponent=str(exponent)[:80],
        )
    factor = math.gcd(modulus, _small_prime_product())
    if factor != 1:
        raise Refused(
            "key.weak.rsa.factor",
            f"the RSA modulus has a factor below {_SMALL_FACTORS_BELOW}",
            hint=_NEW_KEY,
        )
    if all(modulus % prime in powers for prime, powers in _roca_table()):
        raise Refused(
            "key.weak.rsa.roca",
            "the RSA modulus has the ROCA fingerprint (CVE-2017-15361): it can be factored",
            hint="Update the chip's firmware or use another kind of key, then make a new key.",
        )
    if _fermat_finds(modulus):
        raise Refused(
            "key.weak.rsa.close_primes",
            "the two primes of the RSA modulus are so close that it is factored at once",
            hint=_NEW_KEY,
        )


def _fermat_finds(modulus: int) -> bool:
    """Say whether Fermat's method factors the modulus within its rounds."""
    middle = math.isqrt(modulus - 1) + 1
    for step in range(middle, middle + _FERMAT_ROUNDS):
        square = step * step - modulus
        if math.isqrt(square) ** 2 == square:
            return True
    return False


def _primes_below(limit: int) -> list[int]:
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\x00\x00"
    for number in range(2, math.isqrt(limit) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return [number for number, prime in enumerate(sieve) if prime]


@cache
def _small_prime_product() -> int:
    return math.prod(_primes_below(_SMALL_FACTORS_BELOW))


@cache
def _roca_table() -> tuple[tuple[int, frozenset[int]], ...]:
    """Small primes with the powers of 65537 modulo each: the primes of the faulty library are such powers.

    A sound modulus is in all 39 sets by chance once in about 2^27.
    """
    table = []
    for prime in _primes_below(_ROCA_PRIMES_BELOW):
        power, powers = 65537 % prime, set()
        while power not in powers:
            powers.add(power)
            power = power * 65537 % prime
        table.append((prime, frozenset(powers)))
    return tuple(table)


def _check_ec(kind: str, _parameters: bytes, key: bytes, spki: bytes) -> None:
    curve, octets = next((curve, octets) for name, curve, octets in _CURVES.values() if name == kind)
    if len(key) != 1 + 2 * octets or key[0] != 0x04:
        raise Refused(
            "key.weak.ec.form",
            "the point is not in uncompressed form (or is the point at infinity)",
            hint="Send the point as 04, x, y (SEC 1, 2.3.3).",
        )
    try:
        load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused("key.weak.ec.point", f"the point is not on {curve.name}", hint=_NEW_KEY) from error
    if key[1 : 1 + octets] in _small_multiples(kind):
        raise Refused(
            "key.weak.ec.scalar",
            f"the private key is a number of at most {_SMALL_SCALARS}",
            hint=_NEW_KEY,
        )


@cache
def _small_multiples(kind: str) -> frozenset[bytes]:
    """x of the first multiples of the generator (a negated key has the same x)."""
    curve, octets = next((curve, octets) for name, curve, octets in _CURVES.values() if name == kind)
    numbers = (ec.derive_private_key(k, curve).public_key().public_numbers() for k in range(1, _SMALL_SCALARS + 1))
    return frozenset(point.x.to_bytes(octets, "big") for point in numbers)


_P25519 = 2**255 - 19
_D25519 = -121665 * pow(121666, -1, _P25519) % _P25519
_ORDER_8_Y = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER_Y = frozenset({0, 1, _P25519 - 1, _ORDER_8_Y, _P25519 - _ORDER_8_Y})
"""y of the eight points whose order divides 8 (both signs of x)."""


def _check_ed25519(_kind: str, parameters: bytes, key: bytes, _spki: bytes) -> None:
    if parameters:
        raise _malformed("Ed25519 has no parameters (RFC 8410, 3)")
    encoded = int.from_bytes(key, "little")
    y = encoded & (2**255 - 1)
    square = (y * y - 1) * pow(_D25519 * y * y + 1, -1, _P25519) % _P25519
    on_curve = pow(square, (_P25519 - 1) // 2, _P25519) in (0, 1)
    if len(key) != 32 or y >= _P25519 or not on_curve:
        raise Refused("key.weak.ed25519.point", "this is not the encoding of a point", hint=_NEW_KEY)
    if y in _SMALL_ORDER_Y:
        raise Refused("key.weak.ed25519.order", "the point has a small order: anyone can sign", hint=_NEW_KEY)


def _check_ml_dsa(kind: str, parameters: bytes, key: bytes, _spki: bytes) -> None:
    if parameters:
        raise _malformed("ML-DSA has no parameters (RFC 9881, 2)")
    if len(key) != ML_DSA_OCTETS[kind]:
        raise Refused(
            "key.weak.ml_dsa.length",
            f"{len(key)} octets are not a key of {kind}",
            hint=f"Send the {ML_DSA_OCTETS[kind]} octets of FIPS 204.",
            octets=len(key),
        )


_Check = Callable[[str, bytes, bytes, bytes], None]
_CHECKS: dict[str, _Check] = {
    "rsa": _check_rsa,
    "p256": _check_ec,
    "p384": _check_ec,
    "ed25519": _check_ed25519,
    "mldsa44": _check_ml_dsa,
    "mldsa65": _check_ml_dsa,
    "mldsa87": _check_ml_dsa,
}
