"""What clouds were told: every line of a ``registered`` entry, held against the life of its device."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from birthmark.adapters.audit.entries import Document
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.life import Life

__all__ = ["check_registered", "registered_fault"]

_LINE = re.compile(rb"([A-Za-z0-9._:-]{1,64}) (0|[1-9][0-9]{0,17}) (enabled|blocked) (done|same|covered|refused)")


def check_registered(
    seq: int,
    document: Document,
    attachment: bytes,
    findings: Findings,
    note: Callable[[str, int, Document, bytes], None],
) -> None:
    """Check one entry, and ``note`` what it says of each device."""
    where = f"entry {seq}"
    lines = [_LINE.fullmatch(line) for line in attachment.split(b"\n")]
    found = [line for line in lines if line is not None]
    names = [line[1] for line in found]
    if len(found) != len(lines) or len(found) != document["count"] or names != sorted(set(names)):
        findings.add("audit.registered.lines", f"entry {seq} does not list {document['count']} devices", where)
    if hashlib.sha256(attachment).hexdigest() != document["lines_sha256"]:
        findings.add("audit.registered.lines", f"the lines of entry {seq} are not those that it names", where)
    if sum(line[4] == b"refused" for line in found) != document["refused"]:
        what = f"entry {seq} counts {document['refused']} refused devices, its lines another number"
        findings.add("audit.registered.lines", what, where)
    for line in found:
        said = {
            "type": "registered",
            "cloud": document["cloud"],
            "revision": int(line[2]),
            "let_in": line[3] == b"enabled" and line[4] != b"refused",
        }
        note(line[1].decode(), seq, said, b"")


def registered_fault(life: Life, document: Document, seq: int) -> tuple[str, str] | None:
    """Return what is wrong with what a cloud was told of a device: it is let in after it was verified, not before."""
    if document["let_in"] and not life.verified:
        return "audit.registered.early", f"{document['cloud']} was told to let it in, and it was not verified before"
    if document["revision"] >= seq:
        return "audit.registered.lines", f"{document['cloud']} was told of entry {document['revision']} before it was"
    return None
