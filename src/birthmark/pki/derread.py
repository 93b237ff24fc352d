"""A strict reader of DER (X.690 clause 10): definite, shortest lengths, single-octet tags, no rest.

It exists because a check must see the octets that were signed, which a parser that builds objects no
longer has. Writing is ``der``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from birthmark.errors import Refused

__all__ = [
    "BIT_STRING",
    "INTEGER",
    "NULL",
    "OCTET_STRING",
    "OID",
    "SEQUENCE",
    "SET",
    "Node",
    "bits_of",
    "expect",
    "oid_text",
    "read_der",
    "read_members",
]

INTEGER, BIT_STRING, OCTET_STRING, NULL, OID, SEQUENCE, SET = 0x02, 0x03, 0x04, 0x05, 0x06, 0x30, 0x31
_MAX_LENGTH_OCTETS = 4
_MAX_OID_OCTETS = 512


class Node(NamedTuple):
    """One encoded value: its identifier octet, its contents and all of its octets."""

    tag: int
    content: bytes
    whole: bytes


def _malformed(reason: str) -> Refused:
    return Refused(
        "der.malformed",
        f"this is not DER: {reason}",
        hint="Send the structure in the distinguished encoding rules (X.690), complete and without a rest.",
        reason=reason,
    )


def _read_at(data: bytes, start: int) -> tuple[Node, int]:
    if len(data) - start < 2:
        raise _malformed("it ends inside a tag or a length")
    tag, first, at = data[start], data[start + 1], start + 2
    if tag & 0x1F == 0x1F:
        raise _malformed("a tag number above 30")
    length = first
    if first & 0x80:
        count = first & 0x7F
        octets = data[at : at + count]
        if not 1 <= count <= _MAX_LENGTH_OCTETS or len(octets) != count:
            raise _malformed("an indefinite, oversized or cut length")
        length, at = int.from_bytes(octets, "big"), at + count
        if length < 0x80 or octets[0] == 0:
            raise _malformed("a length that is not the shortest")
    end = at + length
    if end > len(data):
        raise _malformed("a value that is longer than what was sent")
    return Node(tag, data[at:end], data[start:end]), end


def read_der(data: bytes, tag: int = SEQUENCE) -> Node:
    """Return the one value that ``data`` is; ``der.malformed`` if it is another tag or has a rest."""
    node, end = _read_at(data, 0)
    if end != len(data):
        raise _malformed(f"{len(data) - end} octets follow the value")
    return expect(node, tag)


def read_members(node: Node) -> list[Node]:
    """Return the values inside a constructed value, in order."""
    members: list[Node] = []
    content, at, end = node.content, 0, len(node.content)
    while at < end:
        member, at = _read_at(content, at)
        members.append(member)
    return members


def expect(node: Node, tag: int) -> Node:
    """Return ``node`` if it has ``tag`` (an identifier octet), else refuse it."""
    if node.tag != tag:
        raise _malformed(f"tag 0x{node.tag:02x} where 0x{tag:02x} belongs")
    return node


def bits_of(node: Node) -> bytes:
    """Return the octets of a BIT STRING that has no unused bits (every key and signature of X.509)."""
    expect(node, BIT_STRING)
    if not node.content or node.content[0] != 0:
        raise _malformed("a BIT STRING with unused bits")
    return node.content[1:]


def oid_text(node: Node) -> str:
    """Return an OBJECT IDENTIFIER as dotted text."""
    return _dotted(expect(node, OID).content)


@lru_cache(maxsize=256)  # every request repeats the same few; those of a stranger push each other out
def _dotted(content: bytes) -> str:
    if not content or content[-1] & 0x80 or len(content) > _MAX_OID_OCTETS:
        raise _malformed("a cut or oversized object identifier")
    arcs: list[int] = []
    value = 0
    for octet in content:
        if value == 0 and octet == 0x80:
            raise _malformed("an arc that is not the shortest")
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
