"""Log entries, read by the format documents alone: splitting, the closed list of types, the canonical form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

__all__ = ["ISSUED", "RECORD_OCTETS", "REQUEST_OCTETS", "Document", "canonical_fault", "parse_head", "split_packed"]

RECORD_OCTETS = 72
"""random (8) | SPKI SHA-256 (32) | TBS SHA-256 (32)."""
REQUEST_OCTETS = 64
"""SPKI SHA-256 (32) | request SHA-256 (32), where somebody else signs."""

Document = dict[str, Any]

_AT = re.compile(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\.[0-9]{3}Z", re.ASCII)
_PREFIX = re.compile(r"[0-9a-f]{16}", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,32}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

Kind = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return type(value) is str


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _flag(value: Any) -> bool:
    return type(value) is bool


def _texts(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _matches(pattern: re.Pattern[str]) -> Kind:
    return lambda value: type(value) is str and pattern.fullmatch(value) is not None


def _one_of(*words: str) -> Kind:
    return lambda value: value in words


_digest, _hex = _matches(_DIGEST), _matches(_HEX)
_attempt: dict[str, Kind] = {"device": _text, "station": _text, "attempt": _text}

_REQUIRED: Mapping[str, Mapping[str, Kind]] = {
    "workspace_created": dict.fromkeys(("workspace", "origin", "site_prefix", "software", "by"), _text),
    "software_changed": {"software": _text, "by": _text},
    "station_added": {"station": _text, "vkey": _text, "by": _text},
    "ca_created": {
        "ca": _text, "kind": _one_of("root", "issuing", "access", "external"), "key_scheme": _text, "profile": _text,
        "cert_sha256": _digest, "transcript_sha256": _text, "by": _text,
    },
    "template_admitted": dict.fromkeys(("template", "ca", "profile", "profile_hash", "linter"), _text),
    "order_created": {
        "order": _text, "product": _text, "profile": _text, "key_algorithm": _text,
        "key_origin": _one_of("injected", "device", "preloaded", "adopted"), "ca": _text,
        "quantity": _number, "chunks": _number, "by": _text,
    },
    "devices_ordered": {"order": _text, "chunk": _number, "first": _number, "count": _number},
    "reserved": {"order": _text, "count": _number, "serial_prefix": _matches(_PREFIX), "template": _text},
    "abandoned": {"intent": _number, "reason": _text},
    "issued": {"device": _text, "intent": _number},
    "drawn": _attempt,
    "installed": {**_attempt, "target": _text, "cert_sha256": _digest},
    "verified": {**_attempt, "evidence": _one_of("signature", "digest", "jwt"), "receipt_sha256": _digest},
    "admitted": {
        **_attempt, "evidence": _one_of("signature", "digest", "jwt"), "service": _text, "receipt_sha256": _digest,
    },
    "key_erased": {"device": _text, "intent": _number, "reason": _text},
    "failed": {**_attempt, "code": _text},
    "superseded": {"device": _text, "reason": _text, "by": _text},
    "revoked": {"device": _text, "cert_serial": _hex, "reason": _text, "by": _text},
    "scrapped": {"device": _text, "reason": _text, "by": _text},
    "rejected": {"station": _text, "code": _text},
    "site_added": {
        "site": _text, "origin": _text, "vkey": _text,
        "site_prefix": _text, "mode": _one_of("online", "factory_ca", "pool"), "by": _text,
    },
    "site_stopped": {"site": _text, "reason": _text, "by": _text},
    "site_resumed": {"site": _text, "reason": _text, "by": _text},
    "access_granted": {
        "name": _text, "role": _one_of("operator", "approver", "station", "auditor", "server"),
        "spki_sha256": _digest, "cert_sha256": _digest, "by": _text,
    },
    "access_withdrawn": {"spki_sha256": _digest, "reason": _text, "by": _text},
    "order_assigned": {"order": _text, "site": _text, "mode": _one_of("online", "factory_ca", "pool"), "by": _text},
    "bundle_sealed": {
        "bundle": _text, "order": _text, "site": _text,
        "devices": _number, "suite": _text, "by": _text,
    },
    "consigned": {"bundle": _text, "order": _text, "chunk": _number, "count": _number},
    "site_reported": {"site": _text, "size": _number, "root": _digest},
    "site_settled": {"site": _text, "order": _text, "upto": _number, "count": _number},
    "finding_raised": {"site": _text, "code": _text, "what": _text},
    "grant_accepted": {
        "authority": _text, "vkey": _text,
        "mode": _one_of("online", "factory_ca", "pool"), "grant_sha256": _digest, "by": _text,
    },
    "bundle_opened": {"bundle": _text, "order": _text, "devices": _number, "manifest_sha256": _digest, "by": _text},
    "bundle_closed": {"order": _text, "count": _number, "reason": _text, "by": _text},
    "requested": {"order": _text, "count": _number, "source": _text},
    "received": {"device": _text, "intent": _number},
    "approvers_set": {"threshold": _number, "vkeys": _texts, "by": _text},
    "approval_used": {"action": _text, "plan_sha256": _digest, "approvers": _texts, "by": _text},
    "preload_taken_in": {
        "vendor": _text, "form": _one_of("microchip", "list", "certificates"), "manifest_sha256": _digest,
        "count": _number, "chunks": _number, "by": _text,
    },
    "preloaded": {"manifest_sha256": _digest, "vendor": _text, "ca": _text, "chunk": _number, "count": _number},
    "vendor_delegated": {"vendor": _text, "ca": _text, "quota": _number, "by": _text},
    "possession_intended": {
        "ca": _text, "cloud": _text, "code": _text, "cert_serial": _hex, "spki_sha256": _digest,
        "tbs_sha256": _digest, "profile_hash": _digest, "by": _text,
    },
    "possession_proven": {"ca": _text, "intent": _number, "cert_sha256": _digest},
    "registered": {"cloud": _text, "count": _number, "refused": _number, "lines_sha256": _digest, "by": _text},
    "ca_key_destroyed": {"ca": _text, "transcript_sha256": _text, "by": _text},
}  # fmt: skip

# A member that holds its default is left out: (kind, default).
_OPTIONAL: Mapping[str, Mapping[str, tuple[Kind, object]]] = {
    "workspace_created": {"sensitive": (_flag, False), "role": (_one_of("authority", "site"), "authority")},
    "ca_created": {"issuer": (_text, None), "site": (_text, None), "replaces": (_text, None)},
    "template_admitted": {"findings_allowed": (_texts, [])},
    "reserved": {"chunk": (_number, None), "device": (_text, None), "attempt": (_text, None)},
    "superseded": {"cert_serial": (_hex, None)},
    "rejected": {"device": (_text, None), "attempt": (_text, None)},
    "access_granted": {"site": (_text, None)},
    "finding_raised": {"device": (_text, None), "station": (_text, None), "entry": (_number, None)},
    "requested": {"chunk": (_number, None), "device": (_text, None), "attempt": (_text, None)},
}
_NONE: Mapping[str, tuple[Kind, object]] = {}

ISSUED = re.compile(
    rb'\{"at":"([0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\.[0-9]{3}Z)",'
    rb'"device":"([A-Za-z0-9._:-]{1,64})","intent":(0|[1-9][0-9]{0,17}),"type":"(issued|received)"\}\n'
)
"""The head of a canonical ``issued`` or ``received`` entry with its line feed: at, device, intent, type.

