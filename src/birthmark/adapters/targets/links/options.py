"""What every target behind a line has in its URI, and who a device is by the list of the maker."""

from __future__ import annotations

import re
from pathlib import Path

from birthmark.adapters.targets.links.port import SerialPort
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice
from birthmark.errors import Misconfigured

__all__ = ["LINE_OPTIONS", "SERIAL_OPTIONS", "IdentityMap", "answer_seconds", "number", "open_port", "retries"]

LINE_OPTIONS = ("answer-s", "retries", "map")
"""Options of every link. ``map``: a file of lines ``ID DEVICE_SERIAL``."""
SERIAL_OPTIONS = (*LINE_OPTIONS, "baud", "flow")
_MAX_MAP_OCTETS = 64 << 20
_RETRIES, _MOST_RETRIES = 8, 1000
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")


def number(uri: TargetUri, name: str, default: int, low: int, high: int) -> int:
    """Return a whole number; ``target.uri.option`` if it is none or out of bounds."""
    text = uri.options.get(name, str(default))
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= high:
        raise bad_option(uri, name, f"Use a whole number from {low} to {high}.")
    return int(text)


def retries(uri: TargetUri) -> int:
    """Return the retry budget of one run."""
    return number(uri, "retries", _RETRIES, 0, _MOST_RETRIES)


def answer_seconds(uri: TargetUri) -> float:
    """Return how long the device may take for one answer."""
    text = uri.options.get("answer-s", "10")
    if not _SECONDS.fullmatch(text) or not 0 < float(text) <= 600:
        raise bad_option(uri, "answer-s", "Use seconds, above 0 and at most 600.")
    return float(text)


def open_port(uri: TargetUri, path: str) -> SerialPort:
    """Open the serial port of a target (see ``SerialPort``)."""
    baud = number(uri, "baud", 115200, 50, 4_000_000)
    return SerialPort(path, baud=baud, rtscts=choice(uri, "flow", ("none", "rtscts")) == "rtscts")


class IdentityMap:
    """Gives the device serial for what a device says it is: the same thing, or what the file ``map`` says."""

    def __init__(self, uri: TargetUri, base: Path) -> None:
        self._uri = uri
        name = uri.options.get("map")
        self._path = None if name is None else base / name

    def device_serial(self, identity: str) -> str:
        """Return the device serial; a device that is not in the map keeps its own name, which fits no serial.

        ``Misconfigured("target.map.unreadable")`` for a file that cannot be read or names a device twice.
        """
        if self._path is None:
            return identity
        found = [parts[1] for parts in self._lines(self._path) if parts[0] == identity]
        if len(found) > 1:
            raise self._unreadable("it names a device twice")
        return found[0] if found else identity

    def _lines(self, path: Path) -> list[list[str]]:
        try:
            with open(path, "rb") as file:
                text = file.read(_MAX_MAP_OCTETS + 1).decode("ascii")
        except (OSError, UnicodeDecodeError) as problem:
            raise self._unreadable("it is not there or not ASCII text") from problem
        lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if len(text) > _MAX_MAP_OCTETS or any(len(parts) != 2 for parts in lines):
            raise self._unreadable("a line does not hold two words")
        return lines

    def _unreadable(self, reason: str) -> Misconfigured:
        return Misconfigured(
            "target.map.unreadable",
            f"the list of device identities {self._path} cannot be used: {reason}",
            hint="Write one line for each device: what it says it is, a space, its device serial.",
            path=str(self._path),
        )
