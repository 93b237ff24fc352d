"""The stored form of a template: canonical JSON that an auditor can rebuild it from (docs/formats/profile.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec

from birthmark.errors import Misconfigured, Tampered
from birthmark.pki.der import Hole, Nested, Part, holes, merge
from birthmark.pki.profile import PROFILE_DECODER, Profile, check_rules

__all__ = ["MAX_TEMPLATE_OCTETS", "TemplateFile", "malformed_template", "moment_text", "part_list"]

_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Moment = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")]
MAX_TEMPLATE_OCTETS = 60 * 1024
_MAX_DEPTH = 16


class TemplateFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tbs``: hex text for octets, ``"{hole}"`` for a hole, a list [tag, member, …] for a value around holes."""

    format: Literal["birthmark-template-1"] = "birthmark-template-1"
    issuer_certificate: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    """SHA-256 of the issuer's certificate; empty for a root."""
    issuer_key_algorithm: str
    issuer_spki: _Digest
    """SHA-256 of the issuer's SPKI."""
    key_algorithm: str
    moment: _Moment
    """The moment of issue, before backdating."""
    not_before: _Moment
    not_after: _Moment
    product_values: dict[str, str]
    profile: msgspec.Raw
    profile_hash: _Digest
    tbs: list[Any]

    def encode(self) -> bytes:
        """Return the canonical JSON."""
        return msgspec.json.encode(self, order="sorted")

    @classmethod
    def decode(cls, data: bytes) -> TemplateFile:
        """Return the file in ``data``; ``Tampered("template.malformed")`` if it is not exactly what is written."""
        if len(data) > MAX_TEMPLATE_OCTETS:
            raise malformed_template("it is larger than 60 KiB")
        try:
            file = _decoder.decode(data)
            canonical = file.encode()
            for text in (file.moment, file.not_before, file.not_after):
                datetime.fromisoformat(text)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise malformed_template(str(error)) from error
        if canonical != data:
            raise malformed_template("it is not in canonical form")
        if hashlib.sha256(bytes(file.profile)).hexdigest() != file.profile_hash:
            raise malformed_template("its profile does not have the hash it gives")
        return file

    def open_profile(self) -> Profile:
        """Return the profile inside."""
        try:
            profile = PROFILE_DECODER.decode(self.profile)
            check_rules(profile)
        except (msgspec.MsgspecError, ValueError, Misconfigured) as error:
            raise malformed_template(f"its profile: {error}") from error
        return profile

    def parts(self) -> tuple[Part, ...]:
        """Return the to-be-signed octets with holes."""
        parts = tuple(_part(member, 0) for member in self.tbs)
        if not holes(parts) >= {Hole.CERT_SERIAL, Hole.SPKI}:
            raise malformed_template("it has no place for the certificate serial or for the key")
        return parts


_decoder = msgspec.json.Decoder(TemplateFile)


def part_list(parts: Iterable[Part]) -> list[Any]:
    """Return ``parts`` as they stand in a template file."""
    return [_member(part) for part in merge(parts)]


def moment_text(moment: datetime) -> str:
    """Return an aware moment as UTC text with whole seconds."""
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def _member(part: Part) -> Any:
    if isinstance(part, bytes):
        return part.hex()
    if isinstance(part, Hole):
        return f"{{{part.value}}}"
    return [part.tag, *part_list(part.parts)]


_HOLES: dict[str, Hole] = {f"{{{hole.value}}}": hole for hole in Hole}


def _part(member: Any, depth: int) -> Part:
    if depth > _MAX_DEPTH:
        raise malformed_template("its values are nested too deeply")
    if isinstance(member, list) and member and type(member[0]) is int and 0 < member[0] < 0x100:
        return Nested(member[0], tuple(_part(inner, depth + 1) for inner in member[1:]))
    if isinstance(member, str) and member in _HOLES:
        return _HOLES[member]
    try:
        return bytes.fromhex(member)
    except (TypeError, ValueError) as error:
        raise malformed_template(f"a member is neither hex, nor a hole, nor a list: {ascii(member)[:60]}") from error


def malformed_template(reason: str) -> Tampered:
    """Return the finding that stored octets are not a template."""
    return Tampered(
        "template.malformed",
        f"this is not a template that birthmark wrote: {reason}",
        hint="Take the template from the log entry that admitted it.",
        reason=reason,
    )
