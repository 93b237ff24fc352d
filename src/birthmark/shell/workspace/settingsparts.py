"""The files of ``settings.d`` that commands write: what they add to ``birthmark.toml`` without touching it."""

from __future__ import annotations

from pathlib import Path

from birthmark.adapters.durable import write_durably
from birthmark.shell.workspace.config import PART_FORMAT, PARTS_NAME, SettingsPart, parse_part

__all__ = ["part_text", "read_part", "write_part"]


def part_text(tables: str) -> str:
    """Return the text of a part with these TOML tables."""
    return f'# Written by birthmark.\nformat = "{PART_FORMAT}"\n\n{tables}'


def read_part(name: str, tables: str) -> SettingsPart:
    """Return the settings of a part before anything is made with them; ``Misconfigured("settings.*")``."""
    return parse_part(part_text(tables).encode(), f"{PARTS_NAME}/{name}.toml")


def write_part(root: Path, name: str, tables: str) -> Path:
    """Write ``settings.d/NAME.toml`` of a workspace and return its path. Power cut: the old file or the new one."""
    place = root / PARTS_NAME
    place.mkdir(exist_ok=True, mode=0o755)
    path = place / f"{name}.toml"
    write_durably(path, part_text(tables).encode(), mode=0o644)
    return path
