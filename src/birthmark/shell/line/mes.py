"""The factory's own system (MES): asked before a device is begun, told after. If it cannot be reached, nothing passes.

Each hook is a program of the factory's own, started without a shell and without our environment. It gets one JSON
object on stdin and says 0 (yes), 1 (no, with a line of reason on stderr); anything else is a fault of the station.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.errors import BirthmarkError, DeviceFault, Refused, StationFault, Tampered

if TYPE_CHECKING:
    from birthmark.shell.workspace.config import MesSettings
    from birthmark.workflow.line.stationpost import Outcome

__all__ = ["Mes"]

_MOST_OCTETS = 2048
_KEPT = ("PATH", "LANG", "HOME", "TZ")
_DECIDED = (Refused, DeviceFault, Tampered)


class Mes:
    """The hooks of one station. Without settings nobody is asked or told."""

    def __init__(self, settings: MesSettings | None, *, station: str, directory: Path) -> None:
        self._settings = settings
        self._station = station
        self._directory = directory

    def check(self, device_serial: str, target: str) -> None:
        """Ask whether this device may be done here now: ``Refused("mes.route")`` if not.

        ``StationFault("mes.failed")`` if no answer can be had: nothing is begun then.
        """
        if self._settings is None or not self._settings.route_check:
            return
        code, told = self._run(self._settings.route_check, self._told(device_serial, target=target))
        if code == 1:
            raise Refused(
                "mes.route",
                f"the factory's system refuses {device_serial} at this station: {told or 'no reason given'}",
                hint="Bring the unit to the station where its route goes on.",
                device_serial=device_serial,
            )
        self._require(code, told)

    def passed(self, outcome: Outcome) -> None:
        """Tell that a device passed. ``StationFault("mes.failed")`` if that cannot be told: it does not pass then.

        The identity stays; the same command again proves it and tells it again.
        """
        facts = {
            "outcome": outcome.outcome,
            "attempt": outcome.attempt,
            "cert_serial": outcome.cert_serial,
            "cert_sha256": outcome.cert_sha256,
        }
        self._result(self._told(outcome.device_serial, verdict="pass", **facts))

    def failed(self, device_serial: str, error: BirthmarkError) -> None:
        """Tell that a device failed; where nothing was decided about it, nobody is told."""
        if isinstance(error, _DECIDED) and error.code != "mes.route":
            self._result(self._told(device_serial, verdict="fail", error=error.code, message=error.message))

    def _result(self, document: dict[str, str]) -> None:
        if self._settings is not None and self._settings.result:
            self._require(*self._run(self._settings.result, document))

    def _told(self, device_serial: str, **more: str) -> dict[str, str]:
        return {"station": self._station, "device_serial": device_serial, **more}

    def _require(self, code: int, told: str) -> None:
        if code != 0:
            raise StationFault(
                "mes.failed",
                f"the program of the factory's system ended with {code}: {told or 'it said nothing'}",
                hint="DO NOT SHIP the device: mend the connection to that system, then run the same command again.",
                status=code,
            )

    def _run(self, command: Sequence[str], document: dict[str, str]) -> tuple[int, str]:
        """Return exit code and the first octets of stderr; a program that takes too long is ended with its children."""
        seconds = 10.0 if self._settings is None else self._settings.timeout_s
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            process = subprocess.Popen(
                list(command), cwd=self._directory, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as problem:
            return 127, f"{command[0]}: {problem.strerror}"
        late = threading.Timer(seconds, _end, [process.pid])
        late.daemon = True
        late.start()
        try:
            if process.stdin is None or process.stderr is None:
                raise RuntimeError("both are pipes")
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(document).encode() + b"\n")
            with process.stderr:
                told = process.stderr.read(_MOST_OCTETS).decode("utf-8", "backslashreplace")
            code = process.wait()
        finally:
            late.cancel()
            _end(process.pid)
        line = told.strip().partition("\n")[0] if process.returncode >= 0 else f"no answer in {seconds:g} seconds"
        return code, "".join(letter if letter.isprintable() else "?" for letter in line)[:300]


def _end(process: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
