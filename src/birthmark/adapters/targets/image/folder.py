"""The identity as files in a folder of a file system inside the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from birthmark.adapters.targets.image.bases import Base
from birthmark.adapters.targets.image.form import Identity, damaged
from birthmark.adapters.targets.image.octets import Octets
from birthmark.adapters.targets.layouts import Layout, read_certificates, read_key
from birthmark.errors import Refused
from birthmark.model.ids import parse_device_serial
from birthmark.ports import Fence
from birthmark.wire.imagedelta import Region

__all__ = ["LONGEST_FILE", "FileSystem", "FolderForm", "Owned", "Stored", "parents"]

LONGEST_FILE = 1 << 20
_SERIAL_FILE = "device-id"
_PUBLIC = 0o644


@dataclass(frozen=True, slots=True)
class Owned:
    """Mode and owner of a file inside the image."""

    mode: int
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """A file. ``owned`` is None where the file system keeps neither modes nor owners."""

    data: bytes = field(repr=False)
    owned: Owned | None


class FileSystem(Protocol):
    """A file system in a part of the image.

    ``check`` returns if all of ``names`` could be put into the base. ``put`` returns the size of the image and how it
    differs once these files are in it, and has read them back; all times are ``moment`` (Unix seconds). ``get`` returns
    those of ``names`` that are there. What anybody may have written is a ``DeviceFault`` if it cannot be read.
    """

    def check(self, base: Base, folder: str, names: Sequence[str]) -> None: ...

    def put(
        self, base: Base, folder: str, files: Mapping[str, Stored], *, moment: int, fence: Fence
    ) -> tuple[int, Sequence[Region]]: ...

    def get(self, image: Octets, folder: str, names: Sequence[str]) -> Mapping[str, Stored]: ...


class FolderForm:
    """Implements ``ImageForm`` on a file system: ``device-id`` and the files of a layout, as ``files:`` has them."""

    def __init__(self, system: FileSystem, folder: str, layout: Layout, key: Owned) -> None:
        self._system = system
        self._folder = folder
        self._layout = layout
        self._key = key
        self._public = Owned(_PUBLIC, key.uid, key.gid)
        self._names = (_SERIAL_FILE, layout.key_file, *layout.chain_files, layout.certificate_file)

    def check_base(self, base: Base) -> None:
        self._system.check(base, self._folder, self._names)

    def compose(self, base: Base, identity: Identity, fence: Fence) -> tuple[int, Sequence[Region]]:
        device, *chain = identity.certificates
        contents = {
            _SERIAL_FILE: identity.device_serial.encode("ascii") + b"\n",
            self._layout.key_file: self._layout.encode_key(identity.key),
            **self._layout.encode_certificates(device, tuple(chain)),
        }
        files = {
            name: Stored(data, self._key if name == self._layout.key_file else self._public)
            for name, data in contents.items()
        }
        moment = int(device.not_valid_before_utc.timestamp())
        return self._system.put(base, self._folder, files, moment=moment, fence=fence)

    def read(self, image: Octets) -> Identity | None:
        found = self._system.get(image, self._folder, self._names)
        if not found:
            return None
        for name, file in found.items():
            wanted = self._key if name == self._layout.key_file else self._public
            if file.owned not in (None, wanted):
                raise damaged(f"{name} has another mode or owner than it was given")
        try:
            key_data, serial = found[self._layout.key_file].data, found[_SERIAL_FILE].data
            names = (*self._layout.chain_files, self._layout.certificate_file)
            certificates = {name: found[name].data for name in names if name in found}
            device_serial = parse_device_serial(serial.decode("ascii").removesuffix("\n"))
            return Identity(
                device_serial,
                read_key(self._layout, self._layout.key_file, key_data),
                read_certificates(self._layout, certificates),
            )
        except KeyError as missing:
            raise damaged(f"{missing.args[0]} is missing") from None
        except (UnicodeDecodeError, Refused):
            raise damaged(f"{_SERIAL_FILE} does not hold one device serial") from None


def parents(folder: str) -> list[str]:
    """Return the folder and those around it, outermost first: ``/etc``, ``/etc/identity``."""
    parts = folder.strip("/").split("/")
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]
