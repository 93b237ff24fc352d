"""Keys: what can be factored, counted to, forged with or read in a standard is refused by name."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import BirthmarkError, Refused
from birthmark.pki import keycheck
from birthmark.pki.algorithms import ALGORITHMS, spki_of
from birthmark.pki.keycheck import PUBLISHED_KEYS, check_public_key, key_kind
from vectors.make_csr_vectors import ec_spki, oid, prime_of, rsa_spki, seed, tlv

P = 2**255 - 19


def code(spki: bytes) -> str:
    try:
        check_public_key(spki)
    except Refused as error:
        return error.code
    return "ok"


def ed_spki(key: bytes) -> bytes:
    return tlv(0x30, tlv(0x30, oid("1.3.101.112")), tlv(3, b"\0", key))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_fresh_keys_of_every_algorithm_pass(name: str) -> None:
    for _ in range(1 if name.startswith("rsa") else 20):
        spki = spki_of(ALGORITHMS[name].generate().public_key())
        assert code(spki) == "ok"
        assert key_kind(spki) == name


def test_rsa_8192_is_the_largest_and_9000_is_not() -> None:
    odd = prime_of("p", 1024)
    assert code(rsa_spki(odd * (1 << 7900) | 1)) == "key.weak.rsa.size"


RSA = rsa.generate_private_key(65537, 2048)
MODULUS = RSA.public_key().public_numbers().n


@pytest.mark.parametrize("exponent", [1, 3, 17, 65535, 65538, 1 << 256 | 1])
def test_rsa_exponent_outside_of_fips_186(exponent: int) -> None:
    assert code(rsa_spki(MODULUS, exponent)) == "key.weak.rsa.exponent"


def test_rsa_modulus_that_is_a_square_is_refused() -> None:
    prime = prime_of("p", 1024)
    assert code(rsa_spki(prime * prime)) == "key.weak.rsa.close_primes"


def test_rsa_even_modulus_is_refused() -> None:
    assert code(rsa_spki(MODULUS + 1)) == "key.weak.rsa.factor"


def test_fermat_does_not_refuse_primes_that_only_share_their_first_bits() -> None:
    first = prime_of("p", 1024)
    second = prime_of("q", 1024)
    assert code(rsa_spki(first * second)) == "ok"


def test_roca_table_holds_what_the_paper_says() -> None:
    table = dict(keycheck._roca_table())
    assert len(table) == 39
    assert table[11] == {1, 10}, "65537 has order 2 modulo 11"
    assert len(table[13]) == 6, "65537 is 4 modulo 13, which has order 6"
    chance = 1.0
    for prime, powers in table.items():
        chance *= len(powers) / (prime - 1)
    assert chance < 2**-27


CURVES = {"p256": (ec.SECP256R1(), 32), "p384": (ec.SECP384R1(), 48)}


@pytest.mark.parametrize("kind", CURVES)
def test_private_key_one_can_count_to(kind: str) -> None:
    curve, octets = CURVES[kind]
    order = {"p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551}.get(kind)
    for scalar in (1, 2, 32, *([order - 1, order - 32] if order else [])):
        key = ec.derive_private_key(scalar, curve).public_key()
        assert code(spki_of(key)) == "key.weak.ec.scalar"
    assert code(spki_of(ec.derive_private_key(seed(kind, octets) >> 2, curve).public_key())) == "ok"


@pytest.mark.parametrize("curve", [ec.SECP521R1(), ec.SECP256K1(), ec.BrainpoolP256R1(), ec.SECP192R1()])
def test_other_curves_are_no_kind_of_ours(curve: ec.EllipticCurve) -> None:
    assert code(spki_of(ec.generate_private_key(curve).public_key())) == "key.kind"


def test_explicit_curve_parameters_are_refused() -> None:
    """CVE-2020-0601: a key that brings its own generator."""
    algorithm = tlv(0x30, oid("1.2.840.10045.2.1"), tlv(0x30, tlv(2, b"\1")))
    assert code(tlv(0x30, algorithm, tlv(3, b"\0\4", bytes(64)))) == "key.kind"


def test_point_of_the_other_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert code(ec_spki(point)) == "key.weak.ec.form"


def test_ed25519_points_of_small_order_in_every_encoding() -> None:
    d = keycheck._D25519

    def double(point: tuple[int, int]) -> tuple[int, int]:
        x, y = point
        t = d * x * x * y * y
        return (2 * x * y * pow(1 + t, -1, P) % P, (y * y + x * x) * pow(1 - t, -1, P) % P)

    for y in keycheck._SMALL_ORDER_Y:
        square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * pow(2, (P - 1) // 4, P) % P
        assert x * x % P == square
        assert double(double(double((x, y)))) == (0, 1), "the table holds points of order 8 or less"
        for sign in (0, 1):
            encoded = (y | sign << 255).to_bytes(32, "little")
            assert code(ed_spki(encoded)) == "key.weak.ed25519.order"


@pytest.mark.parametrize("y", [P, P + 1, 2**255 - 1, 2])
def test_ed25519_encoding_that_is_no_point(y: int) -> None:
    assert code(ed_spki(y.to_bytes(32, "little"))) == "key.weak.ed25519.point"


@pytest.mark.parametrize("octets", [0, 31, 33])
def test_ed25519_of_another_length(octets: int) -> None:
    assert code(ed_spki(b"\x09" * octets)) == "key.weak.ed25519.point"


RFC_9500_RSA = (
    "MIIBCgKCAQEAsPnoGUOnrpiSqt4XynxA+HRP7S+BSObI6qJ7fQAVSPtRkqsotWxQYLEYzNEx5ZSHTGypibVsJylvCfuToDTfMul8b/CZjP2O"
    "b0LdpYrNH6l5hvFE89FU1nZQF15oVLOpUgA7wGiHuEVawrGfey92UE68mOyUVXGweJIVDdxqdMoPvNNUl86BU02vlBiESxOuox+dWmuVV7vf"
    "YZ79Toh/LUK43YvJh+rhv4nKuF7iHjVjBd9sB6iDjj70HFldzOQ9r8SRI+9NirupPTkF5AKNe6kUhKJ1luB7S27ZkvB3tSTT3P593VVJvnzO"
    "jaA1z6Cz+4+eRvcysqhrRgFlwI9TEwIDAQAB"
)
PRINTED = {
    "RFC 9500 P-256": ec.derive_private_key(
        0xE6CB5BDD80AA45AE9C95E8C15476679FFEC953C16851E711E743939589C64FC1, ec.SECP256R1()
    ),
    "RFC 9500 P-384": ec.derive_private_key(
        0xE2563328DFABF68188606B91324281C1D58A4456431B09D510B35FECC9F307CA1822846FA2671371A9A81BAC0E35749D,
        ec.SECP384R1(),
    ),
    "RFC 6979 P-256": ec.derive_private_key(
        0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1()
    ),
    "RFC 6979 P-384": ec.derive_private_key(
        0x6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5,
        ec.SECP384R1(),
    ),
    **{
        f"RFC 8032 / 8410 {hexadecimal[:8]}": ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(hexadecimal))
        for hexadecimal in (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842",
        )
    },
    **{
        f"RFC 9881 {kind.__name__}": kind.from_seed_bytes(bytes(range(32)))
        for kind in (mldsa.MLDSA44PrivateKey, mldsa.MLDSA65PrivateKey, mldsa.MLDSA87PrivateKey)
    },
}


@pytest.mark.parametrize("name", PRINTED)
def test_key_printed_in_a_standard_is_refused(name: str) -> None:
    assert code(spki_of(PRINTED[name].public_key())) == "key.weak.published"


def test_rsa_key_printed_in_rfc_9500_is_refused() -> None:
    key = base64.b64decode(RFC_9500_RSA)
    spki = tlv(0x30, tlv(0x30, oid("1.2.840.113549.1.1.1"), b"\5\0"), tlv(3, b"\0", key))
    assert code(spki) == "key.weak.published"


def test_every_printed_key_of_the_table_is_tested() -> None:
    assert len(PUBLISHED_KEYS) == len(PRINTED) + 1


def test_rfc_9881_key_is_the_one_printed_there() -> None:
    raw = PRINTED["RFC 9881 MLDSA44PrivateKey"].public_key().public_bytes_raw()
    assert raw.hex().startswith("d7b2b47254aae0db45e7930d4a98d2c9")


@pytest.mark.parametrize(
    "spki",
    [
        b"",
        b"\x30\x00",
        rsa_spki(MODULUS)[:-1],
        rsa_spki(MODULUS) + b"\0",
        tlv(0x30, tlv(0x30, oid("1.2.840.113549.1.1.1")), tlv(3, b"\0", b"\x30\0")),
        tlv(
            0x30,
            tlv(0x30, oid("1.2.840.113549.1.1.1"), b"\5\0"),
            tlv(3, b"\0", tlv(0x30, tlv(2, b"\x80"), tlv(2, b"\3"))),
        ),
        tlv(0x30, tlv(0x30, oid("1.3.101.112"), b"\5\0"), tlv(3, b"\0", bytes(32))),
        tlv(0x30, tlv(0x30, oid("1.3.101.112")), tlv(3, b"\1", bytes(32))),
        tlv(0x30, tlv(0x30), tlv(3, b"\0")),
    ],
)
def test_malformed_key_is_malformed(spki: bytes) -> None:
    assert code(spki) == "key.malformed"


SAMPLE = spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())


@settings(max_examples=400, deadline=None)
@given(place=st.integers(0, len(SAMPLE) - 1), bit=st.integers(0, 7), cut=st.integers(0, 3))
def test_spoilt_key_leaks_no_other_exception(place: int, bit: int, cut: int) -> None:
    spoilt = bytearray(SAMPLE)
    spoilt[place] ^= 1 << bit
    with pytest.raises(BirthmarkError):
        check_public_key(bytes(spoilt[: len(spoilt) - cut]))
