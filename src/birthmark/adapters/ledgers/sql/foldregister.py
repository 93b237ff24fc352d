"""How ``registered`` is checked: it changes no table, the entry is the record."""

from __future__ import annotations

import hashlib
import re
from itertools import pairwise

from birthmark.adapters.ledgers.sql.database import Database
from birthmark.errors import Refused
from birthmark.model import events as e

__all__ = ["check_registered"]

_LINE = re.compile(r"([A-Za-z0-9._:-]{1,64}) (0|[1-9][0-9]{0,17}) (enabled|blocked) (done|same|covered|refused)")
_PAGE = 400


def check_registered(database: Database, event: e.Registered, attachment: bytes, seq: int) -> None:
    """Refuse lines that are not as they are fixed, that speak of entries to come, or of devices nobody ordered."""
    lines = [_LINE.fullmatch(line) for line in attachment.decode("ascii", "replace").split("\n")]
    serials = [line[1] for line in lines if line is not None]
    lawful = (
        len(serials) == len(lines) == event.count
        and all(first < second for first, second in pairwise(serials))
        and all(int(line[2]) < seq for line in lines if line is not None)
        and sum(line[4] == "refused" for line in lines if line is not None) == event.refused
        and hashlib.sha256(attachment).hexdigest() == event.lines_sha256
    )
    known = sum(_known(database, serials[at : at + _PAGE]) for at in range(0, len(serials), _PAGE)) if lawful else -1
    if known != event.count:
        raise Refused(
            "ledger.registered",
            f"what {event.cloud[:120]} was told of {event.count} devices cannot be put on record",
            hint="Run `birthmark register run` again; if it repeats, run `birthmark audit verify`.",
            cloud=event.cloud[:120],
        )


def _known(database: Database, device_serials: list[str]) -> int:
    marks = ",".join("?" * len(device_serials))
    query = f"SELECT count(*) FROM device WHERE device_serial IN ({marks})"  # noqa: S608
    row = database.execute(query, tuple(device_serials)).fetchone()
    return int(row[0])
