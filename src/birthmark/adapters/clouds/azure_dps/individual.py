"""Individual enrolments: told in bulk calls of ten, compared one by one where they are there already.

Order: create all; read what was there already and compare it; update what differs, each only if it is still what was
read. Cut anywhere, or with an answer lost, the same again ends the same: what was made meanwhile is compared then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from birthmark.adapters.clouds.azure_dps.documents import (
    BulkError,
    Enrollment,
    digest,
    enrollment_body,
    is_shown_name,
    merged,
    read_attestation,
    read_bulk,
    read_document,
    read_enrollment,
    read_enrollments,
    same_policies,
)
from birthmark.adapters.clouds.azure_dps.uri import DpsUri
from birthmark.adapters.clouds.azure_dps.web import Answer, DpsWeb, bad_answer, plain
from birthmark.errors import Unavailable
from birthmark.ports.cloud import Outcome, Registration

__all__ = ["BULK", "PAGE", "Enrollments", "decoded"]

BULK, PAGE = 10, 500
_T = TypeVar("_T")


def decoded(read: Callable[[bytes], _T], answer: Answer, cloud: str) -> _T:
    """Return the body of an answer; ``Misconfigured("cloud.answer")`` if it has another shape."""
    try:
        return read(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise bad_answer(cloud, "its body has another shape") from None


class Enrollments:
    """The individual enrolments of one service."""

    def __init__(self, web: DpsWeb, uri: DpsUri, endorsements: Mapping[str, str]) -> None:
        self._web, self._uri, self._endorsements = web, uri, endorsements

    def write(
        self, told: Sequence[Registration], enabling: Callable[[str], object] = lambda device_serial: None
    ) -> list[Outcome]:
        """Make and change up to ten; costs ``cost`` calls at most. Raises as ``ports.Cloud.tell`` does.

        ``enabling`` is called before a device that is blocked there is let in again.
        """
        outcomes: dict[str, Outcome] = {}
        bodies = {one.device_serial.lower(): self._body(one) for one in told}
        errors = self._bulk("create", list(bodies.values()))
        differing: list[dict[str, Any]] = []
        for one in told:
            key = one.device_serial.lower()
            error = errors.get(key)
            if error is None:
                outcomes[key] = Outcome(one.device_serial, "done")
            elif _status(error) != 409:
                outcomes[key] = _refused(one, error)
            elif (found := self._get(key)) is None:
                outcomes[key] = _refused(one, error)  # something else of it is taken, not its name
            else:
                document, held = found
                if (held.device_id or "").lower() == key and held.device_id != one.device_serial:
                    outcomes[key] = _taken(one, held)
                elif self._same(held, one):
                    outcomes[key] = Outcome(one.device_serial, "same")
                else:
                    if one.standing == "enabled" and not held.enabled:
                        enabling(one.device_serial)
                    differing.append(merged(document, bodies[key]))
        errors = self._bulk("updateIfMatchETag", differing) if differing else {}
        for one in told:
            key = one.device_serial.lower()
            if key not in outcomes:
                error = errors.get(key)
                outcomes[key] = Outcome(one.device_serial, "done") if error is None else _refused(one, error)
        return [outcomes[one.device_serial.lower()] for one in told]

    def cost(self, told: Sequence[Registration]) -> int:
        """Return what ``write`` of these, ten at most, costs at most: a TPM's key is read by a call of its own."""
        return len(told) + sum(one.device_serial in self._endorsements for one in told) + 2 if told else 0

    def _body(self, told: Registration) -> dict[str, Any]:
        return enrollment_body(told, self._uri, self._endorsements.get(told.device_serial))

    def delete(self, told: Sequence[Registration]) -> list[Outcome]:
        """Take away up to ten, in one call, of devices that their CA lets in: ``covered`` where there was none."""
        errors = self._bulk("delete", [self._body(one) for one in told])
        outcomes = []
        for one in told:
            error = errors.get(one.device_serial.lower())
            if error is None:
                outcomes.append(Outcome(one.device_serial, "done"))
            elif _status(error) == 404:
                outcomes.append(Outcome(one.device_serial, "covered"))
            else:
                outcomes.append(_refused(one, error))
        return outcomes

    def page(self, after: str) -> tuple[list[Enrollment], str | None]:
        """Return some enrolments and where to go on."""
        headers = {"x-ms-max-item-count": str(PAGE)} | ({"x-ms-continuation": after} if after else {})
        answer = self._web.call("POST", "/enrollments/query", {"query": "SELECT * FROM enrollments"}, headers=headers)
        following = answer.headers.get("x-ms-continuation") or None
        rows = decoded(read_enrollments, answer, self._uri.name)
        if not all(is_shown_name(row.registration_id) and is_shown_name(row.device_id or "-") for row in rows):
            raise bad_answer(self._uri.name, "an enrolment with a name that none can have")
        return rows, following

    def _get(self, key: str) -> tuple[dict[str, Any], Enrollment] | None:
        answer = self._web.call("GET", f"/enrollments/{quote(key, safe='')}", also=(404,))
        if answer.status == 404:
            return None
        return decoded(read_document, answer, self._uri.name), decoded(read_enrollment, answer, self._uri.name)

    def _same(self, held: Enrollment, told: Registration) -> bool:
        endorsement = self._endorsements.get(told.device_serial)
        wanted = () if endorsement is not None else tuple(digest(der) for der in told.certificates)
        kind = "tpm" if endorsement is not None else "x509" if wanted else "symmetricKey"
        return (
            held.certificates == wanted
            and held.enabled == (told.standing == "enabled")
            and held.device_id == told.device_serial
            and held.attestation.type == kind
            and same_policies(held, self._uri)
            and (endorsement is None or self._has_endorsement(held, endorsement))
        )

    def _has_endorsement(self, held: Enrollment, endorsement: str) -> bool:
        """Compare the TPM's key, which the service shows only where it is asked for."""
        path = f"/enrollments/{quote(held.registration_id.lower(), safe='')}/attestationmechanism"
        shown = decoded(read_attestation, self._web.call("POST", path), self._uri.name)
        return shown.type == "tpm" and shown.tpm is not None and shown.tpm.endorsement_key == endorsement

    def _bulk(self, mode: str, members: list[dict[str, Any]]) -> dict[str, BulkError]:
        """Return the members that were not done, by id in lower case; ``Unavailable`` if any may be done later."""
        answer = self._web.call("POST", "/enrollments", {"mode": mode, "enrollments": members})
        result = decoded(read_bulk, answer, self._uri.name)
        errors = {error.registration_id.lower(): error for error in result.errors or ()}
        if set(errors) - {str(one["registrationId"]).lower() for one in members} or result.is_successful == bool(
            errors
        ):
            raise bad_answer(self._uri.name, "a bulk call that speaks of other members")
        for error in errors.values():
            if _status(error) == 412 or (mode == "updateIfMatchETag" and _status(error) == 404):
                raise self._moved()
            if _status(error) in (408, 429) or _status(error) >= 500:
                raise Unavailable(
                    "cloud.half_done",
                    f"the service did some of a bulk call: {error.error_code} {plain(error.error_status or '')}",
                    hint="The same is told again later: what was done already is compared then.",
                    cloud=self._uri.name,
                    service_code=error.error_code,
                )
        return errors

    def _moved(self) -> Unavailable:
        return Unavailable(
            "cloud.record.moved",
            "somebody else changes these records at this moment",
            hint="The same is told again later; let only one program write enrolments.",
            cloud=self._uri.name,
        )


def _status(error: BulkError) -> int:
    return error.error_code // 1000


def _refused(told: Registration, error: BulkError) -> Outcome:
    detail = f"{error.error_code} {plain(error.error_status or '')}".strip()
    return Outcome(told.device_serial, "refused", "cloud.record.refused", detail)


def _taken(told: Registration, held: Enrollment) -> Outcome:
    detail = f"{plain(held.device_id)} is enrolled, and case does not count there"
    return Outcome(told.device_serial, "refused", "cloud.name.taken", detail)
