"""Writes ``csr/*.pem`` (or ``.der``) and beside each a ``.txt`` with the answer it must get.

Run it after a change: ``python -m vectors.make_csr_vectors`` in ``tests/``. One function per flaw; every key comes
from a fixed seed, so the files only change when this script does. An answer is ``ok`` (and the names of
tolerated quirks) or an error code. The requests are checked for the device ``SN-0001`` under ``tls-client``.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

__all__ = ["DEVICE_SERIAL", "VECTORS", "write_all"]

DEVICE_SERIAL = "SN-0001"
Vector = tuple[bytes, str]
VECTORS: dict[str, Callable[[], Vector]] = {}
DER_VECTORS = {"trailing_octets", "indefinite_length", "truncated", "empty", "too_large"}


def vector(function: Callable[[], Vector]) -> Callable[[], Vector]:
    VECTORS[function.__name__] = function
    return function


def tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 128:
        return bytes((tag, len(content))) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    out = b""
    for arc in (40 * first + second, *rest):
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.append(arc & 0x7F | 0x80)
        out += bytes(reversed(octets))
    return tlv(6, out)


def seed(text: str, octets: int = 32) -> int:
    return int.from_bytes(hashlib.shake_256(text.encode()).digest(octets), "big")


def p256(text: str = "device") -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(seed(text) >> 1, ec.SECP256R1())


def spki(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]


def is_prime(number: int) -> bool:
    if any(number % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 10):
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        if not any((power := power * power % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True


def prime(start: int) -> int:
    number = start | 1
    while not (is_prime(number) and math.gcd(number - 1, 65537) == 1):
        number += 2
    return number


def prime_of(text: str, bits: int) -> int:
    return prime(seed(text, bits // 8) | 3 << bits - 2)


def rsa_key(p: int, q: int) -> rsa.RSAPrivateKey:
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(65537, p * q)
    )
    return numbers.private_key()


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    numbers = b"".join(tlv(2, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in (modulus, exponent))
    return tlv(0x30, tlv(0x30, oid("1.2.840.113549.1.1.1"), b"\x05\x00"), tlv(3, b"\0", tlv(0x30, numbers)))


def ec_spki(point: bytes, curve: str = "1.2.840.10045.3.1.7") -> bytes:
    return tlv(0x30, tlv(0x30, oid("1.2.840.10045.2.1"), oid(curve)), tlv(3, b"\0", point))


def subject(*pairs: tuple[x509.ObjectIdentifier, str]) -> bytes:
    return x509.Name([x509.NameAttribute(*pair) for pair in pairs]).public_bytes()


EMPTY = subject()
DEVICE = subject((NameOID.COMMON_NAME, DEVICE_SERIAL))


def extension(kind: x509.ObjectIdentifier, value: bytes, critical: bool = False) -> bytes:
    return tlv(0x30, oid(kind.dotted_string), b"\x01\x01\xff" if critical else b"", tlv(4, value))


def request_of(*extensions: bytes) -> bytes:
    return tlv(0x30, oid("1.2.840.113549.1.9.14"), tlv(0x31, tlv(0x30, *extensions)))


def info(key: bytes, name: bytes = EMPTY, *attributes: bytes, version: int = 0) -> bytes:
    return tlv(0x30, tlv(2, bytes((version,))), name, key, tlv(0xA0, *attributes))


ES256, ES384 = tlv(0x30, oid("1.2.840.10045.4.3.2")), tlv(0x30, oid("1.2.840.10045.4.3.3"))
RS256 = tlv(0x30, oid("1.2.840.113549.1.1.11"), b"\x05\x00")
ED = tlv(0x30, oid("1.3.101.112"))


def es256(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


def csr(what: bytes, signature: bytes, algorithm: bytes = ES256) -> bytes:
    return tlv(0x30, what, algorithm, tlv(3, b"\0", signature))


def signed(name: bytes = EMPTY, *attributes: bytes, version: int = 0) -> bytes:
    """Return an otherwise good P-256 request."""
    what = info(spki(p256()), name, *attributes, version=version)
    return csr(what, es256(p256(), what))


def asking(*extensions: bytes) -> bytes:
    return signed(DEVICE, request_of(*extensions))


def unsigned(key: bytes, algorithm: bytes = ES256) -> bytes:
    """Return a request for a weak key: it must be refused before its signature is looked at."""
    return csr(info(key, DEVICE), tlv(0x30, tlv(2, b"\x01"), tlv(2, b"\x01")), algorithm)


@vector
def good_p256_empty_subject() -> Vector:
    """Only a key: the profile decides the rest."""
    return signed(), "ok"


@vector
def good_p256_device_serial() -> Vector:
    """The device names itself."""
    return signed(DEVICE), "ok"


@vector
def good_p384() -> Vector:
    """P-384 with SHA-384."""
    key = ec.derive_private_key(seed("p384", 48) >> 1, ec.SECP384R1())
    what = info(spki(key), DEVICE)
    return csr(what, key.sign(what, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)), ES384), "ok"


@vector
def good_ed25519() -> Vector:
    """Ed25519."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed("ed").to_bytes(32, "big"))
    what = info(spki(key), DEVICE)
    return csr(what, key.sign(what), ED), "ok"


