"""Heads of other logs, heads that say more than three lines, heads that cannot be."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import Refused, Tampered
from birthmark.tlog.checkpoint import Checkpoint, open_checkpoint, parse, sign
from birthmark.tlog.merkle import EMPTY_ROOT
from birthmark.tlog.note import encode_vkey, parse_vkey, public_octets, sign_note

ORIGIN = "birthmark/example/site-1"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
VKEY = encode_vkey(ORIGIN, public_octets(KEY))
ROOT = bytes(range(32))
BODY = f"{ORIGIN}\n42\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"


def test_a_head_is_three_lines_and_comes_back():
    head = Checkpoint(ORIGIN, 42, ROOT)
    assert head.body() == BODY
    assert parse(BODY) == head
    assert open_checkpoint(sign(head, KEY), ORIGIN, VKEY) == head
    assert open_checkpoint(sign(head, KEY).encode(), ORIGIN, parse_vkey(VKEY)) == head


def test_the_specification_s_example_is_read():
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    head = parse(text)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert head.body() == text


def test_extension_lines_are_read_over_and_never_written():
    head = open_checkpoint(sign_note(BODY + "extension\nmore\n", ORIGIN, KEY), ORIGIN, VKEY)
    assert head.body() == BODY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        BODY[:-1],
        f"{ORIGIN}\n42\n",
        BODY.replace("42", "042"),
        BODY.replace("42", "+42"),
        BODY.replace("42", "-42"),
        BODY.replace("42", " 42"),
        BODY.replace("42", "4_2"),
        BODY.replace("42", "٤٢"),
        BODY.replace("42", "42.0"),
        BODY.replace("42", ""),
        BODY.replace("42", "00"),
        BODY.replace("42", "0"),
        BODY.replace("42", str(2**63)),
        BODY.replace("42", "9" * 5000),
        BODY.replace("8=", "8"),
        BODY.replace("8=", "9="),
        BODY.replace("AAEC", ""),
        BODY.replace("AAEC", "!!!!"),
        BODY.replace(ORIGIN, ""),
        BODY.replace(ORIGIN, "a\x07"),
        BODY + "\n",
        BODY + "\nmore\n",
        BODY + "more",
    ],
)
def test_what_is_not_a_head_is_rejected(text):
    with pytest.raises(Tampered) as caught:
        parse(text)
    assert caught.value.code == "log.checkpoint.malformed"


@given(st.text(st.characters() | st.sampled_from("\n0123456789A=")))
def test_no_text_breaks_the_head_reader(text):
    with pytest.raises(Tampered):
        parse(text)


def test_the_head_of_another_log_under_the_same_key_is_rejected():
    note = sign_note(BODY.replace("site-1", "site-2"), ORIGIN, KEY)
    with pytest.raises(Tampered) as caught:
        open_checkpoint(note, ORIGIN, VKEY)
    assert caught.value.code == "log.checkpoint.origin"


def test_the_head_signed_by_another_key_is_rejected():
    note = sign(Checkpoint(ORIGIN, 42, ROOT), Ed25519PrivateKey.from_private_bytes(b"\x08" * 32))
    with pytest.raises(Tampered) as caught:
        open_checkpoint(note, ORIGIN, VKEY)
    assert caught.value.code == "log.note.unsigned"


@pytest.mark.parametrize(
    "value",
    [
        ("", 1, ROOT),
        ("a\nb", 1, ROOT),
        ("\ud800", 1, ROOT),
        (ORIGIN, -1, ROOT),
        (ORIGIN, 2**63, ROOT),
        (ORIGIN, 1, ROOT[:31]),
        (ORIGIN, 0, ROOT),
    ],
)
def test_a_head_that_cannot_be_is_never_made(value):
    with pytest.raises(Refused) as caught:
        Checkpoint(*value)
    assert caught.value.code == "log.checkpoint.value"


def test_the_empty_log_has_a_head():
    assert parse(Checkpoint(ORIGIN, 0, EMPTY_ROOT).body()).size == 0


def test_an_origin_that_cannot_name_a_key_is_not_signed():
    with pytest.raises(Refused) as caught:
        sign(Checkpoint("our log", 42, ROOT), KEY)
    assert caught.value.code == "log.key.name"
