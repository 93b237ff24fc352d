"""Bulk registration: a file of parameters in S3, one task of the account at a time, its reports read back.

The file is named by what it holds. Power cut or lost answer at any point: who tells the same devices again finds the
file, hence the task that was started for it, and waits for that one. The file is deleted once the reports were read:
from then on a task of the same name is history, and says nothing of what AWS holds now.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from birthmark.adapters.clouds.aws_iot.calls import AwsSays, AwsTurn
from birthmark.adapters.clouds.aws_iot.certificates import text_of
from birthmark.adapters.clouds.aws_iot.facts import id_of, pem_of, signer_of
from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.adapters.clouds.aws_iot.reports import TaskReport, fetch_report, read_errors, read_results
from birthmark.errors import Misconfigured, Unavailable
from birthmark.pki.awstemplate import ProvisioningTemplate
from birthmark.ports import Outcome, Registration

__all__ = ["BULK_CALLS", "BulkTask"]

_POLLS, _FIRST_POLL_S, _LONGEST_POLL_S = 60, 1.0, 20.0
_TASKS_LOOKED_AT = 50
BULK_CALLS = 3 * _POLLS + _TASKS_LOOKED_AT + 40
"""Most calls of a task besides those for devices that it did not make."""
_RUNNING = ("InProgress", "Cancelling")
_FEWEST = 2
"""One device costs fewer calls by itself."""


class BulkTask:
    """Tells devices by a task. ``template``: what the task carries out for each line."""

    def __init__(self, options: AwsIotOptions, template: ProvisioningTemplate | None) -> None:
        if template is None:
            raise ValueError("a bulk task has a template")
        self._options, self._template = options, template

    def tell(self, turn: AwsTurn, registrations: Sequence[Registration]) -> dict[str, Outcome]:
        """Register what a task can, and return the outcomes that it decided; the others are told one by one.

        ``Unavailable``: ``cloud.aws.busy`` (another task runs, or ours does not end), ``cloud.aws.report``;
        ``Misconfigured("cloud.aws.bulk")``: bucket, role or template cannot be used.
        """
        lines = [(one, line) for one in registrations if (line := self._line(one)) is not None]
        if len(lines) < _FEWEST:
            return {}
        content = b"".join(line for _, line in lines)
        name = sha256(self._template.text.encode() + b"\0" + content).hexdigest()
        key = f"{self._options.prefix}{name}.json"
        try:
            task = self._task(turn, key, content)
            known = self._wait(turn, task) is not None
            report = self._report(turn, task) if known else TaskReport({}, {})
            turn.s3("delete_object", Bucket=self._options.bucket, Key=key)
            return self._outcomes(turn, [one for one, _ in lines], report)
        except AwsSays as answer:
            raise Misconfigured(
                "cloud.aws.bulk",
                f"AWS cannot run a bulk task as the URI has it: {answer.detail}",
                hint="Check bucket, role and template; docs/clouds/aws-iot.md lists the rights that both need.",
                reason=answer.code,
            ) from None

    def _line(self, one: Registration) -> bytes | None:
        """Return a device's line of the file; None for one that a template cannot say."""
        if one.standing != "enabled" or len(one.certificates) != 1:
            return None
        signer = signer_of(one, one.certificates[0])
        if signer is None:
            return None
        values = {
            "ThingName": one.device_serial,
            "SerialNumber": one.device_serial,
            "CertificatePem": pem_of(one.certificates[0]),
            "CACertificatePem": pem_of(signer),
        }
        wanted = {name: value for name, value in values.items() if name in self._template.parameters}
        return json.dumps(wanted, sort_keys=True).encode() + b"\n"

    def _task(self, turn: AwsTurn, key: str, content: bytes) -> str:
        """Return the task for this file: the one that was started for it before, or a new one."""
        bucket = self._options.bucket
        if self._has_file(turn, key):
            found = self._find(turn, key)
            if found is not None:
                return found
        else:
            turn.s3("put_object", Bucket=bucket, Key=key, Body=content, ContentType="application/json")
        self._wait_for_others(turn)
        try:
            started = turn.iot(
                "start_thing_registration_task",
                templateBody=self._template.text,
                inputFileBucket=bucket,
                inputFileKey=key,
                roleArn=self._options.role,
            )
        except AwsSays:
            if self._running(turn):
                raise _busy("another bulk task was started in this account meanwhile") from None
            raise
        return text_of(started, "taskId")

    def _has_file(self, turn: AwsTurn, key: str) -> bool:
        try:
            turn.s3("head_object", Bucket=self._options.bucket, Key=key)
        except AwsSays as answer:
            if answer.code in ("404", "NoSuchKey", "NotFound"):
                return False
            raise
        return True

    def _find(self, turn: AwsTurn, key: str) -> str | None:
        """Return the newest task for this file; the newest stand first, and ours is one of the last."""
        page = turn.iot("list_thing_registration_tasks", maxResults=_TASKS_LOOKED_AT)
        for task in page.get("taskIds", ()):
            found = self._describe(turn, str(task))
            if (found.get("inputFileBucket"), found.get("inputFileKey")) == (self._options.bucket, key):
                return str(task)
        return None

    def _describe(self, turn: AwsTurn, task: str) -> Mapping[str, Any]:
        return turn.found("describe_thing_registration_task", taskId=task) or {}

    def _wait_for_others(self, turn: AwsTurn) -> None:
        """Return once no task runs: an account has one at a time."""
        pause = _FIRST_POLL_S
        for _ in range(_POLLS):
            if not self._running(turn):
                return
            turn.wait(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_S)
        raise _busy("another bulk task runs in this account")

    def _running(self, turn: AwsTurn) -> bool:
        asked = (turn.iot("list_thing_registration_tasks", status=status, maxResults=1) for status in _RUNNING)
        return any(found.get("taskIds") for found in asked)

    def _wait(self, turn: AwsTurn, task: str) -> str | None:
        """Return the status in which the task ended; None if AWS does not know it any more."""
        pause = _FIRST_POLL_S
        for _ in range(_POLLS):
            status = self._describe(turn, task).get("status")
            if status is None:
                return None
            if status not in _RUNNING:
                return str(status)
            turn.wait(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_S)
        raise _busy("our bulk task has not ended yet")

    def _report(self, turn: AwsTurn, task: str) -> TaskReport:
        origin = self._options.endpoint
        made = read_results(fetch_report(turn, task, "RESULTS", origin=origin))
        return TaskReport(made, read_errors(fetch_report(turn, task, "ERRORS", origin=origin)))

    def _outcomes(self, turn: AwsTurn, told: Sequence[Registration], report: TaskReport) -> dict[str, Outcome]:
        """A device is done if a result names its thing with its certificate. All else is compared one by one."""
        outcomes = {}
        for number, one in enumerate(told, 1):
            serial = one.device_serial
            if id_of(one.certificates[0]) in report.made.get(serial, frozenset()):
                outcomes[serial] = Outcome(serial, "done")
            elif number in report.errors and self._is_final(turn, serial, report.errors[number]):
                outcomes[serial] = Outcome(serial, "refused", "cloud.aws.refused", ": ".join(report.errors[number]))
        return outcomes

    def _is_final(self, turn: AwsTurn, serial: str, error: tuple[str, str]) -> bool:
        """Say whether a device is not to be told one by one: its template says more of it than that could."""
        if self._options.template is None or "Throttl" in error[0] or "Internal" in error[0]:
            return False
        return turn.found("describe_thing", thingName=serial) is None


def _busy(reason: str) -> Unavailable:
    return Unavailable(
        "cloud.aws.busy",
        f"AWS runs one bulk task of an account at a time: {reason}",
        hint="It is asked again; the task is found by its file, nothing is registered twice.",
        retry_after=60,
    )
