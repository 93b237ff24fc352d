"""The rules for every certificate: what pkilint does not know (issuer, profile, record, keys).

pkilint already checks most of RFC 5280 within one certificate; these rules look at two certificates, at the
profile, and at the device the certificate is for.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509

from birthmark.errors import Refused
from birthmark.pki.expected import (
    attribute_oid,
    expected_names,
    expected_purposes,
    expected_subject,
    usage_bits,
)
from birthmark.pki.keycheck import check_public_key
from birthmark.pki.lintcase import NO_EXPIRY, Case, Rule, Severity, extension_of
from birthmark.pki.sigcheck import SIGNATURES

__all__ = ["RULES"]

_ERROR, _WARNING, _NOTICE = Severity.ERROR, Severity.WARNING, Severity.NOTICE
_MIN_SERIAL_BITS = 64
_BOUND_64 = {attribute_oid(name) for name in ("serialNumber", "O", "OU")}


def _serial_entropy(case: Case) -> Iterator[str]:
    if int.from_bytes(case.cert_serial, "big").bit_length() < _MIN_SERIAL_BITS:
        yield f"the serial number is below 2^{_MIN_SERIAL_BITS - 1}: it cannot hold 64 random bits"


def _validity_order(case: Case) -> Iterator[str]:
    if case.cert.not_valid_after_utc <= case.cert.not_valid_before_utc:
        yield "notAfter is not after notBefore"


def _validity_nesting(case: Case) -> Iterator[str]:
    issuer = case.issuer
    if case.cert.not_valid_after_utc > issuer.not_valid_after_utc:
        yield f"notAfter lies after the issuer's, {issuer.not_valid_after_utc:%F %T} UTC"


def _starts_early(case: Case) -> Iterator[str]:
    issuer = case.issuer
    if case.cert.not_valid_before_utc < issuer.not_valid_before_utc:
        yield f"notBefore lies before the issuer's, {issuer.not_valid_before_utc:%F %T} UTC"


def _no_expiry_form(case: Case) -> Iterator[str]:
    tag, content = case.not_after
    if content[:4] == b"9999" and (tag != 0x18 or content != NO_EXPIRY):
        yield "a year of 9999 that is not the GeneralizedTime 99991231235959Z"


def _no_expiry_duty(case: Case) -> Iterator[str]:
    if case.not_after == (0x18, NO_EXPIRY):
        yield (
            "no expiration date: whoever stops keeping status information must first end every valid path "
            "(for example by letting the issuing CA expire or removing the root)"
        )


def _validity_of_profile(case: Case) -> Iterator[str]:
    wanted = case.profile.validity.days
    if (wanted == "none") != (case.not_after[1] == NO_EXPIRY):
        yield f"notAfter is {case.not_after[1].decode('ascii', 'replace')}, the profile says {wanted} days"
    elif wanted != "none":
        span = case.cert.not_valid_after_utc - case.cert.not_valid_before_utc
        minutes = span.total_seconds() / 60 - case.profile.validity.backdate_minutes
        if minutes > wanted * 1440 + 1:
            yield f"valid for {span.days} days, the profile allows {wanted}"


def _issuer_name(case: Case) -> Iterator[str]:
    if case.cert.issuer.public_bytes() != case.issuer.subject.public_bytes():
        yield "the issuer name is not, octet for octet, the issuing certificate's subject"


def _issuer_is_ca(case: Case) -> Iterator[str]:
    basic, usage = (
        extension_of(case.issuer, x509.BasicConstraints),
        extension_of(case.issuer, x509.KeyUsage),
    )
    if basic is None or not basic.value.ca:
        yield "the issuing certificate is not a CA certificate"
    if usage is not None and not usage.value.key_cert_sign:
        yield "the issuing certificate may not sign certificates (keyCertSign)"


def _issuer_key_id(case: Case) -> Iterator[str]:
    ours = case.value(x509.AuthorityKeyIdentifier)
    theirs = extension_of(case.issuer, x509.SubjectKeyIdentifier)
    if ours is None or theirs is None:
        return
    if ours.key_identifier != theirs.value.digest:
        yield "authorityKeyIdentifier differs from the issuing certificate's subjectKeyIdentifier"


def _path_room(case: Case) -> Iterator[str]:
    ours, theirs = case.value(x509.BasicConstraints), extension_of(case.issuer, x509.BasicConstraints)
    if ours is None or not ours.ca or case.self_signed or theirs is None:
        return
    room = theirs.value.path_length
    if room == 0:
        yield "the issuing CA may not have CAs below it (pathLenConstraint 0)"
    elif room is not None and ours.path_length is not None and ours.path_length >= room:
        yield f"pathLenConstraint {ours.path_length} does not fit below {room}"


def _own_key(case: Case) -> Iterator[str]:
    if case.spki == case.issuer_spki and not (case.self_signed and case.profile.kind == "root-ca"):
        yield "the certificate holds the key of its issuer"


def _own_name(case: Case) -> Iterator[str]:
    if case.cert.subject == case.issuer.subject and not case.self_signed:
        yield "the certificate has the name of its issuer, so a path could not tell them apart"


def _ca_consistency(case: Case) -> Iterator[str]:
    basic, usage = case.value(x509.BasicConstraints), case.value(x509.KeyUsage)
    is_ca = basic is not None and basic.ca
    signs = usage is not None and usage.key_cert_sign
    if is_ca != case.profile.is_ca:
        yield f"cA is {is_ca}, the profile {case.profile.name} says {case.profile.is_ca}"
    if signs and not is_ca:
        yield "keyCertSign without cA"
    if is_ca and usage is not None and not signs:
        yield "cA without keyCertSign"
    if basic is not None and not basic.ca and basic.path_length is not None:
        yield "pathLenConstraint without cA"


def _key_sound(case: Case) -> Iterator[str]:
    try:
        check_public_key(case.spki)
    except Refused as error:
        yield f"{error.message} ({error.code})"


def _key_of_profile(case: Case) -> Iterator[str]:
    if case.kind not in case.profile.key_algorithms:
        yield f"a key of kind {case.kind}, the profile allows {', '.join(case.profile.key_algorithms)}"


def _issuer_key_of_profile(case: Case) -> Iterator[str]:
    allowed = case.profile.issuer_key_algorithms
    if allowed and case.issuer_kind not in allowed:
        yield f"an issuing key of kind {case.issuer_kind}, the profile allows {', '.join(allowed)}"


def _signature_known(case: Case) -> Iterator[str]:
    if case.signature not in {kind.name for kind in SIGNATURES.values()}:
        yield f"signature algorithm {case.signature}"


def _usage_fits_key(case: Case) -> Iterator[str]:
    usage = case.value(x509.KeyUsage)
    bits = usage_bits(usage) if usage else set()
    forbidden = bits & _FORBIDDEN_USAGE.get(case.kind.rstrip("0123456789"), set())
    if forbidden:
        yield f"{', '.join(sorted(forbidden))} with a key of kind {case.kind}"


_ENCRYPTION = {"keyEncipherment", "dataEncipherment", "keyAgreement", "encipherOnly", "decipherOnly"}
_FORBIDDEN_USAGE: dict[str, set[str]] = {
    "mldsa": _ENCRYPTION,
    "ed": _ENCRYPTION,
    "p": {"keyEncipherment", "dataEncipherment"},
    "rsa": {"keyAgreement", "encipherOnly", "decipherOnly"},
}


def _usage_of_profile(case: Case) -> Iterator[str]:
    usage, purposes = case.value(x509.KeyUsage), case.value(x509.ExtendedKeyUsage)
    wanted = set(case.profile.key_usage.bits) if case.profile.key_usage else set()
    if usage is not None and usage_bits(usage) != wanted:
        yield f"keyUsage is {', '.join(sorted(usage_bits(usage)))}, the profile says {', '.join(sorted(wanted))}"
    found = [purpose.dotted_string for purpose in purposes] if purposes else []
    if sorted(found) != sorted(expected_purposes(case.profile)):
        yield f"extendedKeyUsage is {', '.join(found) or 'absent'}, which is not what the profile says"


def _extensions_of_profile(case: Case) -> Iterator[str]:
    """Compare which extensions there are, and which are critical, with the profile."""
    p = case.profile
    wanted = {extension.oid: extension.critical for extension in p.extensions}
    tables = {
        "2.5.29.19": p.basic_constraints,
        "2.5.29.15": p.key_usage,
        "2.5.29.37": p.extended_key_usage,
        "2.5.29.17": p.subject_alternative_name,
        "2.5.29.32": p.certificate_policies,
    }
    wanted |= {oid: table.critical for oid, table in tables.items() if table is not None}
    plain = {
        "2.5.29.14": p.ski,
        "2.5.29.35": p.aki,
        "2.5.29.31": bool(p.urls.crl),
        "1.3.6.1.5.5.7.1.1": bool(p.urls.ocsp or p.urls.ca_issuers),
    }
    wanted |= {oid: False for oid, present in plain.items() if present}
    found = {extension.oid.dotted_string: extension.critical for extension in case.cert.extensions}
    for oid in sorted(wanted.keys() | found.keys()):
        if oid not in found:
            yield f"extension {oid} is missing"
        elif oid not in wanted:
            yield f"extension {oid} is not in the profile"
        elif wanted[oid] != found[oid]:
            yield f"extension {oid} is {'critical' if found[oid] else 'not critical'}"


def _subject_of_record(case: Case) -> Iterator[str]:
    found = [(attribute.oid.dotted_string, attribute.value) for attribute in case.cert.subject]
    wanted = expected_subject(case.profile, case.device_serial, case.values)
    same = len(found) == len(wanted) and all(
        oid == want_oid and (value == want or "{" in want)
        for (oid, value), (want_oid, want) in zip(found, wanted, strict=True)
    )
    if not same:
        yield f"the subject {case.cert.subject.rfc4514_string()!r} is not what the profile and the record say"


def _san_of_record(case: Case) -> Iterator[str]:
    san = case.value(x509.SubjectAlternativeName)
    found = list(san) if san else []
    wanted = expected_names(case.profile, case.device_serial, case.values)
    table = case.profile.subject_alternative_name
    open_texts = [text for name in table.names for text in (name.value, name.hw_type or "")] if table else []
    filled = {"device_serial", *case.values} if case.device_serial is not None else set(case.values)
    if any("{" + name + "}" in text for text in open_texts for name in case.profile.placeholders() - filled):
        return
    if case.device_serial is None and any("{device_serial}" in text for text in open_texts):
        return
    if found != wanted:
        yield "the subject alternative names are not what the profile and the record say"


def _device_is_named(case: Case) -> Iterator[str]:
    if case.device_serial is None or case.profile.kind != "end-entity":
        return
    names = [attribute.value for attribute in case.cert.subject]
    san = case.value(x509.SubjectAlternativeName)
    inside = case.device_serial in str(names) or any(
        case.device_serial.encode() in name.value for name in san or () if isinstance(name, x509.OtherName)
    )
    spoken = any(case.device_serial in str(name.value) for name in san or ())
    if not inside and not spoken:
        yield f"the device serial {case.device_serial} stands nowhere in subject or SAN"


def _name_text(case: Case) -> Iterator[str]:
    for attribute in case.cert.subject:
        value = attribute.value
        if isinstance(value, str) and (not value.isprintable() or value != value.strip()):
            yield f"{attribute.oid.dotted_string} holds a control character or a space at an end"
        if attribute.oid.dotted_string in _BOUND_64 and len(value) > 64:
            yield f"{attribute.oid.dotted_string} has {len(value)} characters"


def _size(case: Case) -> Iterator[str]:
    if len(case.der) > case.profile.max_der_bytes:
        yield f"{len(case.der)} octets, the profile allows {case.profile.max_der_bytes}"


RULES: tuple[Rule, ...] = (
    Rule("cert.serial.entropy", _ERROR, "CA/B BR, 7.1", "Room for 64 random bits.", _serial_entropy),
    Rule("cert.validity.order", _ERROR, "RFC 5280, 4.1.2.5", "notAfter after notBefore.", _validity_order),
    Rule(
        "cert.validity.nesting",
        _ERROR,
        "RFC 5280, 6.1.3 (a)(2)",
        "Ends no later than the issuer: after it no path is valid.",
        _validity_nesting,
    ),
    Rule(
        "cert.validity.starts_early",
        _NOTICE,
        "RFC 5280, 6.1.3 (a)(2)",
        "Starts no earlier than the issuer: before it no path is valid.",
        _starts_early,
    ),
    Rule(
        "cert.validity.no_expiry_form",
        _ERROR,
        "RFC 5280, 4.1.2.5",
        "No expiration date is the GeneralizedTime 99991231235959Z and nothing else.",
        _no_expiry_form,
    ),
    Rule(
        "cert.validity.no_expiry_duty",
        _NOTICE,
        "RFC 5280, 4.1.2.5",
        "Reminder: without an expiration date the end of status information needs a plan.",
        _no_expiry_duty,
    ),
    Rule(
        "cert.validity.profile",
        _ERROR,
        "profile: validity",
        "Not longer than the profile says.",
        _validity_of_profile,
    ),
    Rule("cert.issuer.name", _ERROR, "RFC 5280, 4.1.2.4", "Issuer is the subject of the CA.", _issuer_name),
    Rule("cert.issuer.not_a_ca", _ERROR, "RFC 5280, 4.2.1.9, 4.2.1.3", "The issuer is a CA.", _issuer_is_ca),
    Rule("cert.issuer.key_id", _ERROR, "RFC 5280, 4.2.1.1", "AKI is the SKI of the issuer.", _issuer_key_id),
    Rule("cert.issuer.path_length", _ERROR, "RFC 5280, 4.2.1.9", "The issuer has room for a CA.", _path_room),
    Rule("cert.issuer.same_key", _ERROR, "one key, one identity", "No key of an issuer below it.", _own_key),
    Rule("cert.issuer.same_name", _ERROR, "RFC 5280, 3.2", "No name of an issuer below it.", _own_name),
    Rule("cert.ca.consistency", _ERROR, "RFC 5280, 4.2.1.9", "cA, keyCertSign, profile agree.", _ca_consistency),
    Rule("cert.key.weak", _ERROR, "docs/lint.md, keys", "The key is sound.", _key_sound),
    Rule("cert.key.profile", _ERROR, "profile: key_algorithms", "A kind the profile has.", _key_of_profile),
    Rule(
        "cert.issuer.key_profile",
        _ERROR,
        "profile: issuer_key_algorithms",
        "An issuing key of a kind the profile has.",
        _issuer_key_of_profile,
    ),
    Rule(
        "cert.signature.algorithm",
        _ERROR,
        "RFC 5758, 4055, 8410, 9881",
        "ECDSA or RSA with SHA-2, Ed25519 or ML-DSA.",
        _signature_known,
    ),
    Rule(
        "cert.key_usage.key",
        _ERROR,
        "RFC 9881, 3; RFC 9295, 3; RFC 8813, 3; RFC 4055, 1.2",
        "No usage that a key of this kind does not have.",
        _usage_fits_key,
    ),
    Rule(
        "cert.key_usage.profile",
        _ERROR,
        "profile: key_usage, extended_key_usage",
        "Usages and purposes are the profile's.",
        _usage_of_profile,
    ),
    Rule(
        "cert.extensions.profile",
        _ERROR,
        "profile; RFC 5280, 4.2",
        "The profile's extensions, critical as it says, and no others.",
        _extensions_of_profile,
    ),
    Rule("cert.name.subject", _ERROR, "profile: subject", "The subject of the record.", _subject_of_record),
    Rule(
        "cert.name.san",
        _ERROR,
        "profile: subject_alternative_name",
        "The subject alternative names of the record.",
        _san_of_record,
    ),
    Rule("cert.name.device", _ERROR, "profile: device_serial", "The device is named.", _device_is_named),
    Rule("cert.name.text", _ERROR, "RFC 5280, App. A", "Clean text, at most 64 characters.", _name_text),
    Rule("cert.size", _ERROR, "profile: max_der_bytes", "Not larger than the device can hold.", _size),
)
"""Every rule for every certificate."""
