"""Policies: every rule of c2sp.org/tlog-policy, and heads that too few have seen."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import BirthmarkError, Misconfigured, Tampered
from birthmark.tlog.checkpoint import Checkpoint, sign
from birthmark.tlog.cosignature import cosign, encode_cosigner
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.tlog.policy import parse_policy

ORIGIN = "log.example/one"
NAMES = ("X1", "X2", "X3", "Y1", "Y2")


def _key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


LOG = _key(200)
LOG_LINE = f"log {encode_vkey(ORIGIN, public_octets(LOG))}\n"
KEYS = {name: _key(number) for number, name in enumerate(NAMES, 1)}
WITNESS_LINES = "".join(
    f"witness {name} {encode_cosigner('w.example/' + name, public_octets(key))}\n" for name, key in KEYS.items()
)
TWO_LEVELS = (
    LOG_LINE + WITNESS_LINES + "group X 2 X1 X2 X3\n  group\tY any Y1 Y2 \n# both\n\ngroup both all X Y\nquorum both\n"
)


def note(*witnesses: str, size: int = 9) -> bytes:
    signed = sign(Checkpoint(ORIGIN, size, bytes(32)), LOG)
    body = signed.partition("\n\n")[0] + "\n"
    return (signed + "".join(cosign(body, f"w.example/{n}", KEYS[n], timestamp=1) for n in witnesses)).encode()


@pytest.mark.parametrize(
    ("witnesses", "accepted"),
    [
        (("X1", "X2", "Y1"), True),
        (("X3", "X2", "Y2"), True),
        (NAMES, True),
        (("X1", "X2", "X3"), False),
        (("X1", "Y1", "Y2"), False),
        (("X1", "X1", "Y1"), False),
        ((), False),
    ],
)
def test_the_two_level_example_of_the_specification(witnesses: tuple[str, ...], accepted: bool) -> None:
    policy = parse_policy(TWO_LEVELS.encode())
    if accepted:
        head, found = policy.open_checkpoint(note(*witnesses))
        assert (head.size, len(found)) == (9, len(set(witnesses)))
        return
    with pytest.raises(Tampered) as caught:
        policy.open_checkpoint(note(*witnesses))
    assert caught.value.code == "witness.quorum"


def test_a_quorum_of_one_witness_and_of_none() -> None:
    one = parse_policy((LOG_LINE + WITNESS_LINES + "quorum Y1\n").encode())
    assert one.open_checkpoint(note("Y1"))[0].size == 9
    with pytest.raises(Tampered):
        one.open_checkpoint(note("X1"))
    assert parse_policy((LOG_LINE + "quorum none\n").encode()).open_checkpoint(note())[0].size == 9


def test_witnesses_do_not_stand_in_for_the_log() -> None:
    policy = parse_policy((LOG_LINE + WITNESS_LINES + "quorum Y1\n").encode())
    forged = sign(Checkpoint(ORIGIN, 9, bytes(32)), _key(201))
    line = cosign(forged.partition("\n\n")[0] + "\n", "w.example/Y1", KEYS["Y1"], timestamp=1)
    with pytest.raises(Tampered) as caught:
        policy.open_checkpoint((forged + line).encode())
    assert caught.value.code == "log.note.unsigned"
    stranger = sign(Checkpoint("other.example", 9, bytes(32)), LOG)
    with pytest.raises(Tampered) as caught:
        policy.open_checkpoint(stranger.encode())
    assert caught.value.code == "witness.log"


@pytest.mark.parametrize(
    "text",
    [
        "",  # exactly one quorum line
        "quorum none\nquorum none\n",
        "quorum X1\n",  # defined before
        "quorum X1\n" + WITNESS_LINES,
        WITNESS_LINES + "group A all\nquorum A\n",  # at least one member
        WITNESS_LINES + "group A 0 X1\nquorum A\n",  # 1 <= k <= n
        WITNESS_LINES + "group A 2 X1\nquorum A\n",
        WITNESS_LINES + "group A 01 X1\nquorum A\n",
        WITNESS_LINES + "group A all A\nquorum A\n",
        WITNESS_LINES + "group A all X1\ngroup B all X1\nquorum B\n",  # a member once
        WITNESS_LINES + "group A all X1 X1\nquorum A\n",
        WITNESS_LINES + "group A all none\nquorum A\n",
        WITNESS_LINES + "group none all X1\nquorum none\n",  # one name space
        WITNESS_LINES + "group X1 all X2\nquorum X1\n",
        WITNESS_LINES + WITNESS_LINES.replace("X1", "Z1") + "quorum none\n",  # duplicate key
        LOG_LINE + LOG_LINE + "quorum none\n",
        LOG_LINE.replace("log", "witness W", 1) + "quorum none\n",  # key types
        "log " + WITNESS_LINES.split("\n")[0].split(" ")[2] + "\nquorum none\n",
        "quorum none extra\n",
        "Quorum none\n",
        "quorum none\r\n",
        "quorum\u00a0none\n",
        "quorum none\n\x00",
    ],
)
def test_a_policy_against_the_rules_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured):
        parse_policy(text.encode())


def test_names_are_octets() -> None:
    """A Kelvin sign is no K, and what is no UTF-8 is a name all the same."""
    vkey = WITNESS_LINES.split("\n")[0].split(" ")[2].encode()
    with pytest.raises(Misconfigured):
        parse_policy(b"witness K " + vkey + b"\nquorum \xe2\x84\xaa\n")
    assert parse_policy(b"witness \xff\xfe " + vkey + b"\nquorum \xff\xfe\n").quorum


@given(st.binary(max_size=200))
def test_a_strangers_policy_is_read_or_refused_by_name(data: bytes) -> None:
    try:
        parse_policy(data)
    except BirthmarkError as problem:
        assert problem.code  # noqa: PT017  both ends are good
