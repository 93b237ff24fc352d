"""c2sp.org/tlog-policy: which logs are known, and which witnesses together must have seen a head.

Lines: ``log <vkey> [<url>]``, ``witness <name> <vkey> [<url>]``, ``group <name> all|any|<k> <name>...``, one
``quorum <name>|none``; ``#`` begins a comment line. A name is used before no line that defines it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from birthmark.errors import Misconfigured, Tampered
from birthmark.tlog.checkpoint import Checkpoint, open_checkpoint, parse
from birthmark.tlog.cosignature import Cosignature, CosignerKey, open_cosignatures, parse_cosigner
from birthmark.tlog.note import VerifierKey, parse_vkey, split_note

__all__ = ["Policy", "parse_policy"]

_NONE = "none"
_MAX_OCTETS = 1 << 20
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Group:
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """``witnesses`` by the names of the policy file; ``groups`` of them; ``quorum`` names one of either, or none."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, CosignerKey]
    groups: Mapping[str, _Group] = field(repr=False)
    quorum: str = _NONE

    def satisfied_by(self, witnesses: frozenset[str]) -> bool:
        """Say whether these witnesses (names of the file) are a quorum."""
        return self.quorum == _NONE or self._saw(self.quorum, witnesses)

    def _saw(self, name: str, witnesses: frozenset[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in witnesses
        return sum(self._saw(member, witnesses) for member in group.members) >= group.threshold

    def log(self, origin: str) -> VerifierKey | None:
        """Return the key of the log of that name, None if the policy knows none."""
        return next((key for key in self.logs if key.name == origin), None)

    def seen_at(self, found: Sequence[Cosignature]) -> int | None:
        """Return the latest moment after which a quorum said it again (seconds since 1970), None if none ever did.

        What a quorum asserts is as old as the oldest cosignature that it needs.
        """
        for moment in sorted({one.timestamp for one in found}, reverse=True):
            keys = {one.key for one in found if one.timestamp >= moment}
            if self.satisfied_by(frozenset(name for name, key in self.witnesses.items() if key in keys)):
                return moment
        return None

    def open_checkpoint(self, note: bytes) -> tuple[Checkpoint, tuple[Cosignature, ...]]:
        """Return the head in a note that one of the logs signed and a quorum of witnesses cosigned.

        Raises ``Tampered``: ``log.note.*``, ``log.checkpoint.*``, ``witness.log`` (signed by none of the logs),
        ``witness.cosignature``, ``witness.quorum`` (fact ``saw``).
        """
        checkpoint = self.open_head(note)
        _, found = open_cosignatures(note, self.witnesses.values())
        keys = {cosignature.key for cosignature in found}
        saw = frozenset(name for name, key in self.witnesses.items() if key in keys)
        if not self.satisfied_by(saw):
            raise Tampered(
                "witness.quorum",
                f"{len(saw)} witnesses of the policy have seen this head of {checkpoint.size} entries: too few",
                hint="Let the missing witnesses cosign it; if one refuses, keep what it says as evidence.",
                saw=sorted(saw),
                missing=sorted(set(self.witnesses) - saw),
            )
        return checkpoint, found

    def open_head(self, note: bytes) -> Checkpoint:
        """Return the head in a note that one of the logs signed, whoever cosigned it; raises as above."""
        text, _ = split_note(note)
        origin = parse(text).origin
        key = self.log(origin)
        if key is not None:
            return open_checkpoint(note, origin, key)
        raise Tampered(
            "witness.log",
            f"the policy knows no log {origin[:200]}",
            hint="Use the policy that names this log, or the checkpoint of the log that it names.",
            origin=origin[:200],
        )


def parse_policy(data: bytes) -> Policy:
    """Return the policy in a file; ``Misconfigured``: ``witness.policy`` (fact ``line``) and bad verifier keys."""
    if len(data) > _MAX_OCTETS or _FORBIDDEN.search(data):
        raise _bad(0, "it is too long or holds a control character")
    reader = _Reader()
    # Names are octets, not characters: surrogateescape keeps those that are no UTF-8 apart.
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        words = [word for word in re.split(r"[ \t]+", line) if word]
        if words and not words[0].startswith("#"):
            reader.take(number, words)
    return reader.policy()


class _Reader:
    """Takes the lines of a policy file in their order."""

    def __init__(self) -> None:
        self._logs: list[VerifierKey] = []
        self._witnesses: dict[str, CosignerKey] = {}
        self._groups: dict[str, _Group] = {}
        self._members: set[str] = set()
        self._quorum: str | None = None

    def take(self, number: int, words: list[str]) -> None:
        kinds = {"log": self._log, "witness": self._witness, "group": self._group, "quorum": self._set_quorum}
        kind = kinds.get(words[0])
        if kind is None:
            raise _bad(number, f"{words[0][:40]!a} begins no line of a policy")
        kind(number, words[1:])

    def policy(self) -> Policy:
        if self._quorum is None:
            raise _bad(0, "it has no quorum line")
        return Policy(tuple(self._logs), self._witnesses, self._groups, self._quorum)

    def _log(self, number: int, words: list[str]) -> None:
        if len(words) not in (1, 2):
            raise _bad(number, "a log has a verifier key and perhaps an URL")
        key = parse_vkey(words[0])
        if any(key.public == other.public for other in self._logs):
            raise _bad(number, "this key of a log stands there twice")
        self._logs.append(key)

    def _witness(self, number: int, words: list[str]) -> None:
        if len(words) not in (2, 3):
            raise _bad(number, "a witness has a name, a verifier key and perhaps an URL")
        key = parse_cosigner(words[1])
        if any(key.public == other.public for other in self._witnesses.values()):
            raise _bad(number, "this key of a witness stands there twice")
        self._define(number, words[0])
        self._witnesses[words[0]] = key

    def _group(self, number: int, words: list[str]) -> None:
        if len(words) < 3:
            raise _bad(number, "a group has a name, all, any or a number, and members")
        name, threshold, *members = words
        for member in members:
            self._require_defined(number, member)
            if member in self._members:
                raise _bad(number, f"{member[:40]!a} is a member already: each counts once")
            self._members.add(member)
        self._define(number, name)
        count = {"all": len(members), "any": 1}.get(threshold)
        if count is None:
            count = int(threshold) if _NUMBER.fullmatch(threshold) else 0
        if not 1 <= count <= len(members):
            raise _bad(number, f"{threshold[:40]!a} of {len(members)} members is no quorum")
        self._groups[name] = _Group(count, tuple(members))

    def _set_quorum(self, number: int, words: list[str]) -> None:
        if len(words) != 1 or self._quorum is not None:
            raise _bad(number, "there is one quorum line, with one name")
        if words[0] != _NONE:
            self._require_defined(number, words[0])
        self._quorum = words[0]

    def _define(self, number: int, name: str) -> None:
        if name == _NONE or name in self._witnesses or name in self._groups:
            raise _bad(number, f"the name {name[:40]!a} is taken")

    def _require_defined(self, number: int, name: str) -> None:
        if name not in self._witnesses and name not in self._groups:
            raise _bad(number, f"nothing before this line is named {name[:40]!a}")


def _bad(line: int, reason: str) -> Misconfigured:
    where = f"line {line} of the policy cannot be used" if line else "the policy cannot be used"
    return Misconfigured(
        "witness.policy",
        f"{where}: {reason}",
        hint="Mend the file; c2sp.org/tlog-policy describes its lines.",
        line=line,
        reason=reason,
    )
