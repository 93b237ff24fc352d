"""Templates of compressed certificates, in a directory of the station: what the firmware of the device knows too.

One JSON file a template, ``template-N.json``, N the template id in the chip (0 to 15). A file is written once and never
changed: chips in the field count on it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from birthmark.adapters.durable import create_durably, naming_os_errors
from birthmark.adapters.targets.atecc.compressed import SERIAL_OCTETS, Shape
from birthmark.errors import Refused, StationFault

__all__ = ["Template", "TemplateDirectory"]

_MOST_TEMPLATES = 16
_MOST_OCTETS = 64 * 1024
_Offset = Annotated[int, msgspec.Meta(ge=0, le=4096)]


class _ShapeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    template: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{2}){1,4096}$")]
    point: _Offset
    key_id: _Offset
    serial: tuple[_Offset, _Offset]
    validity: tuple[_Offset, _Offset]
    names: Annotated[tuple[_Offset, ...], msgspec.Meta(max_length=16)]


class _TemplateFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["birthmark-atecc-template/1"]
    device: _ShapeFile
    signer: _ShapeFile | None


class Template(msgspec.Struct, frozen=True):
    """Template number ``id``: the device certificate, and the issuing CA's if the chip keeps it."""

    id: int
    device: Shape
    signer: Shape | None


class TemplateDirectory:
    """The templates of one product under one issuing CA. Several heads and stations may share the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def fitting(self, device: Shape, signer: Shape | None) -> Template:
        """Return the template with these holes; it is written, durably, if there is none yet.

        ``Refused("atecc.template.full")`` if sixteen others are there.
        """
        with naming_os_errors(self._directory):
            self._directory.mkdir(exist_ok=True)
        document = _TemplateFile(
            "birthmark-atecc-template/1", _file_of(device), None if signer is None else _file_of(signer)
        )
        data = msgspec.json.format(msgspec.json.encode(document), indent=1)
        for number in range(_MOST_TEMPLATES):
            if not self._path(number).exists():
                with suppress(FileExistsError):
                    create_durably(self._path(number), data, mode=0o644)
            found = self.numbered(number)
            if (found.device, found.signer) == (device, signer):
                return found
        raise Refused(
            "atecc.template.full",
            f"{self._directory} holds {_MOST_TEMPLATES} templates and none fits this certificate",
            hint="Use a directory of its own for each product and issuing CA.",
            directory=str(self._directory),
        )

    def numbered(self, number: int) -> Template:
        """Return template ``number``; ``StationFault``: ``atecc.template.missing`` or ``.damaged``."""
        path = self._path(number)
        try:
            with naming_os_errors(path, passing=(FileNotFoundError,)), path.open("rb") as file:
                data = file.read(_MOST_OCTETS + 1)
        except FileNotFoundError:
            raise StationFault(
                "atecc.template.missing",
                f"the chip was written with template {number}, which is not in {self._directory}",
                hint="Copy the template directory from the station that wrote the chip.",
                path=str(path),
            ) from None
        try:
            document = msgspec.json.decode(data[:_MOST_OCTETS], type=_TemplateFile)
            signer = None if document.signer is None else _shape_of(document.signer)
            return Template(number, _shape_of(document.device), signer)
        except (msgspec.DecodeError, ValueError):
            raise StationFault(
                "atecc.template.damaged",
                f"{path} is not a template",
                hint="Copy it again from where it was written; a chip in the field counts on its exact content.",
                path=str(path),
            ) from None

    def _path(self, number: int) -> Path:
        return self._directory / f"template-{number}.json"


def _file_of(shape: Shape) -> _ShapeFile:
    return _ShapeFile(shape.template.hex(), shape.point, shape.key_id, shape.serial, shape.validity, shape.names)


def _shape_of(file: _ShapeFile) -> Shape:
    template = bytes.fromhex(file.template)
    ends = (file.point + 64, file.key_id + 20, sum(file.serial), sum(file.validity), *(at + 18 for at in file.names))
    sizes = (file.serial[1], file.validity[1])
    if max(ends) > len(template) or max(sizes) > SERIAL_OCTETS:
        raise ValueError("a hole lies outside")
    return Shape(template, file.point, file.key_id, file.serial, file.validity, file.names)
