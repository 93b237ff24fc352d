from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import BirthmarkError, Misconfigured
from birthmark.pki.profile import Profile, load_preset, parse_profile, preset_names
from birthmark.pki.profileparts import ProfilePart
from birthmark.pki.templatefile import TemplateFile

LEAF: dict[str, Any] = {
    "name": "leaf",
    "kind": "end-entity",
    "key_algorithms": ["p256"],
    "ski": True,
    "aki": True,
    "validity": {"days": 30},
    "subject": [{"type": "CN", "value": "{device_serial}"}],
    "key_usage": {"bits": ["digitalSignature"]},
    "device_serial": {"pattern": "[A-Z0-9]{1,20}", "example": "SN1"},
}
CA: dict[str, Any] = {
    "name": "ca",
    "kind": "issuing-ca",
    "key_algorithms": ["p256"],
    "ski": True,
    "aki": True,
    "validity": {"days": 30},
    "subject": [{"type": "CN", "value": "CA"}],
    "basic_constraints": {"ca": True},
    "key_usage": {"bits": ["keyCertSign"]},
}


def parse(document: dict[str, Any]) -> Profile:
    return parse_profile(_toml(document))


def _toml(document: dict[str, Any]) -> bytes:
    """JSON values are TOML values; inline tables take = for the colon."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {text(inner)}" for key, inner in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(text, value)) + "]"
        return json.dumps(value)

    return "".join(f"{json.dumps(key)} = {text(value)}\n" for key, value in document.items()).encode()


def code_of(document: dict[str, Any]) -> str:
    with pytest.raises(Misconfigured) as caught:
        parse(document)
    return caught.value.code


def test_minimal_profiles_are_accepted() -> None:
    assert parse(LEAF).kind == "end-entity"
    assert parse(CA).is_ca


@pytest.mark.parametrize(
    ("where", "path", "known"),
    [
        ((), "$", "max_der_bytes"),
        (("validity",), "$.validity", "backdate_minutes"),
        (("subject", 0), "$.subject[0]", "string"),
        (("key_usage",), "$.key_usage", "bits"),
        (("device_serial",), "$.device_serial", "unique"),
    ],
)
def test_unknown_key_is_named_with_the_allowed_ones(where: tuple[Any, ...], path: str, known: str) -> None:
    document = json.loads(json.dumps(LEAF))
    table = document
    for step in where:
        table = table[step]
    table["colour"] = "red"
    with pytest.raises(Misconfigured) as caught:
        parse(document)
    assert caught.value.code == "profile.key.unknown"
    assert caught.value.facts["key"] == "colour"
    assert caught.value.facts["path"] == path
    assert known in caught.value.hint


@pytest.mark.parametrize(
    "toml", [b"a =", b"\xff\xfe", b"a = 1\na = 2", b"\0", b"=" * 10, b"# " + b"x" * 70000, b"a = " + b"[" * 3000]
)
def test_what_is_not_toml_is_refused(toml: bytes) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_profile(toml)
    assert caught.value.code == "profile.toml"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "UPPER"},
        {"name": "a/b"},
        {"name": "a\n"},
        {"extensions": [{"oid": "1.2.3\n", "der": "00"}]},
        {"kind": "leaf"},
        {"key_algorithms": []},
        {"key_algorithms": ["rsa1024"]},
        {"validity": {"days": 0}},
        {"validity": {"days": "forever"}},
        {"validity": {}},
        {"ski": "yes"},
        {"max_der_bytes": 70000},
        {"key_usage": {"bits": ["signing"]}},
        {"subject": [{"type": "CN", "value": ""}]},
        {"subject": [{"type": "CN", "value": "{device_serial}", "string": "bmp"}]},
        {"extensions": [{"oid": "1.2.x", "der": "00"}]},
        {"extensions": [{"oid": "1.2.3", "der": "0"}]},
        {"extensions": [{"oid": "1.99.3", "der": "00"}]},
        {"exceptions": [{"code": "a.b", "reason": ""}]},
        {"basic_constraints": {"ca": True, "path_length": -1}},
        {"subject_alternative_name": {"names": []}},
    ],
)
def test_wrong_value_is_refused(change: dict[str, Any]) -> None:
    assert code_of(LEAF | change) == "profile.value"


@pytest.mark.parametrize("missing", ["name", "kind", "key_algorithms", "validity", "ski", "aki"])
def test_missing_key_is_refused(missing: str) -> None:
    assert code_of({key: value for key, value in LEAF.items() if key != missing}) == "profile.value"


URN = {"type": "uri", "value": "urn:x:{device_serial}"}


@pytest.mark.parametrize(
    ("base", "change", "key"),
    [
        (LEAF, {"aki": False}, "aki"),
        (LEAF, {"basic_constraints": {"ca": False, "path_length": 0}}, "basic_constraints.path_length"),
        (LEAF, {"key_usage": {"bits": ["keyCertSign"]}}, "key_usage.bits"),
        (LEAF, {"key_usage": {"bits": ["encipherOnly"]}}, "key_usage.bits"),
        (LEAF, {"key_usage": {"bits": ["keyEncipherment"]}}, "key_usage.bits"),
        (LEAF, {"key_algorithms": ["mldsa44"], "key_usage": {"bits": ["keyAgreement"]}}, "key_usage.bits"),
        (LEAF, {"key_usage": {"bits": ["cRLSign", "cRLSign"]}}, "key_usage.bits"),
        (LEAF, {"subject": [{"type": "CommonName", "value": "{device_serial}"}]}, "subject.type"),
        (LEAF, {"subject": [{"type": "CN", "value": "fixed"}]}, "subject"),
        (LEAF, {"subject": [{"type": "CN", "value": "{device_serial"}]}, "placeholder"),
        (LEAF, {"subject": [{"type": "CN", "value": "{Device} {device_serial}"}]}, "placeholder"),
        (LEAF, {"subject": LEAF["subject"] * 2}, "subject.type"),
        (LEAF, {"subject": [], "subject_alternative_name": {"names": [URN]}}, "subject_alternative_name"),
        (
            LEAF,
            {"subject_alternative_name": {"names": [{"type": "hardware-module", "value": "x"}]}},
            "subject_alternative_name.names.hw_type",
        ),
        (
            LEAF,
            {"subject_alternative_name": {"names": [URN | {"hw_type": "1.2.3"}]}},
            "subject_alternative_name.names.hw_type",
        ),
        (LEAF, {"extended_key_usage": {"purposes": ["tls"]}}, "extended_key_usage.purposes"),
        (LEAF, {"urls": {"crl": ["http://x/{device_serial}"]}}, "urls"),
        (LEAF, {"extensions": [{"oid": "2.5.29.15", "der": "00"}]}, "extensions.oid"),
        (LEAF, {"extensions": [{"oid": "1.2.3", "der": "00"}] * 2}, "extensions.oid"),
        (LEAF, {"device_serial": {"pattern": "[", "example": "x"}}, "device_serial.pattern"),
        (LEAF, {"device_serial": {"pattern": "[a-z]+", "example": "SN1"}}, "device_serial.example"),
        (LEAF, {"device_serial": {"pattern": ".*", "example": "é"}}, "device_serial.example"),
        (CA, {"basic_constraints": {"ca": False}}, "basic_constraints"),
        (CA, {"basic_constraints": {"ca": True, "critical": False}}, "basic_constraints"),
        (CA, {"key_usage": {"bits": ["cRLSign"]}}, "key_usage.bits"),
        (CA, {"ski": False}, "ski"),
        (CA, {"aki": False}, "aki"),
        (CA, {"subject": []}, "subject"),
        (CA, {"subject": LEAF["subject"]}, "device_serial"),
        (CA, {"device_serial": LEAF["device_serial"]}, "device_serial"),
    ],
)
def test_contradiction_is_refused(base: dict[str, Any], change: dict[str, Any], key: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse(base | change)
    assert caught.value.code == "profile.rule"
    assert caught.value.facts["key"] == key


def test_device_profile_without_a_rule_for_serials_is_refused() -> None:
    assert code_of({key: value for key, value in LEAF.items() if key != "device_serial"}) == "profile.rule"


def test_hash_ignores_layout_and_written_defaults() -> None:
    profile = parse(LEAF)
    assert parse(dict(reversed(LEAF.items())) | {"max_der_bytes": 16000, "urls": {}}) == profile
    again = parse_profile(b"# a comment\n\n" + _toml(LEAF | {"description": ""}))
    assert again.profile_hash() == profile.profile_hash()
    assert parse(LEAF | {"max_der_bytes": 15999}).profile_hash() != profile.profile_hash()


def test_hash_is_of_json_that_anyone_can_write() -> None:
    profile = parse(LEAF)
    text = json.dumps(json.loads(profile.canonical_json()), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).digest() == profile.profile_hash()


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_noise_never_escapes_as_another_exception(noise: bytes) -> None:
    with pytest.raises(BirthmarkError):
        parse_profile(noise)


@given(
    st.sampled_from(sorted(LEAF)),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), st.lists),
)
def test_any_value_in_any_place_is_accepted_or_named(key: str, value: Any) -> None:
    document = msgspec.json.encode(LEAF | {key: value})
    with contextlib.suppress(Misconfigured):
        parse_profile(_toml(json.loads(document)))


def test_presets_are_listed_and_parse() -> None:
    wanted = "aws-iot azure-dps idevid issuing-ca matter-dac matter-paa matter-pai root-ca site-ca tls-client"
    assert list(preset_names()) == wanted.split()
    for name in preset_names():
        assert load_preset(name).name == name


@pytest.mark.parametrize("name", ["", "../root-ca", "root-ca.toml", "IDEVID"])
def test_unknown_preset_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load_preset(name)
    assert caught.value.code == "profile.preset.unknown"
    assert "idevid" in caught.value.hint


def test_placeholders_are_known() -> None:
    assert load_preset("idevid").placeholders() == {"maker", "hw_type"}
    assert load_preset("aws-iot").placeholders() == frozenset()


def test_every_key_stands_on_its_page() -> None:
    page = (Path(__file__).parents[3] / "docs/formats/profile.md").read_text()
    tables = [Profile, *(each for each in ProfilePart.__subclasses__())]
    keys = {key for table in tables for key in table.__struct_fields__} | set(TemplateFile.__struct_fields__)
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []
    assert [name for name in preset_names() if f"`{name}`" not in page] == []
