"""The attempt of one device in the station's journal: begun once, gone on with after a power cut, closed once.

The id is on disk before anything is asked for with it, and each line is there before the act that it announces.
"""

from __future__ import annotations

from birthmark.errors import Refused
from birthmark.model.ids import parse_attempt_id
from birthmark.model.records import DeviceRecord
from birthmark.ports import Entropy, Journal, JournalRecord, Records
from birthmark.workflow.line.stationpost import ProvisionRequest, new_attempt

__all__ = ["JournalledAttempt"]

_CLOSED = frozenset({"done", "void"})


class JournalledAttempt:
    """``id`` is empty until ``begin``. All calls concern the device and the target of one request."""

    def __init__(self, journal: Journal, request: ProvisionRequest) -> None:
        self._journal = journal
        self._serial = request.device_serial
        self._target = request.target
        self.asked = None if request.attempt is None else parse_attempt_id(request.attempt)
        self.id = ""

    def begin(self, device: DeviceRecord, records: Records, entropy: Entropy) -> None:
        """Go on with the open attempt of this device, or make one; it is on disk when this returns.

        ``Refused``: ``attempt.other`` when it is not the one that was asked for, ``device.elsewhere``.
        """
        if (open_one := self._open()) is not None:
            # An id that was used for an identity which the device has no more is never used again.
            if records.attempt(open_one.attempt) is None or device.attempt == open_one.attempt:
                self._go_on_with(open_one)
                return
            self.close_open("void")
        self.id = self.asked or new_attempt(entropy)
        self.write("begun")

    def write(self, step: str) -> None:
        """Return when the journal has it on disk."""
        self._journal.record(JournalRecord(self.id, self._serial, step, self._target))

    def close_open(self, step: str) -> None:
        """Close what stands open in the journal because the power went between the ledger and it."""
        if (open_one := self._open()) is not None:
            self._journal.record(JournalRecord(open_one.attempt, self._serial, step, open_one.target))

    def require_here(self, device: DeviceRecord) -> None:
        """Return if a verified device got its identity at this target, and take over its attempt id."""
        last = self._journal.last(self._serial)
        if last is not None and last.target != self._target:
            raise self._elsewhere(last.target)
        self.id = device.attempt or ""

    def _open(self) -> JournalRecord | None:
        last = self._journal.last(self._serial)
        return None if last is None or last.step in _CLOSED else last

    def _go_on_with(self, open_one: JournalRecord) -> None:
        if self.asked not in (None, open_one.attempt):
            raise Refused(
                "attempt.other",
                f"attempt {open_one.attempt} is under way for {self._serial}",
                hint="Repeat without an attempt id, or with that one.",
                device_serial=self._serial,
                held_by=open_one.attempt,
            )
        if open_one.target != self._target:
            raise self._elsewhere(open_one.target)
        self.id = open_one.attempt

    def _elsewhere(self, target: str) -> Refused:
        return Refused(
            "device.elsewhere",
            f"the identity of {self._serial} went to another target: {target}",
            hint="Repeat it at that target; if this is another unit, it needs a serial and an identity of its own.",
            device_serial=self._serial,
            target=target,
        )
