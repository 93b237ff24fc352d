"""The station's journal: one line a record, on disk before ``record`` returns, shared by all heads of one process.

A line is ``crc32 JSON LF``: eight hexadecimal digits over the JSON octets. ``group`` in the JSON is the number of the
first line that was written with the same ``fsync``: a power cut can tear nothing but the last group, so damage
anywhere else is not a power cut.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Condition
from types import TracebackType

import msgspec

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import Refused, StationFault, Tampered
from birthmark.ports import JournalRecord

__all__ = ["FileJournal"]

_CLOSING_STEPS = frozenset({"done", "void"})
_CRC_DIGITS = 8


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attempt: str
    device_serial: str
    group: int
    step: str
    target: str


class FileJournal:
    """Implements ``ports.Journal``. Threads may call it at once; records that wait together share one ``fsync``.

    A second process (or a second object) on the same file is ``StationFault("journal.in_use")``. After a failed
    write or ``fsync`` nobody knows what is on disk, so every later record is ``StationFault("journal.not_durable")``
    until the file is opened again. Damage before the last group is ``Tampered("journal.corrupt")``.
    """

    def __init__(self, path: Path, *, sync: Callable[[int], None] = os.fsync) -> None:
        self._path = path
        self._sync = sync
        self._changed = Condition()
        self._waiting: list[JournalRecord] = []
        self._joined = 0
        self._durable = 0
        self._flushing = False
        self._broken = False
        self._last: dict[str, JournalRecord] = {}
        self._open: dict[str, JournalRecord] = {}
        self.syncs = 0
        """How often ``fsync`` was called for records."""
        self._descriptor = _open_alone(path)
        try:
            self._lines = self._read_back()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> FileJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """How many records wait for the next ``fsync``."""
        return len(self._waiting)

    def record(self, record: JournalRecord) -> None:
        """Return when the line is on disk; ``StationFault("journal.not_durable")`` if that cannot be known."""
        _encode(record, 0)
        with self._changed:
            if self._descriptor < 0:
                raise RuntimeError("the journal is closed")
            if self._broken:
                raise self._not_durable()
            self._waiting.append(record)
            self._joined += 1
            ticket = self._joined
            while self._durable < ticket and not self._broken:
                if self._flushing:
                    self._changed.wait()
                else:
                    self._flush_waiting()
            if self._durable < ticket:
                raise self._not_durable()

    def last(self, device_serial: str) -> JournalRecord | None:
        with self._changed:
            return self._last.get(device_serial)

    def open_attempts(self) -> Sequence[JournalRecord]:
        """The longest untouched attempt comes first."""
        with self._changed:
            return tuple(self._open.values())

    def close(self) -> None:
        """Give the file free for another process. Closing twice is safe."""
        with self._changed:
            while self._flushing:
                self._changed.wait()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _flush_waiting(self) -> None:
        """Write everything that waits, with the lock given free meanwhile so that others can join the next group."""
        group, self._waiting = self._waiting, []
        self._flushing = True
        self._changed.release()
        done = False
        try:
            done = self._append(group)
        finally:
            self._changed.acquire()
            self._flushing = False
            self._broken = not done
            if done:
                self._durable += len(group)
                self._lines += len(group)
                for record in group:
                    self._remember(record)
            self._changed.notify_all()

    def _append(self, group: list[JournalRecord]) -> bool:
        data = b"".join(_encode(record, self._lines) for record in group)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            self.syncs += 1
            self._sync(self._descriptor)
        except OSError:
            return False
        return True

    def _remember(self, record: JournalRecord) -> None:
        self._last[record.device_serial] = record
        self._open.pop(record.attempt, None)
        if record.step not in _CLOSING_STEPS:
            self._open[record.attempt] = record

    def _read_back(self) -> int:
        """Fill the tables from the file, cut a torn tail off; return the number of lines."""
        with naming_os_errors(self._path):
            with open(self._path, "rb") as file:
                data = file.read()
            lines, length, last_group = _decode_all(self._path, data)
            if length < len(data):
                os.ftruncate(self._descriptor, length)
            _write_again(self._path, data[last_group:length], last_group)
        for line in lines:
            self._remember(JournalRecord(line.attempt, line.device_serial, line.step, line.target))
        return len(lines)

    def _not_durable(self) -> StationFault:
        return StationFault(
            "journal.not_durable",
            f"the journal {self._path} could not be written to disk",
            hint="DO NOT SHIP the devices under test: mend the disk, start the station again and repeat them.",
            path=str(self._path),
        )


def _open_alone(path: Path) -> int:
    with naming_os_errors(path):
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BlockingIOError:
            os.close(descriptor)
            raise StationFault(
                "journal.in_use",
                f"another process writes the journal {path}",
                hint="Stop the other station process, or give this station a name of its own.",
                path=str(path),
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _write_again(path: Path, data: bytes, offset: int) -> None:
    """Write the last group once more: after a failed fsync the page cache shows what the disk may not have."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(record: JournalRecord, group: int) -> bytes:
    line = _Line(record.attempt, record.device_serial, group, record.step, record.target)
    try:
        text = msgspec.json.encode(line)
    except UnicodeEncodeError:
        raise Refused(
            "journal.record.malformed",
            "a journal record holds text that is not Unicode",
            hint="Check the device serial and the target for stray octets.",
        ) from None
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(raw: bytes, decoder: msgspec.json.Decoder[_Line]) -> _Line | None:
    """Return the line, or None if it is damaged."""
    text = raw[_CRC_DIGITS + 1 :]
    if raw[: _CRC_DIGITS + 1] != b"%08x " % zlib.crc32(text):
        return None
    try:
        return decoder.decode(text)
    except msgspec.DecodeError:
        return None


def _decode_all(path: Path, data: bytes) -> tuple[list[_Line], int, int]:
    """Return the good lines, the octets they take and where the last group starts.

    The torn rest of the last group is left out. Lines never hold NUL, so a NUL is a block that a power cut left empty.
    """
    decoder = msgspec.json.Decoder(_Line)
    lines: list[_Line] = []
    length = group = last_group = 0
    rest = data.split(b"\n")
    unfinished = rest.pop()
    for raw in rest:
        line = _decode(raw, decoder)
        if line is None or line.group not in (len(lines), group):
            break
        if line.group == len(lines):
            group, last_group = line.group, length
        lines.append(line)
        length += len(raw) + 1
    tail = rest[len(lines) :]
    final = len(tail) if unfinished else len(tail) - 1
    for place, raw in enumerate(tail):
        later = _decode(raw, decoder)
        torn = (place == final or b"\0" in raw) if later is None else later.group <= len(lines)
        if not torn:
            raise Tampered(
                "journal.corrupt",
                f"line {len(lines) + 1} of the journal {path} is damaged",
                hint="Keep the file for the investigation and compare the last devices with their receipts.",
                path=str(path),
                line=len(lines) + 1,
            )
    return lines, length, last_group
