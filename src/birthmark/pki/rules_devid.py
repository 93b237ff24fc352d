"""IEEE 802.1AR-2018 rules for IDevID certificates (clause numbers as others quote them, RFC 4108, 8995)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from cryptography import x509
from cryptography.x509.oid import NameOID

from birthmark.errors import Refused
from birthmark.pki.derread import OCTET_STRING, OID, read_der, read_members
from birthmark.pki.expected import HARDWARE_MODULE_NAME, usage_bits
from birthmark.pki.lintcase import NO_EXPIRY, Case, Rule, Severity

__all__ = ["DEVID_RULES"]

_SUITES = {("p256", "p256"), ("p384", "p384"), ("rsa2048", "rsa2048")}


def _aki(case: Case) -> Iterator[str]:
    if case.value(x509.AuthorityKeyIdentifier) is None:
        yield "authorityKeyIdentifier is missing"


def _ski(case: Case) -> Iterator[str]:
    if case.value(x509.SubjectKeyIdentifier) is not None:
        yield "subjectKeyIdentifier is not recommended in a DevID (RFC 5280 recommends it: the profile decides)"


def _subject(case: Case) -> Iterator[str]:
    if not case.cert.subject.rdns:
        yield "the subject is empty"


def _serial_number(case: Case) -> Iterator[str]:
    found = [attribute.value for attribute in case.cert.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    if not found:
        yield "the subject has no serialNumber (2.5.4.5), by which registrars find the device"
    elif case.device_serial is not None and found != [case.device_serial]:
        yield f"serialNumber is {found}, not the device serial {case.device_serial}"


def _key_usage(case: Case) -> Iterator[str]:
    usage = case.value(x509.KeyUsage)
    if usage is None:
        return
    bits = usage_bits(usage)
    allowed = {"digitalSignature", "keyEncipherment"} if case.kind.startswith("rsa") else {"digitalSignature"}
    if not case.critical(x509.KeyUsage):
        yield "keyUsage is not critical"
    if "digitalSignature" not in bits or bits - allowed:
        yield f"keyUsage is {', '.join(sorted(bits))}"


def _key_usage_absent(case: Case) -> Iterator[str]:
    if case.value(x509.KeyUsage) is None:
        yield "keyUsage is missing"


def _hardware_module(case: Case) -> Iterator[str]:
    san = case.value(x509.SubjectAlternativeName)
    if san is None:
        return
    modules = [name.value for name in san if isinstance(name, x509.OtherName) and name.type_id == HARDWARE_MODULE_NAME]
    if not modules:
        yield "the subject alternative name holds no HardwareModuleName"
    for module in modules:
        try:
            tags = [member.tag for member in read_members(read_der(module))]
        except Refused:
            tags = []
        if tags != [OID, OCTET_STRING]:
            yield "a HardwareModuleName is not SEQUENCE { hwType OID, hwSerialNum OCTET STRING }"


def _suite(case: Case) -> Iterator[str]:
    if (case.issuer_kind, case.kind) not in _SUITES:
        yield f"a key of kind {case.kind} under {case.issuer_kind} is none of the three signature suites"


def _not_a_ca(case: Case) -> Iterator[str]:
    basic = case.value(x509.BasicConstraints)
    if basic is not None and basic.ca:
        yield "a DevID that is a CA"


def _purposes(case: Case) -> Iterator[str]:
    if case.value(x509.ExtendedKeyUsage) is not None:
        yield "extendedKeyUsage binds an identity to a purpose it will outlive"


def _no_expiry(case: Case) -> Iterator[str]:
    if case.not_after[1] != NO_EXPIRY:
        yield "an IDevID should have no expiration date (99991231235959Z)"


def _devid(code: str, severity: Severity, clause: str, says: str, check: Callable[[Case], Iterable[str]]) -> Rule:
    return Rule(f"devid.{code}", severity, clause, says, check, "devid")


_ERROR, _WARNING, _NOTICE = Severity.ERROR, Severity.WARNING, Severity.NOTICE
DEVID_RULES: tuple[Rule, ...] = (
    _devid("aki", _ERROR, "802.1AR-2018, 8.10.1", "authorityKeyIdentifier is there.", _aki),
    _devid("ski", _NOTICE, "802.1AR-2018, table 8-2", "subjectKeyIdentifier is not recommended.", _ski),
    _devid("subject", _ERROR, "802.1AR-2018, 8.6", "The subject is not empty.", _subject),
    _devid(
        "serial_number",
        _WARNING,
        "802.1AR-2018, 8.6; RFC 8995, 2.3.1",
        "The subject's serialNumber is the device serial.",
        _serial_number,
    ),
    _devid(
        "key_usage",
        _ERROR,
        "802.1AR-2018, 8.10.3",
        "keyUsage is critical and digitalSignature (for RSA also keyEncipherment).",
        _key_usage,
    ),
    _devid("key_usage_absent", _WARNING, "802.1AR-2018, 8.10.3", "keyUsage is there.", _key_usage_absent),
    _devid(
        "hardware_module",
        _ERROR,
        "802.1AR-2018, 8.10.4; RFC 4108, 5",
        "A subject alternative name holds a well-formed HardwareModuleName.",
        _hardware_module,
    ),
    _devid("suite", _NOTICE, "802.1AR-2018, 9", "One of the three signature suites.", _suite),
    _devid("not_a_ca", _ERROR, "802.1AR-2018, 8.10", "A DevID is no CA.", _not_a_ca),
    _devid("purposes", _NOTICE, "802.1AR-2018, 8.10", "extendedKeyUsage is not recommended.", _purposes),
    _devid("no_expiry", _NOTICE, "802.1AR-2018, 8.7", "No expiration date is recommended.", _no_expiry),
)
"""Rules for profiles with the word ``idevid`` in their name."""
