from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from pki_makers import NOW, SERIAL, VALUES, FaultyTokenKey, ca, hierarchy, key, no_lint, real_lint, template, values_for

from birthmark.errors import Misconfigured, Refused, Tampered
from birthmark.pki.algorithms import ALGORITHMS, spki_of
from birthmark.pki.issuer import Issuer, Permit, issue_ca_certificate
from birthmark.pki.profile import load_preset
from birthmark.pki.template import Template, compile_template


@dataclass(frozen=True)
class Found:
    code: str
    severity: int


def permit(leaf: str = "idevid", issuer: Issuer | None = None) -> Permit:
    return (issuer or hierarchy(leaf, "p256")).prepare(template(leaf), now=NOW, lint=no_lint)


def chunk(made: Template, count: int) -> list[bytes]:
    _, _, spki, key_id = values_for("p256")
    filler = made.filler(6)
    return [
        filler.fill(SERIAL[:8] + number.to_bytes(8, "big"), b"SN%04d" % number, spki, key_id) for number in range(count)
    ]


def test_issued_certificate_is_verified_by_its_issuer() -> None:
    issuer = hierarchy("idevid", "p256")
    spki = values_for("p256")[2]
    der = issuer.issue(permit(), cert_serial=SERIAL, device_serial=b"SN0042", spki=spki)
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(issuer.certificate)
    assert certificate.serial_number == int.from_bytes(SERIAL, "big")
    assert spki_of(certificate.public_key()) == spki


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_many_are_signed_by_every_algorithm(algorithm: str) -> None:
    issuer, made = hierarchy("tls-client", algorithm), template("tls-client", issuer_algorithm=algorithm)
    granted = issuer.prepare(made, now=NOW, lint=no_lint)
    tbs_list = chunk(made, 5)
    for verify in ("all", "sample"):
        certificates = issuer.sign_many(granted, tbs_list, verify=verify)  # type: ignore[arg-type]
        for der, tbs in zip(certificates, tbs_list, strict=True):
            certificate = x509.load_der_x509_certificate(der)
            assert certificate.tbs_certificate_bytes == tbs
            certificate.verify_directly_issued_by(issuer.certificate)
    assert issuer.sign_many(granted, [], verify="sample") == []


def test_different_lengths_in_one_chunk() -> None:
    issuer, made = hierarchy("idevid", "p256"), template("idevid")
    _, _, spki, key_id = values_for("p256")
    tbs_list = [made.filler(length).fill(SERIAL, b"A" * length, spki, key_id) for length in (1, 64, 7)]
    fresh = template("idevid")
    certificates = issuer.sign_many(issuer.prepare(fresh, now=NOW, lint=no_lint), tbs_list, verify="sample")
    found = [fresh.read(x509.load_der_x509_certificate(der).tbs_certificate_bytes) for der in certificates]
    assert [values.device_serial for values in found] == [b"A", b"A" * 64, b"A" * 7]


@pytest.mark.parametrize("wrong", [0, 1, 2, 3, 4])
def test_no_certificate_leaves_when_the_token_signs_with_another_key(wrong: int) -> None:
    good = hierarchy("idevid", "p256")

    class SometimesWrong(FaultyTokenKey):
        def sign(self, data: Any, signature_algorithm: Any) -> bytes:
            right = self.calls != wrong
            self.calls += 1
            return (self._shown if right else self._used).sign(data, signature_algorithm)

    token = SometimesWrong(key("p256", 2), key("p256", 3))
    issuer = Issuer(good.certificate, token)
    granted = issuer.prepare(template("idevid"), now=NOW, lint=no_lint)
    with pytest.raises(Tampered) as caught:
        issuer.sign_many(granted, chunk(template("idevid"), 5), verify="sample")
    assert caught.value.code == "issuer.signature.wrong"


def test_faulty_token_never_gets_one_certificate_out() -> None:
    issuer = Issuer(hierarchy("idevid", "p256").certificate, FaultyTokenKey(key("p256", 2), key("p256", 3)))
    assert issuer.verifies_all
    granted = issuer.prepare(template("idevid"), now=NOW, lint=no_lint)
    with pytest.raises(Tampered, match=r"issuer\.signature\.wrong"):
        issuer.issue(granted, cert_serial=SERIAL, device_serial=b"SN0042", spki=values_for("p256")[2])


