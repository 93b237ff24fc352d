"""Notes unsigned, signed by a stranger, signed wrongly, or with something between the lines."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import Misconfigured, Refused, Tampered
from birthmark.tlog.note import (
    ED25519,
    VerifierKey,
    decode_base64,
    encode_vkey,
    is_key_name,
    key_id,
    open_note,
    parse_vkey,
    public_octets,
    sign_note,
)

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
NAME = "example.com/log"
VERIFIER = VerifierKey(NAME, public_octets(KEY))
TEXT = "one\n\ntwo\n"
NOTE = sign_note(TEXT, NAME, KEY)


def test_published_notes_are_ours(vectors):
    document = vectors("signed_note.json")
    keys, lines = [], []
    for signer in document["signers"]:
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(signer["seed"]))
        assert encode_vkey(signer["name"], public_octets(private)) == signer["vkey"]
        note = f"{document['text']}\n{signer['line']}\n"
        assert sign_note(document["text"], signer["name"], private) == note
        keys.append(parse_vkey(signer["vkey"]))
        lines.append(signer["line"])
        assert open_note(note, keys) == (document["text"], (signer["name"],))
    both = document["text"] + "\n" + "".join(f"{line}\n" for line in lines)
    assert open_note(both, keys) == (document["text"], ("PeterNeumann", "EnochRoot"))


def test_the_text_may_hold_blank_lines():
    assert open_note(NOTE, [VERIFIER]) == (TEXT, (NAME,))
    assert open_note(NOTE.encode(), [VERIFIER]) == (TEXT, (NAME,))


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_any_text_comes_back(text):
    note = sign_note(text + "\n", NAME, KEY)
    assert open_note(note.encode(), [VERIFIER]) == (text + "\n", (NAME,))


def test_signatures_of_strangers_are_read_over():
    stranger = sign_note(TEXT, "witness.example", OTHER).rpartition("\n\n")[2]
    namesake = sign_note(TEXT, NAME, OTHER).rpartition("\n\n")[2]
    other_type = f"— {NAME} {base64.b64encode(b'1234' + bytes(2420)).decode()}\n"
    note = NOTE.replace("\n— ", f"\n{stranger}{namesake}{other_type}— ")
    assert open_note(note, [VERIFIER]) == (TEXT, (NAME,))


def test_a_note_of_strangers_only_is_not_trusted():
    with pytest.raises(Tampered) as caught:
        open_note(sign_note(TEXT, NAME, OTHER), [VERIFIER])
    assert caught.value.code == "log.note.unsigned"
    with pytest.raises(Tampered):
        open_note(NOTE, [])


def test_a_good_signature_does_not_save_a_wrong_one():
    identity = key_id(NAME, ED25519, VERIFIER.public)
    for signature in (bytes(64), bytes(63), b"x"):
        line = f"— {NAME} {base64.b64encode(identity + signature).decode()}\n"
        for note in (NOTE + line, NOTE.replace("\n— ", f"\n{line}— ")):
            with pytest.raises(Tampered) as caught:
                open_note(note, [VERIFIER])
            assert caught.value.code == "log.note.signature"


@given(st.integers(0, len(NOTE.encode()) * 8 - 1))
def test_no_flipped_bit_passes(bit):
    data = bytearray(NOTE.encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Tampered):
        open_note(bytes(data), [VERIFIER])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        "text\n",
        "text\n\n",
        TEXT,
        NOTE[:-1],
        NOTE + "\n",
        NOTE + "text\n",
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("one", "o\tne"),
        NOTE.replace("one", "o\x00ne"),
        NOTE.replace("one", "\ud800"),
        NOTE.replace("— ", "- "),
        NOTE.replace("— ", "—  "),
        NOTE.replace(NAME, ""),
        NOTE.replace(NAME, "a+b"),
        NOTE.replace(NAME, "a\u00a0b"),
        NOTE.replace("=\n", "\n"),
        NOTE.replace("=\n", "==\n"),
        f"text\n\n— {NAME} \n",
        f"text\n\n— {NAME} AAAAAA==\n",
        f"text\n\n— {NAME} AAAAAAB=\n",
        f"text\n\n— {NAME} äöü\n",
        "text\n\n" + f"— {NAME} AAAAAAA=\n" * 101,
        NOTE.replace("one", "1" * 1_000_001),
        NOTE.encode().replace(b"one", b"\xff"),
        NOTE.encode().replace(b"one", b"\xed\xa0\x80"),
    ],
)
def test_what_is_not_a_note_is_rejected(note):
    with pytest.raises(Tampered) as caught:
        open_note(note, [VERIFIER])
    assert caught.value.code == "log.note.malformed"


def test_sixteen_large_signatures_are_accepted():
    line = f"— witness.example {base64.b64encode(bytes(5000)).decode()}\n"
    assert open_note(NOTE + line * 16, [VERIFIER]) == (TEXT, (NAME,))


@given(st.text() | st.binary())
def test_no_text_breaks_the_note_reader(note):
    with pytest.raises(Tampered):
        open_note(note, [VERIFIER])


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "\x00\n", "\ud800\n", "cr\r\n"])
def test_what_cannot_be_a_note_is_not_signed(text):
    with pytest.raises(Refused) as caught:
        sign_note(text, NAME, KEY)
    assert caught.value.code == "log.note.text"


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "a\u0085b", "a\x1fb", "\ud800"])
def test_a_name_that_would_break_the_line_is_refused(name):
    assert not is_key_name(name)
    with pytest.raises(Refused) as caught:
        sign_note(TEXT, name, KEY)
    assert caught.value.code == "log.key.name"
    with pytest.raises(Refused):
        encode_vkey(name, VERIFIER.public)


VKEY = encode_vkey(NAME, VERIFIER.public)


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "++",
        VKEY + "\n",
        " " + VKEY,
        VKEY.upper(),
        VKEY[:-1],
        VKEY.replace("log", "lag"),
        VKEY.replace("+Ae", "+Be"),
        f"{NAME}+{key_id(NAME, 4, VERIFIER.public).hex()}+" + base64.b64encode(b"\x04" + VERIFIER.public).decode(),
        f"{NAME}+{key_id(NAME, 1, b'x').hex()}+AXg=",
        "PRIVATE+KEY+" + VKEY,
    ],
)
def test_a_mistyped_verifier_key_is_noticed(vkey):
    with pytest.raises(Misconfigured) as caught:
        parse_vkey(vkey)
    assert caught.value.code == "log.vkey.malformed"


@given(st.text())
def test_no_text_breaks_the_verifier_key_reader(vkey):
    with pytest.raises(Misconfigured):
        parse_vkey(vkey)


def test_two_keys_behind_one_id_are_not_guessed_between():
    class Colliding(VerifierKey):
        @property
        def key_id(self) -> bytes:
            return VERIFIER.key_id

    with pytest.raises(Misconfigured) as caught:
        open_note(NOTE, [VERIFIER, VERIFIER, Colliding(NAME, public_octets(OTHER))])
    assert caught.value.code == "log.vkey.ambiguous"


@pytest.mark.parametrize("text", ["AA", "AA=", "AB==", "AA==\n", "AA==AA==", "A A=", "-_==", "é"])
def test_base64_has_one_spelling(text):
    assert decode_base64(text) is None
