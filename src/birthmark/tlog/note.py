"""c2sp.org/signed-note: text signed by one or more Ed25519 keys (signature type 0x01), and verifier keys.

A note is its text, ending in a newline, a blank line, and signature lines
``— <key name> base64(key id || signature)``. A verifier key is ``<key name>+<hex key id>+base64(type || key)``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from birthmark.errors import Misconfigured, Refused, Tampered

__all__ = [
    "ED25519",
    "MAX_NOTE_OCTETS",
    "MAX_SIGNATURES",
    "VerifierKey",
    "decode_base64",
    "encode_vkey",
    "is_key_name",
    "key_id",
    "open_note",
    "parse_signature",
    "parse_vkey",
    "public_octets",
    "sign_note",
    "split_note",
]

ED25519 = 0x01
KEY_ID_OCTETS = 4
PUBLIC_OCTETS = 32
MAX_SIGNATURES = 100
MAX_NOTE_OCTETS = 1_000_000

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_VKEY = re.compile(r"([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+=*)")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A named Ed25519 public key (32 octets, RFC 8032) that may have signed a note."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 octets that stand before this key's signatures."""
        return key_id(self.name, ED25519, self.public)


@lru_cache(maxsize=256)  # whoever opens many notes opens them with a few keys
def key_id(name: str, key_type: int, public: bytes) -> bytes:
    """Return SHA-256(name || 0x0A || type || public key), its first 4 octets."""
    return sha256(name.encode() + b"\n" + bytes((key_type,)) + public).digest()[:KEY_ID_OCTETS]


def is_key_name(text: str) -> bool:
    """Tell whether ``text`` may name a key: not empty, no Unicode space, no ``+``, no control character."""
    return bool(text) and "+" not in text and not any(map(str.isspace, text)) and not _CONTROL.search(text)


def public_octets(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """Return the 32 octets (RFC 8032) of a public key."""
    public = key if isinstance(key, Ed25519PublicKey) else key.public_key()
    return public.public_bytes_raw()


def encode_vkey(name: str, public: bytes) -> str:
    """Return the verifier key of an Ed25519 public key, or refuse its name (``log.key.name``)."""
    _require_name(name)
    body = base64.b64encode(bytes((ED25519,)) + public).decode()
    return f"{name}+{key_id(name, ED25519, public).hex()}+{body}"


@lru_cache(maxsize=256)
def parse_vkey(vkey: str) -> VerifierKey:
    """Return the key of a verifier key text, or raise ``Misconfigured`` (``log.vkey.malformed``)."""
    match = _VKEY.fullmatch(vkey)
    if match is not None and is_key_name(match[1]):
        body = decode_base64(match[3])
        if body is not None and len(body) == 1 + PUBLIC_OCTETS and body[0] == ED25519:
            key = VerifierKey(match[1], body[1:])
            if key.key_id.hex() == match[2]:
                return key
    raise Misconfigured(
        "log.vkey.malformed",
        f"{vkey[:200]!r} is not a verifier key",
        hint="Copy the whole line name+id+key of an Ed25519 verifier key.",
        vkey=ascii(vkey[:200]),
    )


def sign_note(text: str, name: str, private_key: Ed25519PrivateKey) -> str:
    """Return ``text`` as a note with one signature.

    The text ends in a newline and has no other control character (``log.note.text``), the name is a key
    name (``log.key.name``); both are refused otherwise.
    """
    _require_name(name)
    if not text.endswith("\n") or _CONTROL.search(text):
        raise Refused(
            "log.note.text",
            "this text cannot be a note",
            hint="End the text with a newline and use no other control character.",
        )
    identity = key_id(name, ED25519, public_octets(private_key))
    signature = private_key.sign(text.encode())
    return f"{text}\n— {name} {base64.b64encode(identity + signature).decode()}\n"


def open_note(note: str | bytes, verifiers: Iterable[VerifierKey]) -> tuple[str, tuple[str, ...]]:
    """Return the text of a note and the names of the known keys that signed it.

    Signatures of unknown keys are skipped. Raises ``Tampered``: ``log.note.malformed``,
    ``log.note.signature`` when a known key's signature is wrong, ``log.note.unsigned`` when no known key
    signed.
    """
    text, lines = split_note(note)
    signed = text.encode()
    known = _by_name_and_id(verifiers)
    names: dict[str, None] = {}
    for line in lines:
        name, identity, signature = parse_signature(line)
        key = known.get((name, identity))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, signed)
        except InvalidSignature:
            raise Tampered(
                "log.note.signature",
                f"the signature of {name} does not fit the text",
                hint="Trust nothing in this text and ask its sender for the original.",
                key_name=name,
            ) from None
        names[name] = None
    if not names:
        raise Tampered(
            "log.note.unsigned",
            "none of the known keys signed this text",
            hint="Check that the verifier key belongs to this log.",
            known=[name for name, _ in known],
        )
    return text, tuple(names)


def decode_base64(text: str) -> bytes | None:
    """Return what canonical standard base64 (RFC 4648 section 4) stands for, or None for anything else."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # One value has one text: spare bits and padding are not a place to hide differences.
    return data if base64.b64encode(data).decode() == text else None


def split_note(note: str | bytes) -> tuple[str, list[str]]:
    """Return text and signature lines of a note; ``Tampered("log.note.malformed")``."""
    try:
        whole = note.decode() if isinstance(note, bytes) else note
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    if len(note) > MAX_NOTE_OCTETS:
        raise _malformed("it is too long")
    if _CONTROL.search(whole):
        raise _malformed("it holds a control character")
    body, blank, block = whole.rpartition("\n\n")
    if not blank or not block.endswith("\n"):
        raise _malformed("it has no signature lines after a blank line")
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise _malformed("it has too many signatures")
    return body + "\n", lines


def parse_signature(line: str) -> tuple[str, bytes, bytes]:
    """Return key name, key id and signature of one line."""
    parts = line.split(" ")
    if len(parts) == 3 and parts[0] == "—" and is_key_name(parts[1]):
        data = decode_base64(parts[2])
        if data is not None and len(data) > KEY_ID_OCTETS:
            return parts[1], data[:KEY_ID_OCTETS], data[KEY_ID_OCTETS:]
    raise _malformed("a line after the blank line is not a signature")


def _by_name_and_id(verifiers: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in verifiers:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise Misconfigured(
                "log.vkey.ambiguous",
                f"two keys of {key.name} have the same key id",
                hint="Keep only one of the two verifier keys.",
                key_name=key.name,
            )
    return known


def _require_name(name: str) -> None:
    if not is_key_name(name):
        raise Refused(
            "log.key.name",
            f"{name[:200]!r} cannot name a key",
            hint="Use a name like example.com/log without spaces and plus signs.",
            key_name=ascii(name[:200]),
        )


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "log.note.malformed",
        f"this is not a signed note: {reason}",
        hint="Fetch the signed text again, unchanged.",
        reason=reason,
    )