@pytest.mark.parametrize("garbage", [b"", b"\x30\x00", b"\x00" * 64, b"\x30\x06\x02\x01\x00\x02\x01\x00"])
def test_garbage_from_a_token_is_found(garbage: bytes) -> None:
    class Broken(FaultyTokenKey):
        def sign(self, data: Any, signature_algorithm: Any) -> bytes:
            return garbage

    issuer = Issuer(hierarchy("idevid", "p256").certificate, Broken(key("p256", 2), key("p256", 2)))
    granted = issuer.prepare(template("idevid"), now=NOW, lint=no_lint)
    with pytest.raises(Tampered, match=r"issuer\.signature\.wrong"):
        issuer.sign_many(granted, chunk(template("idevid"), 1), verify="sample")


def test_sound_token_key_issues() -> None:
    issuer = Issuer(hierarchy("idevid", "p256").certificate, FaultyTokenKey(key("p256", 2), key("p256", 2)))
    granted = issuer.prepare(template("idevid"), now=NOW, lint=no_lint)
    assert len(issuer.sign_many(granted, chunk(template("idevid"), 3), verify="sample")) == 3


def test_altered_tbs_is_not_signed() -> None:
    issuer, made = hierarchy("idevid", "p256"), template("idevid")
    granted = issuer.prepare(made, now=NOW, lint=no_lint)
    good = chunk(made, 5)
    at = good[2].index(bytes.fromhex("0603551d0f"))  # keyUsage
    others = template("tls-client").filler(6).fill(*values_for("p256", b"SN0042"))
    for bad in (good[2][:at] + b"\x06\x03\x55\x1d\x13" + good[2][at + 5 :], b"", good[2] + b"\0", others):
        with pytest.raises(Tampered, match=r"template\.mismatch"):
            issuer.sign_many(granted, [*good[:2], bad, *good[3:]], verify="sample")


def test_two_names_in_one_certificate_are_found() -> None:
    issuer, made = hierarchy("tls-client", "p256"), template("tls-client")
    granted = issuer.prepare(made, now=NOW, lint=no_lint)
    tbs = made.filler(6).fill(*values_for("p256", b"SN0042"))
    at = tbs.index(b"SN0042")
    with pytest.raises(Tampered, match=r"template\.mismatch"):
        issuer.sign_many(granted, [tbs[:at] + b"SN0043" + tbs[at + 6 :]], verify="sample")


def test_permit_cannot_be_made_copied_or_sent() -> None:
    with pytest.raises(TypeError):
        Permit()
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            act(permit())


def test_permit_of_another_issuer_is_refused() -> None:
    other = Issuer(hierarchy("idevid", "p256").certificate, key("p256", 2))
    with pytest.raises(Refused, match=r"issuer\.permit\.foreign"):
        other.issue(permit(), cert_serial=SERIAL, device_serial=b"SN1", spki=values_for("p256")[2])
    with pytest.raises(Refused, match=r"issuer\.permit\.foreign"):
        other.sign_many(permit(), [], verify="all")


def test_template_of_another_issuer_is_refused() -> None:
    with pytest.raises(Refused, match=r"issuer\.template\.foreign"):
        hierarchy("idevid", "p256").prepare(template("idevid", issuer_algorithm="p384"), now=NOW, lint=no_lint)


def test_template_that_its_profile_does_not_compile_to_is_refused() -> None:
    issuer, made = hierarchy("tls-client", "p256"), template("tls-client")
    forged = made.to_bytes().replace(b"0603551d25", b"0603551d2a")
    with pytest.raises(Tampered, match=r"issuer\.template\.altered"):
        issuer.prepare(Template.from_bytes(forged), now=NOW, lint=no_lint)
    with pytest.raises(Tampered, match=r"issuer\.template\.altered"):
        issuer.prepare(replace(made, parts=template("idevid").parts), now=NOW, lint=no_lint)
    assert issuer.prepare(Template.from_bytes(made.to_bytes()), now=NOW, lint=no_lint).template == made


