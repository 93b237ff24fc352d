"""What a delegated CA may do follows from the products it is for, and from the moment."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from pki_makers import NOW, SERIAL, VALUES, ca, key, real_lint, run, write_pem

from birthmark.errors import Misconfigured, Refused
from birthmark.pki.accessprofiles import access_ca_profile, server_profile
from birthmark.pki.algorithms import spki_of
from birthmark.pki.delegation import DeviceNames, delegated_profile
from birthmark.pki.issuer import Issuer, issue_ca_certificate
from birthmark.pki.profile import GeneralName, Profile, SubjectAlternativeName, Validity, load_preset
from birthmark.pki.signingtime import signing_window
from birthmark.pki.template import compile_template

DAYS = 90


def product(preset: str, days: Any = None) -> DeviceNames:
    profile = load_preset(preset)
    return (profile if days is None else msgspec.structs.replace(profile, validity=Validity(days=days))), VALUES


def delegated(*products: DeviceNames, preset: str = "site-ca", root: str = "root-ca", **more: Any) -> x509.Certificate:
    """Return the certificate of a CA for these products, linted, below a root."""
    profile = delegated_profile(load_preset(preset), products, days=DAYS, now=NOW, **more)
    values = VALUES | {"ca_name": "a site"}
    der = issue_ca_certificate(
        profile,
        subject_key=key("p256", 7).public_key(),
        issuer=ca(root, "p256"),
        cert_serial=SERIAL,
        not_before=NOW,
        values=values,
        lint=real_lint(profile, values),
    )
    return x509.load_der_x509_certificate(der)


def constraints(certificate: x509.Certificate) -> x509.NameConstraints:
    extension = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical, "RFC 5280, 4.2.1.10"
    return extension.value


def test_names_are_limited_to_the_constant_head_of_all_products() -> None:
    limits = constraints(delegated(product("idevid")))
    assert [base.value.rfc4514_string() for base in limits.permitted_subtrees or ()] == ["O=Acmé & Söhne"]
    assert [base.value for base in limits.excluded_subtrees or ()] == [
        ip_network("0.0.0.0/0"),
        ip_network("::/0"),
        "",
    ]


def test_a_product_named_by_its_serial_alone_leaves_nothing_to_permit() -> None:
    for products in ([product("tls-client")], [product("idevid"), product("tls-client")]):
        assert constraints(delegated(*products)).permitted_subtrees is None


def test_dns_names_are_left_open_only_for_products_that_have_one() -> None:
    profile = load_preset("tls-client")
    named = SubjectAlternativeName(names=(GeneralName(type="dns", value="{device_serial}.acme.example"),))
    limits = constraints(delegated((msgspec.structs.replace(profile, subject_alternative_name=named), VALUES)))
    assert all(isinstance(base, x509.IPAddress) for base in limits.excluded_subtrees or ())


def test_name_constraints_can_be_left_out() -> None:
    with pytest.raises(x509.ExtensionNotFound):
        constraints(delegated(product("idevid"), constrained=False))


@pytest.mark.parametrize(("lives", "wanted"), [((3650,), DAYS + 3650), ((10, 20), DAYS + 20), ((10, "none"), None)])
def test_the_ca_lives_as_long_as_its_longest_device(lives: tuple[Any, ...], wanted: int | None) -> None:
    certificate = delegated(*(product("tls-client", days) for days in lives))
    if wanted is None:
        assert certificate.not_valid_after_utc.year == 9999
    else:
        assert certificate.not_valid_after_utc - NOW == timedelta(days=wanted)
    assert signing_window(certificate) == (NOW, NOW + timedelta(days=DAYS))


def test_a_certificate_without_the_period_signs_while_it_is_valid() -> None:
    certificate = ca("root-ca", "p256").certificate
    assert signing_window(certificate) == (certificate.not_valid_before_utc, certificate.not_valid_after_utc)


@pytest.mark.parametrize("off", [timedelta(seconds=-1), timedelta(days=DAYS, seconds=1)])
def test_nothing_is_signed_outside_the_period(off: timedelta) -> None:
    certificate = delegated(product("tls-client", 1))
    issuer = Issuer(certificate, key("p256", 7), [ca("root-ca", "p256").certificate])
    profile = msgspec.structs.replace(load_preset("tls-client"), validity=Validity(days=1))
    template = compile_template(
        profile, issuer_certificate=certificate, not_before=NOW + off, product_values=VALUES, key_algorithm="p256"
    )
    with pytest.raises(Refused) as refusal:
        issuer.prepare(template, now=NOW + off, lint=real_lint(profile, VALUES))
    assert refusal.value.code in ("issuer.signing_period", "issuer.not_yet_valid")


def test_matter_has_no_place_for_more_extensions() -> None:
    certificate = delegated(product("matter-dac", 10), preset="matter-pai", root="matter-paa")
    assert certificate.not_valid_after_utc - NOW == timedelta(days=DAYS)
    oids = {extension.oid.dotted_string for extension in certificate.extensions}
    assert oids == {"2.5.29.19", "2.5.29.15", "2.5.29.14", "2.5.29.35"}


@pytest.mark.parametrize("preset", ["root-ca", "idevid"])
def test_only_an_issuing_ca_is_delegated(preset: str) -> None:
    with pytest.raises(Misconfigured) as refusal:
        delegated_profile(load_preset(preset), [], days=DAYS, now=NOW)
    assert refusal.value.code == "site.ca.profile"
    open_below = msgspec.structs.replace(
        load_preset("site-ca"),
        basic_constraints=msgspec.structs.replace(_constraints(load_preset("site-ca")), path_length=1),
    )
    with pytest.raises(Misconfigured):
        delegated_profile(open_below, [], days=DAYS, now=NOW)


def _constraints(profile: Profile) -> Any:
    assert profile.basic_constraints is not None
    return profile.basic_constraints


def test_addresses_of_a_service_are_read_back_by_openssl(tmp_path: Path) -> None:
    profile = access_ca_profile()
    private, values = key("p256", 8), {"ca_name": "access"}
    der = issue_ca_certificate(
        profile,
        subject_key=private.public_key(),
        issuer=None,
        self_key=private,
        cert_serial=SERIAL,
        not_before=NOW,
        values=values,
        lint=lambda specimen, _: real_lint(profile, values)(specimen, specimen),
    )
    issuer = Issuer(x509.load_der_x509_certificate(der), private)
    server = server_profile(["hq.example", "192.0.2.7", "2001:db8::7"], 30)
    template = compile_template(
        server, issuer_certificate=issuer.certificate, not_before=NOW, product_values={}, key_algorithm="p256"
    )
    permit = issuer.prepare(template, now=NOW, lint=real_lint(server, {}))
    spki = spki_of(key("p256", 9).public_key())
    leaf = x509.load_der_x509_certificate(
        issuer.issue(permit, cert_serial=SERIAL, device_serial=b"hq.example", spki=spki)
    )
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("192.0.2.7"), ip_address("2001:db8::7")]
    printed = run("openssl", "x509", "-in", write_pem(tmp_path / "leaf.pem", leaf), "-noout", "-ext", "subjectAltName")
    assert "IP Address:192.0.2.7, IP Address:2001:DB8:0:0:0:0:0:7" in printed


@pytest.mark.parametrize("value", ["300.1.1.1", "{device_serial}", "1.2.3", "::1::", "192.0.2.7/24"])
def test_what_is_no_address_is_refused(value: str) -> None:
    profile = msgspec.structs.replace(
        load_preset("tls-client"),
        subject_alternative_name=SubjectAlternativeName(names=(GeneralName(type="ip", value=value),)),
    )
    with pytest.raises(Misconfigured) as refusal:
        compile_template(
            profile,
            issuer_certificate=ca("root-ca", "p256").certificate,
            not_before=NOW,
            product_values=VALUES,
            key_algorithm="p256",
        )
    assert refusal.value.code == "template.value.malformed"
