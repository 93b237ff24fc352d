"""Reports of a bulk task: files behind links. What they say is matched by content, line by line, and bounded.

AWS documents the links, not the lines. A line of RESULTS is believed only where it names a certificate and a thing of
ours by their ARNs; a line of ERRORS gives words for a person, by its line number, and decides nothing alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from birthmark.adapters.clouds.aws_iot.calls import AwsTurn
from birthmark.adapters.told import one_line
from birthmark.errors import Unavailable

__all__ = ["TaskReport", "fetch_report", "read_errors", "read_results"]

_MOST_LINKS, _MOST_PAGES = 1_000, 8
_MOST_OCTETS, _LONGEST_LINE = 256 * 1024 * 1024, 256 * 1024
_FETCH_S, _LONGEST_FETCH_S = 60.0, 900.0
_CERTIFICATE = re.compile(r":cert/([0-9a-f]{64})\b", re.ASCII)
_THING = re.compile(r":thing/([a-zA-Z0-9:_-]{1,128})(?![a-zA-Z0-9:_-])", re.ASCII)


@dataclass(frozen=True, slots=True)
class TaskReport:
    """``made``: things with the ids of their certificates. ``errors``: line number from 1 → code and words."""

    made: Mapping[str, frozenset[str]]
    errors: Mapping[int, tuple[str, str]]


def fetch_report(turn: AwsTurn, task: str, kind: str, *, origin: str | None) -> Iterator[bytes]:
    """Yield the lines of a task's reports; ``kind``: ``RESULTS`` or ``ERRORS``.

    Links are followed by https alone, or to ``origin``, the endpoint of the URI. They hold a signature, so no error
    shows one. ``Unavailable("cloud.aws.report")``.
    """
    import httpx

    octets, end = 0, turn.now() + _LONGEST_FETCH_S
    with httpx.Client(timeout=_FETCH_S, follow_redirects=False, trust_env=True) as client:
        for link in _links(turn, task, kind):
            _require_link(link, origin)
            rest = b""
            turn.follow()
            try:
                with client.stream("GET", link, headers={"accept-encoding": "identity"}) as answer:
                    if answer.status_code != 200:
                        raise _unreadable(f"its link answers {answer.status_code}")
                    if answer.headers.get("content-encoding", "identity") != "identity":
                        raise _unreadable("it is compressed, which nobody asked for")
                    for part in answer.iter_raw():
                        octets += len(part)
                        if octets > _MOST_OCTETS or turn.now() > end:
                            raise _unreadable("it is larger than 256 MiB, or takes longer than 15 minutes")
                        *lines, rest = (rest + part).split(b"\n")
                        yield from lines
                        if len(rest) > _LONGEST_LINE:
                            raise _unreadable("one of its lines is longer than 256 KiB")
            except httpx.HTTPError as problem:
                raise _unreadable(type(problem).__name__) from None
            yield rest


def read_results(lines: Iterator[bytes]) -> dict[str, frozenset[str]]:
    """Return the things that were made with the certificates they were given, whatever stands around the ARNs."""
    made: dict[str, frozenset[str]] = {}
    for line in lines:
        text = line.decode("utf-8", "replace").replace("\\/", "/")
        things = _THING.findall(text)
        if len(set(things)) == 1:
            made[things[0]] = frozenset(_CERTIFICATE.findall(text))
    return made


def read_errors(lines: Iterator[bytes]) -> dict[int, tuple[str, str]]:
    """Return what was refused, by line number; a line that cannot be read is passed over."""
    found: dict[int, tuple[str, str]] = {}
    for line in lines:
        try:
            document = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            continue
        number = document.get("lineNumber") if isinstance(document, dict) else None
        if isinstance(number, int) and isinstance(document, dict):
            found[number] = (
                one_line(document.get("errorCode") or "", 100),
                one_line(document.get("errorMessage") or "", 200),
            )
    return found


def _links(turn: AwsTurn, task: str, kind: str) -> Sequence[str]:
    links: list[str] = []
    token: str | None = None
    for _ in range(_MOST_PAGES):
        page = turn.iot(
            "list_thing_registration_task_reports", taskId=task, reportType=kind, maxResults=250, nextToken=token
        )
        links += [one for one in page.get("resourceLinks", ()) if isinstance(one, str)]
        token = page.get("nextToken")
        if not token and len(links) <= _MOST_LINKS:
            return links
    raise _unreadable("it has more links than a report can have")


def _require_link(link: str, origin: str | None) -> None:
    try:
        parts, own = urlsplit(link), urlsplit(origin or "")
        good = parts.scheme == "https" or (bool(origin) and (parts.scheme, parts.netloc) == (own.scheme, own.netloc))
        good = good and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        good = False
    if not good:
        raise _unreadable("its link is none of https")


def _unreadable(reason: str) -> Unavailable:
    return Unavailable(
        "cloud.aws.report",
        f"the report of a bulk task cannot be read: {reason}",
        hint="It is asked for again; the task is found by its file, nothing is registered twice.",
        reason=reason,
    )
