"""Microchip's own certificate functions (``atcacert``), told by a template file of ours: what a firmware would do."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birthmark.adapters.targets.atecc.library import microchip_library
from birthmark.testing.atecc608 import Atecc608
from birthmark.testing.atecc608.hal import ADDRESS, WAKE_DELAY_US

__all__ = ["MicrochipLibrary"]

_CONFIG, _DATA, _NONE = 0, 2, 7
_BIN2HEX_UPPER, _BIN2HEX_LOWER = 2, 3
_X509, _NO_DATE = 0, 1


class MicrochipLibrary:
    """A session of Microchip's library with one attached chip; close it with ``close``."""

    def __init__(self, chip: Atecc608, *, bus: int | None = None) -> None:
        self.library = microchip_library()
        from cryptoauthlib.iface import ATCAIfaceCfg

        configuration = ATCAIfaceCfg()
        configuration.iface_type, configuration.devtype = 0, 3
        configuration.cfg.atcai2c.address = ADDRESS
        configuration.cfg.atcai2c.bus = chip.attach() if bus is None else bus
        configuration.cfg.atcai2c.baud = 400_000
        configuration.wake_delay, configuration.rx_retries = WAKE_DELAY_US, 2
        self._configuration = configuration
        self.device = ctypes.c_void_p()
        assert self.library.atcab_init_ext(ctypes.byref(self.device), ctypes.byref(configuration)) == 0

    def close(self) -> None:
        self.library.atcab_release_ext(ctypes.byref(self.device))

    def read_certificate(self, template: Path, kind: str, number: int, *, lower: bool = False) -> bytes:
        """Return the ``device`` or ``signer`` certificate as Microchip's ``atcacert_read_cert`` makes it."""
        shape = json.loads(template.read_text())[kind]
        self._digits = _BIN2HEX_LOWER if lower else _BIN2HEX_UPPER
        definition = self._definition(shape, kind, number)
        out, size = ctypes.create_string_buffer(2048), ctypes.c_size_t(2048)
        status = self.library.atcacert_read_cert_ext(
            self.device, ctypes.byref(definition), None, out, ctypes.byref(size)
        )
        assert status == 0, status
        return out.raw[: size.value]

    def _definition(self, shape: Mapping[str, Any], kind: str, number: int) -> Any:
        from cryptoauthlib.atcacert import atcacert_cert_element_t, atcacert_def_t

        template = bytearray.fromhex(shape["template"])
        signature = len(template)
        template += (
            bytes.fromhex("0347") + bytes.fromhex("003044022001") + bytes(31) + bytes.fromhex("022001") + bytes(31)
        )
        template[2:4] = (len(template) - 4).to_bytes(2, "big")
        device = kind == "device"
        places = {
            0: (shape["point"], 64),
            1: (signature, 74),
            5: tuple(shape["serial"]),
            7: (shape["key_id"], 20 if shape["key_id"] else 0),
        }
        elements = self._elements(shape) if device else []
        self._kept = (
            (ctypes.c_uint8 * len(template)).from_buffer_copy(template),
            (atcacert_cert_element_t * max(len(elements), 1))(*elements),
        )
        definition = atcacert_def_t()
        definition.type, definition.sn_source = _X509, 0
        definition.comp_cert_dev_loc = _location(_DATA, 10 if device else 12, 0, 72)
        definition.private_key_slot = 0
        definition.template_id, definition.chain_id, definition.std_sig_size = number, 0, 64
        serial = shape["serial"][1]
        definition.cert_sn_dev_loc = _location(_DATA, 8, 64, serial) if device else _location(_NONE, 0, 0, 0)
        definition.issue_date_format = definition.expire_date_format = _NO_DATE
        definition.public_key_dev_loc = (
            _location(_DATA, 0, 0, 64, genkey=True) if device else _location(_DATA, 11, 0, 72)
        )
        for element, (offset, count) in places.items():
            definition.std_cert_elements[element].offset = offset
            definition.std_cert_elements[element].count = count
        definition.tbs_cert_loc.offset, definition.tbs_cert_loc.count = 4, signature - 4 - 12
        definition.cert_elements = ctypes.cast(self._kept[1], ctypes.POINTER(atcacert_cert_element_t))
        definition.cert_elements_count = len(elements)
        definition.cert_template = ctypes.cast(self._kept[0], ctypes.POINTER(ctypes.c_uint8))
        definition.cert_template_size = len(template)
        return definition

    def _elements(self, shape: Mapping[str, Any]) -> list[Any]:
        """The dates whole from slot 8, and wherever the device is named, its serial number in hexadecimal digits."""
        validity, size = shape["validity"]
        elements = [_element(b"validity", _location(_DATA, 8, 32, size), validity, size, 0)]
        for at in shape["names"]:
            elements.append(_element(b"sn-first", _location(_CONFIG, 0, 0, 4), at, 8, self._digits))
            elements.append(_element(b"sn-last", _location(_CONFIG, 0, 8, 5), at + 8, 10, self._digits))
        return elements


def _location(zone: int, slot: int, offset: int, count: int, *, genkey: bool = False) -> Any:
    from cryptoauthlib.atcacert import atcacert_device_loc_t

    location = atcacert_device_loc_t()
    location.zone, location.slot, location.is_genkey = zone, slot, int(genkey)
    location.offset, location.count = offset, count
    return location


def _element(name: bytes, location: Any, offset: int, count: int, transform: int) -> Any:
    from cryptoauthlib.atcacert import atcacert_cert_element_t

    element = atcacert_cert_element_t(transforms=[transform, 0])
    element.id, element.device_loc = name, location
    element.cert_loc.offset, element.cert_loc.count = offset, count
    return element
