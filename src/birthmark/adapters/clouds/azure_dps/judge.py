"""What the service would never take, said before anything is sent.

Rules (Azure documentation, concepts-service and concepts-x509-attestation): a registration id has letters, digits and
``-._:``, its last character is a letter, a digit or ``-``; by X.509 it is the CN, hence at most 64 characters; keys are
RSA, P-256 or P-384, signatures SHA-256 or SHA-384.
"""

from __future__ import annotations

import re
from typing import NoReturn

from cryptography import x509
from cryptography.x509.oid import NameOID

from birthmark.errors import BirthmarkError, Refused
from birthmark.pki.algorithms import algorithm_of, certified_key
from birthmark.pki.certread import open_parts, parse_certificate
from birthmark.pki.rules_cloud import AZURE_SIGNATURES, CLOUD_KEYS
from birthmark.pki.sigcheck import SIGNATURES
from birthmark.ports.cloud import CloudAuthority, Registration

__all__ = ["MOST_CERTIFICATES", "is_name", "judge_authority", "judge_registration"]

MOST_CERTIFICATES = 2
"""Primary and secondary."""
_MOST_NAME, _MOST_ANY = 64, 128
_NAME = re.compile(r"[A-Za-z0-9._:-]*[A-Za-z0-9-]", re.ASCII)


def is_name(text: str) -> bool:
    """Say whether ``text`` can name a registration by X.509, a group or a CA there."""
    return len(text) <= _MOST_NAME and _NAME.fullmatch(text) is not None


def judge_registration(told: Registration, *, born_elsewhere: bool = False) -> None:
    """Return, or raise ``Refused``: ``cloud.name.refused``, ``cloud.certificate.name``, ``.count``, ``.kind``.

    ``born_elsewhere``: somebody else gives devices their names and certificates, so we may know of no certificate, and
    a name may be as long as the service takes any.
    """
    serial = told.device_serial
    if not (is_name(serial) or (born_elsewhere and len(serial) <= _MOST_ANY and _NAME.fullmatch(serial))):
        _refuse_name(serial)
    count = len(told.certificates)
    if count > MOST_CERTIFICATES or (count == 0 and told.standing == "enabled" and not born_elsewhere):
        raise Refused(
            "cloud.certificate.count",
            f"{serial} has {count} certificates: the service takes a primary and a secondary one",
            hint="Finish the roll of this device before the next one begins.",
            device_serial=serial,
            certificates=count,
        )
    for der in told.certificates:
        certificate = _judge_certificate(der, serial)
        names = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [serial]:
            raise Refused(
                "cloud.certificate.name",
                f"the certificate of {serial} says {names}: the CN has to be the device serial, once",
                hint="Use a profile whose one CN is {device_serial}: it becomes the registration id.",
                device_serial=serial,
            )


def judge_authority(authority: CloudAuthority) -> None:
    """Return, or raise ``Refused``: ``cloud.name.refused``, ``cloud.certificate.count``, ``cloud.certificate.kind``."""
    if not is_name(authority.name):
        _refuse_name(authority.name)
    if not 1 <= len(authority.certificates) <= MOST_CERTIFICATES:
        raise Refused(
            "cloud.certificate.count",
            f"CA {authority.name} has {len(authority.certificates)} certificates: a group takes two at most",
            hint="Finish the roll of this CA before the next one begins.",
            ca=authority.name,
        )
    for der in authority.certificates:
        _judge_certificate(der, authority.name)


def _judge_certificate(der: bytes, name: str) -> x509.Certificate:
    try:
        parts = open_parts(der)
        certificate = parse_certificate(parts)
        kind = algorithm_of(certified_key(certificate)).name
    except BirthmarkError as problem:
        _refuse_kind(name, problem.message)
    known = SIGNATURES.get(parts.algorithm)
    signature = parts.algorithm if known is None else known.name
    if kind not in CLOUD_KEYS:
        _refuse_kind(name, f"a key of kind {kind}")
    if signature not in AZURE_SIGNATURES:
        _refuse_kind(name, f"signature algorithm {signature}")
    return certificate


def _refuse_name(name: str) -> NoReturn:
    raise Refused(
        "cloud.name.refused",
        f"{name[:80]!a} cannot be a registration id by X.509, nor the name of a group",
        hint="Use at most 64 of A-Z a-z 0-9 - . _ : with a letter, a digit or - at the end.",
        name=name[:80],
    )


def _refuse_kind(name: str, what: str) -> NoReturn:
    raise Refused(
        "cloud.certificate.kind",
        f"the service does not take the certificate of {name}: {what}",
        hint="Use RSA, P-256 or P-384 keys with SHA-256 or SHA-384; put azure into the name of the profile to lint it.",
        name=name,
    )
