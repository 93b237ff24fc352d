"""Secret bytes travel in a wrapper that shows nothing; only modules on a tested list may open it."""

from __future__ import annotations

__all__ = ["Secret"]


class Secret:
    """Bytes that never appear in a log, an exception, a repr, a pickle or a comparison message."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes. Every caller is listed in ``tests/shape/test_secrets.py``."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret cannot be pickled")
