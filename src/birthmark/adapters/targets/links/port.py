"""A serial port that one head has for itself: bounded reads, bounded writes. A pseudo terminal counts as a port."""

from __future__ import annotations

import os
from typing import Any

from birthmark.adapters.extras import require_extra
from birthmark.errors import StationFault

__all__ = ["SerialPort", "port_place"]

_MOST_AT_ONCE = 4096


def port_place(path: str) -> str:
    """Return the place that the port at ``path`` is, whichever of its names ``path`` is (``/dev/serial/by-id/…``)."""
    return f"port:{os.path.realpath(path)}"


class SerialPort:
    """An open port, locked against every other head and process of this machine until ``close``.

    Raises ``StationFault``: ``link.port.in_use`` (another head has it), ``link.port.missing``, ``link.port.lost``.
    """

    def __init__(self, path: str, *, baud: int, rtscts: bool) -> None:
        require_extra("serial", "serial")
        import serial

        self.path = path
        self._failures = (serial.SerialException, OSError)
        try:
            self._port: Any = serial.Serial(path, baud, timeout=0, rtscts=rtscts, exclusive=True)
        except self._failures as problem:
            # pyserial wraps the refusal of flock(2) into an exception of its own.
            if isinstance(problem.__context__, BlockingIOError) or "lock" in str(problem):
                raise StationFault(
                    "link.port.in_use",
                    f"another head or program works with {path}",
                    hint="Give every head a port of its own, and close terminal programs.",
                    port=path,
                ) from problem
            raise StationFault(
                "link.port.missing",
                f"the port {path} cannot be opened",
                hint="Look whether the device is plugged in and whether this user may open the port.",
                port=path,
            ) from problem

    def send(self, data: bytes, seconds: float) -> None:
        """Write all of ``data`` or raise; it waits no longer than ``seconds``."""
        try:
            self._port.write_timeout = max(seconds, 0.01)
            self._port.write(data)
        except self._failures as problem:
            raise self._lost() from problem

    def receive(self, seconds: float) -> bytes:
        """Return what came, at most 4096 octets; nothing after ``seconds`` of silence."""
        try:
            self._port.timeout = max(seconds, 0.0)
            first = self._port.read(1)
            return bytes(first + self._port.read(min(self._port.in_waiting, _MOST_AT_ONCE - 1)) if first else b"")
        except self._failures as problem:
            raise self._lost() from problem

    def drain(self) -> None:
        """Forget what came and was not read."""
        try:
            self._port.reset_input_buffer()
        except self._failures as problem:
            raise self._lost() from problem

    def close(self) -> None:
        """Give the port back. Doing it twice is safe."""
        self._port.close()

    def _lost(self) -> StationFault:
        return StationFault(
            "link.port.lost",
            f"the port {self.path} went away or takes nothing more",
            hint="Look at the plug and the power of the device, then run the same command again.",
            port=self.path,
        )
