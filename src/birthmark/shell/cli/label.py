"""``birthmark label``: print the label of a device, and check it against the unit before it is packed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit

if TYPE_CHECKING:
    from birthmark.wire.label import Label

__all__ = ["register"]

_FORMS = ("text", "qr", "datamatrix", "zpl")
StationOption = Annotated[str | None, typer.Option(help="Name of this station; default: the only one there is.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    label = typer.Typer(help="Labels: which device is in the box.", no_args_is_help=True)
    label.command("print")(print_label)
    label.command("check")(check)
    app.add_typer(label, name="label")


def print_label(
    device_serial: Annotated[str, typer.Argument(help="The device serial; it has to be verified.")],
    form: Annotated[str, typer.Option(help="text, qr, datamatrix or zpl.")] = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where it goes: .png or .svg for a code; default: stdout.")
    ] = None,
    station: StationOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Make the label of a verified device: text, QR code, DataMatrix, or ZPL for the printer."""
    from birthmark.adapters.durable import write_durably
    from birthmark.shell.line.heads import open_heads
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.line.packing import label_for

    with open_workspace(workspace, publish=False) as opened, open_heads(opened, station) as heads:
        label = label_for(heads.post, device_serial)
    data = _drawn(label.text, form, output) if form in ("qr", "datamatrix") else _written(label, form)
    if output is not None:
        write_durably(output, data, mode=0o644)
    document = {"device_serial": label.device_serial, "label": label.text, "form": form, "path": output and str(output)}
    if as_json or output is not None:
        emit(document, f"Label of {label.device_serial}: {label.text}\nNext: birthmark label check --label …",
             as_json=as_json)  # fmt: skip
    else:
        sys.stdout.buffer.write(data)


def check(
    label: Annotated[str, typer.Option(help="What the scanner read from the label.")],
    target: Annotated[str, typer.Option(help="Where the unit is; {device_serial} is that of the label.")],
    station: StationOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Check the label against the unit in the fixture and the record. Nothing is written to the device."""
    from birthmark.shell.line.heads import open_heads
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.line.packing import check_label

    with open_workspace(workspace) as opened, open_heads(opened, station) as heads:
        packed = check_label(heads.post, label, lambda serial: opened.target(target, serial))
    document = {"device_serial": packed.device_serial, "cert_sha256": packed.cert_sha256, "evidence": packed.evidence}
    emit({**document, "status": "pass"}, f"PASS  {packed.device_serial}: label, unit and record fit. Pack it.",
         as_json=as_json)  # fmt: skip


def _written(label: Label, form: str) -> bytes:
    from birthmark.wire.label import label_zpl

    if form == "zpl":
        return label_zpl(label).encode("ascii")
    if form == "text":
        return f"{label.text}\n".encode()
    raise _unknown(form)


def _drawn(text: str, form: str, output: Path | None) -> bytes:
    from birthmark.adapters.labelcodes import datamatrix_modules, png_of, qr_modules, svg_of

    modules = qr_modules(text) if form == "qr" else datamatrix_modules(text)
    if output is not None and output.suffix == ".png":
        return png_of(modules)
    if output is None or output.suffix == ".svg":
        return svg_of(modules).encode()
    raise _unknown(output.suffix)


def _unknown(what: str) -> Misconfigured:
    return Misconfigured(
        "label.form",
        f"a label cannot be made as {what[:40]!r}",
        hint=f"Use --form {', '.join(_FORMS)}, and a file that ends with .png or .svg for a code.",
        form=what[:40],
    )
