"""Names with placeholders: from the texts of a profile to DER parts (RFC 5280, 4.1.2.4, 4.2.1.6 and appendix A)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from birthmark.errors import Misconfigured
from birthmark.pki.der import Hole, Part, nested, oid, sequence, tlv
from birthmark.pki.profileparts import GeneralName, StringType, SubjectAttribute

__all__ = [
    "ATTRIBUTES",
    "DOTTED_OID",
    "HARDWARE_MODULE_NAME",
    "PLACEHOLDER",
    "SerialLimits",
    "attribute_type",
    "fill_text",
    "general_name",
    "serial_limits",
    "subject_name",
    "uri",
]

PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}")
DOTTED_OID = re.compile(
    r"[01]\.(?:[0-9]|[123][0-9])(?:\.(?:0|[1-9][0-9]{0,19})){1,40}|2(?:\.(?:0|[1-9][0-9]{0,19})){2,40}"
)
HARDWARE_MODULE_NAME = "1.3.6.1.5.5.7.8.4"
"""id-on-hardwareModuleName (RFC 4108, section 5)."""

_TAGS: Mapping[StringType, int] = {"utf8": 0x0C, "printable": 0x13, "ia5": 0x16}
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
_IA5 = re.compile(r"[\x20-\x7e]*")
_DNS = re.compile(r"[A-Za-z0-9.-]*")
_URI = re.compile(r"[A-Za-z0-9._~:/?#@!$&'()*+,;=%\[\]-]*")
_UTF8 = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")
_CHARACTERS: Mapping[StringType, re.Pattern[str]] = {"utf8": _UTF8, "printable": _PRINTABLE, "ia5": _IA5}
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]*")
_GENERAL_CHARACTERS = {"hardware-module": _IA5, "dns": _DNS, "uri": _URI, "ip": _ADDRESS}
_GENERAL_TAGS = {"dns": 0x82, "uri": 0x86, "ip": 0x87}
_MAX_SERIAL = 64


@dataclass(frozen=True, slots=True)
class AttributeType:
    """One kind of RDN: ``max_length`` in characters (ub-*), ``pattern`` of the whole value if there is one."""

    oid: str
    string: StringType = "utf8"
    max_length: int = 64
    pattern: re.Pattern[str] | None = None


_MATTER_ID = re.compile(r"[0-9A-F]{4}")

ATTRIBUTES: Mapping[str, AttributeType] = {
    "CN": AttributeType("2.5.4.3"),
    "serialNumber": AttributeType("2.5.4.5", "printable"),
    "C": AttributeType("2.5.4.6", "printable", 2, re.compile(r"[A-Z]{2}")),
    "L": AttributeType("2.5.4.7", max_length=128),
    "ST": AttributeType("2.5.4.8", max_length=128),
    "O": AttributeType("2.5.4.10"),
    "OU": AttributeType("2.5.4.11"),
    "matterVid": AttributeType("1.3.6.1.4.1.37244.2.1", pattern=_MATTER_ID),
    "matterPid": AttributeType("1.3.6.1.4.1.37244.2.2", pattern=_MATTER_ID),
}
"""X.520 and Matter (6.1.1) attribute types by the name a profile uses."""


@dataclass(frozen=True, slots=True)
class SerialLimits:
    """What the places where a device serial stands allow: its length, and characters for each place."""

    max_length: int
    characters: tuple[re.Pattern[str], ...]


def attribute_type(name: str) -> AttributeType | None:
    """Return the attribute type called ``name`` (of ``ATTRIBUTES`` or a dotted OID), None if there is none."""
    if name in ATTRIBUTES:
        return ATTRIBUTES[name]
    return AttributeType(name, max_length=256) if DOTTED_OID.fullmatch(name) else None


def subject_name(attributes: Iterable[SubjectAttribute], values: Mapping[str, str]) -> Part:
    """Return the Name: one attribute an RDN, in the order given."""
    return sequence(*(_rdn(attribute, values) for attribute in attributes))


def general_name(name: GeneralName, values: Mapping[str, str]) -> Part:
    """Return one GeneralName (RFC 5280, 4.2.1.6)."""
    parts = fill_text(name.value, values)
    _check_parts(name.value, parts, _GENERAL_CHARACTERS[name.type], None, 253)
    if name.type == "ip":
        return tlv(_GENERAL_TAGS["ip"], _packed_address(name.value, parts))
    if name.hw_type is None:
        return nested(_GENERAL_TAGS[name.type], *parts)
    module = sequence(oid(_hardware_type(name.hw_type, values)), nested(0x04, *parts))
    return nested(0xA0, oid(HARDWARE_MODULE_NAME), nested(0xA0, module))


def uri(text: str, values: Mapping[str, str]) -> bytes:
    """Return a uniformResourceIdentifier GeneralName without holes."""
    parts = fill_text(text, values)
    _check_parts(text, parts, _URI, None, 2000)
    whole = b"".join(part for part in parts if isinstance(part, bytes))
    if re.match(rb"(?:https?|ldaps?)://[^/]", whole) is None:
        raise _wrong_value(text, "an URL starts with http://, https:// or ldap:// and a host")
    return tlv(0x86, whole)


def fill_text(text: str, values: Mapping[str, str]) -> tuple[Part, ...]:
    """Return ``text`` with its placeholders filled; ``{device_serial}`` becomes a hole.

    Raises ``Misconfigured("template.value.missing")``.
    """
    parts: list[Part] = []
    literal = ""
    for index, piece in enumerate(PLACEHOLDER.split(text)):
        if index % 2 == 0:
            literal += piece
        elif piece == "device_serial":
            parts += (_utf8(text, literal), Hole.DEVICE_SERIAL)
            literal = ""
        elif piece in values:
            literal += values[piece]
        else:
            raise Misconfigured(
                "template.value.missing",
                f"the profile needs a value for {{{piece}}}",
                hint=f"Set {piece} in [products.NAME.values] of birthmark.toml.",
                placeholder=piece,
            )
    return tuple(part for part in (*parts, _utf8(text, literal)) if part != b"")


def serial_limits(
    attributes: Iterable[SubjectAttribute], names: Iterable[GeneralName], values: Mapping[str, str]
) -> SerialLimits:
    """Return what a device serial must keep to so that every text it stands in stays lawful."""
    longest, characters = _MAX_SERIAL, []
    for attribute in attributes:
        kind = attribute_type(attribute.type)
        parts = fill_text(attribute.value, values)
        if kind is not None and Hole.DEVICE_SERIAL in parts:
            longest = min(longest, _room(parts, kind.max_length))
            characters.append(_CHARACTERS[attribute.string or kind.string])
    for name in names:
        parts = fill_text(name.value, values)
        if Hole.DEVICE_SERIAL in parts:
            longest = min(longest, _room(parts, 253))
            characters.append(_GENERAL_CHARACTERS[name.type])
    return SerialLimits(longest, tuple(dict.fromkeys(characters)))


def _room(parts: tuple[Part, ...], most: int) -> int:
    fixed = sum(len(part.decode()) for part in parts if isinstance(part, bytes))
    return (most - fixed) // parts.count(Hole.DEVICE_SERIAL)


def _rdn(attribute: SubjectAttribute, values: Mapping[str, str]) -> Part:
    kind = attribute_type(attribute.type)
    if kind is None:
        raise _wrong_value(attribute.type, "not an attribute type")
    string = attribute.string or kind.string
    parts = fill_text(attribute.value, values)
    _check_parts(attribute.value, parts, _CHARACTERS[string], kind.pattern, kind.max_length)
    return nested(0x31, sequence(oid(kind.oid), nested(_TAGS[string], *parts)))


def _packed_address(text: str, parts: tuple[Part, ...]) -> bytes:
    """Return 4 or 16 octets (RFC 5280, 4.2.1.6)."""
    try:
        return ip_address(b"".join(part for part in parts if isinstance(part, bytes)).decode()).packed
    except ValueError as error:
        raise _wrong_value(text, "it is no IP address") from error


def _hardware_type(text: str, values: Mapping[str, str]) -> str:
    parts = fill_text(text, values)
    dotted = b"".join(part for part in parts if isinstance(part, bytes)).decode()
    if Hole.DEVICE_SERIAL in parts or DOTTED_OID.fullmatch(dotted) is None:
        raise _wrong_value(text, f"{dotted[:60]!r} is not an object identifier (dotted numbers) for the hardware")
    return dotted


def _check_parts(
    text: str, parts: tuple[Part, ...], characters: re.Pattern[str], pattern: re.Pattern[str] | None, most: int
) -> None:
    literals = [part.decode() for part in parts if isinstance(part, bytes)]
    if any(characters.fullmatch(literal) is None for literal in literals):
        raise _wrong_value(text, "a character that this kind of string cannot hold")
    room = most - sum(map(len, literals))
    if room < parts.count(Hole.DEVICE_SERIAL) or not parts:
        raise _wrong_value(text, f"it is empty or longer than {most} characters")
    if pattern is not None and (len(parts) != 1 or not literals or pattern.fullmatch(literals[0]) is None):
        raise _wrong_value(text, f"it must look like {pattern.pattern}")


def _utf8(text: str, literal: str) -> bytes:
    try:
        return literal.encode()
    except UnicodeEncodeError as error:
        raise _wrong_value(text, "it is not Unicode text") from error


def _wrong_value(text: str, reason: str) -> Misconfigured:
    return Misconfigured(
        "template.value.malformed",
        f"{text[:120]!a} cannot go into the certificate: {reason}",
        hint="Mend this value in the profile or among the product's values.",
        text=ascii(text[:120]),
        reason=reason,
    )
