"""What a stranger does to a good document: flips, cuts, splices, lies about lengths, huge numbers, depth, doubles."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

__all__ = ["apply", "evil_versions", "mutations"]

_DIGITS = re.compile(rb"[0-9]+")
_STRING = re.compile(rb'"[^"]{1,80}"')
_MEMBER = re.compile(rb'"[a-z_]+":("[^"]*"|[0-9]+|null)')
TOKENS = (
    b"\0", b"\n", b"\n\n", b"\r\n", b" ", b'"', b"\\", b"{", b"[", b"\xff", b"\xed\xa0\x80", "\u202e".encode(),
    "\u0660".encode(), "é".encode(), "— ".encode(), b"-1", b"0", b"00", b"9" * 5000, b"1e999", b"18446744073709551616",
    b"null", b"true", b"NaN", b"../../etc/passwd", b"$HOME", b"%00", b"%2e%2e/", b"+", b"=", b"==", b":",
    b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x02\x01\x00", b"\x05\x00", b"\xa0\x00", b"\x1f\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b'{"a":' * 40, b"[" * 40, b"]", b"}",
)  # fmt: skip

Change = Callable[[bytes, int, int, bytes], bytes]


def _place(data: bytes, number: int) -> int:
    return number % (len(data) + 1)


def _flip(data: bytes, a: int, b: int, token: bytes) -> bytes:
    if not data:
        return token
    at = a % len(data)
    return data[:at] + bytes((data[at] ^ (1 << b % 8),)) + data[at + 1 :]


def _set(data: bytes, a: int, b: int, token: bytes) -> bytes:
    at = _place(data, a)
    return data[:at] + bytes((b % 256,)) + data[at + 1 :]


def _cut(data: bytes, a: int, b: int, token: bytes) -> bytes:
    return data[: _place(data, a)]


def _drop(data: bytes, a: int, b: int, token: bytes) -> bytes:
    at = _place(data, a)
    return data[:at] + data[at + 1 + b % 64 :]


def _insert(data: bytes, a: int, b: int, token: bytes) -> bytes:
    at = _place(data, a)
    return data[:at] + token + data[at:]


def _splice(data: bytes, a: int, b: int, token: bytes) -> bytes:
    return data[: _place(data, a)] + data[_place(data, b) :]


def _double(data: bytes, a: int, b: int, token: bytes) -> bytes:
    start = _place(data, a)
    piece = data[start : start + 1 + b % 200]
    return data[:start] + piece + data[start:]


def _in_place_of(pattern: re.Pattern[bytes], with_what: Callable[[bytes, bytes], bytes]) -> Change:
    def change(data: bytes, a: int, b: int, token: bytes) -> bytes:
        found = list(pattern.finditer(data))
        if not found:
            return data + token
        chosen = found[a % len(found)]
        return data[: chosen.start()] + with_what(chosen[0], token) + data[chosen.end() :]

    return change


def _length(data: bytes, a: int, b: int, token: bytes) -> bytes:
    """Write a length that lies over four octets."""
    at = _place(data, a)
    return data[:at] + (0xFFFFFFFF >> (b % 32)).to_bytes(4, "big") + data[at + 4 :]


CHANGES: tuple[Change, ...] = (
    _flip, _set, _cut, _drop, _insert, _splice, _double, _length,
    _in_place_of(_DIGITS, lambda found, token: token),
    _in_place_of(_DIGITS, lambda found, token: found * 300),
    _in_place_of(_STRING, lambda found, token: b'"' + token + b'"'),
    _in_place_of(_STRING, lambda found, token: b"[" * 2000),
    _in_place_of(_MEMBER, lambda found, token: found + b"," + found),
    _in_place_of(_MEMBER, lambda found, token: b'"more":' + b'{"a":' * 3000),
)  # fmt: skip

Mutation = list[tuple[Change, int, int, bytes]]
_numbers = st.integers(0, 1 << 20)


def mutations() -> st.SearchStrategy[Mutation]:
    """Return a strategy of one to four changes in a row."""
    one = st.tuples(st.sampled_from(CHANGES), _numbers, _numbers, st.sampled_from(TOKENS))
    return st.lists(one, min_size=1, max_size=4)


def apply(data: bytes, mutation: Mutation) -> bytes:
    """Return ``data`` after all changes."""
    for change, a, b, token in mutation:
        data = change(data, a, b, token)
    return data


def evil_versions(seeds: Sequence[bytes]) -> list[bytes]:
    """Return the worst for memory: lengths that lie everywhere, depth, repetition, and plain size."""
    seed = max(seeds, key=len)
    found = [b"", b"\0" * 65536, b"[" * 100_000, b'{"a":' * 50_000, b"9" * 100_000, b"\x30\x80" * 30_000, b"\n" * 65536]
    found += [seed * (1 + 100_000 // max(1, len(seed))), seed + b" " * 100_000, seed[:40] + b"A" * 100_000]
    step = max(1, len(seed) // 20)
    found += [seed[:at] + b"\xff\xff\xff\xff" + seed[at + 4 :] for at in range(0, len(seed), step)]
    found += [seed[:at] + b"\x7f\xff\xff\xff" + seed[at + 4 :] for at in range(0, len(seed), step)]
    return found
