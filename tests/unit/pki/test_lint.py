"""Lint: every flawed certificate under tests/vectors/lint is named, every preset is clean."""

from __future__ import annotations

import base64
import contextlib
import importlib
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import Refused
from birthmark.pki import keycheck, lint
from birthmark.pki.algorithms import algorithm_named, algorithm_of, spki_of
from birthmark.pki.csr import QUIRKS
from birthmark.pki.expected import expected_names, expected_purposes, expected_subject
from birthmark.pki.filler import assemble
from birthmark.pki.lint import Severity, lint_certificate, lint_profile, refuse_findings, unallowed
from birthmark.pki.names import ATTRIBUTES
from birthmark.pki.profile import LintException, Profile, load_preset, preset_names
from birthmark.pki.profileparts import PURPOSES
from birthmark.pki.rules_matter import matter_ids
from birthmark.pki.template import compile_root_template, compile_template

FOLDER = Path(__file__).parents[2] / "vectors/lint"
DOCS = Path(__file__).parents[3] / "docs/lint.md"
FILES = sorted(FOLDER.glob("*.txt"))
vectors = importlib.import_module("vectors.make_lint_vectors")
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def der_of(file: Path) -> bytes:
    return base64.b64decode("".join(file.read_text().splitlines()[1:-1]))


def lint_vector(file: Path) -> tuple[Profile, list[lint.Finding], list[str]]:
    preset, issuer, *codes = file.read_text().split()
    profile = load_preset(preset)
    serial = vectors.DEVICE_SERIAL if profile.kind == "end-entity" else None
    values = vectors.VALUES | ({"ca_name": "Acme Issuing 2"} if file.stem == "ca_below_issuing_ca" else {})
    issuer_der = der_of(FOLDER / f"{issuer}.pem")
    der = der_of(file.with_suffix(".pem"))
    found = lint_certificate(der, issuer_der=issuer_der, profile=profile, device_serial=serial, values=values)
    return profile, found, codes


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_flaw_gets_its_codes_and_no_others(file: Path) -> None:
    if file.read_text().split()[2:] == ["lint.malformed"]:
        with pytest.raises(Refused) as caught:
            lint_vector(file)
        assert caught.value.code == "lint.malformed"
        return
    profile, found, codes = lint_vector(file)
    ours = {finding.code for finding in unallowed(found, profile) if finding.source == "birthmark"}
    assert sorted(ours) == codes


def test_good_vectors_are_clean_for_pkilint_too() -> None:
    for name in ("aws_good", "azure_good", "dac_good", "pai_good"):
        profile, found, _ = lint_vector(FOLDER / f"{name}.txt")
        assert unallowed(found, profile) == [], name


