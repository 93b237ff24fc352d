"""``birthmark image``: look at the delta of a device's image, make the whole image of it, destroy it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.options import JsonOption
from birthmark.shell.cli.screen import emit, table

if TYPE_CHECKING:
    from birthmark.adapters.targets.image.assembly import Assembly

__all__ = ["register"]

DeltaArgument = Annotated[Path, typer.Argument(help="The delta, as a station made it for one device.")]
BaseOption = Annotated[Path | None, typer.Option(help="The base image; default: found by its SHA-256 in --store.")]
StoreOption = Annotated[
    Path | None, typer.Option(help="Directory with the base images; default: `bases` beside the delta.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    image = typer.Typer(help="Images with an identity in them.", no_args_is_help=True)
    image.command("show")(show)
    image.command("assemble")(assemble)
    image.command("destroy")(destroy)
    app.add_typer(image, name="image")


def show(delta: DeltaArgument, base: BaseOption = None, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show for which device a delta is, from which base, and where it differs; nothing secret."""
    from birthmark.adapters.targets.image.assembly import open_delta

    document = _told(open_delta(delta, base=base, store=store))
    rows = [[name, str(value)] for name, value in document.items()]
    emit(document, table(str(delta), ["", ""], rows), as_json=as_json)


def assemble(
    delta: DeltaArgument,
    output: Annotated[Path | None, typer.Option(help="Put the whole image there, mode 0600.")] = None,
    onto: Annotated[
        Path | None, typer.Option(help="A file or block device that holds the base: write only what differs.")
    ] = None,
    base: BaseOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the whole image of one device: as a new file, or onto a medium that holds the base already."""
    from birthmark.adapters.targets.image.assembly import open_delta

    if (output is None) == (onto is None):
        raise Misconfigured(
            "image.assemble.where",
            "exactly one of --output and --onto says where the image goes",
            hint="Use --output for a new file, --onto for a medium that holds the base.",
        )
    opened = open_delta(delta, base=base, store=store)
    written = opened.delta.size
    if output is not None:
        opened.to_file(output)
    elif onto is not None:
        written = opened.onto(onto)
    document = {**_told(opened), "output": str(output or onto), "written": written}
    emit(document, f"{opened.delta.device_serial}: {output or onto}, {written} octets written", as_json=as_json)


def destroy(
    deltas: Annotated[list[Path], typer.Argument(help="Deltas of devices that have been flashed.")],
    as_json: JsonOption = False,
) -> None:
    """Overwrite deltas and remove them: each holds the private key of its device. All are looked at first."""
    from birthmark.adapters.durable import destroy_durably
    from birthmark.adapters.received import read_received
    from birthmark.wire.imagedelta import MAX_DELTA_OCTETS, decode_delta

    devices = [decode_delta(read_received(path, limit=MAX_DELTA_OCTETS)).device_serial for path in deltas]
    for path in deltas:
        destroy_durably(path)
    told = "\n".join(f"{device}: {path} is destroyed" for device, path in zip(devices, deltas, strict=True))
    emit({"destroyed": devices}, told, as_json=as_json)


def _told(opened: Assembly) -> dict[str, object]:
    delta = opened.delta
    return {
        "device_serial": delta.device_serial,
        "base_sha256": delta.base_sha256,
        "base": str(opened.base.path),
        "size": delta.size,
        "regions": [[region.offset, len(region.data)] for region in delta.regions],
        "octets": sum(len(region.data) for region in delta.regions),
    }
