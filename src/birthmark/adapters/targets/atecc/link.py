"""One ATECC608 through Microchip's own library (``cryptoauthlib``): opened for one call, closed after it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from birthmark.adapters.targets.atecc.library import microchip_library
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Unavailable

__all__ = ["ChipLink", "ChipPlace", "open_chip"]

_CONFIG, _DATA = 0, 2
_CONFIG_OCTETS, _SERIAL_OCTETS, _POINT_OCTETS, _SIGNATURE_OCTETS = 128, 9, 64, 64
_REFUSED = {-46: "parse", -42: "ecc", -41: "self-test", -12: "execution", -6: "health"}
"""Status of the library → the chip answered, and says no."""
_NO_KEY = frozenset({-42, -12})
_GARBLED = frozenset({-44, -27, -26, -24})
_TRIES = 3
_I2C, _ATECC608 = 0, 3
_BAUD, _WAKE_DELAY_US, _RETRIES = 400_000, 1500, 2


@dataclass(frozen=True, slots=True)
class ChipPlace:
    """Where the chip is. ``bus``: ``i2c`` with the number in ``detail``, or the name of a plug-in and what it gets."""

    bus: str
    detail: str
    address: int
    base: Path


class ChipLink:
    """The commands this program uses. Threads never share one.

    A command that the chip refuses is ``DeviceFault("atecc.refused")``, no answer ``Unavailable("atecc.silent")``.
    What can be repeated without harm is, when its answer came garbled.
    """

    def __init__(self, library: Any, device: ctypes.c_void_p) -> None:
        self._library = library
        self._device = device

    def serial(self) -> bytes:
        """Return the nine octets of the serial number."""
        out = ctypes.create_string_buffer(_SERIAL_OCTETS)
        self._ask("serial", lambda: self._library.atcab_read_serial_number_ext(self._device, out))
        return out.raw

    def config(self) -> bytes:
        """Return the configuration zone, 128 octets."""
        out = ctypes.create_string_buffer(_CONFIG_OCTETS)
        self._ask("read", lambda: self._library.atcab_read_config_zone_ext(self._device, out))
        return out.raw

    def write_config(self, config: bytes) -> None:
        """Write what can be written of an open configuration zone."""
        self._ask("write", lambda: self._library.atcab_write_config_zone_ext(self._device, config))

    def lock_config(self, checksum: int) -> None:
        """Lock the configuration zone for ever, if its checksum is this one."""
        self._ask("lock", lambda: self._library.calib_lock_config_zone_crc(self._device, checksum), tries=1)

    def lock_data(self) -> None:
        """Lock the data zone for ever."""
        self._ask("lock", lambda: self._library.atcab_lock_data_zone_ext(self._device), tries=1)

    def lock_slot(self, slot: int) -> None:
        """Lock one slot for ever."""
        self._ask("lock", lambda: self._library.atcab_lock_data_slot_ext(self._device, slot), tries=1)

    def public_point(self, slot: int) -> bytes | None:
        """Return X ‖ Y of the key in a slot, or None if there is none."""
        out = ctypes.create_string_buffer(_POINT_OCTETS)
        try:
            self._ask("genkey", lambda: self._library.atcab_get_pubkey_ext(self._device, slot, out))
        except DeviceFault as fault:
            if fault.facts["status"] in _NO_KEY:
                return None
            raise
        return out.raw

    def generate(self, slot: int) -> bytes:
        """Make a new key in a slot, over the old one; return X ‖ Y."""
        out = ctypes.create_string_buffer(_POINT_OCTETS)
        self._ask("genkey", lambda: self._library.atcab_genkey_ext(self._device, slot, out), tries=1)
        return out.raw

    def sign(self, slot: int, digest: bytes) -> bytes:
        """Return r ‖ s over a digest of 32 octets."""
        out = ctypes.create_string_buffer(_SIGNATURE_OCTETS)
        self._ask("sign", lambda: self._library.atcab_sign_ext(self._device, slot, digest, out))
        return out.raw

    def read(self, slot: int, offset: int, size: int) -> bytes:
        """Return octets of a data slot; offset and size are multiples of four."""
        out = ctypes.create_string_buffer(size)
        call = self._library.atcab_read_bytes_zone_ext
        self._ask("read", lambda: call(self._device, _DATA, slot, ctypes.c_size_t(offset), out, ctypes.c_size_t(size)))
        return out.raw

    def write(self, slot: int, offset: int, data: bytes) -> None:
        """Write octets of a data slot; offset and size are multiples of four."""
        call, size = self._library.atcab_write_bytes_zone_ext, ctypes.c_size_t(len(data))
        self._ask("write", lambda: call(self._device, _DATA, slot, ctypes.c_size_t(offset), data, size))

    def _ask(self, command: str, call: Callable[[], int], *, tries: int = _TRIES) -> None:
        status = 0
        for _ in range(tries):
            status = call()
            if status not in _GARBLED:
                break
        if status == 0:
            return
        if status in _REFUSED:
            raise DeviceFault(
                "atecc.refused",
                f"the chip refuses the command {command}: {_REFUSED[status]}",
                hint="Compare the configuration of the chip with docs/targets/atecc.md; rework or scrap the device.",
                command=command,
                status=status,
            )
        raise _silent(command, status)


_opening = threading.Lock()
_locks: dict[tuple[int, int], threading.Lock] = {}


@contextmanager
def open_chip(place: ChipPlace) -> Iterator[ChipLink]:
    """Open the chip. One thread of a process at a time works with one chip.

    Raises ``Misconfigured`` ``extra.missing``, ``atecc.bus``; ``StationFault("atecc.library")``.
    """
    with _bus(place) as (bus, address, wake_delay):
        with _opening:
            lock = _locks.setdefault((bus, address), threading.Lock())
        with lock:
            library, device = microchip_library(), ctypes.c_void_p()
            configuration = _configuration(bus, address, wake_delay)
            with _opening:
                status = library.atcab_init_ext(ctypes.byref(device), ctypes.byref(configuration))
            if status != 0:
                raise _silent("open", status)
            try:
                yield ChipLink(library, device)
            finally:
                with _opening:
                    library.atcab_release_ext(ctypes.byref(device))


def _bus(place: ChipPlace) -> AbstractContextManager[tuple[int, int, int]]:
    if place.bus == "i2c":
        return nullcontext((int(place.detail), place.address, _WAKE_DELAY_US))
    for entry_point in entry_points(group="birthmark.atecc_buses", name=place.bus):
        return _plugged(entry_point.load(), place)
    known = sorted({"i2c", *(one.name for one in entry_points(group="birthmark.atecc_buses"))})
    raise Misconfigured(
        "atecc.bus",
        f"there is no bus {place.bus[:40]!a}",
        hint=f"Use one of {', '.join(known)}. A plug-in adds one through the entry point group birthmark.atecc_buses.",
        bus=ascii(place.bus[:40]),
    )


@contextmanager
def _plugged(bus: Any, place: ChipPlace) -> Iterator[tuple[int, int, int]]:
    opened = bus(place.base / place.detail)
    try:
        found = opened.__enter__()
    except BirthmarkError:
        raise
    except (OSError, ValueError, RuntimeError) as problem:
        raise Misconfigured(
            "atecc.bus",
            f"the bus {place.bus}:{place.detail[:100]!a} cannot be opened: {problem}",
            hint="Name what the bus of that kind wants; see docs/targets/atecc.md.",
            bus=place.bus,
        ) from problem
    try:
        yield found
    finally:
        opened.__exit__(None, None, None)


def _configuration(bus: int, address: int, wake_delay: int) -> Any:
    from cryptoauthlib.iface import ATCAIfaceCfg

    configuration = ATCAIfaceCfg()
    configuration.iface_type, configuration.devtype = _I2C, _ATECC608
    configuration.cfg.atcai2c.address, configuration.cfg.atcai2c.bus = address, bus
    configuration.cfg.atcai2c.baud = _BAUD
    configuration.wake_delay, configuration.rx_retries = wake_delay, _RETRIES
    return configuration


def _silent(command: str, status: int) -> Unavailable:
    return Unavailable(
        "atecc.silent",
        f"the chip does not answer the command {command}",
        hint="Check power, bus and address of the chip, then run the same command again.",
        command=command,
        status=status,
    )
