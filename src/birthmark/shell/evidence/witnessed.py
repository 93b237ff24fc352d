"""Who saw the head of a log: of one that lies in files, and of every log that a workspace keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.mirrors import mirror_files
from birthmark.adapters.logstore import FileLogStore
from birthmark.errors import Misconfigured, Tampered
from birthmark.tlog.checkpoint import Checkpoint, parse
from birthmark.tlog.cosignature import COSIGNATURE_OCTETS
from birthmark.tlog.merkle import tree_root
from birthmark.tlog.note import encode_vkey, parse_signature, parse_vkey, split_note
from birthmark.tlog.policy import Policy, parse_policy
from birthmark.tlog.tiles import HashReader

if TYPE_CHECKING:
    from birthmark.adapters.audit.verify import Report

__all__ = [
    "Demand",
    "Witnessed",
    "check_log",
    "check_workspace",
    "claimed_log",
    "head_of",
    "known_vkey",
    "open_demand",
    "read_checkpoint",
    "read_policy",
]

_LAST_SECOND = 253402300800
"""The year 10000: what a calendar of this language ends with."""


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A head that a quorum cosigned and that the log shown today extends.

    ``size``: its entries; ``shown``: those of the head shown today; ``seen``: name of each witness to the time of its
    cosignature, ``at``: since when a quorum has stood by it (both in seconds since 1970; None if none had to).
    """

    origin: str
    size: int
    shown: int
    seen: Mapping[str, int]
    at: int | None

    @property
    def since(self) -> int:
        """How many entries no quorum has seen yet."""
        return self.shown - self.size

    def document(self) -> dict[str, Any]:
        """Return it as a JSON-ready object."""
        return {
            "origin": self.origin,
            "size": self.size,
            "since": self.since,
            "witnesses": {name: utc_second(at) for name, at in self.seen.items()},
        }


@dataclass(frozen=True, slots=True)
class Demand:
    """What an auditor asks of the witnesses. ``cosigned``: name of a log to a cosigned head that the auditor brings."""

    policy: Policy
    cosigned: Mapping[str, bytes]
    within: timedelta | None = None


def utc_second(seconds: int) -> str:
    """Return the time of a cosignature as text; the number, where no calendar has such a day."""
    return f"{datetime.fromtimestamp(seconds, UTC):%FT%TZ}" if seconds < _LAST_SECOND else str(seconds)


def check_log(source: Path, policy: Policy, cosigned: bytes | None = None) -> Witnessed:
    """Return the head that a policy accepts; of a directory, the tiles must lead to it and on to what is shown.

    ``cosigned``: the head to check, in place of the file of that name beside the log.

    Raises what ``Policy.open_checkpoint`` raises, and ``Tampered("witness.tiles")``.
    """
    note = read_checkpoint(source, ("cosigned", "checkpoint")) if cosigned is None else cosigned
    head, found = policy.open_checkpoint(note)
    size = head.size
    if source.is_dir():
        shown = policy.open_head(read_checkpoint(source, ("checkpoint",)))
        good = shown.origin == head.origin and shown.size >= head.size
        reader = HashReader(max(shown.size, head.size), FileLogStore(source).read)
        if not good or tree_root(head.size, reader) != head.root or tree_root(shown.size, reader) != shown.root:
            raise Tampered(
                "witness.tiles",
                f"the log in {source} does not hold the {head.size} entries that the witnesses saw",
                hint="Keep the cosigned checkpoint and this copy of the log: together they prove a rewritten log.",
                size=head.size,
                shown=shown.size,
            )
        size = shown.size
    seen = {one.key.name: one.timestamp for one in found}
    return Witnessed(head.origin, head.size, size, seen, policy.seen_at(found))


def claimed_log(log: Path, vkey: str) -> Witnessed | None:
    """Return a cosigned head that lies beside a log, with the names and times that its lines claim; None if none does.

    Nobody's cosignature is verified, for nobody says who these witnesses are; the head and the tiles are, as of
    :func:`check_log`, whose errors this raises. At most 20 names, 100 characters of each.
    """
    if not (log / "cosigned").exists():
        return None
    found = check_log(log, Policy((parse_vkey(vkey),), {}, {}))
    seen: dict[str, int] = {}
    for line in split_note(read_checkpoint(log, ("cosigned",)))[1]:
        name, _, signature = parse_signature(line)
        if len(signature) == COSIGNATURE_OCTETS and (len(seen) < 20 or name[:100] in seen):
            seen[name[:100]] = max(seen.get(name[:100], 0), int.from_bytes(signature[:8], "big"))
    return replace(found, seen=seen)


