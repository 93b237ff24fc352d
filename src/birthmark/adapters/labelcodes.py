"""QR codes and DataMatrices as pictures: the packages give the modules, PNG and SVG are written here."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from birthmark.adapters.extras import require_extra

__all__ = ["datamatrix_modules", "png_of", "qr_modules", "svg_of"]

Modules = Sequence[Sequence[int]]
"""Rows of modules, 1 is dark; without a quiet zone."""


def qr_modules(text: str) -> Modules:
    """Return a QR code (ISO/IEC 18004, level M)."""
    require_extra("labels", "segno")
    import segno

    return [[int(bool(module)) for module in row] for row in segno.make(text, error="m", micro=False).matrix]


def datamatrix_modules(text: str) -> Modules:
    """Return a DataMatrix (ISO/IEC 16022, ECC 200)."""
    require_extra("labels", "ppf.datamatrix")
    from ppf.datamatrix import DataMatrix

    return [[int(module) for module in row] for row in DataMatrix(text).matrix]


def png_of(modules: Modules, *, scale: int = 8, quiet: int = 4) -> bytes:
    """Return a black-and-white PNG (ISO/IEC 15948), ``scale`` pixels a module, ``quiet`` light modules around."""
    rows = _with_quiet_zone(modules, quiet)
    size = len(rows[0]) * scale, len(rows) * scale
    lines = []
    for row in rows:
        bits = "".join(("0" if module else "1") * scale for module in row)
        bits += "0" * (-len(bits) % 8)
        lines.append((b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")) * scale)
    head = struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)
    data = zlib.compress(b"".join(lines), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def svg_of(modules: Modules, *, module_mm: float = 0.5, quiet: int = 4) -> str:
    """Return an SVG, ``module_mm`` millimetres a module."""
    rows = _with_quiet_zone(modules, quiet)
    across, down = len(rows[0]), len(rows)
    path = "".join(f"M{x} {y}h1v1h-1z" for y, row in enumerate(rows) for x, module in enumerate(row) if module)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across * module_mm:g}mm" height="{down * module_mm:g}mm" '
        f'viewBox="0 0 {across} {down}"><rect width="{across}" height="{down}" fill="#fff"/>'
        f'<path d="{path}" fill="#000"/></svg>\n'
    )


def _with_quiet_zone(modules: Modules, quiet: int) -> list[list[int]]:
    width = len(modules[0]) + 2 * quiet
    around = [[0] * width for _ in range(quiet)]
    return [*around, *([*[0] * quiet, *row, *[0] * quiet] for row in modules), *around]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