@vector
def good_rsa_2048() -> Vector:
    """RSA with PKCS#1 v1.5 and SHA-256."""
    key = rsa_key(prime_of("p", 1024), prime_of("q", 1024))
    what = info(spki(key), DEVICE)
    return csr(what, key.sign(what, padding.PKCS1v15(), hashes.SHA256()), RS256), "ok"


@vector
def good_asks_what_is_granted() -> Vector:
    """Asks for digitalSignature and clientAuth, which the profile grants anyway."""
    usage = extension(ExtensionOID.KEY_USAGE, bytes.fromhex("03020780"), True)
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]).public_bytes()
    not_ca = extension(ExtensionOID.BASIC_CONSTRAINTS, tlv(0x30), True)
    return asking(usage, extension(ExtensionOID.EXTENDED_KEY_USAGE, client), not_ca), "ok"


@vector
def good_challenge_password() -> Vector:
    """An attribute that asks for nothing a certificate holds."""
    return signed(DEVICE, tlv(0x30, oid("1.2.840.113549.1.9.7"), tlv(0x31, tlv(0x0C, b"x")))), "ok"


@vector
def quirk_null_parameters() -> Vector:
    """tpm2-openssl writes NULL after ecdsa-with-SHA256."""
    what = info(spki(p256()), DEVICE)
    null = tlv(0x30, oid("1.2.840.10045.4.3.2"), b"\x05\x00")
    return csr(what, es256(p256(), what), null), "ok ecdsa-null-parameters"


def raw_signature(wanted: Callable[[int], bool]) -> tuple[bytes, int, int]:
    """Return a request's info and r, s of its signature, r being as wanted (the subject varies)."""
    for number in range(10_000):
        challenge = tlv(0x30, oid("1.2.840.113549.1.9.7"), tlv(0x31, tlv(0x0C, b"%d" % number)))
        what = info(spki(p256()), DEVICE, challenge)
        r, s = decode_dss_signature(es256(p256(), what))
        if wanted(r) and wanted(s):
            return what, r, s
    raise AssertionError("no signature of the wanted form")


@vector
def quirk_padded_integers() -> Vector:
    """A modem writes r and s as 33 octets with a needless leading zero."""
    what, r, s = raw_signature(lambda number: number < 1 << 255)
    pair = tlv(0x30, tlv(2, r.to_bytes(33, "big")), tlv(2, s.to_bytes(33, "big")))
    return csr(what, pair), "ok ecdsa-integer-padded"


@vector
def quirk_negative_integers() -> Vector:
    """A modem writes r and s as 32 octets although their first bit is set."""
    what, r, s = raw_signature(lambda number: number >= 1 << 255)
    pair = tlv(0x30, tlv(2, r.to_bytes(32, "big")), tlv(2, s.to_bytes(32, "big")))
    return csr(what, pair), "ok ecdsa-integer-negative"