def test_vector_files_are_what_the_script_writes(tmp_path: Path) -> None:
    vectors.write_all(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name


def test_every_blocking_rule_has_a_flawed_certificate() -> None:
    seen = {code for file in FILES for code in file.read_text().split()[2:]}
    blocking = {rule.code for rule in lint.CERTIFICATE_RULES if rule.severity >= Severity.WARNING}
    hard = {"cert.issuer.key_profile", "matter.version"}  # below, by other means
    assert blocking - seen == hard


def test_every_code_has_its_own_name_and_a_citation() -> None:
    codes = [rule.code for rule in lint.ALL_RULES]
    assert len(set(codes)) == len(codes)
    assert all(rule.citation and rule.says.endswith((".", ".)")) for rule in lint.ALL_RULES)


def test_page_of_rules_keeps_in_step() -> None:
    assert lint.rules_table() in DOCS.read_text(), "paste lint.rules_table() into the page"


def test_page_names_every_quirk_and_every_weakness() -> None:
    page = DOCS.read_text()
    source = Path(keycheck.__file__).read_text()
    codes = set(re.findall(r'"(key\.weak\.[a-z0-9_.]+)"', source)) | QUIRKS.keys()
    assert len(codes) > 12
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []


VALUES = vectors.VALUES | {"ca_name": "Acme Issuing 1"}


def make(profile: Profile, kind: str, issuer: x509.Certificate | None, issuer_key: object) -> tuple[bytes, object]:
    """Return a certificate of a preset, and its key."""
    algorithm = algorithm_named(kind)
    key = algorithm.generate()
    spki = spki_of(key.public_key())
    signer, signing_key = (algorithm, key) if issuer is None else (algorithm_of(issuer.public_key()), issuer_key)
    template = (
        compile_root_template(
            profile, public_key=key.public_key(), not_before=NOW, product_values=VALUES | {"ca_name": "Root"}
        )
        if issuer is None
        else compile_template(
            profile,
            issuer_certificate=issuer,
            not_before=NOW + timedelta(days=1),
            product_values=VALUES,
            key_algorithm=kind,
        )
    )
    serial = profile.device_serial.example.encode() if profile.device_serial else b""
    tbs = template.filler(len(serial)).fill(bytes(range(1, 17)), serial, spki, algorithm.key_id(spki))
    return assemble(tbs, signer.signature_algorithm, signer.sign(signing_key, tbs)), key


def chain_to(profile: Profile, kind: str) -> tuple[bytes, bytes]:
    """Return a certificate of ``profile`` with key ``kind``, and its issuer's."""
    matter = profile.name.startswith("matter")
    if profile.kind == "root-ca":
        root, _ = make(profile, kind, None, None)
        return root, root
    ca_kind = kind if not profile.issuer_key_algorithms or kind in profile.issuer_key_algorithms else "p256"
    der, key = make(load_preset("matter-paa" if matter else "root-ca"), ca_kind, None, None)
    if profile.kind == "end-entity":
        between = load_preset("matter-pai" if matter else "issuing-ca")
        der, key = make(between, ca_kind, x509.load_der_x509_certificate(der), key)
    return make(profile, kind, x509.load_der_x509_certificate(der), key)[0], der


CASES = [(name, kind) for name in preset_names() for kind in load_preset(name).key_algorithms]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_preset_is_clean_or_its_exceptions_have_a_reason(name: str, kind: str) -> None:
    profile = load_preset(name)
    der, issuer = chain_to(profile, kind)
    serial = profile.device_serial.example if profile.device_serial else None
    values = VALUES | ({"ca_name": "Root"} if profile.kind == "root-ca" else {})
    found = lint_certificate(der, issuer_der=issuer, profile=profile, device_serial=serial, values=values)
    assert [finding.document() for finding in unallowed(found, profile)] == []
    refuse_findings(found, profile)


@pytest.mark.parametrize("name", preset_names())
def test_preset_itself_is_clean(name: str) -> None:
    assert unallowed(lint_profile(load_preset(name)), load_preset(name)) == []


@pytest.mark.parametrize("name", preset_names())
def test_exception_of_a_preset_is_still_needed(name: str) -> None:
    profile = load_preset(name)
    der, issuer = chain_to(profile, profile.key_algorithms[0])
    found = lint_certificate(der, issuer_der=issuer, profile=profile, device_serial=None)
    assert profile.allowed_findings <= {finding.code for finding in found}


def change(preset: str, **fields: object) -> Profile:
    return msgspec.structs.replace(load_preset(preset), **fields)


def codes_of(profile: Profile) -> set[str]:
    return {finding.code for finding in unallowed(lint_profile(profile), profile)}


def test_profile_that_a_cloud_or_matter_would_refuse_is_named() -> None:
    azure = load_preset("azure-dps")
    case = msgspec.structs.replace(azure.device_serial, unique="case-sensitive")
    assert codes_of(change("azure-dps", device_serial=case)) == {"profile.azure_name"}
    colon = msgspec.structs.replace(azure.device_serial, pattern=".*", example="a:b")
    assert codes_of(change("azure-dps", device_serial=colon)) == {"profile.azure_name"}
    assert codes_of(change("aws-iot", key_algorithms=("ed25519",))) == {"profile.cloud_keys"}
    assert codes_of(change("matter-dac", key_algorithms=("p256", "p384"))) == {"profile.matter_key"}
    assert codes_of(change("idevid", subject=azure.subject)) == {"profile.devid_serial"}
    assert codes_of(change("tls-client", max_der_bytes=600)) == {"profile.ml_dsa_room"}
    agreement = msgspec.structs.replace(azure.key_usage, bits=("keyAgreement",))
    assert codes_of(change("azure-dps", key_usage=agreement)) == {"profile.client_usage"}
    typo = (LintException(code="cert.nothing", reason="a code that does not exist"),)
    assert codes_of(change("aws-iot", exceptions=typo)) == {"profile.exception_unknown"}


def test_issuing_key_the_profile_does_not_have_is_named() -> None:
    file = FOLDER / "aws_good.txt"
    narrow = change("aws-iot", issuer_key_algorithms=("rsa2048",))
    arguments = {"issuer_der": der_of(FOLDER / "issuer_ca.pem"), "device_serial": vectors.DEVICE_SERIAL}
    found = lint_certificate(der_of(file.with_suffix(".pem")), profile=narrow, **arguments)
    assert {finding.code for finding in unallowed(found, narrow)} == {"cert.issuer.key_profile"}


def test_exception_lets_its_own_code_through_and_no_other() -> None:
    _, found, _ = lint_vector(FOLDER / "serial_counter.txt")
    allowing = change("aws-iot", exceptions=(LintException(code="cert.serial.entropy", reason="a test rig"),))
    assert "cert.serial.entropy" not in {finding.code for finding in unallowed(found, allowing)}
    _, found, _ = lint_vector(FOLDER / "serial_zero.txt")
    with pytest.raises(Refused) as caught:
        refuse_findings(found, allowing)
    assert "cert.serial.form" in caught.value.facts["codes"]


def test_two_readings_of_a_profile_agree() -> None:
    """The checks read names and purposes by their own table: it must know what the writer's table knows."""
    for short, kind in ATTRIBUTES.items():
        subject = [msgspec.structs.replace(load_preset("aws-iot").subject[0], type=short)]
        assert expected_subject(change("aws-iot", subject=tuple(subject)), "x", {}) == [(kind.oid, "x")]
    extended = msgspec.structs.replace(load_preset("aws-iot").extended_key_usage, purposes=tuple(PURPOSES))
    assert expected_purposes(change("aws-iot", extended_key_usage=extended)) == list(PURPOSES.values())


@pytest.mark.parametrize("text", ["ä", "{pen}", "a b", "\x00"])
def test_name_that_cannot_be_formed_matches_no_certificate(text: str) -> None:
    san = load_preset("idevid").subject_alternative_name
    for kind in ("dns", "uri", "hardware-module"):
        name = msgspec.structs.replace(san.names[0], type=kind, value=text, hw_type=text)
        profile = change("idevid", subject_alternative_name=msgspec.structs.replace(san, names=(name,)))
        assert len(expected_names(profile, "x", {})) == 1


@pytest.mark.parametrize(
    ("common_name", "vid", "pid", "faults"),
    [
        ("ACME Matter Devel DAC 5CDA9899 Mvid:FFF1 Mpid:00B1", "FFF1", "00B1", 0),
        ("ACME Mpid:00B1 Mvid:FFF1", "FFF1", "00B1", 0),
        ("Mpid:00B1,ACME,Mvid:FFF1", "FFF1", "00B1", 0),
        ("ACMEMvid:FFF1ACMEMpid:00B1ACME", "FFF1", "00B1", 0),
        ("Mvid: Mvid:FFF1 Mpid: Mpid:00B1", "FFF1", "00B1", 0),
        ("ACME Mvid:fff1 Mpid:00B1", None, "00B1", 1),
        ("ACME Mvid:FF1 Mpid:00B1", None, "00B1", 1),
        ("plain", None, None, 0),
        ("x" * 57 + "Mvid:FF", None, None, 1),
    ],
)
def test_matter_ids_in_a_common_name(common_name: str, vid: str | None, pid: str | None, faults: int) -> None:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    ids = matter_ids(subject)
    assert (ids.vid, ids.pid, len(ids.faults)) == (vid, pid, faults)


def test_matter_version_one_is_named() -> None:
    profile = load_preset("matter-dac")
    der = vectors.certificate(extensions={}, subject=vectors.PAI_NAME, key=vectors.KEY, version=b"")
    found = lint_certificate(der, issuer_der=der_of(FOLDER / "issuer_pai.pem"), profile=profile)
    assert "matter.version" in {finding.code for finding in found}


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 500), bit=st.integers(0, 7))
def test_flipped_bit_ends_in_findings_or_a_named_refusal(place: int, bit: int) -> None:
    der = bytearray(der_of(FOLDER / "idevid_good.pem"))
    der[place % len(der)] ^= 1 << bit
    with contextlib.suppress(Refused):
        lint_certificate(bytes(der), issuer_der=der_of(FOLDER / "issuer_ca.pem"), profile=load_preset("idevid"))


@pytest.mark.parametrize("junk", [b"", b"0", b"\x30\x00", b"\x30\x80\x00\x00"])
def test_junk_is_a_named_refusal(junk: bytes) -> None:
    good = der_of(FOLDER / "issuer_ca.pem")
    for der, issuer in ((junk, good), (good, junk)):
        with pytest.raises(Refused) as caught:
            lint_certificate(der, issuer_der=issuer, profile=load_preset("aws-iot"))
        assert caught.value.code == "lint.malformed"


def test_pkilint_is_loaded_only_when_something_is_linted() -> None:
    code = "import sys, birthmark.pki.lint; sys.exit('pkilint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
