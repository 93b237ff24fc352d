"""The same certificate made the ordinary way, with ``CertificateBuilder``: a second reading of the profile."""

from __future__ import annotations

from typing import Any

from asn1crypto import core
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.name import _ASN1Type

from birthmark.pki.profile import Profile
from birthmark.pki.template import Template

OIDS = {
    "CN": "2.5.4.3", "serialNumber": "2.5.4.5", "C": "2.5.4.6", "L": "2.5.4.7", "ST": "2.5.4.8", "O": "2.5.4.10",
    "OU": "2.5.4.11", "matterVid": "1.3.6.1.4.1.37244.2.1", "matterPid": "1.3.6.1.4.1.37244.2.2",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
}  # fmt: skip
STRINGS = {"utf8": _ASN1Type.UTF8String, "printable": _ASN1Type.PrintableString, "ia5": _ASN1Type.IA5String, None: None}
USAGES = {
    "digitalSignature": "digital_signature", "contentCommitment": "content_commitment",
    "keyEncipherment": "key_encipherment", "dataEncipherment": "data_encipherment", "keyAgreement": "key_agreement",
    "keyCertSign": "key_cert_sign", "cRLSign": "crl_sign", "encipherOnly": "encipher_only",
    "decipherOnly": "decipher_only",
}  # fmt: skip


class HardwareModule(core.Sequence):
    _fields = [("hw_type", core.ObjectIdentifier), ("hw_serial", core.OctetString)]  # noqa: RUF012


def oid(name: str) -> x509.ObjectIdentifier:
    return x509.ObjectIdentifier(OIDS.get(name, name))


def reference_tbs(
    template: Template,
    values: dict[str, str],
    filled: tuple[bytes, bytes, bytes, bytes],
    public_key: Any,
    issuer: x509.Certificate | None,
    issuer_key: Any,
) -> bytes:
    """Return the TBS that CertificateBuilder makes from the template's profile."""
    cert_serial, device_serial, _, _ = filled
    profile = template.profile
    texts = values | {"device_serial": device_serial.decode()}
    subject = x509.Name(
        [
            x509.NameAttribute(oid(each.type), each.value.format_map(texts), _type=STRINGS[each.string])
            for each in profile.subject
        ]
    )
    builder = x509.CertificateBuilder().serial_number(int.from_bytes(cert_serial, "big")).public_key(public_key)
    builder = builder.subject_name(subject).issuer_name(issuer.subject if issuer else subject)
    builder = builder.not_valid_before(template.not_before).not_valid_after(template.not_after)
    for extension, critical in extensions(profile, texts, public_key, issuer, issuer_key):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, digest_of(issuer_key)).tbs_certificate_bytes


def digest_of(private_key: Any) -> Any:
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return {256: hashes.SHA256(), 384: hashes.SHA384()}[private_key.key_size]
    return hashes.SHA256() if isinstance(private_key, rsa.RSAPrivateKey) else None


def extensions(
    profile: Profile, texts: dict[str, str], public_key: Any, issuer: x509.Certificate | None, issuer_key: Any
) -> list[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = []
    if constraints := profile.basic_constraints:
        found.append((x509.BasicConstraints(constraints.ca, constraints.path_length), constraints.critical))
    if usage := profile.key_usage:
        flags = {python: name in usage.bits for name, python in USAGES.items()}
        found.append((x509.KeyUsage(**flags), usage.critical))
    if purposes := profile.extended_key_usage:
        found.append((x509.ExtendedKeyUsage([oid(each) for each in purposes.purposes]), purposes.critical))
    if profile.ski:
        found.append((x509.SubjectKeyIdentifier.from_public_key(public_key), False))
    if profile.aki and issuer is None:
        found.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key), False))
    elif profile.aki:
        found.append((x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False))
    if policies := profile.certificate_policies:
        listed = [x509.PolicyInformation(oid(each), None) for each in policies.policies]
        found.append((x509.CertificatePolicies(listed), policies.critical))
    if san := profile.subject_alternative_name:
        found.append((x509.SubjectAlternativeName([general_name(each, texts) for each in san.names]), san.critical))
    return found + addresses(profile, texts)


def general_name(name: Any, texts: dict[str, str]) -> x509.GeneralName:
    value = name.value.format_map(texts)
    if name.type == "dns":
        return x509.DNSName(value)
    if name.type == "uri":
        return x509.UniformResourceIdentifier(value)
    module = HardwareModule({"hw_type": name.hw_type.format_map(texts), "hw_serial": value.encode()})
    return x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4"), module.dump())


def addresses(profile: Profile, texts: dict[str, str]) -> list[tuple[x509.ExtensionType, bool]]:
    found: list[tuple[x509.ExtensionType, bool]] = []

    def url(text: str) -> x509.UniformResourceIdentifier:
        return x509.UniformResourceIdentifier(text.format_map(texts))

    access = x509.oid.AuthorityInformationAccessOID
    described = [x509.AccessDescription(access.OCSP, url(each)) for each in profile.urls.ocsp]
    described += [x509.AccessDescription(access.CA_ISSUERS, url(each)) for each in profile.urls.ca_issuers]
    if described:
        found.append((x509.AuthorityInformationAccess(described), False))
    if profile.urls.crl:
        points = [x509.DistributionPoint([url(each)], None, None, None) for each in profile.urls.crl]
        found.append((x509.CRLDistributionPoints(points), False))
    for extra in profile.extensions:
        found.append((x509.UnrecognizedExtension(oid(extra.oid), bytes.fromhex(extra.der)), extra.critical))
    return found
