from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pki_makers import NOW, SERIAL, VALUES, ca, hierarchy, key, template, values_for
from reference_builder import reference_tbs

from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered
from birthmark.pki.algorithms import ALGORITHMS
from birthmark.pki.profile import Profile, load_preset, parse_profile, preset_names
from birthmark.pki.profileparts import Extension
from birthmark.pki.template import Template, assemble, compile_root_template, compile_template

LEAVES = [name for name in preset_names() if load_preset(name).kind == "end-entity"]
CASES = [
    (leaf, algorithm, issuer)
    for leaf in LEAVES
    for algorithm in load_preset(leaf).key_algorithms
    for issuer in load_preset(leaf).issuer_key_algorithms or ALGORITHMS
]


@pytest.mark.parametrize(("leaf", "algorithm", "issuer_algorithm"), CASES)
def test_tbs_is_what_certificate_builder_writes(leaf: str, algorithm: str, issuer_algorithm: str) -> None:
    made = template(leaf, algorithm, issuer_algorithm)
    issuer = hierarchy(leaf, issuer_algorithm)
    for device_serial in (b"7", b"sn0000000042", b"a" * made.limits.max_length):
        values = values_for(algorithm, device_serial)
        tbs = made.filler(len(device_serial)).checked_fill(*values)
        expected = reference_tbs(
            made, VALUES, values, key(algorithm).public_key(), issuer.certificate, key(issuer_algorithm, 2)
        )
        assert tbs == expected
        assert made.read(tbs).device_serial == device_serial


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("preset", ["root-ca", "issuing-ca"])
def test_ca_tbs_is_what_certificate_builder_writes(preset: str, algorithm: str) -> None:
    private, values = key(algorithm, 1), VALUES | {"ca_name": "Größe ☃ 中"}
    public, profile = private.public_key(), load_preset(preset)
    above: x509.Certificate | None = None
    if preset == "root-ca":
        made = compile_root_template(profile, public_key=public, not_before=NOW, product_values=values)
    else:
        above = ca("root-ca", algorithm).certificate
        made = compile_template(
            profile, issuer_certificate=above, not_before=NOW, product_values=values, key_algorithm=algorithm
        )
    filled = (SERIAL, b"", values_for(algorithm)[2], values_for(algorithm)[3])
    with pytest.raises(Refused, match=r"device\.serial\.length"):
        made.filler(1)
    if preset == "root-ca":
        filled = (SERIAL, b"", _spki(public), ALGORITHMS[algorithm].key_id(_spki(public)))
    else:
        public = key(algorithm).public_key()
    assert made.filler(0).checked_fill(*filled) == reference_tbs(made, values, filled, public, above, private)


def _spki(public: Any) -> bytes:
    from birthmark.pki.algorithms import spki_of

    return spki_of(public)


FULL = b"""
name = "full"
kind = "end-entity"
key_algorithms = ["p256"]
ski = true
aki = true
subject = [
  { type = "C", value = "SE" },
  { type = "ST", value = "Sk\xc3\xa5ne" },
  { type = "L", value = "Lund" },
  { type = "O", value = "{maker}" },
  { type = "OU", value = "line {line}", string = "printable" },
  { type = "2.5.4.12", value = "title" },
  { type = "CN", value = "dev-{device_serial}-x" },
  { type = "serialNumber", value = "{device_serial}" },
]
[validity]
days = 9000
backdate_minutes = 10
[subject_alternative_name]
names = [
  { type = "dns", value = "{device_serial}.devices.example" },
  { type = "uri", value = "urn:dev:os:32473-{device_serial}" },
  { type = "hardware-module", hw_type = "2.999.1.16777216", value = "HW{device_serial}" },
]
[basic_constraints]
ca = false
critical = false
[key_usage]
bits = ["digitalSignature", "keyAgreement", "decipherOnly"]
critical = false
[extended_key_usage]
purposes = ["clientAuth", "1.3.6.1.4.1.45605.1"]
critical = true
[certificate_policies]
policies = ["2.23.133.11.1.1", "2.23.133.11.1.2"]
critical = true
[urls]
ocsp = ["http://ocsp.example/{line}"]
ca_issuers = ["https://ca.example/ca.der"]
crl = ["http://ca.example/1.crl", "ldap://ca.example/cn=1"]
[[extensions]]
oid = "1.3.6.1.5.5.7.1.32"
der = "16106d6173612e6578616d706c652e636f6d"
[[extensions]]
oid = "1.3.6.1.4.1.32473.9"
der = "0500"
critical = true
[device_serial]
pattern = "[A-Za-z0-9-]+"
example = "SN1"
"""


