"""A device on a pseudo terminal, as a serial port sees it, over a line that may be bad in ways that repeat."""

from __future__ import annotations

import os
import pty
import random
import select
import threading
import time
import tty
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType

__all__ = ["NO_NOISE", "Noise", "PtyDevice"]

_READ_OCTETS = 4096


@dataclass(frozen=True, slots=True)
class Noise:
    """How bad a line is. ``flip``, ``drop``: the probability of each octet, in both directions; ``seed``: the same
    seed and the same octets give the same faults. ``delay_s``: the device waits so long before each answer.
    """

    flip: float = 0.0
    drop: float = 0.0
    seed: int = 0
    delay_s: float = 0.0


NO_NOISE = Noise()


class PtyDevice(ABC):
    """Runs a device in a thread from ``start`` until ``close``; ``port`` is the path to give to a target.

    A device is a subclass that implements ``received``: it is called with octets as they come, in order, from one
    thread. It answers with ``send``. Used as a context manager it starts and closes itself.
    """

    def __init__(self, *, noise: Noise = NO_NOISE) -> None:
        self.noise = noise
        self._random = random.Random(noise.seed)  # noqa: S311 - faults have to repeat, not to be secret
        self._device, line = pty.openpty()
        tty.setraw(line)
        tty.setraw(self._device)
        self._line = line
        self.port = os.ttyname(line)
        self._wake_read, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name=f"device on {self.port}", daemon=True)

    @abstractmethod
    def received(self, data: bytes) -> None:
        """Take octets that the station sent."""

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Pull the plug. Doing it twice is safe."""
        if self._wake < 0:
            return
        os.close(self._wake)
        self._wake = -1
        if self._thread.is_alive():
            self._thread.join()
        for descriptor in (self._device, self._line, self._wake_read):
            os.close(descriptor)

    def set_noise(self, noise: Noise) -> None:
        """Make the line as bad as ``noise`` from now on."""
        self.noise = noise
        self._random = random.Random(noise.seed)  # noqa: S311 - as above

    def send(self, data: bytes) -> None:
        """Put octets on the line, through its noise."""
        if self.noise.delay_s:
            time.sleep(self.noise.delay_s)
        data = self._through_noise(data)
        while data:
            data = data[os.write(self._device, data) :]

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._device, self._wake_read], [], [])
            if self._wake_read in ready:
                return
            try:
                data = os.read(self._device, _READ_OCTETS)
            except OSError:
                return
            self.received(self._through_noise(data))

    def _through_noise(self, data: bytes) -> bytes:
        noise = self.noise
        if not noise.flip and not noise.drop:
            return data
        kept = bytearray()
        for octet in data:
            chance = self._random.random()
            if chance < noise.drop:
                continue
            kept.append(octet ^ 1 << self._random.randrange(8) if chance < noise.drop + noise.flip else octet)
        return bytes(kept)

    def __enter__(self) -> PtyDevice:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
