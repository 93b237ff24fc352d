"""One CBOR map from text to integers and octets, in the shortest form (RFC 8949, section 4.2.1, first rule)."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["decode_map", "encode_map"]

_UNSIGNED, _OCTETS, _TEXT, _MAP = 0, 2, 3, 5
_WIDTHS = {24: 1, 25: 2, 26: 4}


def encode_map(values: Mapping[str, int | str | bytes]) -> bytes:
    """Return the map in the order given. Text stands as octets: so the firmware of nRF Connect wants it."""
    parts = [_head(_MAP, len(values))]
    for key, value in values.items():
        name = key.encode()
        parts += [_head(_TEXT, len(name)), name]
        if isinstance(value, int):
            parts.append(_head(_UNSIGNED, value))
        else:
            octets = value.encode() if isinstance(value, str) else value
            parts += [_head(_OCTETS, len(octets)), octets]
    return b"".join(parts)


def decode_map(octets: bytes) -> dict[str, int | bytes]:
    """Undo it; ``ValueError`` unless the octets are exactly what ``encode_map`` writes."""
    kind, count, place = _read_head(octets, 0)
    if kind != _MAP or count > len(octets):
        raise ValueError("not a map")
    values: dict[str, int | bytes] = {}
    for _ in range(count):
        kind, length, place = _read_head(octets, place)
        key = octets[place : place + length].decode()
        kind_of_value, number, start = _read_head(octets, place + length)
        if kind != _TEXT or kind_of_value not in (_UNSIGNED, _OCTETS):
            raise ValueError("kind of an entry")
        place = start if kind_of_value == _UNSIGNED else start + number
        values[key] = number if kind_of_value == _UNSIGNED else octets[start:place]
    if encode_map(values) != octets:
        raise ValueError("not in the shortest form")
    return values


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes((kind << 5 | number,))
    mark, width = next((mark, width) for mark, width in _WIDTHS.items() if number < 1 << 8 * width)
    return bytes((kind << 5 | mark,)) + number.to_bytes(width, "big")


def _read_head(octets: bytes, place: int) -> tuple[int, int, int]:
    if place >= len(octets):
        raise ValueError("cut short")
    kind, number = octets[place] >> 5, octets[place] & 0x1F
    width = _WIDTHS.get(number, 0)
    end = place + 1 + width
    if number >= 24 and (not width or end > len(octets)):
        raise ValueError("length of an entry")
    return kind, int.from_bytes(octets[place + 1 : end], "big") if width else number, end
