"""The service API: enrolments, bulk calls of ten, queries with continuation, states of registrations, CA certificates.

Sources: Azure REST API specifications (data plane of the service; resource provider Microsoft.Devices for the CAs).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, unquote

from birthmark.testing.dps.answers import Answer, Problem, json_object
from birthmark.testing.dps.device import registration_state
from birthmark.testing.dps.enrollments import Enrollment, Kind, read_enrollment
from birthmark.testing.dps.faults import Faults
from birthmark.testing.dps.http import Request
from birthmark.testing.dps.store import Store, Table

__all__ = ["ServiceApi", "check_token"]

_BULK = 10
_PAGE = 1000
_FAMILIES: Mapping[str, tuple[Kind, str]] = {
    "enrollments": ("individual", "registrationId"),
    "enrollmentGroups": ("group", "enrollmentGroupId"),
}
_MODES = ("create", "update", "updateIfMatchETag", "delete")


def check_token(header: str, host: str, policy: str, key: bytes, now: float) -> None:
    """Raise ``Problem(401000)`` unless ``header`` is a SAS token for ``host`` (with or without a port) that holds."""
    if _expiry(header, host, policy, key) <= now:
        raise Problem(401000, "Unauthorized")


@lru_cache(maxsize=64)
def _expiry(header: str, host: str, policy: str, key: bytes) -> int:
    """Return when a token that is signed well ends; clients send the same one again and again."""
    scheme, _, text = header.partition(" ")
    parts = {name: values[0] for name, values in parse_qs(text.strip(), max_num_fields=8).items()}
    raw = next((part[3:] for part in text.strip().split("&") if part.startswith("sr=")), "")
    audience = unquote(raw).lower()
    signed = hmac.digest(key, f"{raw}\n{parts.get('se', '')}".encode(), "sha256")
    try:
        sent = base64.b64decode(parts.get("sig", ""), validate=True)
        expiry = int(parts.get("se", ""))
    except (ValueError, binascii.Error):
        raise Problem(401000, "Unauthorized") from None
    mine = audience in (host.lower(), host.lower().rpartition(":")[0])
    good = scheme == "SharedAccessSignature" and mine and parts.get("skn") == policy
    if not (hmac.compare_digest(sent, signed) and good):
        raise Problem(401000, "Unauthorized")
    return expiry


class ServiceApi:
    """Works on the same store as the devices."""

    def __init__(self, store: Store, faults: Faults, hubs: tuple[str, ...]) -> None:
        self._store, self._faults, self._hubs = store, faults, hubs

    def answer(self, request: Request) -> Answer:
        """Answer one request that was let in."""
        first, *rest = request.path
        match request.method, first, rest:
            case "POST", "enrollments" | "enrollmentGroups", []:
                return self._bulk(first, json_object(request.body))
            case "POST", "enrollments" | "enrollmentGroups", ["query"]:
                _only_all(request, first)
                rows, headers = _page(
                    self._table(first), request, "enrollment" if first == "enrollments" else "enrollmentGroup"
                )
                return Answer(200, [row.shown() for row in rows], headers)
            case "POST", "enrollments" | "enrollmentGroups", [name, "attestationmechanism"]:
                return Answer(200, self._table(first).need(name).mechanism(secrets=True))
            case _, "enrollments" | "enrollmentGroups", [name]:
                return self._one(first, name, request)
            case "POST", "registrations", [group, "query"]:
                self._store.groups.need(group)
                found, headers = _page(
                    self._store.registrations,
                    request,
                    "deviceRegistration",
                    lambda row: (row.group or "").lower() == group.lower(),
                )
                return Answer(200, [registration_state(row) for row in found], headers)
            case "GET", "registrations", [name]:
                row = self._store.registrations.need(name)
                return Answer(200, registration_state(row), {"etag": row.etag})
            case "DELETE", "registrations", [name]:
                self._store.registrations.need(name)
                self._store.registrations.expect(name, request.headers.get("if-match"))
                self._store.registrations.delete(name)
                return Answer(204)
        raise Problem(405001, "Method not allowed.")

    def _table(self, family: str) -> Table[Enrollment]:
        return self._store.individual if family == "enrollments" else self._store.groups

    def _one(self, family: str, name: str, request: Request) -> Answer:
        table, match = self._table(family), request.headers.get("if-match")
        if request.method == "PUT":
            row = self._put(family, name, json_object(request.body), match)
        elif request.method == "DELETE":
            table.need(name)
            table.expect(name, match)
            table.delete(name)
            return Answer(204)
        elif request.method == "GET":
            row = table.need(name)
        else:
            raise Problem(405001, "Method not allowed.")
        return Answer(200, row.shown(), {"etag": row.etag})

    def _put(self, family: str, name: str, document: dict[str, Any], match: str | None) -> Enrollment:
        table, kind = self._table(family), _FAMILIES[family][0]
        old = table.get(name)
        if old is not None and match is None:
            raise Problem(409201, "The enrolment exists; say If-Match to change it.")
        table.expect(name, match)
        row = read_enrollment(kind, name, document, old, self._hubs)
        missing = [ref for ref in row.references.values() if self._store.certificates.get(ref) is None]
        if missing:
            raise Problem(400005, "A CA reference names no CA certificate.")
        table.put(name, row)
        return row

    def _bulk(self, family: str, document: dict[str, Any]) -> Answer:
        mode, members = document.get("mode"), document.get(family)
        if mode not in _MODES or not isinstance(members, list) or not 0 < len(members) <= _BULK:
            raise Problem(400010, f"A bulk call has a mode and 1 to {_BULK} members.")
        key, errors = _FAMILIES[family][1], []
        done = self._faults.bulk_stops_after(len(members))
        for number, member in enumerate(members):
            name = str(member.get(key)) if isinstance(member, dict) else ""
            try:
                if number >= done:
                    raise Problem(500001, "An internal error occurred.")
                if not isinstance(member, dict):
                    raise Problem(400001, "A member is not an object.")
                self._bulk_one(family, str(mode), name, member)
            except Problem as problem:
                errors.append({key: name, "errorCode": problem.code, "errorStatus": problem.message})
        return Answer(200, {"isSuccessful": not errors, "errors": errors})

    def _bulk_one(self, family: str, mode: str, name: str, member: dict[str, Any]) -> None:
        table, etag = self._table(family), member.get("etag")
        if mode != "create":
            table.need(name)
        if mode == "updateIfMatchETag" or (mode == "delete" and etag):
            table.expect(name, str(etag))
        if mode == "delete":
            table.delete(name)
        else:
            self._put(family, name, member, None if mode == "create" else "*")


def _only_all(request: Request, family: str) -> None:
    text = " ".join(str(json_object(request.body).get("query")).lower().split())
    if text.split(" from ") not in (["select *", family.lower()], ["select *", "enrollments"]):
        raise Problem(400011, "Only SELECT * FROM enrollments (or enrollmentGroups) is understood.")


def _page(
    table: Table[Any], request: Request, kind: str, keep: Any = lambda row: True
) -> tuple[list[Any], dict[str, str]]:
    try:
        count = int(request.headers.get("x-ms-max-item-count") or _PAGE)
        count = min(max(count, 1), _PAGE)
        after = base64.urlsafe_b64decode(request.headers.get("x-ms-continuation", "")).decode()
    except ValueError:
        raise Problem(400012, "The continuation or the item count cannot be read.") from None
    rows, follow = table.page(after, count, keep)
    headers = {"x-ms-item-type": kind, "x-ms-max-item-count": str(count)}
    if follow is not None:
        headers["x-ms-continuation"] = base64.urlsafe_b64encode(follow.encode()).decode()
    return rows, headers
