"""A plan means what it shows, octet by octet, or it is no plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import BirthmarkError, Refused, Tampered
from birthmark.tlog.note import encode_vkey, parse_vkey, public_octets
from birthmark.wire.approval import Plan, add_signature, open_plan, parse_plan, plan_text
from birthmark.workflow.authority.approval import ACTIONS

ROOT = Path(__file__).resolve().parents[3]
UNTIL, NONCE = "2026-11-28T18:30:00.000Z", "0f" * 16


def plan(**facts: str) -> Plan:
    return Plan(action="device.rework", origin="acme.example/log", facts=facts, valid_until=UNTIL, nonce=NONCE)


def test_the_text_is_what_the_document_shows() -> None:
    assert plan(reason="antenna broken", device="TH-1").text() == (
        "birthmark-approval-plan/1\naction: device.rework\norigin: acme.example/log\n"
        f"valid-until: {UNTIL}\nnonce: {NONCE}\n  device: TH-1\n  reason: antenna broken\n"
    )


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), st.text(min_size=1, max_size=40)))
def test_what_can_be_written_reads_back_the_same(facts: dict[str, str]) -> None:
    try:
        made = plan(**facts)
    except Refused:
        return
    assert parse_plan(made.text()) == made


@pytest.mark.parametrize(
    "value",
    ["", " x", "x ", "a\nnonce: 0", "a\tb", "\u202etxt.exe", "zero\u200bwidth", "a\u2028b", "x" * 1001, "\x1b[2J"],
)
def test_a_value_that_shows_other_than_it_is_cannot_be_planned(value: str) -> None:
    with pytest.raises(Refused) as caught:
        plan(reason=value)
    assert caught.value.code == "approval.plan.value"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  device", "device"),
        ("  device: TH-1\n  reason: r\n", "  reason: r\n  device: TH-1\n"),
        ("  reason: r\n", "  reason: r\n  reason: s\n"),
        ("  reason: r\n", "  reason: r"),
        ("action", "Action"),
        ("plan/1", "plan/2"),
        ("nonce: 0f", "nonce: 0F"),
        ("\n  device", "\r\n  device"),
        ("TH-1", "TH-1 "),
    ],
)
def test_another_spelling_is_no_plan(old: str, new: str) -> None:
    text = plan(device="TH-1", reason="r").text()
    with pytest.raises(Tampered) as caught:
        parse_plan(text.replace(old, new, 1))
    assert caught.value.code == "approval.plan.malformed"


@given(st.binary(max_size=300))
def test_a_strangers_file_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BirthmarkError) as caught:
        open_plan(data, ())
    assert caught.value.code == "approval.plan.malformed"


def test_a_second_text_behind_the_signatures_is_refused() -> None:
    key = Ed25519PrivateKey.generate()
    alice = parse_vkey(encode_vkey("alice", public_octets(key)))
    made = plan(device="TH-1", reason="r")
    signed = add_signature(made.text().encode(), made.text(), "alice", key)
    assert open_plan(signed, [alice]) == (made, ("alice",))
    other = plan(device="TH-2", reason="r").text().encode()
    with pytest.raises(BirthmarkError):
        open_plan(other + b"\n" + signed, [alice])
    assert plan_text(signed) == made.text()


def test_the_page_lists_the_acts_of_the_code() -> None:
    page = (ROOT / "docs" / "formats" / "approval.md").read_text()
    for name, action in ACTIONS.items():
        facts = " ".join(f"`{fact}`" for fact in sorted(action.facts))
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert facts in row
        assert action.what in row
        assert ("| resumes |" in row) == action.resumes
