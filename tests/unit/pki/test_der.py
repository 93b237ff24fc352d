from __future__ import annotations

from datetime import UTC, datetime

import pytest
from asn1crypto import core, x509
from hypothesis import given
from hypothesis import strategies as st

from birthmark.pki import der
from birthmark.pki.der import Hole

LENGTHS = {Hole.CERT_SERIAL: 16, Hole.DEVICE_SERIAL: 120, Hole.SPKI: 300, Hole.KEY_ID: 20}


@given(st.integers(0, 2**200))
def test_integer_is_what_asn1crypto_reads(value: int) -> None:
    assert core.Integer.load(der.integer(value), strict=True).native == value
    assert core.Integer(value).dump() == der.integer(value)


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 2**70), max_size=12))
def test_oid_is_what_asn1crypto_writes(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    assert der.oid(dotted) == core.ObjectIdentifier(dotted).dump()


def test_oid_with_a_large_second_arc() -> None:
    assert der.oid("2.999.3") == bytes.fromhex("0603883703")  # X.690, 8.19.5


@pytest.mark.parametrize(
    ("length", "octets"),
    [(0, "00"), (127, "7f"), (128, "8180"), (255, "81ff"), (256, "820100"), (65535, "82ffff"), (65536, "83010000")],
)
def test_length_is_the_shortest(length: int, octets: str) -> None:
    assert der.length_octets(length) == bytes.fromhex(octets)
    assert der.tlv(0x04, bytes(length)) == core.OctetString(bytes(length)).dump()


@given(st.sets(st.integers(0, 8), min_size=1))
def test_named_bits_drop_trailing_zeros(positions: set[int]) -> None:
    names = sorted(x509.KeyUsage._map.items())
    wanted = {name for position, name in names if position in positions}
    assert der.named_bits(positions) == x509.KeyUsage(wanted).dump()


@pytest.mark.parametrize(
    ("moment", "octets"),
    [
        (datetime(1950, 1, 1, tzinfo=UTC), b"\x17\x0d500101000000Z"),
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x18\x0f99991231235959Z"),
    ],
)
def test_time_changes_its_form_in_2050(moment: datetime, octets: bytes) -> None:
    assert der.time(moment) == octets


def test_empty_sequence() -> None:
    assert der.sequence() == b"\x30\x00"
    assert der.sequence(b"", b"") == b"\x30\x00"


def test_neighbouring_octets_become_one() -> None:
    assert der.merge([b"a", b"b", Hole.SPKI, b"", b"c"]) == (b"ab", Hole.SPKI, b"c")


def test_a_hole_moves_every_length_around_it() -> None:
    part = der.sequence(b"\x05\x00", der.nested(0x31, der.octet_string(Hole.DEVICE_SERIAL)))
    for length in (1, 100, 126, 127, 128, 300):
        settled = der.settle((part,), LENGTHS | {Hole.DEVICE_SERIAL: length})
        filled = b"".join(bytes(length) if isinstance(each, Hole) else each for each in settled)
        expected = der.tlv(0x30, b"\x05\x00" + der.tlv(0x31, der.tlv(0x04, bytes(length))))
        assert filled == expected
        assert der.size((part,), LENGTHS | {Hole.DEVICE_SERIAL: length}) == len(expected)


def test_settling_leaves_what_still_depends_on_the_device_serial() -> None:
    part = der.sequence(der.sequence(Hole.SPKI), der.sequence(Hole.DEVICE_SERIAL))
    (settled,) = der.settle((part,), {Hole.SPKI: 3})
    assert settled == der.Nested(0x30, (b"\x30\x03", Hole.SPKI, der.Nested(0x30, (Hole.DEVICE_SERIAL,))))
