"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["JsonOption", "WorkspaceOption"]

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", "-C", envvar="BIRTHMARK_WORKSPACE", help="The workspace directory.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing for people.")]
