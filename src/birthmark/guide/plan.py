"""From answers to exactly one plan, or to named refusals; and the plan as a file.

``plan.toml`` (format ``birthmark-plan/1``) holds the answers and everything derived from them. Reading it
decides the answers again: a plan that was edited by hand, or made by other rules, is refused, so that no rule
can be passed by changing the file.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from birthmark.errors import Misconfigured, Refused
from birthmark.guide.answers import Answers, answers_from, read_tables
from birthmark.guide.case import (
    CaKey,
    CaOwner,
    Case,
    Cloud,
    Generate,
    Install,
    KeyAlgorithm,
    KeyOrigin,
    Profile,
    Source,
    Target,
    case_of,
)
from birthmark.guide.rule import Finding
from birthmark.guide.rules import findings_of
from birthmark.guide.toml import toml_lines

__all__ = ["FORMAT", "Outcome", "Plan", "decide", "parse_plan", "refusal", "render_plan"]

FORMAT: Final = "birthmark-plan/1"


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do, all of it decided. Days: 0 means no expiry. ``warnings``: ids of the rules that discourage."""

    format: Literal["birthmark-plan/1"] = FORMAT
    when_to_generate: Generate
    when_to_install: Install
    source: Source
    key_origin: KeyOrigin
    profile: Profile
    key_algorithm: KeyAlgorithm
    validity_days: int
    issuing_ca_days: int
    root_ca_days: int
    ca_owner: CaOwner
    ca_key: CaKey
    target: Target
    sensitive: bool
    clouds: tuple[Cloud, ...]
    warnings: tuple[str, ...]
    next_commands: tuple[str, ...]
    answers: Answers


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Findings, the worst first; ``plan`` is None exactly when one of them is a refusal."""

    findings: tuple[Finding, ...]
    plan: Plan | None

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """The findings that forbid the plan."""
        return tuple(finding for finding in self.findings if finding.verdict == "refused")


def decide(answers: Answers) -> Outcome:
    """Return exactly one plan, or the refusals by name. The same answers get the same outcome for ever."""
    case = case_of(answers)
    findings = findings_of(case)
    refused = any(finding.verdict == "refused" for finding in findings)
    return Outcome(findings=findings, plan=None if refused else _plan(case, findings))


def refusal(outcome: Outcome) -> Refused:
    """Return the error that a refused outcome ends in (``guide.plan.refused``; fact ``rules``)."""
    rules = [finding.rule for finding in outcome.refusals]
    return Refused(
        "guide.plan.refused",
        f"these answers cannot work together: {', '.join(rules)}",
        hint="Change one of the answers named by the findings and run `birthmark plan` again.",
        rules=rules,
    )


def render_plan(plan: Plan) -> str:
    """Return ``plan.toml``: UTF-8 text that ``parse_plan`` reads back to an equal plan."""
    derived: dict[str, Any] = msgspec.structs.asdict(plan)
    decisions: dict[str, Any] = msgspec.structs.asdict(derived.pop("answers"))
    facts: dict[str, Any] = msgspec.structs.asdict(decisions.pop("facts"))
    return "\n".join(
        [
            "# Made by `birthmark plan`. To change it, change the answers and run `birthmark plan` again:",
            "# what is derived is checked against the answers when the plan is used. Days: 0 means no expiry.",
            *toml_lines(derived),
            "",
            "[answers]",
            *toml_lines(decisions),
            "",
            "[answers.facts]",
            *toml_lines(facts),
            "",
        ]
    )


def parse_plan(toml: bytes) -> Plan:
    """Return the plan in ``toml``.

    Raises ``Misconfigured``: ``guide.plan.format`` (not a plan of this format), ``guide.plan.altered`` (it does
    not say what the rules say about its answers; fact ``keys``), ``guide.answers.*`` (its answers);
    ``Refused("guide.plan.refused")`` if the answers are refused.
    """
    tables = read_tables(toml)
    answers = tables.pop("answers", None)
    if tables.get("format") != FORMAT or not isinstance(answers, dict):
        raise Misconfigured(
            "guide.plan.format",
            f"the file is not a plan of the format {FORMAT}",
            hint="Write one with `birthmark plan --answers FILE --output plan.toml`.",
            format=FORMAT,
        )
    outcome = decide(answers_from(answers))
    if outcome.plan is None:
        raise refusal(outcome)
    expected: dict[str, Any] = msgspec.to_builtins(outcome.plan)
    del expected["answers"]
    altered = sorted(ascii(key)[1:-1][:80] for key in tables.keys() | expected if not _same(tables, expected, key))
    if altered:
        raise Misconfigured(
            "guide.plan.altered",
            f"the plan does not follow from its answers: {', '.join(altered)}",
            hint="It was edited or made by another version; run `birthmark plan` with its answers again.",
            keys=altered,
        )
    return outcome.plan


def _same(tables: dict[str, Any], expected: dict[str, Any], key: str) -> bool:
    """Whether both say the same, in the same type (in Python ``True == 1``)."""
    said, wanted = tables.get(key), expected.get(key)
    if isinstance(wanted, tuple):
        wanted = list(wanted)
    return key in tables and key in expected and type(said) is type(wanted) and said == wanted


def _plan(case: Case, findings: tuple[Finding, ...]) -> Plan:
    return Plan(
        when_to_generate=case.generate,
        when_to_install=case.install,
        source=case.source,
        key_origin=case.key_origin,
        profile=case.profile,
        key_algorithm=case.key_algorithm,
        validity_days=case.certificate_days,
        issuing_ca_days=case.issuing_ca_days,
        root_ca_days=case.root_ca_days,
        ca_owner=case.ca_owner,
        ca_key=case.ca_key,
        target=case.target,
        sensitive=case.sensitive,
        clouds=case.clouds,
        warnings=tuple(finding.rule for finding in findings if finding.verdict == "discouraged"),
        next_commands=_next_commands(case),
        answers=case.a,
    )


_VALUES: Final = {"tls-client": ("pen",), "idevid": ("hw_type",), "matter-dac": ("vid", "pid")}
"""What a preset needs to know besides the maker's name."""

_TARGETS: Final = {"files": "files:out/{device_serial}", "pkcs11": "pkcs11:…"}


def _next_commands(case: Case) -> tuple[str, ...]:
    """Return the commands that make and install the first lot, as far as they are ours; capitals are yours to fill."""
    values = "".join(f" --value {name}={name.upper()}" for name in _VALUES.get(case.profile, ()))
    token = " --token LABEL" if case.ca_key == "pkcs11" else ""
    commands = [f"birthmark init factory --plan plan.toml --maker NAME{values}{token}"]
    if case.source not in ("online", "factory_ca", "pool"):
        return tuple(commands)
    born = "" if case.key_origin == "injected" else " --key-origin device"
    commands += [
        "birthmark ceremony run factory/ceremony.toml -C factory",
        f"birthmark order create lot-1 --product device --devices serials.txt{born} -C factory",
    ]
    if case.key_origin == "injected":
        commands.append("birthmark order make lot-1 -C factory")
    target = _TARGETS.get(case.target, "TARGET")
    commands += [
        f"birthmark station provision --device-serial SERIAL --target '{target}' -C factory",
        "birthmark audit verify factory",
    ]
    return tuple(commands)
