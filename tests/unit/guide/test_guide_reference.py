"""docs/guide.md is what the tables say, and the examples do what their names promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from birthmark.guide.answers import parse_answers
from birthmark.guide.plan import decide
from birthmark.guide.questions import DECISIONS, FACTS
from birthmark.guide.reference import guide_reference
from birthmark.guide.rules import RULES

DOCS = Path(__file__).parents[3] / "docs"


def test_page_is_in_step_with_the_tables() -> None:
    assert (DOCS / "guide.md").read_text(encoding="utf-8") == guide_reference()


def test_page_leaves_out_no_rule_and_no_question() -> None:
    page = guide_reference()
    assert [rule.id for rule in RULES if f"| `{rule.id}` |" not in page] == []
    assert [question.key for question in DECISIONS if f"### `{question.key}`" not in page] == []
    assert [question.key for question in FACTS if f"| `{question.key.removeprefix('facts.')}` |" not in page] == []
    assert "{c." not in page


@pytest.mark.parametrize(
    ("name", "source", "target", "warnings"),
    [
        ("plan-offline-hsm", "factory_ca", "pkcs11", ()),
        ("plan-offline-pool-files", "pool", "files", ("G-ROOT-14",)),
        ("plan-online-azure", "online", "tpm2", ()),
    ],
)
def test_example_yields_its_plan(name: str, source: str, target: str, warnings: tuple[str, ...]) -> None:
    plan = decide(parse_answers((DOCS / "examples" / f"{name}.toml").read_bytes())).plan
    assert plan is not None
    assert (plan.source, plan.target, plan.warnings) == (source, target, warnings)


def test_example_rolled_without_an_update_path_is_refused_for_that_alone() -> None:
    outcome = decide(parse_answers((DOCS / "examples" / "plan-refused-rolled-without-ota.toml").read_bytes()))
    assert [finding.rule for finding in outcome.refusals] == ["G-VAL-06"]


def test_every_example_of_the_guide_is_tested() -> None:
    assert {path.stem for path in (DOCS / "examples").glob("plan-*.toml")} == {
        "plan-offline-hsm",
        "plan-offline-pool-files",
        "plan-online-azure",
        "plan-refused-rolled-without-ota",
    }
