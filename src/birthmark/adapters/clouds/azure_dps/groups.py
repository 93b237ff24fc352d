"""Enrolment groups, one for each issuing CA: made, compared, rolled with a second certificate.

A group that is as it should be is not written. Cut anywhere, the same again goes on: a group is there whole or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any
from urllib.parse import quote

from birthmark.adapters.clouds.azure_dps.documents import (
    Group,
    digest,
    group_body,
    merged,
    read_document,
    read_group,
    read_groups,
    reference_name,
    same_policies,
)
from birthmark.adapters.clouds.azure_dps.individual import PAGE, decoded
from birthmark.adapters.clouds.azure_dps.plan import too_many_groups
from birthmark.adapters.clouds.azure_dps.uri import DpsUri
from birthmark.adapters.clouds.azure_dps.web import DpsWeb, bad_answer
from birthmark.errors import Refused, Unavailable
from birthmark.ports.cloud import CloudAuthority

__all__ = ["Groups", "known_cas"]


class Groups:
    """The enrolment groups of one service."""

    def __init__(self, web: DpsWeb, uri: DpsUri) -> None:
        self._web, self._uri = web, uri

    @property
    def most_calls(self) -> int:
        """What ``all`` costs at most; the last page may be an empty one."""
        return ceil(self._uri.most_groups / PAGE) + 1

    def all(self) -> list[Group]:
        """Return every group there."""
        found: list[Group] = []
        after = ""
        for _ in range(self.most_calls):
            headers = {"x-ms-max-item-count": str(PAGE)} | ({"x-ms-continuation": after} if after else {})
            answer = self._web.call(
                "POST", "/enrollmentGroups/query", {"query": "SELECT * FROM enrollmentGroups"}, headers=headers
            )
            found += decoded(read_groups, answer, self._uri.name)
            after = answer.headers.get("x-ms-continuation") or ""
            if not after:
                return found
        raise bad_answer(self._uri.name, f"more than {self._uri.most_groups} groups")

    def require_room(self, held: Sequence[Group], authorities: Sequence[CloudAuthority]) -> None:
        """Refuse (``cloud.groups.too_many``) what does not fit beside the groups that are there."""
        there = {one.enrollment_group_id.lower() for one in held}
        wanted = len(there | {one.name.lower() for one in authorities})
        if wanted > self._uri.most_groups:
            raise too_many_groups(self._uri, 0, wanted)

    def make(self, authority: CloudAuthority, there: bool) -> str:
        """Make or change the group of a CA; return one line on it. ``there``: it was listed.

        ``Refused("cloud.group.disabled")``: somebody has shut it, which is not for us to undo.
        """
        name, body = authority.name, group_body(authority.name, authority.certificates, self._uri)
        path = f"/enrollmentGroups/{quote(name, safe='')}"
        if not there:
            self._put(path, body, {})
            return f"group {name}: made"
        answer = self._web.call("GET", path, also=(404,))
        if answer.status == 404:
            raise self._moved(name)
        held = decoded(read_group, answer, self._uri.name)
        if not held.enabled:
            raise Refused(
                "cloud.group.disabled",
                f"the enrolment group {name} is disabled",
                hint="Find out who shut it and why; enable it in the portal if its devices are to come in.",
                cloud=self._uri.name,
                group=name,
            )
        if self._same(held, authority):
            return f"group {name}: as it should be"
        document = decoded(read_document, answer, self._uri.name)
        self._put(path, merged(document, body), {"if-match": held.etag or "*"})
        return f"group {name}: changed to what was told"

    def _put(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        answer = self._web.call("PUT", path, body, headers=headers, also=(409, 412))
        if answer.status in (409, 412):
            raise self._moved(str(body["enrollmentGroupId"]))

    def _same(self, held: Group, authority: CloudAuthority) -> bool:
        digests = tuple(digest(der) for der in authority.certificates)
        names = tuple(reference_name(authority.name, der) for der in authority.certificates)
        wanted = ((), names) if self._uri.ca == "reference" else (digests, ())
        return (held.certificates, held.references) == wanted and same_policies(held, self._uri)

    def _moved(self, name: str) -> Unavailable:
        return Unavailable(
            "cloud.record.moved",
            f"somebody else changes the group {name} at this moment",
            hint="Run the same command again; let only one program write groups.",
            cloud=self._uri.name,
            group=name,
        )


def known_cas(groups: Sequence[Group]) -> frozenset[str]:
    """Return the CAs whose devices enabled groups let in: SHA-256 (hex), or its first 16 digits from a reference."""
    enabled = [one for one in groups if one.enabled]
    digests = {each for one in enabled for each in one.certificates}
    return frozenset(digests | {name.rpartition("-")[2] for one in enabled for name in one.references})
