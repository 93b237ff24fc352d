"""The quick way to a certificate's key gives what the whole parser gives, also after a certificate of another shape."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import Refused
from birthmark.pki.algorithms import ALGORITHMS
from birthmark.pki.certread import SpkiReader, open_parts


def certificate(name: str, *units: str, algorithm: str = "p256") -> bytes:
    key = ALGORITHMS["p256"].generate()
    above = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units]
    subject = x509.Name([*above, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = x509.CertificateBuilder(
        subject, subject, ALGORITHMS[algorithm].generate().public_key(), len(name) << 8 | 1,
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2046, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    return built.sign(key, SHA256()).public_bytes(Encoding.DER)


SAMPLES = [certificate(name, algorithm=algorithm) for algorithm in ("p256", "p384", "rsa2048", "ed25519")
           for name in ("a", "b", "a longer name", "x" * 64)]  # fmt: skip


def test_key_is_that_of_the_parser_in_any_order() -> None:
    reader = SpkiReader()
    for der in (*SAMPLES, *SAMPLES[::-1], *SAMPLES[::3]):
        key = x509.load_der_x509_certificate(der).public_key()
        assert reader.spki(der) == key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_certificate_is_read_that_ends_before_the_key_of_the_last_one_began() -> None:
    reader = SpkiReader()
    long = certificate(*["u" * 64] * 6)
    assert reader.spki(long) == open_parts(long).spki
    assert reader.spki(SAMPLES[0]) == open_parts(SAMPLES[0]).spki


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SAMPLES), st.integers(0, 300), st.binary(min_size=1, max_size=3))
def test_mangled_certificate_is_refused_or_read_alike(der: bytes, at: int, octets: bytes) -> None:
    """A reader that remembers another certificate answers as one that remembers nothing."""
    mangled = der[:at] + octets + der[at + len(octets) :]
    used, new = SpkiReader(), SpkiReader()
    used.spki(der)
    assert outcome(used, mangled) == outcome(new, mangled)
    assert used.spki(SAMPLES[0]) == open_parts(SAMPLES[0]).spki


def outcome(reader: SpkiReader, der: bytes) -> bytes | str:
    try:
        return reader.spki(der)
    except Refused as problem:
        return problem.code


@pytest.mark.parametrize(
    "data", [b"", b"0", b"0\x82", b"0\x82\0\0", b"0\x03abc", bytes(40), b"\x30\x82\x00\x02\x30\x80"]
)
def test_what_is_no_certificate_is_named(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        SpkiReader().spki(data)
    assert caught.value.code == "der.malformed"
