"""The extensions of a profile as DER parts, always in the same order (RFC 5280, 4.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from birthmark.pki.der import TRUE, Part, boolean, integer, named_bits, nested, octet_string, oid, sequence
from birthmark.pki.names import general_name, uri
from birthmark.pki.profile import Profile
from birthmark.pki.profileparts import PURPOSES, USAGE_BITS, BasicConstraints

__all__ = ["extension_parts"]

_OCSP, _CA_ISSUERS = "1.3.6.1.5.5.7.48.1", "1.3.6.1.5.5.7.48.2"


def extension_parts(
    profile: Profile, *, values: Mapping[str, str], key_id: Part, issuer_key_id: Part
) -> tuple[Part, ...]:
    """Return each Extension of a certificate of this profile."""
    return tuple(
        sequence(oid(dotted), boolean(True) if critical else b"", octet_string(value))
        for dotted, critical, value in (
            *_rights(profile),
            *_key_identifiers(profile, key_id, issuer_key_id),
            *_policies(profile),
            *_alternative_names(profile, values),
            *_addresses(profile, values),
            *((extra.oid, extra.critical, bytes.fromhex(extra.der)) for extra in profile.extensions),
        )
    )


_Found = Iterator[tuple[str, bool, Part]]


def _rights(profile: Profile) -> _Found:
    constraints, usage, purposes = profile.basic_constraints, profile.key_usage, profile.extended_key_usage
    if constraints is not None:
        yield "2.5.29.19", constraints.critical, _basic_constraints(constraints)
    if usage is not None:
        yield "2.5.29.15", usage.critical, named_bits(USAGE_BITS.index(bit) for bit in usage.bits)
    if purposes is not None:
        listed = sequence(*(oid(PURPOSES.get(purpose, purpose)) for purpose in purposes.purposes))
        yield "2.5.29.37", purposes.critical, listed


def _basic_constraints(constraints: BasicConstraints) -> Part:
    length = constraints.path_length
    return sequence(TRUE if constraints.ca else b"", b"" if length is None else integer(length))


def _key_identifiers(profile: Profile, key_id: Part, issuer_key_id: Part) -> _Found:
    if profile.ski:
        yield "2.5.29.14", False, octet_string(key_id)
    if profile.aki:
        yield "2.5.29.35", False, sequence(nested(0x80, issuer_key_id))


def _policies(profile: Profile) -> _Found:
    policies = profile.certificate_policies
    if policies is not None:
        yield "2.5.29.32", policies.critical, sequence(*(sequence(oid(policy)) for policy in policies.policies))


def _alternative_names(profile: Profile, values: Mapping[str, str]) -> _Found:
    san = profile.subject_alternative_name
    if san is not None:
        yield "2.5.29.17", san.critical, sequence(*(general_name(name, values) for name in san.names))


def _addresses(profile: Profile, values: Mapping[str, str]) -> _Found:
    urls = profile.urls
    access = [(_OCSP, text) for text in urls.ocsp] + [(_CA_ISSUERS, text) for text in urls.ca_issuers]
    if access:
        described = (sequence(oid(method), uri(text, values)) for method, text in access)
        yield "1.3.6.1.5.5.7.1.1", False, sequence(*described)
    if urls.crl:
        points = (sequence(nested(0xA0, nested(0xA0, uri(text, values)))) for text in urls.crl)
        yield "2.5.29.31", False, sequence(*points)
