"""``export:`` under the laws of ``ports.Cloud``: a directory of files, and somebody else's lines in it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec

from birthmark.adapters.clouds.export import ExportCloud
from birthmark.adapters.clouds.export.lines import line_of
from birthmark.adapters.clouds.export.store import ExportStore
from birthmark.model.secret import Secret
from birthmark.ports import Registration
from support.clouds.fleet import Fleet
from support.clouds.world import CloudWorld

__all__ = ["CLOUDS"]


def _secrets(reference: str) -> Secret:
    raise AssertionError(f"an export asks for {reference}")


class _Counted(ExportStore):
    appends = 0

    def append(self, *arguments: object) -> None:
        _Counted.appends += 1
        super().append(*arguments)  # type: ignore[arg-type]


@contextmanager
def export(directory: Path) -> Iterator[CloudWorld]:
    """Yield an export in a fresh directory."""
    fleet, place = Fleet(), directory / "registry"
    lines = place / "devices.jsonl"
    opened: list[ExportCloud] = []

    def make() -> ExportCloud:
        cloud = ExportCloud("export:registry", secrets=_secrets, base=directory)
        cloud._store = _Counted(place)
        opened.append(cloud)
        return cloud

    def read() -> list[dict[str, object]]:
        text = lines.read_bytes() if lines.exists() else b""
        return [msgspec.json.decode(line) for line in text.splitlines()]

    def write(documents: list[dict[str, object]]) -> None:
        # In place: who has the file open must see it, as it sees what an editor or a copy writes into it.
        with lines.open("r+b") as file:
            file.truncate()
            file.write(b"".join(msgspec.json.encode(one, order="sorted") + b"\n" for one in documents))

    def change(device_serial: str) -> None:
        other = ssl.DER_cert_to_PEM_cert(fleet.certificate("somebody-else"))
        write([{**one, "certificates": [other]} if one["device_serial"] == device_serial else one for one in read()])

    def remove(device_serial: str) -> None:
        write([one for one in read() if one["device_serial"] != device_serial])

    def add(registration: Registration) -> None:
        with lines.open("ab") as file:
            file.write(line_of(registration))

    def snapshot() -> object:
        return {one["device_serial"]: one for one in read()}, sorted(path.name for path in place.glob("ca/*"))

    yield CloudWorld(
        fleet=fleet,
        open=make,
        calls=lambda: _Counted.appends,
        snapshot=snapshot,
        change=change,
        add=add,
        remove=remove,
        impossible=Registration("unit-without", "enabled", (), ()),
        secrets=[],
        heal=lambda: None,
    )
    for cloud in opened:
        cloud.close()


CLOUDS: dict[str, Callable[[Path], AbstractContextManager[CloudWorld]]] = {"export": export}
