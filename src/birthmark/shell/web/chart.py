"""Small charts as SVG text: no script, no font of their own, readable in print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["COLOURS", "columns_chart", "stacked_bar"]

COLOURS: dict[str, str] = {
    "verified": "#2f7d4f",
    "in_progress": "#d9a13b",
    "stock": "#5b8db8",
    "consigned": "#8e7cc3",
    "open": "#d7dbe0",
    "failed": "#b8433a",
    "scrapped": "#6b6f76",
}
"""One colour a state, everywhere. Told apart also without colour: every part has its name and number beside it."""

_WIDTH, _BAR = 720, 26


def stacked_bar(parts: Mapping[str, int], *, label: str) -> str:
    """Return one bar of the whole width, cut in proportion to ``parts`` (name → count)."""
    total = sum(parts.values())
    pieces, at = [], 0.0
    for name, count in parts.items():
        if not count:
            continue
        width = _WIDTH * count / total
        pieces.append(
            f'<rect x="{at:.2f}" width="{max(width, 0.75):.2f}" height="{_BAR}" fill="{COLOURS.get(name, "#999")}">'
            f"<title>{escape(name)}: {count:,}</title></rect>"
        )
        at += width
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_BAR}" role="img" aria-label="{escape(label)}" preserveAspectRatio="none">'
        + "".join(pieces)
        + "</svg>"
    )


def columns_chart(days: Sequence[str], series: Mapping[str, Sequence[int]], *, label: str) -> str:
    """Return columns over ``days``, the series stacked; the largest day fills the height."""
    height, foot, head = 150, 18, 14
    tops = [sum(values) for values in zip(*series.values(), strict=True)] if days else []
    largest = max(tops, default=0) or 1
    step = _WIDTH / max(len(days), 1)
    width = min(step * 0.8, 64)
    pieces = [f'<line x1="0" x2="{_WIDTH}" y1="{height + head}" y2="{height + head}" stroke="#9aa0a6"/>']
    for place, day in enumerate(days):
        x, y = place * step + (step - width) / 2, float(height + head)
        for name, values in series.items():
            tall = height * values[place] / largest
            y -= tall
            fill = COLOURS.get(name, "#999")
            pieces.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{tall:.1f}" fill="{fill}">'
                f"<title>{escape(day)} {escape(name)}: {values[place]:,}</title></rect>"
            )
        if len(days) <= 14 or place % (len(days) // 7) == 0:
            middle = x + width / 2
            pieces.append(_text(middle, height + head + 13, day[5:]))
            pieces.append(_text(middle, y - 3, f"{tops[place]:,}"))
    return (
        f'<svg class="columns" viewBox="0 0 {_WIDTH} {height + foot + head}" role="img" aria-label="{escape(label)}">'
        + "".join(pieces)
        + "</svg>"
    )


def _text(x: float, y: float, text: str) -> str:
    style = 'text-anchor="middle" font-family="sans-serif" font-size="10" fill="#5f6368"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
