"""The next command, such that it can be typed as it stands: with the workspace that this one was given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import ContextVar
from shlex import quote

__all__ = ["GIVEN", "named_workspace", "next_lines", "typed_hint"]

GIVEN: ContextVar[str | None] = ContextVar("GIVEN", default=None)
"""The workspace that the running command line names."""

_OURS = r"(?:order|ceremony|ca|device|station|label|ledger|register|preload|serve|audit (?:verify|report))"
"""Nouns that a hint means at the workspace that it is told of; `site`, `bundle` and `access` may be another one's."""

_IN_HINT = re.compile(rf"`(birthmark {_OURS}\b[^`]*)`")
_AS_LINE = re.compile(r"(?m)^(Next(?: time)?: birthmark (?!init\b|plan\b|witness\b)[^\n]*)$")
_AUDIT = ("birthmark audit verify", "birthmark audit report")
_NAMED = re.compile(r"(^|\s)(-C|--workspace)\b")


def named_workspace(argv: Sequence[str]) -> str | None:
    """Return the workspace that a command line names, None if it leaves that to directory or environment."""
    for at, word in enumerate(argv):
        if word in ("-C", "--workspace"):
            return argv[at + 1] if at + 1 < len(argv) else None
        if word.startswith("--workspace="):
            return word.partition("=")[2]
        if word.startswith("-C") and len(word) > len("-C"):
            return word[len("-C") :]
    return None


def typed_hint(hint: str, workspace: str | None) -> str:
    """Return a hint whose commands in back quotes name ``workspace``, where they are meant for it."""
    return hint if workspace is None else _IN_HINT.sub(lambda found: f"`{_with(found[1], workspace)}`", hint)


def next_lines(text: str, workspace: str | None) -> str:
    """Return a text whose lines ``Next: birthmark …`` name ``workspace``; what others have to do stays."""
    return text if workspace is None else _AS_LINE.sub(lambda found: _with(found[1], workspace), text)


def _with(command: str, workspace: str) -> str:
    if _NAMED.search(command):
        return command
    # An audit takes the workspace by its place: what is audited need not be one that this machine works in.
    return f"{command} {quote(workspace)}" if command.startswith(_AUDIT) else f"{command} -C {quote(workspace)}"
