"""The Python API: a station in a few names (docs/tutorials/python-api.md).

    from birthmark.line import open_line

    with open_line("bench") as line:
        outcome = line.provision("th-000001", "files:devices/{device_serial}")
        print(outcome.outcome, outcome.cert_sha256)

What goes wrong is raised as one of the families of ``birthmark.errors``, which say who must act.
"""

from __future__ import annotations

from birthmark.errors import (
    BirthmarkError,
    DeviceFault,
    Misconfigured,
    Refused,
    StationFault,
    Tampered,
    Unavailable,
)
from birthmark.shell.line.session import Line, LineRun, Outcome, Progress, open_line

__all__ = [
    "BirthmarkError",
    "DeviceFault",
    "Line",
    "LineRun",
    "Misconfigured",
    "Outcome",
    "Progress",
    "Refused",
    "StationFault",
    "Tampered",
    "Unavailable",
    "open_line",
]
