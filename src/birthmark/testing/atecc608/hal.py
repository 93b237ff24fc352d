"""The I2C layer of Microchip's library, replaced once a process: emulated buses end here, all others where they did.

The table of the library has no room for an interface of one's own (``ATCA_CUSTOM_IFACE`` is refused), but its I2C
entry can be replaced. Which chip is meant is told by bus and address in the configuration of the interface.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Protocol

from birthmark.adapters.targets.atecc.library import microchip_library

__all__ = ["ADDRESS", "WAKE_DELAY_US", "Wire", "attach", "detach"]

ADDRESS = 0xC0
"""I2C address (eight bits) of every emulated chip."""

WAKE_DELAY_US = 10
"""How long an emulated chip takes to wake up; a real one takes 1,500."""

_FIRST_BUS, _LAST_BUS = 64, 255
_SUCCESS, _COMM_FAIL, _NO_RESPONSE, _UNIMPLEMENTED = 0, -16, -25, -11
_I2C, _CHANGE_BAUD = 0, 6
_INIT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_POST = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_SEND = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint8, ctypes.c_void_p, ctypes.c_int)
_RECEIVE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_uint8, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint16)
)
_CONTROL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint8, ctypes.c_void_p, ctypes.c_size_t)
_RELEASE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class Wire(Protocol):
    """What is at the other end of an emulated bus.

    ``written`` gets what the host sends: I2C address, word address, data. False: nobody acknowledges. ``read`` returns
    up to ``size`` octets; empty: no answer.
    """

    def written(self, address: int, word: int, data: bytes) -> bool: ...

    def read(self, size: int) -> bytes: ...


class _Hal(ctypes.Structure):
    _fields_ = (
        ("init", _INIT),
        ("post", _POST),
        ("send", _SEND),
        ("receive", _RECEIVE),
        ("control", _CONTROL),
        ("release", _RELEASE),
    )


_lock = threading.Lock()
_wires: dict[int, Wire] = {}
_installed: dict[str, Any] = {}


def attach(wire: Wire) -> int:
    """Give the chip a bus of its own in this process and return its number.

    ``Misconfigured("extra.missing")`` without the library, ``RuntimeError`` if no bus is left.
    """
    with _lock:
        _replace()
        for bus in range(_FIRST_BUS, _LAST_BUS + 1):
            if bus not in _wires:
                _wires[bus] = wire
                return bus
    raise RuntimeError("no emulated bus is left: detach chips that are done with")


def detach(bus: int) -> None:
    """Take the chip off its bus."""
    with _lock:
        _wires.pop(bus, None)


def _replace() -> None:
    """Put our functions into the library's table; keep them, and what was there, for as long as the process lives."""
    if _installed:
        return
    library = microchip_library()
    from cryptoauthlib.iface import ATCAIfaceCfg

    library.atgetifacecfg.restype = ctypes.c_void_p
    library.atgetifacecfg.argtypes = [ctypes.c_void_p]
    ours = _Hal(_INIT(_init), _POST(_post), _SEND(_send), _RECEIVE(_receive), _CONTROL(_control), _RELEASE(_release))
    before, unused = ctypes.POINTER(_Hal)(), ctypes.c_void_p()
    status = library.hal_iface_register_hal(
        ctypes.c_int(_I2C), ctypes.byref(ours), ctypes.byref(before), None, ctypes.byref(unused)
    )
    if status != _SUCCESS:
        raise RuntimeError(f"Microchip's library does not take an I2C layer: status {status}")
    _installed.update(ours=ours, before=before, library=library, offset=ATCAIfaceCfg.cfg.offset)


def _place_of(interface: int) -> tuple[int, int]:
    pointer = _installed["library"].atgetifacecfg(interface)
    return (-1, -1) if not pointer else _place_at(pointer)


def _place_at(pointer: int) -> tuple[int, int]:
    """Return bus and I2C address out of a configuration. The library changes the address to 0 for a wake pulse."""
    address, bus = ctypes.string_at(pointer + _installed["offset"], 2)
    return bus, address


def _wire_of(interface: int) -> Wire | None:
    return _wires.get(_place_of(interface)[0])


def _machine() -> Any:
    """Return the functions that were in the table before."""
    return _installed["before"].contents


def _init(interface: int, configuration: int) -> int:
    if _place_at(configuration)[0] in _wires:
        return _SUCCESS
    return int(_machine().init(interface, configuration))


def _post(interface: int) -> int:
    return _SUCCESS if _wire_of(interface) is not None else int(_machine().post(interface))


def _send(interface: int, word: int, data: int, size: int) -> int:
    bus, address = _place_of(interface)
    wire = _wires.get(bus)
    if wire is None:
        return int(_machine().send(interface, word, data, size))
    try:
        octets = ctypes.string_at(data, size) if data and size > 0 else b""
        return _SUCCESS if wire.written(address, word, octets) else _NO_RESPONSE
    except Exception:  # noqa: BLE001 - nothing may be raised into C
        return _COMM_FAIL


def _receive(interface: int, word: int, data: int, size: Any) -> int:
    wire = _wire_of(interface)
    if wire is None:
        return int(_machine().receive(interface, word, data, size))
    try:
        octets = wire.read(size[0])
    except Exception:  # noqa: BLE001 - nothing may be raised into C
        return _COMM_FAIL
    if not octets:
        return _NO_RESPONSE
    ctypes.memmove(data, octets, len(octets))
    size[0] = len(octets)
    return _SUCCESS


def _control(interface: int, option: int, data: int, size: int) -> int:
    if _wire_of(interface) is None:
        return int(_machine().control(interface, option, data, size))
    return _SUCCESS if option == _CHANGE_BAUD else _UNIMPLEMENTED


def _release(_: int) -> int:
    return _SUCCESS
