"""What AWS IoT holds of devices: its things with the certificates that are attached to them, page by page."""

from __future__ import annotations

from birthmark.adapters.clouds.aws_iot.calls import AwsTurn
from birthmark.adapters.clouds.aws_iot.certificates import NotThisDevice, certificate_id, describe_certificate, rows_of
from birthmark.adapters.clouds.aws_iot.facts import id_of
from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.adapters.clouds.aws_iot.things import BLOCKED_MARK, principals_of
from birthmark.ports import CloudPage, CloudRecord

__all__ = ["page_of_things"]

_THINGS = 25
"""A thing costs two calls or more: a page that cannot be finished is not a large loss."""


def page_of_things(options: AwsIotOptions, turn: AwsTurn, after: str) -> CloudPage:
    """Return the records of some things; raises ``AwsSays``.

    Where devices become known just in time, only the things that were blocked are records of their own. A thing
    without certificates is none: it lets nobody in.
    """
    mark = BLOCKED_MARK if options.just_in_time else (None, None)
    found = turn.iot(
        "list_things",
        maxResults=_THINGS,
        nextToken=after or None,
        thingTypeName=None if options.just_in_time else options.thing_type,
        attributeName=mark[0],
        attributeValue=mark[1],
    )
    names = [str(one.get("thingName", "")) for one in rows_of(found, "things")]
    records = [record for record in (_record(turn, name) for name in names if name) if record is not None]
    return CloudPage(records, found.get("nextToken") or None, turn.count)


def _record(turn: AwsTurn, name: str) -> CloudRecord | None:
    """Return the record of one thing, from the octets that AWS shows of each certificate and never from an id."""
    active: list[str] = []
    others: list[str] = []
    try:
        attached = principals_of(turn, name) or ()
    except NotThisDevice:
        return CloudRecord(name, name, "enabled", ())  # too many to be a device of ours, and not to be passed over
    for arn in attached:
        known_as = certificate_id(arn)
        if known_as is None:
            continue
        try:
            shown = describe_certificate(turn, known_as)
        except NotThisDevice:
            active.append(known_as)  # unreadable here: the id tells it apart, and it is nothing that was told
            continue
        if shown is not None:
            (active if shown[1] == "ACTIVE" else others).append(id_of(shown[2]))
    if not active and not others:
        return None
    return CloudRecord(name, name, "enabled" if active else "blocked", tuple(sorted(active or others)))