def test_lint_finding_stops_the_permit() -> None:
    issuer, made = hierarchy("idevid", "p256"), template("idevid")
    with pytest.raises(Refused) as caught:
        issuer.prepare(made, now=NOW, lint=lambda *_: [Found("bad.thing", 3), Found("noise", 2), Found("worse", 5)])
    assert caught.value.code == "profile.lint"
    assert caught.value.facts["findings"] == ["bad.thing", "worse"]
    accepted = Found("pkix.certificate_skid_end_entity_missing", 3)
    granted = issuer.prepare(made, now=NOW, lint=lambda *_: [accepted, Found("noise", 1)])
    assert granted.findings_allowed == (accepted.code,)


def test_specimen_is_a_filling_signed_by_nobody() -> None:
    issuer, made, seen = hierarchy("idevid", "p256"), template("idevid"), []
    granted = issuer.prepare(made, now=NOW, lint=lambda *pair: seen.append(pair) or [])
    specimen = x509.load_der_x509_certificate(granted.specimen)
    assert seen == [(granted.specimen, issuer.chain_der[0])]
    assert made.read(specimen.tbs_certificate_bytes).device_serial == b"SN0000000000"
    with pytest.raises(InvalidSignature):
        specimen.verify_directly_issued_by(issuer.certificate)


def test_clock_outside_the_issuers_validity() -> None:
    issuer, made = hierarchy("idevid", "p256"), template("idevid")
    with pytest.raises(Refused, match=r"issuer\.not_yet_valid"):
        issuer.prepare(made, now=NOW - timedelta(days=1), lint=no_lint)
    short = short_ca(30)
    limited = leaf_under(short, 10)
    with pytest.raises(Refused, match=r"issuer\.expired"):
        short.prepare(limited, now=NOW + timedelta(days=31), lint=no_lint)
    short.prepare(limited, now=NOW + timedelta(days=29), lint=no_lint)


def short_ca(days: int) -> Issuer:
    profile = load_preset("issuing-ca")
    short = msgspec.structs.replace(profile, validity=msgspec.structs.replace(profile.validity, days=days))
    der = issue_ca_certificate(
        short, subject_key=key("p256", 4).public_key(), issuer=ca("root-ca", "p256", None, True), cert_serial=SERIAL,
        not_before=NOW, values=VALUES | {"ca_name": "short"}, lint=no_lint,
    )  # fmt: skip
    return Issuer(x509.load_der_x509_certificate(der), key("p256", 4))


def leaf_under(issuer: Issuer, days: int) -> Template:
    profile = load_preset("aws-iot")
    leaf = msgspec.structs.replace(profile, validity=msgspec.structs.replace(profile.validity, days=days))
    return compile_template(leaf, issuer_certificate=issuer.certificate, not_before=NOW, key_algorithm="p256")


def test_certificate_never_outlives_its_issuer() -> None:
    short = short_ca(30)
    short.prepare(leaf_under(short, 30), now=NOW, lint=no_lint)
    with pytest.raises(Refused) as caught:
        short.prepare(leaf_under(short, 31), now=NOW, lint=no_lint)
    assert caught.value.code == "issuer.validity.nesting"
    early = compile_template(
        load_preset("idevid"), issuer_certificate=hierarchy("idevid", "p256").certificate,
        not_before=NOW - timedelta(days=2), product_values=VALUES, key_algorithm="p256",
    )  # fmt: skip
    with pytest.raises(Refused, match=r"issuer\.validity\.nesting"):
        hierarchy("idevid", "p256").prepare(early, now=NOW, lint=no_lint)


def test_no_ca_below_path_length_zero() -> None:
    values = VALUES | {"ca_name": "below"}
    with pytest.raises(Refused, match=r"issuer\.path_length"):
        issue_ca_certificate(
            load_preset("issuing-ca"), subject_key=key("p256", 5).public_key(), issuer=hierarchy("idevid", "p256"),
            cert_serial=SERIAL, not_before=NOW, values=values, lint=no_lint,
        )  # fmt: skip


