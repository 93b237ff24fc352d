"""Every rule of the guide is proved by a case where it fires and a neighbour where it does not."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from guidecases import answer, verdicts

from birthmark.guide.case import PROFILE_ALGORITHMS, case_of
from birthmark.guide.plan import decide
from birthmark.guide.rules import RULES
from birthmark.guide.rules_registration import NAME_PATTERNS
from birthmark.pki.profile import load_preset

SITE = {"connectivity": "offline_factory_ca"}
POOL = {"connectivity": "offline_prepared"}
BOUGHT = {"root": "bought_intermediate"}
SERVICE = {"root": "third_party_service"}
CLOUD = {"root": "cloud_run"}
SPHERE = {**CLOUD, "cloud_root": "azure_sphere", "storage": "hsm"}
HSM = {"storage": "hsm"}
FOREVER = {"validity": "forever"}
SENSITIVE = {"audit": "sensitive"}
GROUPS = {"registration": "azure_dps_groups"}
SINGLE = {"registration": "azure_dps_individual"}
AWS = {"registration": "aws_iot"}
IMAGE = {"when_to_install": "firmware_image"}
PRELOADED = {**HSM, "when_to_generate": "preloaded"}
MATTER = {"profile": "matter-dac", **FOREVER, **HSM}

# rule, case where it fires, what changes so that it does not
CASES: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    ("G-ONE-01", {}, None),
    ("G-ROOT-01", BOUGHT, SERVICE),
    ("G-ROOT-02", {**BOUGHT, **SITE, "third_party_path_length": 0}, {"third_party_path_length": 1}),
    ("G-ROOT-02", {**SERVICE, **PRELOADED, "third_party_path_length": 0}, {"when_to_generate": "derive"}),
    ("G-ROOT-03", SERVICE, BOUGHT),
    ("G-ROOT-04", {}, CLOUD),
    ("G-ROOT-05", CLOUD, SERVICE),
    ("G-ROOT-06", {**CLOUD, **POOL}, {"connectivity": "online"}),
    ("G-ROOT-07", {**CLOUD, **SITE}, POOL),
    ("G-ROOT-08", {**CLOUD, **AWS}, GROUPS),
    ("G-ROOT-08", {**CLOUD, "more_clouds": ("aws_iot",)}, {"more_clouds": ()}),
    ("G-ROOT-09", {**CLOUD, "when_to_generate": "ahead_of_time"}, {"when_to_generate": "derive"}),
    ("G-ROOT-10", {**SPHERE, "storage": "tee"}, HSM),
    ("G-ROOT-11", {**SPHERE, **SINGLE}, GROUPS),
    ("G-ROOT-12", SPHERE, {"cloud_root": "device_registry"}),
    ("G-ROOT-13", {"ca_key": "pkcs11"}, {"ca_key": "file"}),
    ("G-ROOT-14", {}, {"ca_key": "pkcs11"}),
    ("G-ROOT-15", {**SERVICE, **POOL, "third_party_rate_per_day": 100, "lead_days": 99}, {"lead_days": 100}),
    ("G-ROOT-15", {**SERVICE, **POOL, **HSM, "third_party_rate_per_day": 100}, {"connectivity": "online"}),
    ("G-ROOT-16", {**SERVICE, **HSM, "third_party_rate_per_day": 959}, {"third_party_rate_per_day": 960}),
    ("G-ROOT-17", {"ca_key": "pkcs11", "line_rate_per_hour": 3_601, "ca_signatures_per_second": 1}, {"ca_sessions": 2}),
    ("G-STO-01", HSM, {"storage": "tee"}),
    ("G-STO-02", {**HSM, "when_to_generate": "ahead_of_time"}, {"when_to_generate": "in_device"}),
    ("G-STO-03", {"storage": "tee", "when_to_generate": "ahead_of_time"}, {"storage": "file_system"}),
    ("G-STO-04", {"storage": "tee"}, HSM),
    ("G-STO-05", {}, HSM),
    ("G-STO-06", {"storage": "plugin"}, HSM),
    ("G-STO-07", {"board_has_hsm": "yes"}, HSM),
    ("G-STO-08", {}, {"board_has_hsm": "no"}),
    ("G-STO-09", {**HSM, "hardware_kind": "tpm2"}, {"hardware_kind": "pkcs11"}),
    ("G-KEY-01", {"key_algorithm": "p384", "profile": "matter-dac"}, {"key_algorithm": "p256"}),
    ("G-KEY-02", {"key_algorithm": "ed25519", "more_clouds": ("aws_iot",)}, {"more_clouds": ()}),
    ("G-KEY-03", {"key_algorithm": "rsa2048", "device_class": "small_mcu"}, {"device_class": "linux"}),
    ("G-KEY-04", {"key_algorithm": "mldsa44", "target_free_bytes": 8_192}, {"target_free_bytes": 16_384}),
    ("G-KEY-05", {"key_algorithm": "mldsa44"}, {"target_free_bytes": 16_384}),
    ("G-KEY-06", {"key_algorithm": "mldsa65"}, {"key_algorithm": "p256"}),
    ("G-KEY-07", {**HSM, "key_algorithm": "mldsa44"}, {"storage": "file_system"}),
    ("G-KEY-07", {**HSM, "key_algorithm": "ed25519", "hardware_kind": "tpm2"}, {"hardware_kind": "pkcs11"}),
    ("G-CON-01", {}, SITE),
    ("G-CON-02", SITE, POOL),
    ("G-CON-03", POOL, SITE),
    ("G-CON-04", {**SITE, "when_to_generate": "on_demand_online"}, {"connectivity": "online"}),
    ("G-CON-05", {**SERVICE, **POOL, "when_to_generate": "on_demand_offline"}, SITE),
    ("G-CON-06", {**POOL, "when_to_generate": "on_demand_offline"}, SERVICE),
    ("G-CON-07", {"when_to_generate": "on_demand_offline"}, SITE),
    ("G-CON-08", {"when_to_generate": "ahead_of_time"}, POOL),
    ("G-CON-09", {**SERVICE, "third_party_rate_per_day": 500}, {"third_party_rate_per_day": 1_000}),
    ("G-GEN-01", HSM, {"storage": "file_system"}),
    ("G-GEN-02", {}, HSM),
    ("G-GEN-03", {**POOL, **HSM}, SITE),
    ("G-GEN-04", {**POOL, **HSM, "csr_travel": "refused"}, {"csr_travel": "accepted"}),
    ("G-GEN-05", PRELOADED, {"when_to_generate": "in_device"}),
    ("G-GEN-06", {"when_to_generate": "preloaded"}, HSM),
    ("G-GEN-07", {**CLOUD, "when_to_generate": "on_demand_online"}, {"when_to_generate": "derive"}),
    ("G-INS-01", {}, IMAGE),
    ("G-INS-02", IMAGE, {"when_to_install": "line_tool"}),
    ("G-INS-03", {**IMAGE, **HSM}, {"when_to_install": "line_tool"}),
    ("G-INS-04", {**PRELOADED, **IMAGE}, {"when_to_install": "preloaded"}),
    ("G-INS-04", {**PRELOADED, "when_to_install": "line_tool"}, {"when_to_install": "derive"}),
    ("G-INS-05", {"when_to_install": "preloaded", "when_to_generate": "in_device"}, PRELOADED),
    ("G-INS-06", {**CLOUD, "when_to_install": "line_tool"}, {"when_to_install": "derive"}),
    ("G-AUD-01", {}, SENSITIVE),
    ("G-AUD-02", SENSITIVE, {"audit": "none"}),
    ("G-AUD-03", {**SENSITIVE, "secure_room": "remote"}, {"audit": "none"}),
    ("G-AUD-04", {**SENSITIVE, **SITE, "ca_key": "file"}, {"ca_key": "derive"}),
    ("G-AUD-05", {**SITE, "regulated": "yes"}, SENSITIVE),
    ("G-AUD-06", {"regulated": "yes"}, SENSITIVE),
    ("G-AUD-07", {}, {"regulated": "no"}),
    ("G-AUD-08", SENSITIVE, HSM),
    ("G-AUD-09", {**SENSITIVE, **PRELOADED}, {"when_to_generate": "in_device"}),
    ("G-AUD-10", {**SENSITIVE, "regulated": "no"}, {"regulated": "yes"}),
    ("G-VAL-01", FOREVER, HSM),
    ("G-VAL-02", {**FOREVER, "certificate_days": 0}, HSM),
    ("G-VAL-03", {**FOREVER, **HSM}, {"end_of_status_plan": "yes"}),
    ("G-VAL-04", {**FOREVER, **HSM, "end_of_status_plan": "yes"}, {"storage": "tee"}),
    ("G-VAL-05", {"update_path": "yes"}, {"update_path": "no"}),
    ("G-VAL-06", {"update_path": "no"}, FOREVER),
    ("G-VAL-07", {}, {"update_path": "yes"}),
    ("G-VAL-08", {"certificate_days": 364}, {"certificate_days": 365}),
    ("G-VAL-09", {"certificate_days": 454}, {"certificate_days": 455}),
    ("G-VAL-10", {"certificate_days": 730, "issuing_ca_days": 819}, {"issuing_ca_days": 820}),
    ("G-VAL-10", {**FOREVER, **HSM, "issuing_ca_days": 36_500}, {"issuing_ca_days": 0}),
    ("G-VAL-11", {"issuing_ca_days": 820}, {"issuing_ca_days": 831}),
    ("G-VAL-12", {"issuing_ca_days": 3_650, "root_ca_days": 3_649}, {"root_ca_days": 3_650}),
    ("G-VAL-12", {"issuing_ca_days": 0, "root_ca_days": 36_500}, {"root_ca_days": 0}),
    ("G-VAL-13", {"certificate_days": 0}, {"certificate_days": 730}),
    ("G-VAL-14", {**CLOUD, **FOREVER}, {"validity": "rolled"}),
    ("G-VAL-15", SITE, {"connectivity": "online"}),
    ("G-PRO-01", {**MATTER, "validity": "rolled"}, FOREVER),
    ("G-PRO-02", {**MATTER, **BOUGHT, **SITE}, {"root": "self_managed"}),
    ("G-PRO-03", {**GROUPS, "profile": "idevid"}, {"profile": "azure-dps"}),
    ("G-PRO-03", {**AWS, "profile": "tls-client"}, {"profile": "derive"}),
    ("G-PRO-04", {**CLOUD, "profile": "idevid"}, {"profile": "derive"}),
    ("G-REG-01", GROUPS, SINGLE),
    ("G-REG-02", SINGLE, GROUPS),
    ("G-REG-03", {**SINGLE, "device_count": 1_000_001}, {"device_count": 1_000_000}),
    ("G-REG-04", {**GROUPS, "device_count": 1_000_001}, {"device_count": 1_000_000}),
    ("G-REG-05", {**GROUPS, "device_count": 10_000_001}, {"device_count": 10_000_000}),
    ("G-REG-06", {**GROUPS, "ca_scheme": "line_month"}, {"ca_scheme": "product"}),
    ("G-REG-07", {**GROUPS, "ca_scheme": "line_year", "lines": 26}, {"lines": 25}),
    ("G-REG-08", {**GROUPS, "ca_scheme": "line_year"}, {"ca_scheme": "product"}),
    ("G-REG-09", {**GROUPS, "device_name_example": "SN1A"}, {"device_name_example": "sn1a"}),
    ("G-REG-09", {"more_clouds": ("azure_dps_groups",), "device_name_example": "a" * 65}, {"device_name_example": "a"}),
    ("G-REG-10", {**AWS, "device_name_example": "sn.1"}, {"device_name_example": "sn:1"}),
    ("G-REG-11", {"device_name_example": "sn 1"}, {"device_name_example": "sn-1"}),
    ("G-REG-12", SINGLE, FOREVER),
    ("G-REG-13", AWS, GROUPS),
    ("G-REG-14", {**AWS, "ca_scheme": "line_month", "lines": 11}, {"lines": 10}),
    ("G-REG-15", {}, AWS),
    ("G-REG-16", {"more_clouds": ("aws_iot",)}, {"more_clouds": ("export",)}),
]


@pytest.mark.parametrize(("rule", "fires", "otherwise"), CASES)
def test_rule_fires_where_it_must_and_not_beside_it(
    rule: str, fires: dict[str, Any], otherwise: dict[str, Any] | None
) -> None:
    verdict = next(one.verdict for one in RULES if one.id == rule)
    assert verdicts(**fires).get(rule) == verdict
    if otherwise is not None:
        assert rule not in verdicts(**{**fires, **otherwise})


def test_no_rule_is_dead() -> None:
    assert {rule.id for rule in RULES} == {rule for rule, _, _ in CASES}


def test_no_rule_has_the_id_of_another() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_every_rule_says_why_and_what_to_do() -> None:
    for rule in RULES:
        assert rule.reason.endswith("."), rule.id
        assert rule.source, rule.id
        assert rule.advice or rule.verdict in ("allowed", "recommended"), rule.id


@pytest.mark.parametrize(
    ("start", "said"),
    [(date(2026, 12, 1), "2027-03-11"), (None, "100 days after the first request"), (date(9999, 12, 31), "no date")],
)
def test_too_slow_a_service_is_refused_with_the_date_on_which_it_fits(start: date | None, said: str) -> None:
    answers = answer(**SERVICE, **POOL, third_party_rate_per_day=100, first_request_on=start)
    [reason] = [finding.reason for finding in decide(answers).findings if finding.rule == "G-ROOT-15"]
    assert said in reason


def test_an_order_nobody_lives_to_see_is_no_overflow() -> None:
    answers = answer(**SERVICE, **POOL, third_party_rate_per_day=1, device_count=1_000_000_000)
    assert case_of(answers).fits_on == "no date within a hundred years"


def test_slow_token_is_told_how_many_sessions_it_needs() -> None:
    answers = answer(ca_key="pkcs11", line_rate_per_hour=36_000, ca_signatures_per_second=3)
    [reason] = [finding.reason for finding in decide(answers).findings if finding.rule == "G-ROOT-17"]
    assert "Sessions needed: 4." in reason


def test_name_that_looks_like_a_template_stays_a_name() -> None:
    answers = answer(device_name_example="{c.a.root} {0} {{")
    [reason] = [finding.reason for finding in decide(answers).findings if finding.rule == "G-REG-11"]
    assert "'{c.a.root} {0} {{'" in reason


@pytest.mark.parametrize("profile", sorted(PROFILE_ALGORITHMS))
def test_guide_and_preset_grant_the_same_names_and_algorithms(profile: str) -> None:
    preset = load_preset(profile)
    assert frozenset(preset.key_algorithms) == PROFILE_ALGORITHMS[profile]
    assert preset.device_serial is not None
    assert preset.device_serial.pattern == NAME_PATTERNS[profile]
