"""What stand-ins of several targets have in common: a production URI with some options put in place of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from birthmark.adapters.targets.devicename import DEVICE_NAME_FILE
from birthmark.adapters.targets.uri import TargetUri

__all__ = ["named_directory", "stand_in_uri"]


def stand_in_uri(uri: TargetUri, path: str, changes: Mapping[str, str | None]) -> str:
    """Return the URI of the same scheme at ``path`` with the same options, ``changes`` made (None takes one out)."""
    merged = {**uri.options, **changes}
    options = {name: value for name, value in merged.items() if value is not None}
    query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
    return f"{uri.text.partition(':')[0]}:{quote(path)}" + (f"?{query}" if query else "")


def named_directory(directory: str, device_serial: str) -> Path:
    """Make a directory that says it is the device."""
    made = Path(directory) / "device"
    made.mkdir(mode=0o755)
    (made / DEVICE_NAME_FILE).write_text(f"{device_serial}\n")
    return made