def test_parts_that_do_not_belong_together_are_misconfigured() -> None:
    issuer = hierarchy("idevid", "p256")
    leaf = issuer.issue(permit(), cert_serial=SERIAL, device_serial=b"SN1", spki=values_for("p256")[2])
    leaf_certificate = x509.load_der_x509_certificate(leaf)
    with pytest.raises(Misconfigured, match=r"issuer\.key\.mismatch"):
        Issuer(issuer.certificate, key("p256", 7))
    with pytest.raises(Misconfigured, match=r"issuer\.key\.mismatch"):
        Issuer(issuer.certificate, key("ed25519"))
    with pytest.raises(Misconfigured, match=r"issuer\.not_a_ca"):
        Issuer(leaf_certificate, key("p256"))
    with pytest.raises(Misconfigured, match=r"issuer\.chain"):
        Issuer(issuer.certificate, key("p256", 2), [leaf_certificate])
    for cert_sign, ca_true, code in ((False, True, "issuer.key_usage"), (True, False, "issuer.not_a_ca")):
        with pytest.raises(Misconfigured) as caught:
            Issuer(_odd_ca(cert_sign=cert_sign, ca_true=ca_true), key("p256", 6))
        assert caught.value.code == code


def _odd_ca(*, cert_sign: bool, ca_true: bool) -> x509.Certificate:
    private = key("p256", 6)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "odd")])
    usage = x509.KeyUsage(True, False, False, False, False, cert_sign, False, False, False)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca_true, None), True).add_extension(usage, True)
    return builder.sign(private, hashes.SHA256())


def test_unreadable_extensions_are_misconfigured() -> None:
    der = _odd_ca(cert_sign=True, ca_true=True).public_bytes(Encoding.DER)
    broken = der.replace(bytes.fromhex("30030101ff"), bytes.fromhex("30030102ff"))
    assert broken != der
    with pytest.raises(Misconfigured, match=r"issuer\.certificate"):
        Issuer(x509.load_der_x509_certificate(broken), key("p256", 6))


def test_issuer_with_a_key_of_no_known_kind_is_refused() -> None:
    der = _odd_ca(cert_sign=True, ca_true=True).public_bytes(Encoding.DER)
    for known, unknown in (
        ("06082a8648ce3d030107", "06082a8648ce3d03017f"),
        ("06072a8648ce3d0201", "06072a8648ce3d027f"),
    ):
        strange = x509.load_der_x509_certificate(der.replace(bytes.fromhex(known), bytes.fromhex(unknown)))
        with pytest.raises(Refused, match=r"key\.algorithm\.unsupported"):
            Issuer(strange, key("p256", 6))
        with pytest.raises(Refused, match=r"key\.algorithm\.unsupported"):
            compile_template(load_preset("aws-iot"), issuer_certificate=strange, not_before=NOW, key_algorithm="p256")


def test_ceremony_refuses_the_wrong_kind_or_key() -> None:
    root, public = load_preset("root-ca"), key("p256", 1).public_key()
    arguments: dict[str, Any] = {
        "cert_serial": SERIAL, "not_before": NOW, "values": VALUES | {"ca_name": "x"}, "lint": no_lint,
    }  # fmt: skip
    for profile, above in (
        (root, hierarchy("idevid", "p256")),
        (load_preset("issuing-ca"), None),
        (load_preset("idevid"), None),
    ):
        with pytest.raises(Misconfigured, match=r"issuer\.profile\.kind"):
            issue_ca_certificate(profile, subject_key=public, issuer=above, **arguments)
    for self_key in (None, key("p256", 2)):
        with pytest.raises(Misconfigured, match=r"issuer\.self_key"):
            issue_ca_certificate(root, subject_key=public, issuer=None, self_key=self_key, **arguments)
    with pytest.raises(Tampered, match=r"issuer\.signature\.wrong"):
        issue_ca_certificate(
            root, subject_key=public, issuer=None, self_key=FaultyTokenKey(key("p256", 1), key("p256", 2)), **arguments
        )


def test_permit_holds_what_the_log_wants_to_know() -> None:
    issuer, made = hierarchy("idevid", "p256"), template("idevid")
    granted = issuer.prepare(made, now=NOW, lint=real_lint(load_preset("idevid"), VALUES))
    assert granted.findings_allowed == ("pkix.certificate_skid_end_entity_missing",)
    assert granted.template.template_hash == made.template_hash
    assert len(issuer.chain_der) == 2
