"""The emulated chip: its power, its bus, its file."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from birthmark.testing.atecc608.commands import Processor
from birthmark.testing.atecc608.faults import Faults
from birthmark.testing.atecc608.hal import ADDRESS, WAKE_DELAY_US, attach, detach
from birthmark.testing.atecc608.memory import OPEN_CONFIG, Memory, new_memory, read_memory, write_memory

__all__ = ["Atecc608", "emulated_bus", "rehearsal_bus"]

_WAKE = bytes.fromhex("04113343")
_WORD_SLEEP, _WORD_IDLE, _WORD_COMMAND = 1, 2, 3
_REMEMBERED = 4096
_attached: dict[Path, Atecc608] = {}


class Atecc608:
    """An ATECC608 whose memory is a file (mode 0600: it holds private keys).

    ``with Atecc608(path) as chip: bus = chip.attach()`` puts it on an emulated I2C bus of this process; Microchip's
    library finds it there under that number and the address 0xC0. The file has to exist (``create``). Every change is
    in the file before it is acknowledged; ``sync=False`` leaves out the fsync. Threads may use different chips at once.
    ``commands`` counts what came, ``opcodes`` are the last of them.
    """

    def __init__(self, path: Path, *, sync: bool = True) -> None:
        self.path = path.resolve()
        self.faults = Faults()
        self.commands = 0
        self.opcodes: deque[int] = deque(maxlen=_REMEMBERED)
        self.bus: int | None = None
        self._sync = sync
        self._awake = False
        self._out = b""
        self._alive = True
        self._load()

    @classmethod
    def create(
        cls,
        path: Path,
        serial: bytes | None = None,
        *,
        config: bytes = OPEN_CONFIG,
        locked: bool = True,
        sync: bool = True,
    ) -> Self:
        """Make a chip as it comes from the factory. ``serial``: nine octets, by default 01 23 ‖ random ‖ EE.

        ``locked``: configuration and data zone are. ``FileExistsError`` if the file is there.
        """
        if path.exists():
            raise FileExistsError(path)
        number = b"\x01\x23" + os.urandom(6) + b"\xee" if serial is None else serial
        write_memory(path, new_memory(number, config, locked=locked), sync=sync)
        return cls(path, sync=sync)

    @property
    def memory(self) -> Memory:
        """What the chip holds. A test may change it; ``save`` keeps the change."""
        return self._memory

    @property
    def serial(self) -> str:
        """The serial number, 18 upper-case hexadecimal digits."""
        return self._memory.serial.hex().upper()

    def save(self) -> None:
        """Write the memory to the file."""
        write_memory(self.path, self._memory, sync=self._sync)

    def attach(self) -> int:
        """Put the chip on a bus of this process and return the number of the bus."""
        if self.bus is None:
            if self.path in _attached:
                raise RuntimeError(f"{self.path} is on a bus already")
            self.bus = attach(self)
            _attached[self.path] = self
        return self.bus

    def detach(self) -> None:
        """Take it off the bus. Doing it twice is safe."""
        if self.bus is not None:
            detach(self.bus)
            _attached.pop(self.path, None)
            self.bus = None

    def power_on(self) -> None:
        """Cut the power and give it again: what was volatile is gone, the memory is what is in the file."""
        self._load()
        self._awake, self._out, self._alive = False, b"", True

    def written(self, address: int, word: int, data: bytes) -> bool:
        """Take what the host sends; False: nobody acknowledges. The address 0 is a wake pulse."""
        if not self._alive:
            return False
        if address == 0:
            self._awake, self._out = True, _WAKE
            return True
        if not self._awake:
            return False
        if word in (_WORD_SLEEP, _WORD_IDLE):
            self._awake, self._out = False, b""
            if word == _WORD_SLEEP:
                self._processor.sleep()
        elif word == _WORD_COMMAND:
            self._out = self._command(data)
        return self._alive

    def read(self, size: int) -> bytes:
        """Return the next octets of the answer."""
        if not self._alive or not self._awake:
            return b""
        part, self._out = self._out[:size], self._out[size:]
        return part

    def _command(self, packet: bytes) -> bytes:
        number, faults = self.commands, self.faults
        self.commands += 1
        self.opcodes.append(packet[1] if len(packet) > 1 else 0)
        if faults.silent > 0:
            faults.silent -= 1
            return b""
        if faults.dies_before is not None and number >= faults.dies_before:
            self._alive = False
            return b""
        answer = self._processor.execute(packet)
        if faults.dies_after is not None and number >= faults.dies_after:
            self._alive = False
            return b""
        if faults.corrupt > 0:
            faults.corrupt -= 1
            return answer[:-1] + bytes([answer[-1] ^ 0xFF])
        return answer

    def _load(self) -> None:
        self._memory = read_memory(self.path)
        self._processor = Processor(self._memory, self.faults, self.save)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


_opening = threading.Lock()
_guests: dict[Atecc608, int] = {}
"""Chips that nobody attached but ``emulated_bus``, and how many use them now."""


@contextmanager
def emulated_bus(path: Path) -> Iterator[tuple[int, int, int]]:
    """Give bus number, address and wake delay (µs) of the chip whose memory is ``path``.

    It is what ``bus=emulator:PATH`` of a target ``atecc:`` means. A chip that is attached already is used as it is,
    with its faults; otherwise it has power as long as anybody uses it so.
    ``ValueError`` or ``OSError`` if the file is no chip.
    """
    with _opening:
        present = _attached.get(path.resolve())
        chip = Atecc608(path) if present is None else present
        bus = chip.attach()
        if present is None or chip in _guests:
            _guests[chip] = _guests.get(chip, 0) + 1
    try:
        yield bus, ADDRESS, WAKE_DELAY_US
    finally:
        with _opening:
            if chip in _guests:
                _guests[chip] -= 1
                if not _guests[chip]:
                    del _guests[chip]
                    chip.detach()


@contextmanager
def rehearsal_bus(path: Path) -> Iterator[tuple[int, int, int]]:
    """As ``emulated_bus``, but a chip that is not there yet is made, as it comes from the factory: nothing is locked.

    It is what ``bus=rehearsal:PATH`` means. The name of the file says the serial number: 18 hexadecimal digits.
    """
    with _opening:
        if not path.exists():
            if not re.fullmatch("[0-9A-Fa-f]{18}", path.stem):
                raise ValueError("the file of a rehearsal is named after the serial number of its chip, 18 digits")
            Atecc608.create(path, bytes.fromhex(path.stem), locked=False)
    with emulated_bus(path) as found:
        yield found
