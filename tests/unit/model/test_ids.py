"""Identifiers: what cannot be one never becomes one, and is shown harmless."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import Refused
from birthmark.model.ids import parse_attempt_id, parse_device_serial, parse_order_id, parse_site_id, parse_station_id
from birthmark.model.secret import Secret

PARSERS: dict[Callable[[str], str], str] = {
    parse_device_serial: "device.serial.malformed",
    parse_order_id: "order.name.malformed",
    parse_station_id: "station.name.malformed",
    parse_site_id: "site.name.malformed",
    parse_attempt_id: "attempt.id.malformed",
}


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text(max_size=70))
def test_any_text_is_taken_as_it_is_or_refused_by_name(parse: Callable[[str], str], text: str):
    refusals: list[Refused] = []
    try:
        assert parse(text) == text
    except Refused as refused:
        refusals.append(refused)
    for refused in refusals:
        assert refused.code == PARSERS[parse]
        assert all(value.isascii() for value in refused.facts.values() if isinstance(value, str))
    if not refusals:
        assert text.isascii()
        assert text.isprintable()
        assert 1 <= len(text) <= (97 if parse is parse_station_id else 64)
        # At an authority a station is called SITE/STATION; no other name has a slash.
        parts = text.split("/") if parse is parse_station_id else [text]
        assert len(parts) <= 2
        assert all(parts)
        assert not set("".join(parts)) & set(" /\\\"'$;|&<>*?\n")


@pytest.mark.parametrize("text", ["A", "SN-1", "a.b_c:d-e", "x" * 64, "0"])
def test_device_serials(text: str):
    assert parse_device_serial(text) == text


@pytest.mark.parametrize("text", ["", "x" * 65, ".a", "a.", "..", "a b", "a\n", "\na", "ä", "\u0661", "a\0", "a/../b"])
def test_what_is_no_device_serial(text: str):
    with pytest.raises(Refused):
        parse_device_serial(text)


@pytest.mark.parametrize("text", ["A", "a_b", "-a", "a-", "a" * 49, "", "a\n", "con.txt"])
@pytest.mark.parametrize("parse", [parse_order_id, parse_station_id])
def test_what_is_no_name(parse: Callable[[str], str], text: str):
    with pytest.raises(Refused):
        parse(text)


@pytest.mark.parametrize("text", ["a/b/c", "/a", "a/", "../a", "a/..", "a//b", "A/b"])
def test_what_is_no_station(text: str):
    with pytest.raises(Refused):
        parse_station_id(text)


@pytest.mark.parametrize("text", ["1234567", "a" * 65, "attempt_1", "attempt 1", "attempt-1\n"])
def test_what_is_no_attempt_id(text: str):
    with pytest.raises(Refused):
        parse_attempt_id(text)


def test_a_secret_shows_nothing():
    import pickle

    secret = Secret(b"hunter2")
    assert "hunter2" not in f"{secret!r} {secret} {[secret]} { ({'a': secret}) }"
    assert secret.reveal() == b"hunter2"
    assert secret
    assert not Secret(b"")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(AttributeError):
        secret.other = 1  # type: ignore[attr-defined]