@vector
def quirks_together() -> Vector:
    """NULL parameters and padded integers at once."""
    what, r, s = raw_signature(lambda number: number < 1 << 255)
    pair = tlv(0x30, tlv(2, r.to_bytes(33, "big")), tlv(2, s.to_bytes(33, "big")))
    null = tlv(0x30, oid("1.2.840.10045.4.3.2"), b"\x05\x00")
    return csr(what, pair, null), "ok ecdsa-integer-padded ecdsa-null-parameters"


@vector
def overlong_integers() -> Vector:
    """Forty octets are no quirk of an encoder, they are another number."""
    what, r, s = raw_signature(lambda number: number < 1 << 255)
    return csr(what, tlv(0x30, tlv(2, r.to_bytes(40, "big")), tlv(2, s.to_bytes(40, "big")))), "csr.malformed"


@vector
def bad_signature() -> Vector:
    """One bit of the signature differs."""
    der = signed(DEVICE)
    return der[:-1] + bytes((der[-1] ^ 1,)), "csr.signature"


@vector
def signed_by_another_key() -> Vector:
    """The key of another device, asked for without having it."""
    what = info(spki(p256("victim")), DEVICE)
    return csr(what, es256(p256("attacker"), what)), "csr.signature"


@vector
def signature_of_another_request() -> Vector:
    """A good signature of the same key, over another request."""
    return csr(info(spki(p256()), DEVICE), es256(p256(), info(spki(p256())))), "csr.signature"


@vector
def signature_kind_of_another_key() -> Vector:
    """An RSA algorithm over a P-256 key."""
    what = info(spki(p256()), DEVICE)
    return csr(what, es256(p256(), what), RS256), "csr.signature"


@vector
def sha1_signature() -> Vector:
    """ecdsa-with-SHA1."""
    what = info(spki(p256()), DEVICE)
    return csr(what, es256(p256(), what), tlv(0x30, oid("1.2.840.10045.4.1"))), "csr.algorithm"


