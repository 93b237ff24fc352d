"""What is known of a registration before anything is sent: whether AWS IoT can take it, and the record it makes."""

from __future__ import annotations

import re
import warnings
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.errors import Refused
from birthmark.pki.algorithms import algorithm_of
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.rules_cloud import CLOUD_KEYS
from birthmark.ports import CloudRecord, Registration

__all__ = ["expected_record", "id_of", "pem_of", "read_pem", "require_possible", "signer_of", "subject_names"]

_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}", re.ASCII)
_LONGEST_PEM = 65_536
_NAMES_A_DEVICE = (NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER)


def id_of(der: bytes) -> str:
    """Return what AWS calls a certificate: the SHA-256 of its octets, hex."""
    return sha256(der).hexdigest()


def pem_of(der: bytes) -> str:
    """Return a certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def read_pem(text: object) -> bytes | None:
    """Return the octets (DER) of the certificate that AWS shows; None if it shows something else."""
    if not isinstance(text, str) or len(text) > _LONGEST_PEM:
        return None
    try:
        return x509.load_pem_x509_certificate(text.encode()).public_bytes(Encoding.DER)
    except UNREADABLE:
        return None


def subject_names(der: bytes) -> frozenset[str]:
    """Return what names a device in a certificate: common names and serial numbers; none if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stranger's certificate may be odd, it is only compared
            subject = x509.load_der_x509_certificate(der).subject
            return frozenset(str(one.value) for one in subject if one.oid in _NAMES_A_DEVICE)
    except UNREADABLE:
        return frozenset()


def signer_of(registration: Registration, der: bytes) -> bytes | None:
    """Return the CA (DER) in the chain that signed a certificate; the chain need not be that of an earlier one."""
    leaf = x509.load_der_x509_certificate(der)
    for one in registration.chain:
        try:
            leaf.verify_directly_issued_by(x509.load_der_x509_certificate(one))
        except (*UNREADABLE, InvalidSignature):
            continue
        return one
    return None


def require_possible(registration: Registration) -> None:
    """Return if AWS IoT can take this device; ``Refused("cloud.aws.name")``, ``cloud.aws.key``."""
    if _THING_NAME.fullmatch(registration.device_serial) is None:
        raise Refused(
            "cloud.aws.name",
            f"the device serial {registration.device_serial[:140]!a} cannot be the name of a thing",
            hint="A thing's name has letters, digits, colon, underscore and hyphen; use the profile aws-iot.",
            device_serial=registration.device_serial[:140],
        )
    for der in registration.certificates:
        try:
            kind = algorithm_of(x509.load_der_x509_certificate(der).public_key()).name
        except (*UNREADABLE, Refused):
            kind = "unknown"
        if kind not in CLOUD_KEYS:
            raise Refused(
                "cloud.aws.key",
                f"AWS IoT takes no certificate with a key of kind {kind}",
                hint=f"Make identities with one of {', '.join(sorted(CLOUD_KEYS))} for this product.",
                device_serial=registration.device_serial,
                algorithm=kind,
            )


def expected_record(options: AwsIotOptions, registration: Registration) -> CloudRecord | None:
    """Return the thing that AWS IoT holds once it was told; None: it needs none. Errors: ``require_possible``."""
    require_possible(registration)
    if not registration.certificates or (options.just_in_time and registration.standing == "enabled"):
        return None
    name = registration.device_serial
    return CloudRecord(name, name, registration.standing, tuple(sorted(map(id_of, registration.certificates))))