def open_demand(policy: Path, cosigned: Sequence[Path], within: timedelta | None) -> Demand:
    """Read what an auditor brings: a policy, and cosigned heads, at most one of each log.

    Raises ``Misconfigured``: ``witness.file``, ``witness.policy``, ``audit.cosigned``; ``Tampered``: ``log.note.*``,
    ``log.checkpoint.*`` for a file that is no checkpoint.
    """
    notes: dict[str, bytes] = {}
    for path in cosigned:
        note = _content(path)
        origin = head_of(note).origin
        if origin in notes:
            raise Misconfigured(
                "audit.cosigned",
                f"{path} is a second head of {origin[:200]}",
                hint="Give one cosigned head of each log: that with the cosignatures of a quorum.",
                path=str(path),
            )
        notes[origin] = note
    return Demand(read_policy(policy), notes, within)


def known_vkey(root: Path, policy: Policy) -> str | None:
    """Return the verifier key by which a policy knows the log of a workspace; None if it does not know it."""
    stored = FileLogStore(root / "log").read("vkey") or b""
    try:
        key = policy.log(parse_vkey(stored.decode("utf-8", "replace").strip()).name)
    except Misconfigured:
        return None
    return None if key is None else encode_vkey(key.name, key.public)


def check_workspace(root: Path, report: Report, demand: Demand, now: datetime) -> None:
    """Add to the audit of a workspace what witnesses say of its log, and of each mirrored log that the policy names.

    The log of the workspace has to be in the policy: what an auditor demands cannot be avoided by another name.

    Raises ``Misconfigured("audit.cosigned")`` for a head that is of none of these logs.
    """
    logs = {"log": report.origin}
    logs |= {f"sites/{site}/log": origin for site, origin in report.sites.items() if demand.policy.log(origin)}
    strange = sorted(set(demand.cosigned) - set(logs.values()))
    if strange:
        raise Misconfigured(
            "audit.cosigned",
            f"a cosigned head is of {strange[0][:200]}, a log that is not looked at here",
            hint="Give heads of the log of this workspace, or of sites whose logs the policy names.",
            origin=strange[0][:200],
        )
    findings = Findings()
    for name, origin in logs.items():
        found = _judge(root, name, origin, demand, findings)
        if found is not None:
            report.witnessed[name] = found.document()
            _judge_age(name, found, demand.within, now, findings)
    report.add(findings)


def _judge(root: Path, name: str, origin: str, demand: Demand, findings: Findings) -> Witnessed | None:
    files = mirror_files(root, name.split("/")[1]) if name != "log" else None
    directory = root / "log" if files is None else files.root
    if name != "log" and files is None:
        findings.add("audit.witness.quorum", f"there is no mirror of {origin}, so none of it was seen", name)
        return None
    try:
        found = check_log(directory, demand.policy, demand.cosigned.get(origin))
        if found.origin == origin:
            return found
        findings.add("audit.witness.signature", f"{name}: the cosigned head is that of {found.origin}", name)
    except (Tampered, Misconfigured) as problem:
        findings.add(_CODES.get(problem.code, "audit.witness.signature"), f"{origin}: {problem.message}", name)
    return None


_CODES = {
    "log.tile.length": "audit.witness.rewritten",
    "log.tile.missing": "audit.witness.rewritten",
    "witness.file": "audit.witness.quorum",
    "witness.quorum": "audit.witness.quorum",
    "witness.tiles": "audit.witness.rewritten",
}


def _judge_age(name: str, found: Witnessed, within: timedelta | None, now: datetime, findings: Findings) -> None:
    """A head is judged by its age even if nothing came after it: an old copy of a log comes with its old head."""
    if found.since:
        what = f"{found.origin}: {found.since} entries came after the {found.size} that a quorum of witnesses saw"
        findings.add("audit.witness.behind", what, name)
    if within is None:
        return
    age = None if found.at is None else abs(now.timestamp() - found.at)
    if age is None or age > within.total_seconds():
        when = "no witness had to see it" if found.at is None else f"a quorum saw it last at {utc_second(found.at)}"
        hours = int(within.total_seconds() // 3600)
        what = f"{found.origin}: {when}, not within {hours} h of now; {found.since} entries came after it"
        findings.add("audit.witness.stale", what, name)


def read_policy(path: Path) -> Policy:
    """Return the policy in a file; ``Misconfigured``: ``witness.file``, ``witness.policy``."""
    return parse_policy(_content(path))


def read_checkpoint(source: Path, names: tuple[str, ...]) -> bytes:
    """Return a checkpoint: the file ``source``, or in a directory the first of ``names`` that exists."""
    if source.is_dir():
        found = [source / name for name in names if (source / name).exists()]
        return _content(found[0] if found else source / names[-1])
    return _content(source)


def head_of(note: bytes) -> Checkpoint:
    """Return the head that a checkpoint states, whoever signed it."""
    return parse(split_note(note)[0])


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read((1 << 20) + 1)
    except OSError as problem:
        raise Misconfigured(
            "witness.file",
            f"cannot read {path}: {problem.strerror}",
            hint="Name the directory of a published log, a checkpoint, or a policy file.",
            path=str(path),
        ) from problem