@vector
def null_parameters_after_ed25519() -> Vector:
    """NULL is tolerated after ECDSA only."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed("ed").to_bytes(32, "big"))
    what = info(spki(key), DEVICE)
    return csr(what, key.sign(what), tlv(0x30, oid("1.3.101.112"), b"\x05\x00")), "csr.malformed"


@vector
def asks_ca() -> Vector:
    """basicConstraints cA TRUE."""
    return asking(extension(ExtensionOID.BASIC_CONSTRAINTS, tlv(0x30, b"\x01\x01\xff"), True)), "csr.asks_ca"


@vector
def asks_cert_sign() -> Vector:
    """keyUsage keyCertSign without basicConstraints."""
    return asking(extension(ExtensionOID.KEY_USAGE, bytes.fromhex("03020284"), True)), "csr.asks_ca"


@vector
def asks_key_agreement() -> Vector:
    """keyUsage keyAgreement, which the profile does not grant."""
    return asking(extension(ExtensionOID.KEY_USAGE, bytes.fromhex("03020308"), True)), "csr.key_usage"


@vector
def asks_server_auth() -> Vector:
    """A client that wants to be a server."""
    value = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]).public_bytes()
    return asking(extension(ExtensionOID.EXTENDED_KEY_USAGE, value)), "csr.extended_key_usage"


@vector
def asks_name_constraints() -> Vector:
    """An extension that only CAs have."""
    value = x509.NameConstraints([x509.DNSName("example")], None).public_bytes()
    return asking(extension(ExtensionOID.NAME_CONSTRAINTS, value, True)), "csr.extension"


@vector
def asks_unknown_extension() -> Vector:
    """A private extension nobody granted."""
    return asking(extension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.7"), b"\x05\x00")), "csr.extension"


@vector
def good_names_itself_in_san() -> Vector:
    """Repeats the SAN that the profile gives this device."""
    uri = x509.UniformResourceIdentifier(f"urn:dev:os:99999-{DEVICE_SERIAL}")
    value = x509.SubjectAlternativeName([uri]).public_bytes()
    return asking(extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, value)), "ok"


@vector
def names_itself_and_another_in_san() -> Vector:
    """Its own name, and one more."""
    uri = x509.UniformResourceIdentifier(f"urn:dev:os:99999-{DEVICE_SERIAL}")
    value = x509.SubjectAlternativeName([uri, x509.DNSName("gateway.example")]).public_bytes()
    return asking(extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, value)), "csr.name"


@vector
def names_another_device_in_san() -> Vector:
    """A name of another device in the SAN."""
    value = x509.SubjectAlternativeName([x509.DNSName("sn-0002.example")]).public_bytes()
    return asking(extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, value)), "csr.name"


@vector
def names_another_device() -> Vector:
    """The subject of another device."""
    return signed(subject((NameOID.COMMON_NAME, "SN-0002"))), "csr.name"


@vector
def names_two_devices() -> Vector:
    """The right name and a second one."""
    names = subject((NameOID.COMMON_NAME, DEVICE_SERIAL), (NameOID.COMMON_NAME, "SN-0002"))
    return signed(names), "csr.name"


@vector
def names_an_organisation() -> Vector:
    """An organisation the profile does not give."""
    names = subject((NameOID.ORGANIZATION_NAME, "Someone Else"), (NameOID.COMMON_NAME, DEVICE_SERIAL))
    return signed(names), "csr.name"


@vector
def names_a_lookalike() -> Vector:
    """Another case is another device."""
    return signed(subject((NameOID.COMMON_NAME, "sn-0001"))), "csr.name"


@vector
def weak_rsa_1024() -> Vector:
    """Too short."""
    return unsigned(rsa_spki(prime_of("a", 512) * prime_of("b", 512)), RS256), "csr.key.weak key.weak.rsa.size"


@vector
def weak_rsa_exponent() -> Vector:
    """e = 3."""
    modulus = prime_of("p", 1024) * prime_of("q", 1024)
    return unsigned(rsa_spki(modulus, 3), RS256), "csr.key.weak key.weak.rsa.exponent"


@vector
def weak_rsa_small_factor() -> Vector:
    """7919 divides the modulus."""
    modulus = 7919 * prime_of("p", 1024) * prime_of("c", 1024)
    return unsigned(rsa_spki(modulus), RS256), "csr.key.weak key.weak.rsa.factor"


@vector
def weak_rsa_close_primes() -> Vector:
    """The second prime is the next one after the first."""
    first = prime_of("p", 1024)
    return unsigned(rsa_spki(first * prime(first + 2)), RS256), "csr.key.weak key.weak.rsa.close_primes"


@vector
def weak_rsa_roca() -> Vector:
    """Primes of the form k*M + (65537^a mod M), M a product of small primes (CVE-2017-15361)."""
    smalls = [n for n in range(2, 168) if all(n % d for d in range(2, n))]
    product, found = math.prod(smalls), []
    for text in ("roca-p", "roca-q"):
        number = (seed(text, 128) | 3 << 1022) // product * product + pow(65537, seed(text), product)
        while not is_prime(number):
            number += product
        found.append(number)
    return unsigned(rsa_spki(found[0] * found[1]), RS256), "csr.key.weak key.weak.rsa.roca"


@vector
def weak_ec_off_curve() -> Vector:
    """A point that is not on P-256."""
    return unsigned(ec_spki(b"\x04" + bytes(31) + b"\x05" + bytes(31) + b"\x05")), "csr.key.weak key.weak.ec.point"


@vector
def weak_ec_infinity() -> Vector:
    """The point at infinity."""
    return unsigned(ec_spki(b"\x00")), "csr.key.weak key.weak.ec.form"


@vector
def weak_ec_compressed() -> Vector:
    """A compressed point, which RFC 5480 forbids nobody and many devices cannot read."""
    point = p256().public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return unsigned(ec_spki(point)), "csr.key.weak key.weak.ec.form"


@vector
def weak_ec_private_key_seven() -> Vector:
    """The private key is 7; the signature is good."""
    key = ec.derive_private_key(7, ec.SECP256R1())
    what = info(spki(key), DEVICE)
    return csr(what, es256(key, what)), "csr.key.weak key.weak.ec.scalar"


@vector
def weak_published_key() -> Vector:
    """testECCP256 of RFC 9500; the signature is good."""
    number = 0xE6CB5BDD80AA45AE9C95E8C15476679FFEC953C16851E711E743939589C64FC1
    key = ec.derive_private_key(number, ec.SECP256R1())
    what = info(spki(key), DEVICE)
    return csr(what, es256(key, what)), "csr.key.weak key.weak.published"


@vector
def weak_ed25519_small_order() -> Vector:
    """The neutral element: a signature of zeros verifies for every message under some verifiers."""
    key = tlv(0x30, ED, tlv(3, b"\0", b"\x01" + bytes(31)))
    return csr(info(key, DEVICE), b"\x01" + bytes(63), ED), "csr.key.weak key.weak.ed25519.order"


@vector
def weak_ml_dsa_length() -> Vector:
    """One octet short."""
    algorithm = tlv(0x30, oid("2.16.840.1.101.3.4.3.17"))
    key = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(31) + b"\x01").public_key().public_bytes_raw()
    short = tlv(0x30, algorithm, tlv(3, b"\0", key[:-1]))
    return csr(info(short, DEVICE), bytes(2420), algorithm), "csr.key.weak key.weak.ml_dsa.length"


@vector
def curve_secp256k1() -> Vector:
    """A sound curve this product does not certify."""
    key = ec.derive_private_key(seed("k1") >> 1, ec.SECP256K1())
    what = info(spki(key), DEVICE)
    return csr(what, es256(key, what)), "key.kind"


@vector
def version_one() -> Vector:
    """PKCS#10 has version 0 only."""
    return signed(DEVICE, version=1), "csr.malformed"


