"""What somebody outside says, made fit to stand in an error or on record: printable, in one line, and short."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: object, most: int) -> str:
    """Return at most ``most`` characters of ``text``; what is not printable, line ends included, becomes a space."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:most])
