"""Words that are read from two metres away: letters of five rows of blocks."""

from __future__ import annotations

__all__ = ["big"]

_LETTERS = {
    "A": ("▄▀▀▄", "█  █", "█▀▀█", "█  █", "▀  ▀"),
    "B": ("█▀▀▄", "█  █", "█▀▀▄", "█  █", "▀▀▀ "),
    "D": ("█▀▀▄", "█  █", "█  █", "█  █", "▀▀▀ "),
    "E": ("█▀▀▀", "█   ", "█▀▀ ", "█   ", "▀▀▀▀"),
    "F": ("█▀▀▀", "█   ", "█▀▀ ", "█   ", "▀   "),
    "G": ("▄▀▀▀", "█   ", "█ ▀█", "█  █", "▀▀▀▀"),
    "I": ("▀█▀", " █ ", " █ ", " █ ", "▀▀▀"),
    "L": ("█   ", "█   ", "█   ", "█   ", "▀▀▀▀"),
    "M": ("█▄ ▄█", "█ ▀ █", "█   █", "█   █", "▀   ▀"),
    "N": ("█▄  █", "█ █ █", "█  ▀█", "█   █", "▀   ▀"),
    "O": ("▄▀▀▄", "█  █", "█  █", "█  █", " ▀▀ "),
    "P": ("█▀▀▄", "█  █", "█▀▀ ", "█   ", "▀   "),
    "R": ("█▀▀▄", "█  █", "█▀█ ", "█ ▀▄", "▀  ▀"),
    "S": ("▄▀▀▀", "█   ", " ▀▀▄", "   █", "▀▀▀ "),
    "T": ("▀▀█▀▀", "  █  ", "  █  ", "  █  ", "  ▀  "),
    "U": ("█  █", "█  █", "█  █", "█  █", " ▀▀ "),
    "Y": ("█   █", " █ █ ", "  █  ", "  █  ", "  ▀  "),
}
_ROWS = 5


def big(word: str) -> str:
    """Return ``word`` (capitals that the verdicts need) as five lines of equal length."""
    return "\n".join("  ".join(_LETTERS[letter][row] for letter in word) for row in range(_ROWS))