@vector
def two_extension_requests() -> Vector:
    """The second would hide behind the first."""
    first = request_of(extension(ExtensionOID.BASIC_CONSTRAINTS, tlv(0x30)))
    second = request_of(extension(ExtensionOID.BASIC_CONSTRAINTS, tlv(0x30, b"\x01\x01\xff")))
    return signed(DEVICE, first, second), "csr.attribute"


@vector
def extension_request_of_two_values() -> Vector:
    """A SET of two extension lists."""
    value = tlv(0x30, extension(ExtensionOID.BASIC_CONSTRAINTS, tlv(0x30)))
    other = tlv(0x30, extension(ExtensionOID.BASIC_CONSTRAINTS, tlv(0x30, b"\x01\x01\xff")))
    attribute = tlv(0x30, oid("1.2.840.113549.1.9.14"), tlv(0x31, value, other))
    return signed(DEVICE, attribute), "csr.attribute"


@vector
def one_extension_twice() -> Vector:
    """basicConstraints twice in one request."""
    one = extension(ExtensionOID.BASIC_CONSTRAINTS, tlv(0x30))
    return asking(one, one), "csr.malformed"


@vector
def trailing_octets() -> Vector:
    """Something follows the request."""
    return signed(DEVICE) + b"\0", "csr.malformed"


@vector
def truncated() -> Vector:
    """The end is missing."""
    return signed(DEVICE)[:-9], "csr.malformed"


@vector
def indefinite_length() -> Vector:
    """BER, not DER."""
    return b"\x30\x80" + signed(DEVICE)[3:] + b"\0\0", "csr.malformed"


@vector
def empty() -> Vector:
    """Nothing at all."""
    return b"", "csr.malformed"


@vector
def too_large() -> Vector:
    """Above 64 KiB."""
    return b"\x30" * (64 * 1024 + 1), "csr.size"


def pem(der: bytes, label: str = "CERTIFICATE REQUEST") -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def write_all(folder: Path) -> None:
    """Write every vector and its answer into ``folder``."""
    for name, make in VECTORS.items():
        der, answer = make()
        path, data = (f"{name}.der", der) if name in DER_VECTORS else (f"{name}.pem", pem(der))
        (folder / path).write_bytes(data)
        (folder / f"{name}.txt").write_text(answer + "\n")


if __name__ == "__main__":
    write_all(Path(__file__).parent / "csr")
