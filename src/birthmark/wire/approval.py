"""Plans that people approve before they are carried out (docs/formats/approval.md).

A plan is text that a person reads and a C2SP signed note whose signatures are the approvals. Its SHA-256 is its name:
what was approved is exactly what the text says, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.errors import Refused, Tampered
from birthmark.tlog.note import VerifierKey, open_note, sign_note

__all__ = ["PLAN_FORMAT", "Plan", "add_signature", "open_plan", "parse_plan", "plan_text", "signature_lines"]

PLAN_FORMAT = "birthmark-approval-plan/1"

_MAX_OCTETS = 32_000
"""So that a signed plan fits into one entry of the log."""
_MAX_FACT = 1000
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}", re.ASCII)
_ACTION = re.compile(r"[a-z]+(\.[a-z]+)+", re.ASCII)
_NONCE = re.compile(r"[0-9a-f]{32}", re.ASCII)
_HEAD = ("action", "origin", "valid-until", "nonce")


@dataclass(frozen=True, slots=True)
class Plan:
    """One act. ``origin``: log of the workspace; ``valid_until``: UTC, RFC 3339 with milliseconds; ``nonce``: 32 hex.

    ``facts``: every argument that matters, by name. What cannot be written as lines that mean what they show is
    ``Refused("approval.plan.value")``.
    """

    action: str
    origin: str
    facts: Mapping[str, str]
    valid_until: str
    nonce: str

    def __post_init__(self) -> None:
        fault = _fault(self)
        if fault is not None:
            raise Refused(
                "approval.plan.value",
                f"this cannot stand in a plan: {fault}",
                hint=f"A fact is one line of 1 to {_MAX_FACT} visible characters.",
                reason=fault,
            )

    def text(self) -> str:
        """Return the text that is signed: one line a member, facts in ascending order of their names."""
        head = (("action", self.action), ("origin", self.origin), ("valid-until", self.valid_until))
        lines = [PLAN_FORMAT, *(f"{name}: {value}" for name, value in head), f"nonce: {self.nonce}"]
        lines += [f"  {name}: {self.facts[name]}" for name in sorted(self.facts)]
        return "\n".join(lines) + "\n"

    @property
    def sha256(self) -> str:
        """The name of the plan: SHA-256 (hex) of its text."""
        return sha256(self.text().encode()).hexdigest()


def _fault(plan: Plan) -> str | None:
    if _ACTION.fullmatch(plan.action) is None:
        return "its action is not a name"
    if _MOMENT.fullmatch(plan.valid_until) is None or _NONCE.fullmatch(plan.nonce) is None:
        return "its end or its nonce has another form"
    if bad := [name for name in plan.facts if _NAME.fullmatch(name) is None]:
        return f"{bad[0][:40]!a} is not the name of a fact"
    for value in (plan.origin, *plan.facts.values()):
        # str.isprintable refuses control, format and bidirectional characters: they show other than they are.
        if not 1 <= len(value) <= _MAX_FACT or not value.isprintable() or value != value.strip():
            return f"the value {value[:60]!a}"
    return None


def parse_plan(text: str) -> Plan:
    """Return the plan of a text; ``Tampered("approval.plan.malformed")`` unless it is exactly a plan's own text."""
    lines = text.split("\n")
    if len(text) > _MAX_OCTETS or len(lines) < 6 or lines[0] != PLAN_FORMAT or lines[-1] != "":
        raise _malformed("its first line or its length is another one")
    pairs = [line.partition(": ") for line in lines[1:-1]]
    head, facts = pairs[: len(_HEAD)], pairs[len(_HEAD) :]
    if tuple(name for name, _, _ in head) != _HEAD:
        raise _malformed(f"after the first line stand {', '.join(_HEAD)}")
    action, origin, valid_until, nonce = (value for _, _, value in head)
    try:
        named = {name.removeprefix("  "): value for name, _, value in facts}
        plan = Plan(action=action, origin=origin, facts=named, valid_until=valid_until, nonce=nonce)
    except Refused as problem:
        raise _malformed(str(problem.facts["reason"])) from None
    if plan.text() != text:
        raise _malformed("it is not in canonical form")
    return plan


def plan_text(data: bytes) -> str:
    """Return the text of a plan file, signed or not; ``Tampered("approval.plan.malformed")`` if it is none."""
    try:
        whole = data[: _MAX_OCTETS + 1].decode()
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    if len(data) > _MAX_OCTETS:
        raise _malformed(f"it has more than {_MAX_OCTETS} octets")
    text, blank, _ = whole.partition("\n\n")
    return text + "\n" if blank else whole


def open_plan(data: bytes, approvers: Iterable[VerifierKey]) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan in a file and the names of the ``approvers`` who signed it, none if none did.

    Raises ``Tampered``: ``approval.plan.malformed``, ``log.note.malformed``, ``log.note.signature`` (one of the
    signatures is not of this text).
    """
    plan = parse_plan(plan_text(data))
    if data == plan.text().encode():
        return plan, ()
    try:
        text, names = open_note(data, approvers)
    except Tampered as problem:
        if problem.code != "log.note.unsigned":
            raise
        return plan, ()
    if text != plan.text():
        raise _malformed("its signatures are of another text")
    return plan, names


def add_signature(data: bytes, text: str, name: str, key: Ed25519PrivateKey) -> bytes:
    """Return a signed text, or one not signed yet, with the signature of one more key below the others."""
    signed = sign_note(text, name, key)
    line = signed.removeprefix(text)
    if data == text.encode():
        return signed.encode()
    if line.removeprefix("\n").encode() in data:
        raise Refused(
            "approval.signed",
            f"{name} has signed this already",
            hint="Pass the file on to the next person.",
            key_name=name,
        )
    return data + line.removeprefix("\n").encode()


def signature_lines(data: bytes) -> list[str]:
    """Return the names on the signature lines of a note, unverified, in their order."""
    _, _, block = data.decode(errors="replace").partition("\n\n")
    return [line.split(" ")[1] for line in block.splitlines() if line.startswith("— ") and line.count(" ") == 2]


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "approval.plan.malformed",
        f"this is no plan: {reason}",
        hint="Use the file as --plan-only or `birthmark approval plan` wrote it; make a new one to change it.",
        reason=reason[:200],
    )