def full(**values: str) -> Template:
    return compile_template(
        parse_profile(FULL),
        issuer_certificate=hierarchy("idevid", "p384").certificate,
        not_before=NOW,
        product_values={"maker": "Acme", "line": "7"} | values,
        key_algorithm="p256",
    )


def test_every_table_of_a_profile_is_what_certificate_builder_writes() -> None:
    made = full()
    issuer = hierarchy("idevid", "p384").certificate
    assert made.limits.max_length == 64 - len("dev--x")
    values = {"maker": "Acme", "line": "7"}
    for length in range(1, made.limits.max_length + 1):
        filled = values_for("p256", b"A" * length)
        expected = reference_tbs(made, values, filled, key("p256").public_key(), issuer, key("p384", 2))
        assert made.filler(length).checked_fill(*filled) == expected


def test_empty_subject_with_a_critical_alternative_name() -> None:
    profile = msgspec.structs.replace(
        load_preset("idevid"),
        subject=(),
        subject_alternative_name=msgspec.structs.replace(load_preset("idevid").subject_alternative_name, critical=True),
    )
    issuer = hierarchy("idevid", "p256").certificate
    made = compile_template(
        profile, issuer_certificate=issuer, not_before=NOW, product_values=VALUES, key_algorithm="p256"
    )
    filled = values_for("p256")
    expected = reference_tbs(made, VALUES, filled, key("p256").public_key(), issuer, key("p256", 2))
    assert made.filler(12).checked_fill(*filled) == expected


@pytest.mark.parametrize(("leaf", "algorithm"), [("idevid", "p384"), ("tls-client", "mldsa65"), ("matter-dac", "p256")])
def test_stored_template_is_rebuilt_exactly(leaf: str, algorithm: str) -> None:
    made = template(leaf, algorithm)
    again = Template.from_bytes(made.to_bytes())
    assert again == made
    assert again.template_hash == made.template_hash == _sha256(made.to_bytes())
    assert again.profile_hash == load_preset(leaf).profile_hash()
    filled = values_for(algorithm)
    assert again.filler(12).checked_fill(*filled) == made.filler(12).checked_fill(*filled)
    assert (again.not_before, again.not_after) == (made.not_before, made.not_after)


