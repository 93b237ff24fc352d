"""A witness directory becomes a working witness; logs that lie in files are cosigned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec

from birthmark.adapters.durable import write_durably
from birthmark.adapters.logstore import FileLogStore
from birthmark.adapters.witnessheads import FileHeads
from birthmark.errors import Misconfigured, Refused
from birthmark.ports import SecretsHandler
from birthmark.shell.authority.approvals import approver_key
from birthmark.shell.evidence.witnessed import head_of, read_checkpoint
from birthmark.shell.workspace.wiring import utc_now
from birthmark.tlog.cosignature import encode_cosigner
from birthmark.tlog.note import VerifierKey, parse_vkey, public_octets, split_note
from birthmark.tlog.tiles import HashReader
from birthmark.workflow.log.witness import Witness, request_from_tiles

__all__ = ["Cosigned", "cosign_log", "create_witness", "open_witness", "watch_log"]

_CONFIG = "witness.toml"
_FORMAT = "birthmark-witness/1"
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class _WitnessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: _Text
    name: _Text
    key: _Text
    logs: list[_Text] = []


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A cosigned head: ``line`` was added to ``path``; ``before``: size of the head that was cosigned last."""

    origin: str
    size: int
    before: int
    line: str
    path: Path


def create_witness(directory: Path, name: str, secret: str, key: str | None, secrets: SecretsHandler) -> str:
    """Make a witness; return its verifier key. ``key``: URI, else an encrypted file in the directory.

    Power cut: the settings are written last; a directory without them is none and is to be removed by hand.
    """
    if (directory / _CONFIG).exists():
        raise Refused(
            "witness.exists",
            f"{directory} already holds a witness",
            hint="Choose an empty directory; a witness is never overwritten.",
            path=str(directory),
        )
    uri = key or f"file:key.pem?secret={quote(secret, safe='/:._-')}"
    (directory / "heads").mkdir(parents=True, exist_ok=True, mode=0o700)
    with approver_key(uri, secrets, create=True, base=directory) as made:
        vkey = encode_cosigner(name, public_octets(made))
    write_durably(directory / "vkey", vkey.encode() + b"\n", mode=0o644)
    _write(directory, _WitnessSettings(format=_FORMAT, name=name, key=uri))
    return vkey


def watch_log(directory: Path, vkey: str) -> VerifierKey:
    """Let a witness cosign one more log from now on; return its key."""
    settings, key = _read(directory), parse_vkey(vkey)
    known = {parse_vkey(text).name: parse_vkey(text) for text in settings.logs}
    if known.get(key.name, key) != key:
        raise Refused(
            "witness.log.other",
            f"this witness knows {key.name} by another key",
            hint="A log keeps its key for ever: another key is another log, and needs another name.",
            origin=key.name,
        )
    FileHeads(directory / "heads").begin(key.name)
    if key.name not in known:
        _write(directory, msgspec.structs.replace(settings, logs=[*settings.logs, vkey]))
    return key


@contextmanager
def open_witness(directory: Path, secrets: SecretsHandler) -> Iterator[Witness]:
    """Yield a witness at work: its key, its logs, its memory."""
    settings = _read(directory)
    logs = {parsed.name: parsed for parsed in map(parse_vkey, settings.logs)}
    with approver_key(settings.key, secrets, base=directory) as key:
        yield Witness(settings.name, key, logs=logs, heads=FileHeads(directory / "heads"), clock=utc_now)


def cosign_log(witness: Witness, source: Path, output: Path | None) -> Cosigned:
    """Cosign a published log (a directory) or one checkpoint (a file) and write it with the cosignature.

    The log's own file is left alone: its owner may show a newer head at any moment.
    """
    note = read_checkpoint(source, ("checkpoint",))
    head = head_of(note)
    last = witness.latest(head.origin)
    old = last.size if last.size <= head.size else 0
    if source.is_dir():
        reader = HashReader(head.size, FileLogStore(source).read)
        request = request_from_tiles(note, head.size, old, reader)
    else:
        request = request_from_tiles(note, head.size, old, _no_tiles)
    line = witness.add_checkpoint(request)
    path = output or (source / "cosigned" if source.is_dir() else source.with_name(f"{source.name}.cosigned"))
    write_durably(path, _cosigned_before(path, note) + line.encode(), mode=0o644)
    return Cosigned(head.origin, head.size, last.size, line, path)


def _cosigned_before(path: Path, note: bytes) -> bytes:
    """Return the note to add to: what others cosigned of the same head, or the log's own."""
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        return note
    return before if split_note(before)[0] == split_note(note)[0] else note


def _no_tiles(level: int, index: int) -> bytes:
    raise Misconfigured(
        "witness.tiles.needed",
        "the witness has cosigned an older head of this log, and a checkpoint alone proves no consistency",
        hint="Give the directory of the published log in place of the checkpoint.",
    )


def _read(directory: Path) -> _WitnessSettings:
    path = directory / _CONFIG
    try:
        settings = msgspec.toml.decode(path.read_bytes(), type=_WitnessSettings)
    except OSError as problem:
        raise Misconfigured(
            "witness.missing",
            f"{directory} is no witness: {problem.strerror}",
            hint="Make one with `birthmark witness init DIR --name NAME`.",
            path=str(path),
        ) from problem
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise Misconfigured(
            "witness.settings",
            f"{path}: {problem}",
            hint="Keys: format, name, key, logs.",
            path=str(path),
        ) from None
    if settings.format != _FORMAT:
        raise Misconfigured(
            "witness.settings", f"{path} has another format", hint=f"This program reads {_FORMAT}.", path=str(path)
        )
    return settings


def _write(directory: Path, settings: _WitnessSettings) -> None:
    logs = "".join(f"  {json.dumps(vkey)},\n" for vkey in settings.logs)
    text = "".join(f"{name} = {json.dumps(getattr(settings, name))}\n" for name in ("format", "name", "key"))
    write_durably(directory / _CONFIG, f"{text}logs = [\n{logs}]\n".encode(), mode=0o644)
