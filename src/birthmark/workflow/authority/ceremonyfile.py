"""The ceremony file: what is reviewed, signed and then done, step by step (docs/ceremonies.md).

``birthmark-ceremony/2`` has ``[[step]]`` tables; ``birthmark-ceremony/1`` with its ``[[ca]]`` tables is still read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from birthmark.errors import Misconfigured

__all__ = [
    "CaStep",
    "Ceremony",
    "DelegateStep",
    "DestroyStep",
    "IssuingStep",
    "RolloverStep",
    "RootStep",
    "Step",
    "parse_ceremony",
]

_FORMATS = ("birthmark-ceremony/1", "birthmark-ceremony/2")
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?\Z")]
_Line = Annotated[str, msgspec.Meta(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class RootStep(_Part, frozen=True, tag_field="do", tag="root"):
    """Make a root. ``values`` fill the profile's placeholders; ``key`` is a key URI."""

    name: _Name
    profile: _Name
    key: str
    key_algorithm: str
    values: dict[str, str] = {}


class IssuingStep(_Part, frozen=True, tag_field="do", tag="issuing"):
    """Make an issuing CA under ``issuer``, which an earlier step makes or which is on record."""

    name: _Name
    issuer: _Name
    profile: _Name
    key: str
    key_algorithm: str
    values: dict[str, str] = {}


class RolloverStep(_Part, frozen=True, tag_field="do", tag="rollover"):
    """Make the CA that takes the place of ``replaces``: a root for a root, with link certificates both ways (RFC 4210,
    4.4), an issuing CA for an issuing CA, under ``issuer`` or else the same CA as before."""

    name: _Name
    replaces: _Name
    profile: _Name
    key: str
    key_algorithm: str
    issuer: _Name | None = None
    values: dict[str, str] = {}


class DelegateStep(_Part, frozen=True, tag_field="do", tag="delegate"):
    """Certify the CA key of a site. ``request``: its file; ``request_sha256``: of the file that was reviewed."""

    name: _Name
    site: _Name
    issuer: _Name
    profile: _Name
    request: str
    request_sha256: _Digest
    values: dict[str, str] = {}


class DestroyStep(_Part, frozen=True, tag_field="do", tag="destroy"):
    """Destroy the private key of a CA. ``copies``: what is known about other copies of it, in words."""

    ca: _Name
    reason: _Line
    copies: _Line


CaStep = RootStep | IssuingStep | RolloverStep | DelegateStep
Step = CaStep | DestroyStep


class _FileCa(_Part, frozen=True):
    name: _Name
    kind: Literal["root", "issuing"]
    profile: _Name
    key: str
    key_algorithm: str
    issuer: _Name | None = None
    values: dict[str, str] = {}


class _File(_Part, frozen=True):
    format: str
    title: _Line
    participants: list[_Line] = []
    ca: list[_FileCa] = []
    step: list[Step] = []


@dataclass(frozen=True, slots=True)
class Ceremony:
    """The whole input of a ceremony. ``making`` comes before ``destroying``: what is lost cannot be made again."""

    title: str
    participants: tuple[str, ...]
    making: tuple[CaStep, ...]
    destroying: tuple[DestroyStep, ...]


def parse_ceremony(data: bytes) -> Ceremony:
    """Return a ceremony file; unknown keys and disorder are ``Misconfigured("ceremony.*")``."""
    try:
        file = msgspec.toml.decode(data, type=_File)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise Misconfigured(
            "ceremony.malformed",
            f"the ceremony file cannot be used: {problem}",
            hint="docs/ceremonies.md lists the keys of each kind of step.",
        ) from None
    first = file.format == _FORMATS[0]
    steps: Sequence[Step] = [_step_of(ca) for ca in file.ca] if first else file.step
    if file.format not in _FORMATS or not steps or (first and file.step) or (not first and file.ca):
        raise Misconfigured(
            "ceremony.format",
            f"format {file.format[:40]!r} with {len(file.ca)} [[ca]] and {len(file.step)} [[step]] is not a ceremony",
            hint=f'Write format = "{_FORMATS[1]}" and at least one [[step]].',
        )
    making = tuple(step for step in steps if not isinstance(step, DestroyStep))
    destroying = tuple(step for step in steps if isinstance(step, DestroyStep))
    _require_order(steps, len(making))
    return Ceremony(file.title, tuple(file.participants), making, destroying)


def _step_of(ca: _FileCa) -> CaStep:
    if (ca.kind == "root") != (ca.issuer is None):
        raise _disorder(f"CA {ca.name}: a root has no issuer, an issuing CA has one")
    named = {"name": ca.name, "profile": ca.profile, "key": ca.key, "key_algorithm": ca.key_algorithm}
    if ca.issuer is None:
        return RootStep(**named, values=ca.values)
    return IssuingStep(**named, issuer=ca.issuer, values=ca.values)


def _require_order(steps: Sequence[Step], making: int) -> None:
    if any(isinstance(step, DestroyStep) for step in steps[:making]):
        raise _disorder("a key is destroyed before the last CA is made")
    names = [step.ca if isinstance(step, DestroyStep) else step.name for step in steps]
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise _disorder(f"CA {twice[0]} stands there twice")
    later: set[str] = set()
    for step in reversed(steps):
        above = step.issuer if isinstance(step, IssuingStep | DelegateStep | RolloverStep) else None
        if above is not None and above in later:
            raise _disorder(f"{above} signs before it is made")
        later.add("" if isinstance(step, DestroyStep) else step.name)


def _disorder(what: str) -> Misconfigured:
    return Misconfigured(
        "ceremony.order",
        what,
        hint="List a root first, then the CAs it signs, and what is destroyed last; a name stands once.",
    )
