"""What the service would never take, said before anything is sent.

Rules (Azure documentation, concepts-service and concepts-x509-attestation): a registration id has letters, digits and
``-._:``, its last character is a letter, a digit or ``-``; by X.509 it is the CN, hence at most 64 characters; keys are
RSA, P-256 or P-384, signatures SHA-256 or SHA-384.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple, NoReturn

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


class _Seen(NamedTuple):
    """Common names, kind of key, name of the signature algorithm."""

    names: tuple[str, ...]
    kind: str
    signature: str


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
        seen = _judge_certificate(der, serial)
        if seen.names != (serial,):
            raise Refused(
                "cloud.certificate.name",
                f"the certificate of {serial} says {list(seen.names)}: the CN has to be the device serial, once",
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


def _judge_certificate(der: bytes, name: str) -> _Seen:
    try:
        seen = _seen(der)
    except BirthmarkError as problem:
        _refuse_kind(name, problem.message)
    if seen.kind not in CLOUD_KEYS:
        _refuse_kind(name, f"a key of kind {seen.kind}")
    if seen.signature not in AZURE_SIGNATURES:
        _refuse_kind(name, f"signature algorithm {seen.signature}")
    return seen


@lru_cache(maxsize=1024)
def _seen(der: bytes) -> _Seen:
    """Return what a certificate says of itself; what is expected and what is told is looked at within one batch."""
    parts = open_parts(der)
    certificate = parse_certificate(parts)
    known = SIGNATURES.get(parts.algorithm)
    return _Seen(
        tuple(str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)),
        algorithm_of(certified_key(certificate)).name,
        parts.algorithm if known is None else known.name,
    )


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
