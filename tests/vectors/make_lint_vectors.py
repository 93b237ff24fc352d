"""Writes ``lint/*.pem``: certificates with one flaw each, and beside each a ``.txt`` with what must be found.

Run it after a change: ``python -m vectors.make_lint_vectors`` in ``tests/``. In a ``.txt`` the first line is the
preset, the second the file of the issuing certificate, the rest the codes that must be left after the preset's
exceptions (none: clean). Everything is made for device ``sn-0001`` and ``VALUES``. Lint does not look at
signatures, so these certificates carry a constant one; keys come from fixed seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vectors.make_csr_vectors import ES256, ES384, oid, p256, pem, seed, spki, tlv

__all__ = ["DEVICE_SERIAL", "ISSUERS", "VALUES", "VECTORS", "write_all"]

DEVICE_SERIAL = "sn-0001"
VALUES = {
    "maker": "Acme",
    "ca_name": "Acme Issuing 1",
    "vid": "FFF1",
    "pid": "8000",
    "hw_type": "1.3.6.1.4.1.99999.1",
    "pen": "99999",
}
NO_EXPIRY = tlv(0x18, b"99991231235959Z")
FROM = tlv(0x17, b"260101000000Z")
UNTIL = tlv(0x17, b"351230000000Z")
BC, KU, EKU, SKI, AKI, SAN = "2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.14", "2.5.29.35", "2.5.29.17"
CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]).public_bytes()
SIGN_ONLY, CA_USAGE = bytes.fromhex("03020780"), bytes.fromhex("03020106")
SITE_SERIAL = bytes.fromhex("1001019b0000000000f1e2d3c4b5a697")
SHA1_SIGNATURE = tlv(0x30, oid("1.2.840.10045.4.1"))


def sha1(octets: bytes) -> bytes:
    return hashlib.sha1(octets, usedforsecurity=False).digest()


def key_id(key_info: bytes, octets: int = 20) -> bytes:
    """RFC 5280, 4.2.1.2, method 1 for P-256 and other keys whose bits end the SPKI."""
    return sha1(key_info[-65:])[:octets]


def name(*pairs: tuple[str, str]) -> bytes:
    """Return a Name of UTF8String attributes (PrintableString for serialNumber)."""
    tags = {NameOID.SERIAL_NUMBER.dotted_string: 0x13}
    return tlv(
        0x30,
        *(tlv(0x31, tlv(0x30, oid(kind), tlv(tags.get(kind, 0x0C), text.encode()))) for kind, text in pairs),
    )


CN, ORG, SN = (kind.dotted_string for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.SERIAL_NUMBER))
VID, PID = "1.3.6.1.4.1.37244.2.1", "1.3.6.1.4.1.37244.2.2"
ROOT_NAME, CA_NAME = name((ORG, "Acme"), (CN, "Acme Root")), name((ORG, "Acme"), (CN, "Acme Issuing 1"))
PAA_NAME = name((CN, "Acme PAA"), (VID, "FFF1"))
PAI_NAME = name((CN, "Acme Issuing 1"), (VID, "FFF1"))
Extensions = dict[str, tuple[bool, bytes]]


def certificate(
    *,
    extensions: Extensions,
    subject: bytes,
    key: bytes,
    issuer: bytes = CA_NAME,
    serial: bytes = SITE_SERIAL,
    not_before: bytes = FROM,
    not_after: bytes = UNTIL,
    algorithm: bytes = ES256,
    version: bytes = bytes.fromhex("a003020102"),
) -> bytes:
    """Return a certificate, field by field."""
    listed = [
        tlv(0x30, oid(kind), b"\x01\x01\xff" if critical else b"", tlv(4, value))
        for kind, (critical, value) in extensions.items()
    ]
    tbs = tlv(
        0x30,
        version,
        tlv(2, serial),
        algorithm,
        issuer,
        tlv(0x30, not_before, not_after),
        subject,
        key,
        tlv(0xA3, tlv(0x30, *listed)) if listed else b"",
    )
    return tlv(0x30, tbs, algorithm, tlv(3, b"\0", tlv(0x30, tlv(2, b"\1"), tlv(2, b"\1"))))


def ski(key: bytes) -> tuple[bool, bytes]:
    return False, tlv(4, key_id(key))


def aki(key: bytes) -> tuple[bool, bytes]:
    return False, tlv(0x30, tlv(0x80, key_id(key)))


def basic(ca: bool, path_length: int | None = None) -> tuple[bool, bytes]:
    length = b"" if path_length is None else tlv(2, bytes((path_length,)))
    return True, tlv(0x30, b"\x01\x01\xff" if ca else b"", length)


ROOT_KEY, CA_KEY, KEY = spki(p256("root")), spki(p256("ca")), spki(p256("lint"))


def _ca(subject: bytes, key: bytes, issuer: bytes, issuer_key: bytes, path_length: int | None, **more: bytes) -> bytes:
    extensions = {BC: basic(True, path_length), KU: (True, CA_USAGE), SKI: ski(key)}
    if issuer != subject:
        extensions[AKI] = aki(issuer_key)
    fields: dict[str, bytes] = {"not_after": NO_EXPIRY, **more}
    return certificate(extensions=extensions, subject=subject, key=key, issuer=issuer, **fields)


ISSUERS: dict[str, bytes] = {
    "issuer_root": _ca(ROOT_NAME, ROOT_KEY, ROOT_NAME, ROOT_KEY, None),
    "issuer_ca": _ca(CA_NAME, CA_KEY, ROOT_NAME, ROOT_KEY, 0),
    "issuer_short_ca": _ca(CA_NAME, CA_KEY, ROOT_NAME, ROOT_KEY, 0, not_after=tlv(0x17, b"300101000000Z")),
    "issuer_late_ca": _ca(CA_NAME, CA_KEY, ROOT_NAME, ROOT_KEY, 0, not_before=tlv(0x17, b"270101000000Z")),
    "issuer_not_a_ca": certificate(
        extensions={BC: basic(False), KU: (True, SIGN_ONLY), SKI: ski(CA_KEY), AKI: aki(ROOT_KEY)},
        subject=CA_NAME,
        key=CA_KEY,
        issuer=ROOT_NAME,
        not_after=NO_EXPIRY,
    ),
    "issuer_paa": _ca(PAA_NAME, ROOT_KEY, PAA_NAME, ROOT_KEY, 1),
    "issuer_pai": _ca(PAI_NAME, CA_KEY, PAA_NAME, ROOT_KEY, 0),
    "issuer_pai_with_pid": _ca(
        name((CN, "Acme Issuing 1"), (VID, "FFF1"), (PID, "8001")), CA_KEY, PAA_NAME, ROOT_KEY, 0
    ),
    "issuer_pai_without_vid": _ca(CA_NAME, CA_KEY, PAA_NAME, ROOT_KEY, 0),
    "issuer_late_pai": _ca(PAI_NAME, CA_KEY, PAA_NAME, ROOT_KEY, 0, not_before=tlv(0x17, b"270101000000Z")),
}

Vector = tuple[str, str, bytes, tuple[str, ...]]
VECTORS: dict[str, Callable[[], Vector]] = {}


def vector(function: Callable[[], Vector]) -> Callable[[], Vector]:
    VECTORS[function.__name__] = function
    return function


def _merge(good: Extensions, changes: dict[str, tuple[bool, bytes] | None]) -> Extensions:
    merged = {**good, **changes}
    return {kind: value for kind, value in merged.items() if value is not None}


def aws(
    *codes: str,
    issuer: str = "issuer_ca",
    change: dict[str, tuple[bool, bytes] | None] | None = None,
    **fields: bytes,
) -> Vector:
    """Return an ``aws-iot`` certificate: the plainest of the presets."""
    key = fields.pop("key", KEY)
    good: Extensions = {
        BC: basic(False),
        KU: (True, SIGN_ONLY),
        EKU: (False, CLIENT),
        SKI: ski(key),
        AKI: aki(CA_KEY),
    }
    subject = fields.pop("subject", name((CN, DEVICE_SERIAL)))
    der = certificate(extensions=_merge(good, change or {}), subject=subject, key=key, **fields)
    return "aws-iot", issuer, der, codes


def azure(*codes: str, **fields: bytes) -> Vector:
    _, issuer, der, _ = aws(**fields)
    return "azure-dps", issuer, der, codes


def idevid(*codes: str, change: dict[str, tuple[bool, bytes] | None] | None = None, **fields: bytes) -> Vector:
    module = tlv(0x30, oid(VALUES["hw_type"]), tlv(4, DEVICE_SERIAL.encode()))
    san = tlv(0x30, tlv(0xA0, oid("1.3.6.1.5.5.7.8.4"), tlv(0xA0, module)))
    good: Extensions = {KU: (True, SIGN_ONLY), AKI: aki(CA_KEY), SAN: (False, san)}
    subject = fields.pop("subject", name((ORG, "Acme"), (SN, DEVICE_SERIAL)))
    fields = {"not_after": NO_EXPIRY, "key": KEY, **fields}
    return (
        "idevid",
        "issuer_ca",
        certificate(extensions=_merge(good, change or {}), subject=subject, **fields),
        codes,
    )


def dac(
    *codes: str,
    issuer: str = "issuer_pai",
    change: dict[str, tuple[bool, bytes] | None] | None = None,
    **fields: bytes,
) -> Vector:
    issuer_name = {
        "issuer_pai_with_pid": name((CN, "Acme Issuing 1"), (VID, "FFF1"), (PID, "8001")),
        "issuer_pai_without_vid": CA_NAME,
        "issuer_paa": PAA_NAME,
    }.get(issuer, PAI_NAME)
    key = fields.get("key", KEY)
    issuer_key = ROOT_KEY if issuer == "issuer_paa" else CA_KEY
    good: Extensions = {BC: basic(False), KU: (True, SIGN_ONLY), SKI: ski(key), AKI: aki(issuer_key)}
    subject = fields.pop("subject", name((CN, DEVICE_SERIAL), (VID, "FFF1"), (PID, "8000")))
    fields = {"not_after": NO_EXPIRY, "key": KEY, "issuer": issuer_name, **fields}
    return (
        "matter-dac",
        issuer,
        certificate(extensions=_merge(good, change or {}), subject=subject, **fields),
        codes,
    )


def ca_below(
    preset: str,
    *codes: str,
    issuer: str,
    subject: bytes,
    issuer_name: bytes,
    issuer_key: bytes,
    change: dict[str, tuple[bool, bytes] | None] | None = None,
) -> Vector:
    good: Extensions = {BC: basic(True, 0), KU: (True, CA_USAGE), SKI: ski(KEY), AKI: aki(issuer_key)}
    der = certificate(
        extensions=_merge(good, change or {}),
        subject=subject,
        key=KEY,
        issuer=issuer_name,
        not_after=NO_EXPIRY,
    )
    return preset, issuer, der, codes


ED_KEY = spki(ed25519.Ed25519PrivateKey.from_private_bytes(seed("ed").to_bytes(32, "big")))
ED_SKI = False, tlv(4, sha1(ED_KEY[-32:]))
ML_KEY = spki(mldsa.MLDSA44PrivateKey.from_seed_bytes(seed("ml").to_bytes(32, "big")))
ML_SKI = False, tlv(4, sha1(ML_KEY[-1312:]))
P384_KEY = spki(ec.derive_private_key(seed("p384", 48) >> 1, ec.SECP384R1()))
P384_SKI = False, tlv(4, sha1(P384_KEY[-97:]))
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]).public_bytes()
BAD_MODULE = tlv(
    0x30,
    tlv(
        0xA0,
        oid("1.3.6.1.5.5.7.8.4"),
        tlv(0xA0, tlv(0x30, oid("1.3.6.1.4.1.99999.1"), tlv(0x0C, b"sn-0001"))),
    ),
)


@vector
def aws_good() -> Vector:
    """Clean."""
    return aws()


@vector
def azure_good() -> Vector:
    """Clean."""
    return azure()


@vector
def idevid_good() -> Vector:
    """Clean."""
    return idevid()


@vector
def dac_good() -> Vector:
    """Clean."""
    return dac()


@vector
def serial_negative() -> Vector:
    """The first bit is set."""
    return aws("cert.serial.form", serial=b"\x80" + bytes(15))


@vector
def serial_zero() -> Vector:
    """Zero."""
    return aws("cert.serial.form", serial=b"\0")


@vector
def serial_long() -> Vector:
    """21 octets."""
    return aws("cert.serial.form", serial=b"\x01" * 21)


@vector
def serial_counter() -> Vector:
    """A counter."""
    return aws("cert.serial.entropy", serial=b"\x05")


@vector
def validity_backwards() -> Vector:
    """notAfter before notBefore."""
    return aws("cert.validity.order", not_after=tlv(0x17, b"250101000000Z"))


@vector
def validity_beyond_issuer() -> Vector:
    """Outlives its issuer."""
    return aws("cert.validity.nesting", issuer="issuer_short_ca")


@vector
def validity_longer_than_profile() -> Vector:
    """Twenty years."""
    return aws("cert.validity.profile", not_after=tlv(0x17, b"460101000000Z"))


@vector
def validity_none_unasked() -> Vector:
    """No expiry where the profile has one."""
    return aws("cert.validity.profile", not_after=NO_EXPIRY)


@vector
def validity_almost_none() -> Vector:
    """9999, but not the value that means no expiry."""
    return idevid(
        "cert.validity.no_expiry_form",
        "cert.validity.profile",
        not_after=tlv(0x18, b"99991231235958Z"),
    )


@vector
def validity_general_time_too_early() -> Vector:
    """GeneralizedTime before 2050."""
    return aws(not_after=tlv(0x18, b"20351230000000Z"))


@vector
def issuer_is_a_device() -> Vector:
    """A device certificate as issuer."""
    return aws("cert.issuer.not_a_ca", issuer="issuer_not_a_ca")


@vector
def issuer_key_id_differs() -> Vector:
    """AKI of another CA."""
    return aws("cert.issuer.key_id", change={AKI: aki(ROOT_KEY)})


@vector
def issuer_key_shared() -> Vector:
    """The device has the key of its CA."""
    return aws("cert.issuer.same_key", key=CA_KEY)


@vector
def issuer_name_shared() -> Vector:
    """The device has the name of its CA."""
    return aws("cert.issuer.same_name", "cert.name.subject", "cert.name.device", subject=CA_NAME)


@vector
def device_is_a_ca() -> Vector:
    """cA TRUE and keyCertSign in a device."""
    return aws(
        "cert.ca.consistency",
        "cert.issuer.path_length",
        "cert.key_usage.profile",
        change={BC: basic(True), KU: (True, CA_USAGE)},
    )


@vector
def device_signs_certificates() -> Vector:
    """keyCertSign without cA."""
    return aws("cert.ca.consistency", "cert.key_usage.profile", change={KU: (True, bytes.fromhex("03020284"))})


@vector
def device_with_path_length() -> Vector:
    """pathLenConstraint without cA."""
    return aws("lint.malformed", change={BC: basic(False, 0)})


@vector
def key_weak() -> Vector:
    """The private key is 7."""
    return aws("cert.key.weak", key=spki(ec.derive_private_key(7, ec.SECP256R1())))


@vector
def key_of_other_kind() -> Vector:
    """Ed25519 for AWS IoT."""
    return aws("cert.key.profile", "aws.key", key=ED_KEY, change={SKI: ED_SKI})


@vector
def key_agreement_with_ml_dsa() -> Vector:
    """keyAgreement with ML-DSA."""
    return aws(
        "cert.key.profile",
        "aws.key",
        "cert.key_usage.key",
        "cert.key_usage.profile",
        key=ML_KEY,
        change={SKI: ML_SKI, KU: (True, bytes.fromhex("03020388"))},
    )


@vector
def key_encipherment_with_ec() -> Vector:
    """keyEncipherment with P-256."""
    return aws("cert.key_usage.key", "cert.key_usage.profile", change={KU: (True, bytes.fromhex("030205a0"))})


@vector
def signature_sha1() -> Vector:
    """ecdsa-with-SHA1."""
    return aws("cert.signature.algorithm", "aws.signature", algorithm=SHA1_SIGNATURE)


@vector
def purposes_differ() -> Vector:
    """serverAuth instead of clientAuth."""
    return aws("cert.key_usage.profile", change={EKU: (False, SERVER)})


@vector
def extension_extra() -> Vector:
    """A private extension the profile does not have."""
    return aws("cert.extensions.profile", change={"1.3.6.1.4.1.99999.7": (False, b"\5\0")})


@vector
def extension_missing() -> Vector:
    """No extendedKeyUsage."""
    return aws("cert.extensions.profile", "cert.key_usage.profile", change={EKU: None})


@vector
def extension_not_critical() -> Vector:
    """basicConstraints not critical."""
    return aws("cert.extensions.profile", change={BC: (False, tlv(0x30))})


@vector
def aki_missing() -> Vector:
    """No AKI."""
    return aws("cert.extensions.profile", change={AKI: None})


@vector
def name_of_another_device() -> Vector:
    """The name of another device."""
    return aws("cert.name.subject", "cert.name.device", subject=name((CN, "sn-0002")))


@vector
def name_with_control_character() -> Vector:
    """A line feed in the name."""
    return aws("cert.name.subject", "cert.name.text", subject=name((CN, DEVICE_SERIAL + "\n")))


@vector
def name_too_long() -> Vector:
    """65 characters."""
    return azure("cert.name.length", subject=name((CN, "x" * 65)))


@vector
def organisation_too_long() -> Vector:
    """65 characters."""
    return idevid("cert.name.subject", "cert.name.text", subject=name((ORG, "x" * 65), (SN, DEVICE_SERIAL)))


@vector
def name_empty() -> Vector:
    """Empty subject without SAN."""
    return aws("cert.name.subject", "cert.name.device", subject=name())


@vector
def azure_colon() -> Vector:
    """A character only some versions of DPS allow."""
    return azure("cert.name.subject", "cert.name.device", "azure.registration_id", subject=name((CN, "sn:0001")))


@vector
def azure_two_names() -> Vector:
    """Two common names."""
    return azure("cert.name.subject", "azure.registration_id", subject=name((CN, DEVICE_SERIAL), (CN, "second")))


@vector
def azure_ed25519() -> Vector:
    """A key Azure does not know."""
    return azure("cert.key.profile", "azure.key", key=ED_KEY, change={SKI: ED_SKI})


@vector
def azure_sha512() -> Vector:
    """A signature beyond SHA-384."""
    return azure("azure.signature", algorithm=tlv(0x30, oid("1.2.840.10045.4.3.4")))


@vector
def idevid_no_aki() -> Vector:
    """No AKI."""
    return idevid("devid.aki", "cert.extensions.profile", change={AKI: None})


@vector
def idevid_key_usage_not_critical() -> Vector:
    """keyUsage not critical."""
    return idevid("devid.key_usage", "cert.extensions.profile", change={KU: (False, SIGN_ONLY)})


@vector
def idevid_key_agreement() -> Vector:
    """keyAgreement in a DevID."""
    return idevid("devid.key_usage", "cert.key_usage.profile", change={KU: (True, bytes.fromhex("03020388"))})


@vector
def idevid_no_key_usage() -> Vector:
    """No keyUsage."""
    return idevid("devid.key_usage_absent", "cert.extensions.profile", change={KU: None})


@vector
def idevid_no_serial_number() -> Vector:
    """No serialNumber attribute."""
    return idevid("devid.serial_number", "cert.name.subject", subject=name((ORG, "Acme")))


@vector
def idevid_serial_number_of_another() -> Vector:
    """serialNumber of another device."""
    return idevid("devid.serial_number", "cert.name.subject", subject=name((ORG, "Acme"), (SN, "sn-0002")))


@vector
def idevid_empty_subject() -> Vector:
    """Empty subject."""
    return idevid("devid.subject", "devid.serial_number", "cert.name.subject", subject=name())


@vector
def idevid_san_without_module() -> Vector:
    """A dNSName instead of HardwareModuleName."""
    return idevid(
        "devid.hardware_module",
        "cert.name.san",
        change={SAN: (False, tlv(0x30, tlv(0x82, b"sn-0001.example")))},
    )


@vector
def idevid_module_malformed() -> Vector:
    """hwSerialNum as UTF8String."""
    return idevid("devid.hardware_module", "cert.name.san", change={SAN: (False, BAD_MODULE)})


@vector
def idevid_ca() -> Vector:
    """A DevID that is a CA."""
    return idevid(
        "devid.not_a_ca",
        "devid.key_usage",
        "cert.ca.consistency",
        "cert.issuer.path_length",
        "cert.extensions.profile",
        "cert.key_usage.profile",
        change={BC: basic(True), KU: (True, CA_USAGE)},
    )


@vector
def dac_p384_signature() -> Vector:
    """ecdsa-with-SHA384."""
    return dac("matter.signature", algorithm=ES384)


@vector
def dac_p384_key() -> Vector:
    """P-384."""
    return dac("matter.key", "cert.key.profile", key=P384_KEY, change={SKI: P384_SKI})


@vector
def dac_ca() -> Vector:
    """cA TRUE."""
    return dac(
        "matter.basic_constraints",
        "matter.key_usage",
        "cert.ca.consistency",
        "cert.issuer.path_length",
        "cert.key_usage.profile",
        change={BC: basic(True), KU: (True, CA_USAGE)},
    )


@vector
def dac_basic_not_critical() -> Vector:
    """basicConstraints not critical."""
    return dac("matter.basic_constraints", "cert.extensions.profile", change={BC: (False, tlv(0x30))})


@vector
def dac_no_basic_constraints() -> Vector:
    """No basicConstraints."""
    return dac("matter.basic_constraints", "cert.extensions.profile", change={BC: None})


@vector
def dac_key_usage_more() -> Vector:
    """A second key usage."""
    return dac("matter.key_usage", "cert.key_usage.profile", change={KU: (True, bytes.fromhex("030206c0"))})


@vector
def dac_key_usage_not_critical() -> Vector:
    """keyUsage not critical."""
    return dac("matter.key_usage", "cert.extensions.profile", change={KU: (False, SIGN_ONLY)})


@vector
def dac_no_ski() -> Vector:
    """No SKI."""
    return dac("matter.ski", "cert.extensions.profile", change={SKI: None})


@vector
def dac_short_ski() -> Vector:
    """SKI of 8 octets."""
    return dac("matter.ski", change={SKI: (False, tlv(4, key_id(KEY, 8)))})


@vector
def dac_critical_ski() -> Vector:
    """SKI critical."""
    return dac("matter.ski", "cert.extensions.profile", change={SKI: (True, tlv(4, key_id(KEY)))})


@vector
def dac_no_aki() -> Vector:
    """No AKI."""
    return dac("matter.aki", "cert.extensions.profile", change={AKI: None})


@vector
def dac_no_vid() -> Vector:
    """No VID."""
    return dac(
        "matter.ids",
        "matter.id_form",
        "matter.ids_match",
        "cert.name.subject",
        subject=name((CN, DEVICE_SERIAL), (PID, "8000")),
    )


@vector
def dac_no_pid() -> Vector:
    """No PID."""
    return dac("matter.ids", "cert.name.subject", subject=name((CN, DEVICE_SERIAL), (VID, "FFF1")))


@vector
def dac_lower_case_vid() -> Vector:
    """fff1."""
    return dac(
        "matter.id_form",
        "matter.ids_match",
        "cert.name.subject",
        subject=name((CN, DEVICE_SERIAL), (VID, "fff1"), (PID, "8000")),
    )


@vector
def dac_five_digits() -> Vector:
    """80001."""
    return dac(
        "matter.id_form",
        "cert.name.subject",
        subject=name((CN, DEVICE_SERIAL), (VID, "FFF1"), (PID, "80001")),
    )


@vector
def dac_two_vids() -> Vector:
    """VID twice."""
    return dac(
        "matter.id_form",
        "cert.name.subject",
        subject=name((CN, DEVICE_SERIAL), (VID, "FFF1"), (VID, "FFF2"), (PID, "8000")),
    )


@vector
def dac_other_vid() -> Vector:
    """VID of another vendor."""
    return dac(
        "matter.ids_match",
        "cert.name.subject",
        subject=name((CN, DEVICE_SERIAL), (VID, "FFF2"), (PID, "8000")),
    )


@vector
def dac_ids_in_common_name() -> Vector:
    """Mvid and Mpid in the CN: lawful for Matter, not this profile."""
    return dac("cert.name.subject", subject=name((CN, "sn-0001 Mvid:FFF1 Mpid:8000")))


@vector
def dac_broken_prefix() -> Vector:
    """Mvid: never followed by four digits."""
    return dac(
        "matter.id_form",
        "matter.ids",
        "matter.ids_match",
        "cert.name.subject",
        subject=name((CN, "sn-0001 Mvid:FFG1 Mpid:8000")),
    )


@vector
def dac_pid_of_another_product() -> Vector:
    """The PAI is for another product."""
    return dac("matter.ids_match", issuer="issuer_pai_with_pid")


@vector
def dac_issuer_without_vid() -> Vector:
    """The PAI has no VID."""
    return dac("matter.ids_match", issuer="issuer_pai_without_vid")


@vector
def dac_below_root() -> Vector:
    """No PAI between."""
    return dac("matter.chain", issuer="issuer_paa")


@vector
def dac_before_pai() -> Vector:
    """Starts before its PAI."""
    return dac("matter.chain_time", issuer="issuer_late_pai")


@vector
def dac_too_large() -> Vector:
    """Above 600 octets."""
    return dac(
        "matter.size",
        "cert.size",
        "cert.extensions.profile",
        change={"1.3.6.1.4.1.99999.7": (False, tlv(4, bytes(300)))},
    )


@vector
def pai_good() -> Vector:
    """Clean."""
    return ca_below("matter-pai", issuer="issuer_paa", subject=PAI_NAME, issuer_name=PAA_NAME, issuer_key=ROOT_KEY)


@vector
def pai_path_length_one() -> Vector:
    """pathLenConstraint 1 in a PAI."""
    return ca_below(
        "matter-pai",
        "matter.basic_constraints",
        "cert.issuer.path_length",
        issuer="issuer_paa",
        subject=PAI_NAME,
        issuer_name=PAA_NAME,
        issuer_key=ROOT_KEY,
        change={BC: basic(True, 1)},
    )


@vector
def pai_no_crl_sign() -> Vector:
    """keyCertSign alone."""
    return ca_below(
        "matter-pai",
        "matter.key_usage",
        "cert.key_usage.profile",
        issuer="issuer_paa",
        subject=PAI_NAME,
        issuer_name=PAA_NAME,
        issuer_key=ROOT_KEY,
        change={KU: (True, bytes.fromhex("03020204"))},
    )


@vector
def pai_other_vid() -> Vector:
    """VID of another vendor."""
    return ca_below(
        "matter-pai",
        "matter.ids_match",
        "cert.name.subject",
        issuer="issuer_paa",
        subject=name((CN, "Acme Issuing 1"), (VID, "FFF2")),
        issuer_name=PAA_NAME,
        issuer_key=ROOT_KEY,
    )


@vector
def ca_below_issuing_ca() -> Vector:
    """A CA where path length 0 forbids it."""
    return ca_below(
        "issuing-ca",
        "cert.issuer.path_length",
        issuer="issuer_ca",
        subject=name((ORG, "Acme"), (CN, "Acme Issuing 2")),
        issuer_name=CA_NAME,
        issuer_key=CA_KEY,
    )


@vector
def ca_without_cert_sign() -> Vector:
    """cA without keyCertSign."""
    return ca_below(
        "issuing-ca",
        "cert.ca.consistency",
        "cert.key_usage.profile",
        issuer="issuer_root",
        subject=CA_NAME,
        issuer_name=ROOT_NAME,
        issuer_key=ROOT_KEY,
        change={KU: (True, SIGN_ONLY)},
    )


@vector
def issuer_name_differs() -> Vector:
    """Another issuer name."""
    key_ids: Extensions = {SKI: ski(KEY), AKI: aki(CA_KEY)}
    extensions: Extensions = {BC: basic(False), KU: (True, SIGN_ONLY), EKU: (False, CLIENT), **key_ids}
    der = certificate(extensions=extensions, subject=name((CN, DEVICE_SERIAL)), key=KEY, issuer=ROOT_NAME)
    return "aws-iot", "issuer_ca", der, ("cert.issuer.name",)


def write_all(folder: Path) -> None:
    """Write every vector, what it must give, and the issuers into ``folder``."""
    for file, der in ISSUERS.items():
        (folder / f"{file}.pem").write_bytes(pem(der, "CERTIFICATE"))
    for file, make in VECTORS.items():
        preset, issuer, der, codes = make()
        (folder / f"{file}.pem").write_bytes(pem(der, "CERTIFICATE"))
        (folder / f"{file}.txt").write_text("\n".join((preset, issuer, *sorted(codes))) + "\n")


if __name__ == "__main__":
    write_all(Path(__file__).parent / "lint")
