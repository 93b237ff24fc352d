"""Bulk registration: one task at a time, a file of parameters from S3, reports of results and errors behind links.

Source: AWS IoT developer guide, "Bulk registration". The form of a report's lines is our reading.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from moto.core.exceptions import ServiceException
from moto.s3.models import s3_backends

from birthmark.testing.aws.desk import Desk, Operation, page_of
from birthmark.testing.aws.records import Task, now
from birthmark.testing.aws.refusal import Refusal, invalid, not_found
from birthmark.testing.aws.register import register_thing
from birthmark.testing.aws.templates import check_template

__all__ = ["OPERATIONS"]

_LINES_A_REPORT = 5_000
_LONGEST_LINE = 131_072
_LINKS_KEPT = 1_000


def _start(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    registry = desk.registry
    check_template(asked["templateBody"])
    if any(one.status in ("InProgress", "Cancelling") for one in registry.tasks.values()):
        raise invalid("A bulk registration task is already running in this account.")
    lines = _input(registry.account_id, asked["inputFileBucket"], asked["inputFileKey"])
    task = Task(
        str(uuid.uuid4()),
        asked["templateBody"],
        asked["inputFileBucket"],
        asked["inputFileKey"],
        asked["roleArn"],
        len(lines),
    )
    registry.tasks[task.task_id] = task
    threading.Thread(target=_run, args=(desk, task, lines), daemon=True).start()
    return {"taskId": task.task_id}


def _input(account: str, bucket: str, key: str) -> list[tuple[int, bytes]]:
    """Return offset and octets of each line of the input file that is not empty."""
    try:
        found = s3_backends[account]["aws"].get_object(bucket, key)
    except ServiceException:
        found = None
    if found is None:
        raise invalid("The input file cannot be read.")
    offset, lines = 0, []
    for line in found.value.split(b"\n"):
        if line.strip():
            lines.append((offset, line))
        offset += len(line) + 1
    return lines


def _run(desk: Desk, task: Task, lines: list[tuple[int, bytes]]) -> None:
    """Work off the lines; the lock is free between them, so that the service answers meanwhile."""
    with desk.lock:
        stop = desk.faults.bulk_stops_after(len(lines))
    for number, (offset, line) in enumerate(lines, 1):
        with desk.lock:
            if not task.wanted or number > stop:
                break
            try:
                made = register_thing(desk.registry, task.template, _parameters(line))
                answer = {"ResourceArns": made["resourceArns"], "CertificatePem": made["certificatePem"]}
                task.results.append(_line(number, offset, response=answer))
                task.done += 1
            except Refusal as refusal:
                task.errors.append(_line(number, offset, errorCode=refusal.code, errorMessage=refusal.message))
                task.failed += 1
            task.modified = now()
    with desk.lock:
        task.modified = now()
        if not task.wanted:
            task.status = "Cancelled"
        elif stop < len(lines):
            task.status, task.message = "Failed", "The task stopped before its end."
        else:
            task.status = "Completed"


def _parameters(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line) if len(line) <= _LONGEST_LINE else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise invalid("The line is not an object of texts.")
    return found


def _line(number: int, offset: int, **members: Any) -> bytes:
    return json.dumps({"lineNumber": number, "offset": offset, **members}).encode() + b"\n"


def _need(desk: Desk, asked: Mapping[str, Any]) -> Task:
    found = desk.registry.tasks.get(asked["taskId"])
    if found is None:
        raise not_found(f"The task {asked['taskId']}")
    return found


def _describe(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    task = _need(desk, asked)
    return {
        "taskId": task.task_id,
        "creationDate": task.created,
        "lastModifiedDate": task.modified,
        "templateBody": task.template,
        "inputFileBucket": task.bucket,
        "inputFileKey": task.key,
        "roleArn": task.role,
        "status": task.status,
        "message": task.message or None,
        "successCount": task.done,
        "failureCount": task.failed,
        "percentageProgress": 100 * (task.done + task.failed) // task.total if task.total else 100,
    }


def _list(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    tasks = reversed(desk.registry.tasks.values())
    page, after = page_of([one.task_id for one in tasks if asked.get("status") in (None, one.status)], asked)
    return {"taskIds": page, "nextToken": after}


def _stop(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    task = _need(desk, asked)
    if task.status != "InProgress":
        raise invalid(f"The task is {task.status}.")
    task.wanted, task.status = False, "Cancelling"
    return {}


def _reports(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    task = desk.registry.tasks.get(asked["taskId"])
    if task is None:
        raise invalid(f"The task {asked['taskId']} does not exist.")
    lines = task.errors if asked["reportType"] == "ERRORS" else task.results
    starts, after = page_of(list(range(0, len(lines), _LINES_A_REPORT)), asked)
    links = [_link(desk, b"".join(lines[start : start + _LINES_A_REPORT])) for start in starts]
    return {"resourceLinks": links, "reportType": asked["reportType"], "nextToken": after}


def _link(desk: Desk, content: bytes) -> str:
    """Keep a report behind an address that cannot be guessed, like a presigned one; the oldest are forgotten."""
    secret = os.urandom(24).hex()
    desk.reports[secret] = content
    while len(desk.reports) > _LINKS_KEPT:
        del desk.reports[next(iter(desk.reports))]
    return f"{desk.url}/_emulator/reports/{secret}"


OPERATIONS: Mapping[str, Operation] = {
    "StartThingRegistrationTask": _start,
    "DescribeThingRegistrationTask": _describe,
    "ListThingRegistrationTasks": _list,
    "StopThingRegistrationTask": _stop,
    "ListThingRegistrationTaskReports": _reports,
}
