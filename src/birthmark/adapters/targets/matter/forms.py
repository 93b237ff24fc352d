"""Where the factory data of a Matter device stands: which files or regions, in which form."""

from __future__ import annotations

from typing import Protocol

from birthmark.adapters.targets.directory import Directory, Permissions
from birthmark.adapters.targets.esp.memory import DeviceMemory, Region
from birthmark.adapters.targets.esp.nvs import NVS_MARKS
from birthmark.adapters.targets.esp.securecert import PARTITION_OCTETS, SECURE_CERT_MARKS
from birthmark.adapters.targets.esp.target import file_option, flash_offset
from birthmark.adapters.targets.matter.data import (
    FactoryData,
    Shown,
    damaged_data,
    decode_esp,
    decode_nordic,
    decode_secure_dac,
    encode_esp,
    encode_nordic,
    encode_secure_dac,
)
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice
from birthmark.errors import Refused

__all__ = ["MatterForm", "matter_form"]

_PRIVATE = Permissions(0o600)
_ESP_SIZE, _SMALLEST_NVS, _LARGEST_NVS = 0x6000, 0x3000, 0x100000
_SECURE_CERT_OFFSET = 0xD000
_TEXT_OCTETS, _TEXT_OCTETS_BESIDE = 3, 1024
_NORDIC_OFFSET, _NORDIC_SIZE = 0xF7000, 0x1000


class MatterForm(Protocol):
    """``read`` returns None of an erased device and raises ``DeviceFault`` of a damaged one.

    ``write`` is durable on return. ``holds``: octet for octet this. ``is_private``: nobody else can read it.
    """

    def read(self) -> Shown | None: ...

    def write(self, data: FactoryData) -> None: ...

    def holds(self, data: FactoryData) -> bool: ...

    def is_private(self) -> bool: ...


class _EspForm:
    """``secure``: the region of ``esp_secure_cert`` that holds DAC, key and PAI; else they are in the factory data."""

    def __init__(self, memory: DeviceMemory, factory: Region, secure: Region | None) -> None:
        self._memory = memory
        self._factory = factory
        self._secure = secure

    def read(self) -> Shown | None:
        factory = self._memory.read(self._factory) or b""
        if self._secure is None:
            return decode_esp(factory)
        return decode_secure_dac(self._memory.read(self._secure) or b"", factory)

    def write(self, data: FactoryData) -> None:
        self._memory.write(self._contents(data))

    def holds(self, data: FactoryData) -> bool:
        return all(self._memory.read(region) == octets for region, octets in self._contents(data).items())

    def is_private(self) -> bool:
        return all(self._memory.is_private(one) for one in (self._factory, self._secure) if one is not None)

    def _contents(self, data: FactoryData) -> dict[Region, bytes]:
        """Return the regions in writing order: the one with the DAC is the commit point."""
        if self._secure is None:
            return {self._factory: encode_esp(data, self._factory.size)}
        factory = encode_esp(data, self._factory.size, with_dac=False)
        return {self._factory: factory, self._secure: encode_secure_dac(data)}


class _NordicForm:
    def __init__(self, directory: Directory, file: str, offset: int, size: int) -> None:
        self._directory = directory
        self._file = file
        self._offset = offset
        self._size = size

    @property
    def _intel_hex(self) -> bool:
        return self._file.endswith(".hex")

    def read(self) -> Shown | None:
        found = self._directory.read(self._file)
        if found is None:
            return None
        if len(found.data) > _TEXT_OCTETS * self._size + _TEXT_OCTETS_BESIDE:
            raise damaged_data()
        return decode_nordic(found.data, self._offset, intel_hex=self._intel_hex)

    def write(self, data: FactoryData) -> None:
        octets = encode_nordic(data, self._offset, intel_hex=False)
        if len(octets) > self._size:
            raise Refused(
                "target.partition.full",
                f"the factory data needs {len(octets)} octets, the partition has {self._size}",
                hint="Use a larger size=, or shorter texts in the product file.",
                needed=len(octets),
                size=self._size,
            )
        octets = encode_nordic(data, self._offset, intel_hex=self._intel_hex)
        found = self._directory.read(self._file)
        if found is not None and found.data == octets and found.has(_PRIVATE):
            self._directory.sync(self._file)
        else:
            self._directory.write(self._file, octets, _PRIVATE)

    def holds(self, data: FactoryData) -> bool:
        found = self._directory.read(self._file)
        return found is not None and found.data == encode_nordic(data, self._offset, intel_hex=self._intel_hex)

    def is_private(self) -> bool:
        found = self._directory.read(self._file)
        return found is not None and found.has(_PRIVATE)


def matter_form(uri: TargetUri, directory: Directory) -> MatterForm:
    """Return the form that a target names; ``Misconfigured("target.uri.option")`` where its options contradict."""
    if choice(uri, "layout", ("esp", "nrf")) == "nrf":
        for name in ("flash", "dac", "dac-offset"):
            if name in uri.options:
                raise bad_option(uri, name, "It belongs to layout=esp; merge the HEX file with the firmware's.")
        file = f"factory_data.{choice(uri, 'form', ('hex', 'bin'))}"
        offset = flash_offset(uri, "offset", _NORDIC_OFFSET)
        return _NordicForm(directory, file, offset, flash_offset(uri, "size", _NORDIC_SIZE))
    if "form" in uri.options:
        raise bad_option(uri, "form", "It belongs to layout=nrf.")
    flash = file_option(uri, "flash")
    secure = choice(uri, "dac", ("nvs", "secure-cert")) == "secure-cert"
    for name in ("offset", "dac-offset") if flash is None else ():
        if name in uri.options:
            raise bad_option(uri, name, "It belongs to flash=FILE.")
    size = flash_offset(uri, "size", _ESP_SIZE)
    if not _SMALLEST_NVS <= size <= _LARGEST_NVS:
        raise bad_option(uri, "size", "An NVS partition has 0x3000 to 0x100000 octets.")
    factory = Region("chip_factory.bin", flash_offset(uri, "offset", 0 if flash is None else None), size, NVS_MARKS)
    memory = DeviceMemory(directory, flash)
    if not secure:
        if "dac-offset" in uri.options:
            raise bad_option(uri, "dac-offset", "It belongs to dac=secure-cert.")
        return _EspForm(memory, factory, None)
    place = flash_offset(uri, "dac-offset", _SECURE_CERT_OFFSET)
    if flash is not None and factory.offset - PARTITION_OCTETS < place < factory.offset + size:
        raise bad_option(uri, "dac-offset", "The two partitions lie over one another.")
    return _EspForm(memory, factory, Region("esp_secure_cert.bin", place, PARTITION_OCTETS, SECURE_CERT_MARKS))
