"""Firmware images without an identity, made by the tools that make such images."""

from __future__ import annotations

from pathlib import Path

__all__ = ["make_base"]


def make_base(path: Path, kind: str) -> None:
    """Write a small base image of this format."""
    path.write_bytes(bytes(range(256)) * 128 + b"\xff" * 0x4000 + b"end of firmware" * 100)
