"""The whole exception tree. A family says who must act; the code says what happened.

    BirthmarkError
    ├── Misconfigured   exit 2   found at start: whoever wrote the command or the file mends it
    ├── Refused         exit 3   policy said no: this request is wrong, repeating it changes nothing
    ├── DeviceFault     exit 4   this device is bad: rework or scrap it, take the next one
    ├── StationFault    exit 5   fixture, token, disk: call a technician, the device may be good
    ├── Unavailable     exit 6   not now: repeat the same request later
    └── Tampered        exit 7   a proof, a signature or a read-back does not match: stop the line

Exit 0 is success, 70 an error of the program itself, 130 an interruption by the operator.
Misuse of the Python API stays ``TypeError``/``ValueError``/``RuntimeError`` and is never caught.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BirthmarkError",
    "DeviceFault",
    "Fact",
    "Misconfigured",
    "Refused",
    "StationFault",
    "Tampered",
    "Unavailable",
]

Fact = str | int | float | bool | None | list[str]


class BirthmarkError(Exception):
    """Something a person has to know about.

    ``code`` is a stable dotted name (a literal at every raise site: the reference page is made from
    them), ``facts`` are public values only, never secrets, and ``hint`` is one sentence that says what
    to do next.
    """

    exit_code: ClassVar[int] = 70
    retry_safe: ClassVar[bool] = False

    def __init__(self, code: str, message: str, *, hint: str, **facts: Fact) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.facts: dict[str, Fact] = facts

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def document(self) -> dict[str, object]:
        """Return the error as one JSON-ready object (the form every skin shows)."""
        return {
            "error": self.code,
            "family": type(self).__name__,
            "message": self.message,
            "facts": self.facts,
            "hint": self.hint,
            "retry_safe": self.retry_safe,
        }


class Misconfigured(BirthmarkError):
    """The command line, a file or the environment cannot be used as it is."""

    exit_code = 2


class Refused(BirthmarkError):
    """A rule forbids this request; the same request will be refused again."""

    exit_code = 3


class DeviceFault(BirthmarkError):
    """This device does not do what a good device does."""

    exit_code = 4


class StationFault(BirthmarkError):
    """The station cannot work: fixture, token, disk, permissions."""

    exit_code = 5


class Unavailable(BirthmarkError):
    """Nothing was decided; the same request may succeed later."""

    exit_code = 6
    retry_safe = True


class Tampered(BirthmarkError):
    """Evidence contradicts the record."""

    exit_code = 7
