"""Write the few TOML forms that a plan needs. Reading is the standard library's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date

__all__ = ["toml_lines", "toml_value"]

_ESCAPES = {ord(c): f"\\u{ord(c):04X}" for c in map(chr, (*range(32), 127))} | {ord('"'): '\\"', ord("\\"): "\\\\"}


def toml_value(value: object) -> str:
    """Return text, truth, whole number, date or list of these as a TOML value; ``TypeError`` for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"no TOML form for {type(value).__name__}")


def toml_lines(table: Mapping[str, object]) -> Iterable[str]:
    """Yield ``key = value`` lines; what is None is left out. Keys are bare keys."""
    for key, value in table.items():
        if value is not None:
            yield f"{key} = {toml_value(value)}"
