"""What a profile says of one device, in the terms of a parsed certificate or request.

Read by the checks only, so that what a template writes is compared with a second reading of the profile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from birthmark.pki.der import octet_string, oid, sequence

if TYPE_CHECKING:
    from birthmark.pki.profile import Profile
    from birthmark.pki.profileparts import GeneralName

__all__ = [
    "HARDWARE_MODULE_NAME",
    "attribute_oid",
    "expected_names",
    "expected_purposes",
    "expected_subject",
    "fill",
    "usage_bits",
]

HARDWARE_MODULE_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4")
"""id-on-hardwareModuleName (RFC 4108, section 5)."""

_ATTRIBUTES = {
    "CN": NameOID.COMMON_NAME,
    "C": NameOID.COUNTRY_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "matterVid": x509.ObjectIdentifier("1.3.6.1.4.1.37244.2.1"),
    "matterPid": x509.ObjectIdentifier("1.3.6.1.4.1.37244.2.2"),
}
_PURPOSES = {
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "codeSigning": ExtendedKeyUsageOID.CODE_SIGNING,
    "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "timeStamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "OCSPSigning": ExtendedKeyUsageOID.OCSP_SIGNING,
}
_USAGES = {
    "digital_signature": "digitalSignature",
    "content_commitment": "contentCommitment",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
}
_NO_NAME = x509.OtherName(HARDWARE_MODULE_NAME, b"\x05\x00")
"""Stands for a name that the profile cannot form: no certificate has it."""
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}")


def fill(text: str, device_serial: str | None, values: Mapping[str, str]) -> str:
    """Return ``text`` with its placeholders filled; one without a value stays as it is."""
    known = dict(values) if device_serial is None else {**values, "device_serial": device_serial}
    return _PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), text)


def attribute_oid(name: str) -> str:
    """Return the dotted OID of a subject attribute's short name (or of the OID itself)."""
    return _ATTRIBUTES[name].dotted_string if name in _ATTRIBUTES else name


def expected_subject(profile: Profile, device_serial: str | None, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the subject as (dotted OID, value), in order."""
    return [
        (attribute_oid(attribute.type), fill(attribute.value, device_serial, values)) for attribute in profile.subject
    ]


def expected_names(profile: Profile, device_serial: str | None, values: Mapping[str, str]) -> list[x509.GeneralName]:
    """Return the subject alternative names, in order."""
    san = profile.subject_alternative_name
    return [_general_name(name, device_serial, values) for name in san.names] if san else []


def _general_name(name: GeneralName, device_serial: str | None, values: Mapping[str, str]) -> x509.GeneralName:
    value = fill(name.value, device_serial, values)
    hw_type = fill(name.hw_type or "", device_serial, values)
    try:
        if name.type == "dns":
            return x509.DNSName(value)
        if name.type == "uri":
            return x509.UniformResourceIdentifier(value)
        if name.type == "ip":
            return x509.IPAddress(ip_address(value))
        x509.ObjectIdentifier(hw_type)
    except ValueError:
        return _NO_NAME
    module = sequence(oid(hw_type), octet_string(value.encode()))
    return x509.OtherName(HARDWARE_MODULE_NAME, module) if isinstance(module, bytes) else _NO_NAME


def expected_purposes(profile: Profile) -> list[str]:
    """Return the extended key usages as dotted OIDs, in order."""
    extended = profile.extended_key_usage
    names = extended.purposes if extended else []
    return [_PURPOSES[name].dotted_string if name in _PURPOSES else name for name in names]


def usage_bits(usage: x509.KeyUsage) -> set[str]:
    """Return the set bits of a keyUsage by their RFC 5280 names."""
    bits = {name for attribute, name in _USAGES.items() if getattr(usage, attribute)}
    if usage.key_agreement:
        bits |= {
            name
            for name, is_set in (("encipherOnly", usage.encipher_only), ("decipherOnly", usage.decipher_only))
            if is_set
        }
    return bits
