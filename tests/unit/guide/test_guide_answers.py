"""A file of answers is strict: what is not a question or not a choice is refused, with the list of what is."""

from __future__ import annotations

from typing import get_type_hints

import msgspec
import pytest
from guidecases import CHOICES
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import Misconfigured
from birthmark.guide.answers import Answers, Facts, checked_value, parse_answers
from birthmark.guide.questions import DECISIONS, FACTS, Question, default_of

SIX = """\
root = "self_managed"
storage = "hsm"
connectivity = "online"
audit = "none"
validity = "rolled"
registration = "export"
"""


def refused(text: str | bytes) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        parse_answers(text.encode() if isinstance(text, str) else text)
    return caught.value


def test_decisions_alone_are_enough() -> None:
    answers = parse_answers(SIX.encode())
    assert answers.facts == Facts()
    assert (answers.when_to_generate, answers.when_to_install) == ("derive", "derive")


def test_unknown_question_is_refused_and_the_known_ones_are_listed() -> None:
    problem = refused(SIX + 'colour = "blue"\n')
    assert (problem.code, problem.facts["key"]) == ("guide.answers.key.unknown", "colour")
    assert problem.facts["allowed"] == list(Answers.__struct_fields__)


def test_unknown_fact_is_refused_and_the_known_ones_are_listed() -> None:
    problem = refused(SIX + '[facts]\nsame_key_for_all = "yes"\n')
    assert (problem.code, problem.facts["key"]) == ("guide.answers.key.unknown", "facts.same_key_for_all")
    assert problem.facts["allowed"] == list(Facts.__struct_fields__)


def test_unknown_choice_is_refused_and_the_choices_are_listed() -> None:
    problem = refused(SIX.replace('"hsm"', '"eeprom"'))
    assert (problem.code, problem.facts["key"]) == ("guide.answers.value", "storage")
    assert problem.facts["allowed"] == list(CHOICES["storage"])


def test_missing_decisions_are_named_together() -> None:
    problem = refused('root = "self_managed"\naudit = "none"\n')
    assert problem.code == "guide.answers.key.missing"
    assert problem.facts["missing"] == ["storage", "connectivity", "validity", "registration"]


@pytest.mark.parametrize(
    "line",
    [
        "device_count = 0",
        "device_count = -1",
        "device_count = 1.5",
        'device_count = "1000"',
        "device_count = true",
        "device_count = 99999999999999999999999999",
        "lead_days = 4000",
        "certificate_days = 40000",
        'update_path = "maybe"',
        "update_path = true",
        'device_name_example = ""',
        'device_name_example = "sn\\u001b[2J"',
        'device_name_example = "sn\\n1"',
        'first_request_on = "tomorrow"',
        "first_request_on = 2026-12-01T00:00:00Z",
        'more_clouds = "aws_iot"',
        'more_clouds = ["my_cloud"]',
    ],
)
def test_fact_of_the_wrong_kind_is_refused(line: str) -> None:
    problem = refused(f"{SIX}[facts]\n{line}\n")
    assert (problem.code, problem.facts["key"]) == ("guide.answers.value", f"facts.{line.split()[0]}")


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"", "guide.answers.key.missing"),
        (b"root = ", "guide.answers.toml"),
        (b"\xff\xfe", "guide.answers.toml"),
        (b"#" * 70_000, "guide.answers.toml"),
        (b"a = " + b"[" * 5_000, "guide.answers.toml"),
        (b"a = " + b"9" * 5_000, "guide.answers.toml"),
        (SIX.encode() + b'root = "cloud_run"\n', "guide.answers.toml"),
        (SIX.encode() + b"facts = 3\n", "guide.answers.value"),
    ],
)
def test_broken_file_is_refused(octets: bytes, code: str) -> None:
    assert refused(octets).code == code


@given(st.text(max_size=300))
def test_no_text_ends_in_anything_but_an_error_of_ours(text: str) -> None:
    with pytest.raises(Misconfigured):
        parse_answers(text.encode("utf-8", "surrogatepass"))


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(Misconfigured):
        checked_value("facts.device_name_example", "sn\udcff")


def test_questions_and_answers_have_the_same_keys_and_choices() -> None:
    assert [question.key for question in DECISIONS] == [name for name in Answers.__struct_fields__ if name != "facts"]
    assert {question.key for question in FACTS} == {f"facts.{name}" for name in Facts.__struct_fields__}
    assert {question.key: {choice.id for choice in question.choices} for question in DECISIONS} == {
        name: set(choices) for name, choices in CHOICES.items()
    }


@pytest.mark.parametrize("question", [*DECISIONS, *FACTS], ids=lambda question: question.key)
def test_every_choice_and_default_is_an_answer_and_nothing_else_is(question: Question) -> None:
    many = question.kind == "choices"
    for choice in question.choices:
        checked_value(question.key, [choice.id] if many else choice.id)
    if question.kind in ("choice", "choices"):
        with pytest.raises(Misconfigured) as caught:
            checked_value(question.key, ["?"] if many else "?")
        allowed = caught.value.facts["allowed"]
        assert isinstance(allowed, list)
        assert set(allowed) == {choice.id for choice in question.choices}
    default = default_of(question)
    if default is not None:
        assert checked_value(question.key, msgspec.to_builtins(default)) == default


def test_every_field_is_annotated_with_a_closed_choice_or_a_bounded_value() -> None:
    assert str not in get_type_hints(Answers).values()
