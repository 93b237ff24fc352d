"""The recogniser of the usual request: what it says yes to, the full parser reads alike; all else is the parser's."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import Refused
from birthmark.pki import csr as parsing
from birthmark.pki.csr import Csr, parse_csr, plain_csr
from birthmark.pki.csrplain import recognise
from birthmark.pki.der import integer, oid, tlv

FOLDER = Path(__file__).parents[2] / "vectors/csr"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".pem", ".der"))
KEY = ec.derive_private_key(0x1234567890ABCDEF << 128, ec.SECP256R1())
TEXT = st.text("ABCabc019 '()+,-./:=?", min_size=1, max_size=64)


def full(der: bytes) -> Csr | str:
    """What the full parser says."""
    try:
        return parsing._parse_any(der)
    except Refused as refusal:
        return refusal.code


def same(der: bytes) -> bool:
    """Hold the recogniser against the full parser; tell whether it recognised the request."""
    plain = plain_csr(der)
    if plain is not None:
        read = full(der)
        assert isinstance(read, Csr), read
        for name in Csr.__dataclass_fields__:
            one, other = getattr(plain, name), getattr(read, name)
            if name == "extensions":
                one, other = list(one), list(other)
            assert one == other, name
    return plain is not None


def request(*names: tuple[x509.ObjectIdentifier, str], extensions: bool = False, key: object = KEY) -> bytes:
    subject = x509.Name([x509.NameAttribute(*name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if extensions:
        names_too = x509.SubjectAlternativeName([x509.DNSName("a.example")])
        builder = builder.add_extension(names_too, critical=False)
    return builder.sign(key, SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)  # type: ignore[arg-type]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_vector_is_read_alike(file: Path):
    data = file.read_bytes()
    try:
        der = parsing._to_der(data)
    except Refused:
        return
    same(der)


def test_the_plain_vectors_are_recognised():
    good = [path for path in FILES if path.stem.startswith("good_")]
    found = {path.stem for path in good if same(parsing._to_der(path.read_bytes()))}
    assert any("p256" in name for name in found), found


@given(TEXT, st.sampled_from([NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_devices_send_is_recognised(text: str, name: x509.ObjectIdentifier, extensions: bool):
    assert same(request((name, text), extensions=extensions))


def test_an_empty_subject_is_recognised():
    assert same(request())


@pytest.mark.parametrize(
    "der",
    [
        request((NameOID.COMMON_NAME, "A"), key=ec.derive_private_key(7 << 200, ec.SECP384R1())),
        request((NameOID.COMMON_NAME, "A"), (NameOID.SERIAL_NUMBER, "B")),
        request((NameOID.ORGANIZATION_NAME, "A")),
        request((NameOID.COMMON_NAME, "Ä")),
        request((NameOID.COMMON_NAME, "A"), key=ec.derive_private_key(1, ec.SECP256R1())),
        request((NameOID.COMMON_NAME, "A"))[:-1] + b"\0",
        request((NameOID.COMMON_NAME, "A")) + b"\0",
        b"",
        b"\x30\x00",
    ],
)
def test_what_is_odd_is_left_to_the_parser(der: bytes):
    assert plain_csr(der) is None


@st.composite
def odd_names(draw: st.DrawFn) -> bytes:
    value = draw(st.one_of(TEXT.map(str.encode), st.binary(max_size=70)))
    tag = draw(st.sampled_from([0x0C, 0x13, 0x16, 0x1E, 0x14]))
    kind = draw(st.sampled_from(["2.5.4.3", "2.5.4.5", "2.5.4.10"]))
    pair = tlv(0x30, oid(kind) + tlv(tag, value))
    return tlv(0x30, draw(st.sampled_from([b"", tlv(0x31, pair), tlv(0x31, pair) * 2, tlv(0x31, pair * 2)])))


@st.composite
def odd_attributes(draw: st.DrawFn) -> bytes:
    extension = tlv(0x30, oid("2.5.29.15") + tlv(0x04, draw(st.sampled_from([b"\x03\x02\x07\x80", b"\x05\x00"]))))
    value = tlv(0x30, draw(st.sampled_from([b"", extension, extension * 2, b"\x05\x00"])))
    values = tlv(0x31, draw(st.sampled_from([b"", value, value * 2])))
    kind = draw(st.sampled_from(["1.2.840.113549.1.9.14", "1.2.840.113549.1.9.7"]))
    attribute = tlv(0x30, oid(kind) + values + draw(st.sampled_from([b"", b"\x05\x00"])))
    return tlv(0xA0, draw(st.sampled_from([b"", attribute, attribute * 2])))


@given(odd_names(), odd_attributes(), st.sampled_from([0, 1, 2]))
@settings(max_examples=400, deadline=None)
def test_signed_requests_of_any_shape_are_read_alike(name: bytes, attributes: bytes, version: int):
    spki = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    info = tlv(0x30, bytes((2, 1, version)) + name + spki + attributes)
    signature = KEY.sign(info, ec.ECDSA(SHA256(), deterministic_signing=True))
    same(tlv(0x30, info + tlv(0x30, oid("1.2.840.10045.4.3.2")) + tlv(0x03, b"\0" + signature)))


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_changed_octet_never_makes_a_difference(data: st.DataObject):
    der = bytearray(request((NameOID.COMMON_NAME, "SN-0001"), extensions=data.draw(st.booleans())))
    at = data.draw(st.integers(0, len(der) - 1))
    change = data.draw(st.sampled_from(["set", "insert", "delete"]))
    octet = data.draw(st.integers(0, 255))
    if change == "set":
        der[at] = octet
    elif change == "insert":
        der.insert(at, octet)
    else:
        del der[at]
    same(bytes(der))


@given(st.integers(0, 2**264 - 1), st.integers(0, 2**264 - 1), st.integers(0, 2), st.integers(0, 2))
@settings(max_examples=200, deadline=None)
def test_no_spelling_of_a_signature_makes_a_difference(r: int, s: int, pad_r: int, pad_s: int):
    whole = request((NameOID.COMMON_NAME, "SN-0001"))
    end = whole.index(tlv(0x30, oid("1.2.840.10045.4.3.2"))) + 12
    numbers = [tlv(0x02, bytes(pad) + integer(number)[2:]) for number, pad in ((r, pad_r), (s, pad_s))]
    bits = tlv(0x03, b"\0" + tlv(0x30, b"".join(numbers)))
    same(tlv(0x30, whole[3:end] + bits))


def test_the_recogniser_gives_the_signed_octets():
    der = request((NameOID.COMMON_NAME, "SN-0001"))
    parts = recognise(der)
    assert parts is not None
    assert parts.info == x509.load_der_x509_csr(der).tbs_certrequest_bytes
    assert parse_csr(der).info == parts.info