def _sha256(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def rebuild(members: list[Any], holes: dict[str, bytes]) -> bytes:
    """An auditor's own reading of docs/formats/profile.md."""
    octets = b""
    for member in members:
        if isinstance(member, list):
            content = rebuild(member[1:], holes)
            size = len(content).to_bytes(max(1, (len(content).bit_length() + 7) // 8), "big")
            header = size if len(content) < 128 else bytes([128 + len(size)]) + size
            octets += bytes([member[0]]) + header + content
        else:
            octets += holes[member] if member in holes else bytes.fromhex(member)
    return octets


@pytest.mark.parametrize(("leaf", "algorithm", "issuer_algorithm"), CASES)
def test_auditor_rebuilds_the_tbs_from_the_stored_template(leaf: str, algorithm: str, issuer_algorithm: str) -> None:
    made = template(leaf, algorithm, issuer_algorithm)
    document = json.loads(made.to_bytes())
    for device_serial in (b"7", b"a" * made.limits.max_length):
        values = values_for(algorithm, device_serial)
        names = ("{cert_serial}", "{device_serial}", "{spki}", "{key_id}")
        rebuilt = rebuild(document["tbs"], dict(zip(names, values, strict=True)))
        assert rebuilt == made.filler(len(device_serial)).fill(*values)


def test_hash_depends_on_everything() -> None:
    profile, issuer = load_preset("tls-client"), hierarchy("tls-client", "p256").certificate

    def hash_of(profile: Profile = profile, issuer: x509.Certificate = issuer, **change: Any) -> bytes:
        arguments: dict[str, Any] = {"not_before": NOW, "product_values": VALUES, "key_algorithm": "p256"} | change
        return compile_template(profile, issuer_certificate=issuer, **arguments).template_hash

    hashes_seen = [
        hash_of(),
        hash_of(key_algorithm="p384"),
        hash_of(not_before=NOW + timedelta(seconds=1)),
        hash_of(product_values=VALUES | {"pen": "32474"}),
        hash_of(issuer=hierarchy("tls-client", "p384").certificate),
        hash_of(msgspec.structs.replace(profile, max_der_bytes=9999)),
    ]
    assert len(set(hashes_seen)) == len(hashes_seen)
    assert hash_of() == hash_of(product_values={"pen": "32473"})


def test_altered_template_files_are_named() -> None:
    document = json.loads(template("idevid").to_bytes())
    spoils: list[Any] = [
        {"format": "birthmark-template-2"},
        {"profile_hash": "00" * 32},
        {"extra": 1},
        {"not_after": "2026-13-01T00:00:00Z"},
        {"not_before": "yesterday"},
        {"tbs": ["zz"]},
        {"tbs": [["30"]]},
        {"tbs": [[True, "00"]]},
        {"tbs": [[4096, "00"]]},
        {"tbs": [None]},
        {"tbs": ["{unknown}"]},
        {"tbs": []},
        {"tbs": ["00"]},
        {"tbs": ["{spki}"]},
        {"key_algorithm": "p521"},
        {"issuer_key_algorithm": ""},
        {"product_values": {}},
        {"profile": document["profile"] | {"colour": 1}},
    ]
    for spoil in spoils:
        data = msgspec.json.encode(document | spoil, order="sorted")
        with pytest.raises(Tampered, match=r"template\.malformed"):
            Template.from_bytes(data)
    for data in (
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"{" * 5000,
        json.dumps(document).encode(),
        template("idevid").to_bytes() + b"\n",
    ):
        with pytest.raises(Tampered, match=r"template\.malformed"):
            Template.from_bytes(data)
    deep: Any = "00"
    for _ in range(40):
        deep = [48, deep]
    with pytest.raises(Tampered, match=r"template\.malformed"):
        Template.from_bytes(msgspec.json.encode(document | {"tbs": [deep]}, order="sorted"))


@given(st.data())
def test_flipped_octet_in_a_stored_template_never_gives_the_same_hash(data: st.DataObject) -> None:
    good = template("idevid").to_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    with contextlib.suppress(BirthmarkError):
        assert Template.from_bytes(bad).template_hash != template("idevid").template_hash


@pytest.mark.parametrize(
    ("position", "value", "code"),
    [
        (0, b"", "certificate.serial.malformed"),
        (0, b"\x00" + bytes(15), "certificate.serial.malformed"),
        (0, b"\x80" + bytes(15), "certificate.serial.malformed"),
        (0, SERIAL + b"\0", "certificate.serial.malformed"),
        (1, b"", "device.serial.length"),
        (1, b"A" * 65, "device.serial.length"),
        (1, b"SN 000000042", "device.serial.profile"),
        (1, b"SN_000000042", "device.serial.profile"),
        (1, b"SN00000004\n2", "device.serial.profile"),
        (1, b"SN000000042\n", "device.serial.profile"),
        (1, b"SN00000004\x002", "device.serial.profile"),
        (1, b"-SN000000042", "device.serial.profile"),
        (1, "SN00000004é".encode(), "device.serial.profile"),
        (1, b"SN00000004\xff", "device.serial.profile"),
        (1, b"SN1", "device.serial.length"),
        (2, b"", "key.algorithm.mismatch"),
        (3, b"k" * 20, "key.id.mismatch"),
        (3, b"", "key.id.mismatch"),
    ],
)
def test_bad_value_never_reaches_a_hole(position: int, value: bytes, code: str) -> None:
    values = [*values_for("p256")]
    values[position] = value
    for own_key in (False, True):
        with pytest.raises(Refused) as caught:
            template("idevid").filler(12).checked_fill(*values, own_key=own_key)
        assert caught.value.code == code


def test_string_types_narrow_what_the_pattern_allows() -> None:
    profile = msgspec.structs.replace(
        load_preset("idevid"),
        device_serial=msgspec.structs.replace(load_preset("idevid").device_serial, pattern="(?s).+"),
    )
    issuer = hierarchy("idevid", "p256").certificate
    made = compile_template(
        profile, issuer_certificate=issuer, not_before=NOW, product_values=VALUES, key_algorithm="p256"
    )
    for bad in (b"a_b", b"a*b", b"a\x00b", b"a\nb", b"a\x7fb"):
        with pytest.raises(Refused, match=r"device\.serial\.profile"):
            made.check_device_serial(bad)
    made.check_device_serial(b"a b")
    common = load_preset("aws-iot")
    common = msgspec.structs.replace(
        common, device_serial=msgspec.structs.replace(common.device_serial, pattern="(?s).+")
    )
    wide = compile_template(common, issuer_certificate=issuer, not_before=NOW, key_algorithm="p256")
    wide.check_device_serial(b"a_b")
    for bad in (b"\xe9", "é".encode(), b"a\x1bb"):
        with pytest.raises(Refused, match=r"device\.serial\.profile"):
            wide.check_device_serial(bad)


def test_azure_registration_ids_are_lower_case() -> None:
    made = template("azure-dps")
    made.check_device_serial(b"sn.1_a-b")
    for bad in (b"SN1", b"sn:1", b"sn1-", b".sn1"):
        with pytest.raises(Refused, match=r"device\.serial\.profile"):
            made.check_device_serial(bad)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({}, "template.value.missing"),
        ({"maker": "", "hw_type": "1.2.3"}, "template.value.malformed"),
        ({"maker": "x" * 65, "hw_type": "1.2.3"}, "template.value.malformed"),
        ({"maker": "a\nb", "hw_type": "1.2.3"}, "template.value.malformed"),
        ({"maker": "a\x00b", "hw_type": "1.2.3"}, "template.value.malformed"),
        ({"maker": "a\ud800b", "hw_type": "1.2.3"}, "template.value.malformed"),
        ({"maker": "Acme", "hw_type": "hardware"}, "template.value.malformed"),
        ({"maker": "Acme", "hw_type": "1.40.3"}, "template.value.malformed"),
        ({"maker": "Acme", "hw_type": "3.1.1"}, "template.value.malformed"),
        ({"maker": "Acme", "hw_type": "1.2.03"}, "template.value.malformed"),
        ({"maker": "Acme", "hw_type": "1"}, "template.value.malformed"),
    ],
)
def test_bad_product_value_is_named(values: dict[str, str], code: str) -> None:
    issuer = hierarchy("idevid", "p256").certificate
    with pytest.raises(Misconfigured) as caught:
        compile_template(
            load_preset("idevid"),
            issuer_certificate=issuer,
            not_before=NOW,
            product_values=values,
            key_algorithm="p256",
        )
    assert caught.value.code == code


@pytest.mark.parametrize("vid", ["fff1", "FFF", "FFF11", "GGGG", ""])
def test_matter_ids_are_four_upper_case_digits(vid: str) -> None:
    with pytest.raises(Misconfigured, match=r"template\.value\.malformed"):
        compile_template(
            load_preset("matter-dac"),
            issuer_certificate=hierarchy("matter-dac", "p256").certificate,
            not_before=NOW,
            product_values={"vid": vid, "pid": "8000"},
            key_algorithm="p256",
        )


def test_wrong_kinds_and_algorithms_are_refused() -> None:
    issuer = hierarchy("idevid", "p256").certificate
    arguments: dict[str, Any] = {"not_before": NOW, "product_values": VALUES | {"ca_name": "x"}}
    with pytest.raises(Misconfigured, match=r"template\.kind"):
        compile_template(load_preset("root-ca"), issuer_certificate=issuer, key_algorithm="p256", **arguments)
    with pytest.raises(Misconfigured, match=r"template\.kind"):
        compile_root_template(load_preset("idevid"), public_key=key("p256").public_key(), **arguments)
    with pytest.raises(Refused, match=r"profile\.key_algorithm"):
        compile_template(load_preset("idevid"), issuer_certificate=issuer, key_algorithm="ed25519", **arguments)
    with pytest.raises(Refused, match=r"profile\.key_algorithm"):
        compile_template(
            load_preset("aws-iot"),
            issuer_certificate=hierarchy("tls-client", "ed25519").certificate,
            key_algorithm="p256",
            **arguments,
        )
    with pytest.raises(Refused, match=r"key\.algorithm\.unsupported"):
        compile_template(load_preset("idevid"), issuer_certificate=issuer, key_algorithm="dsa", **arguments)


def test_validity_forms() -> None:
    profile, issuer = load_preset("tls-client"), hierarchy("tls-client", "p256").certificate

    def made(moment: datetime) -> Template:
        return compile_template(
            profile, issuer_certificate=issuer, not_before=moment, product_values=VALUES, key_algorithm="p256"
        )

    later = NOW + timedelta(days=1, microseconds=5)
    assert made(later).not_before == NOW + timedelta(days=1, minutes=-60)
    assert made(later).not_after == NOW + timedelta(days=3651)
    assert made(NOW + timedelta(minutes=5)).not_before == NOW, "backdating stops where the issuer starts"
    assert template("idevid").not_after == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for bad in (later.replace(tzinfo=None), datetime(9995, 1, 1, tzinfo=UTC), datetime(1949, 1, 1, tzinfo=UTC)):
        with pytest.raises(Misconfigured, match=r"template\.validity"):
            made(bad)


def test_certificate_above_the_size_of_the_profile_is_refused() -> None:
    profile = msgspec.structs.replace(load_preset("matter-dac"), max_der_bytes=450)
    made = compile_template(
        profile,
        issuer_certificate=hierarchy("matter-dac", "p256").certificate,
        not_before=NOW,
        product_values=VALUES,
        key_algorithm="p256",
    )
    with pytest.raises(Refused, match=r"certificate\.size"):
        made.filler(64)


def test_template_that_does_not_fit_into_the_log_is_refused() -> None:
    leaf = load_preset("aws-iot")
    many = tuple(Extension(oid=f"1.2.3.{number}", der="00" * 2000) for number in range(20))
    with pytest.raises(Misconfigured, match=r"template\.size"):
        compile_template(
            msgspec.structs.replace(leaf, extensions=many),
            issuer_certificate=hierarchy("aws-iot", "p256").certificate,
            not_before=NOW,
            key_algorithm="p256",
        )


def test_tbs_of_another_template_is_not_read() -> None:
    made, other = template("tls-client"), template("tls-client", issuer_algorithm="p384")
    values = values_for("p256")
    tbs = made.filler(12).checked_fill(*values)
    assert made.read(tbs).spki == values[2]
    for bad in (other.filler(12).checked_fill(*values), b"", tbs + b"\0", tbs[:-1] + b"\xff"):
        with pytest.raises(Tampered, match=r"template\.mismatch"):
            made.read(bad)
    common_name = tbs.index(b"sn0000000042")
    twisted = tbs[:common_name] + b"sn0000000043" + tbs[common_name + 12 :]
    with pytest.raises(Tampered, match=r"two different values"):
        made.read(twisted)


def test_issuer_name_is_copied_octet_for_octet() -> None:
    odd = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "SE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Teletex", _type=x509.name._ASN1Type.T61String),
            x509.NameAttribute(NameOID.COMMON_NAME, "Wide", _type=x509.name._ASN1Type.BMPString),
        ]
    )
    private = key("p256", 9)
    builder = x509.CertificateBuilder().subject_name(odd).issuer_name(odd).public_key(private.public_key())
    builder = builder.serial_number(5).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9999))
    issuer = builder.sign(private, hashes.SHA256())
    made = compile_template(
        load_preset("aws-iot"), issuer_certificate=issuer, not_before=NOW, product_values={}, key_algorithm="p256"
    )
    tbs = made.filler(12).checked_fill(*values_for("p256"))
    certificate = x509.load_der_x509_certificate(
        assemble(tbs, ALGORITHMS["p256"].signature_algorithm, ALGORITHMS["p256"].sign(private, tbs))
    )
    certificate.verify_directly_issued_by(issuer)
    nameless = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(odd)
    nameless = nameless.public_key(private.public_key()).serial_number(5).not_valid_before(NOW)
    with pytest.raises(Misconfigured, match=r"template\.issuer"):
        compile_template(
            load_preset("aws-iot"),
            issuer_certificate=nameless.not_valid_after(NOW + timedelta(days=1)).sign(private, hashes.SHA256()),
            not_before=NOW,
            key_algorithm="p256",
        )


@given(st.integers(0, 400), st.integers(0, 70000))
def test_assembled_certificates_have_the_right_lengths(signature: int, tbs: int) -> None:
    from asn1crypto import core

    whole = assemble(core.OctetString(bytes(tbs)).dump(), b"\x30\x00", bytes(signature))
    parsed = core.Sequence.load(whole, strict=True)
    assert parsed[2].dump() == core.OctetBitString(bytes(signature)).dump()