Most of a log is such entries.
"""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder(order="sorted").encode


def split_packed(body: bytes, count: int) -> list[bytes] | None:
    """Return ``count`` entries of a packed body, each with its length in front; None if they do not fill it."""
    pieces = []
    at, end = 0, len(body)
    while at + 2 <= end:
        stop = at + 2 + (body[at] << 8 | body[at + 1])
        pieces.append(body[at:stop])
        at = stop
    return pieces if at == end and len(pieces) == count else None


def parse_head(head: bytes) -> Document | None:
    """Return the object of an entry (all before its first line feed), None if it is not one."""
    try:
        return _decode(head)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def canonical_fault(head: bytes, document: Document) -> str | None:
    """Tell why an object is not a lawful event in canonical spelling; None if it is."""
    kind = document.get("type")
    required = _REQUIRED.get(kind) if isinstance(kind, str) else None
    if required is None or not isinstance(kind, str):
        return f"type {str(kind)[:40]!r} is not in the list of events"
    at = document.get("at")
    if not isinstance(at, str) or _AT.fullmatch(at) is None:
        return "member at is not a time in UTC with milliseconds"
    for name, is_kind in required.items():
        if name not in document:
            return f"member {name} is missing"
        if not is_kind(document[name]):
            return f"member {name} has a wrong value"
    if len(document) != len(required) + 2:
        fault = _optional_fault(document, required, _OPTIONAL.get(kind, _NONE))
        if fault is not None:
            return fault
    return None if _encode(document) == head else "not in canonical spelling"


def _optional_fault(
    document: Document, required: Mapping[str, Kind], optional: Mapping[str, tuple[Kind, object]]
) -> str | None:
    for name, value in document.items():
        if name in required or name in ("at", "type"):
            continue
        if name not in optional:
            return f"member {name[:40]!r} does not belong to this type"
        is_kind, default = optional[name]
        if value == default:
            return f"member {name} holds its default"
        if not is_kind(value):
            return f"member {name} has a wrong value"
    return None
