"""An open station for programs: what the Python API, the OpenHTF plug, the pytest fixture and the REST agent share.

A skin holds no rule. It says which device and where, and shows what came out; everything else is the engine's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.errors import BirthmarkError, StationFault, Unavailable
from birthmark.shell.line.heads import StationHeads, open_heads
from birthmark.shell.workspace.publishing import Publishing, publishing
from birthmark.workflow.handout import known_device, stored_certificate
from birthmark.workflow.line.attempts import attempt_to_use
from birthmark.workflow.line.fence import DeadlineFence
from birthmark.workflow.line.stationpost import Outcome, Progress

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["Line", "LineRun", "Outcome", "Progress", "open_line"]

_SLICE_S = 0.05
_LEAVE_S = 10.0
_LATE_S = 3.0
"""How long after its deadline a run may still come to its end: what is being recorded is not cut."""


def _silent(progress: Progress) -> None:
    """Nobody watches."""


class LineRun:
    """One device under way in a thread of its own, which nobody but the engine ends.

    Whoever waits may be killed, timed out or interrupted: ``stop`` takes the right to act away, and what the device or
    the ledger was going to get after that, it does not get.
    """

    def __init__(self, work: Callable[[], Outcome], fence: DeadlineFence) -> None:
        self._work = work
        self._fence = fence
        self._done = threading.Event()
        self._outcome: Outcome | None = None
        self._error: BirthmarkError | None = None
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Begin. A run is started once."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; say whether it has come."""
        return self._done.wait(seconds)

    def stop(self) -> None:
        """Take the right to act away; returns at once and may be called twice. A finished run stays what it is."""
        self._fence.revoke()

    def finish(self) -> Outcome:
        """Wait until the deadline and a little longer for what is being recorded; then as ``outcome``.

        Whatever ends this call, an exception that a framework throws into its thread as well: the right to act is gone.
        """
        try:
            # In slices: a Python thread that waits for ever cannot be interrupted.
            while self._fence.remaining() > 0 and not self.wait(_SLICE_S):
                pass
            late = time.monotonic() + _LATE_S
            while time.monotonic() < late and not self.wait(_SLICE_S):
                pass
        finally:
            self.stop()
        return self.outcome()

    def outcome(self) -> Outcome:
        """Return what came out, or raise its error.

        ``Unavailable("station.undecided")`` if it has not come to an end: whoever waited does so no longer, and the
        same call again goes on with the same attempt.
        """
        if self._error is not None:
            raise self._error
        if self._outcome is None:
            raise Unavailable(
                "station.undecided",
                "the device did not answer in time; nothing more is done to it",
                hint="Look at the link to the device, then run the same again: it goes on where it stopped.",
            )
        return self._outcome

    def _run(self) -> None:
        try:
            self._outcome = self._work()
        except BirthmarkError as problem:
            self._error = problem
        except BaseException as problem:  # noqa: BLE001  the last stop of this thread: a defect must not look like a verdict
            self._error = StationFault(
                "station.defect",
                f"the program failed: {type(problem).__name__}",
                hint="This is a defect of birthmark or of a target, not of the device; nothing was passed.",
            )
            self._error.__cause__ = problem
        finally:
            self._done.set()


class Line:
    """An open station. Threads may use it at once, each for another device; made by ``open_line``."""

    def __init__(self, workspace: Workspace, heads: StationHeads, shown: Publishing) -> None:
        self._heads = heads
        self._shown = shown
        self._runs: set[LineRun] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.workspace = workspace
        """For the skins of this package; not part of the API."""

    @property
    def station(self) -> str:
        """Name of the station."""
        return self._heads.post.name

    @property
    def failure(self) -> BirthmarkError | None:
        """What stopped this line: nothing new is begun until it is opened again. None while all is well."""
        return self._shown.failure

    def under_way(self, device_serial: str) -> str | None:
        """Return the attempt that this station has begun for a device and not ended."""
        found = [each for each in self._heads.post.journal.open_attempts() if each.device_serial == device_serial]
        return found[-1].attempt if found else None

    def provision(
        self,
        device_serial: str,
        target: str,
        *,
        attempt: str | None = None,
        handshake: bool = False,
        cloud: str | None = None,
        progress: Callable[[Progress], None] = _silent,
        deadline_s: float | None = None,
    ) -> Outcome:
        """Give one device its identity and prove it, or prove again that it has it; return when that is on disk.

        ``target``: URI in which ``{device_serial}`` is replaced (docs/targets.md). ``attempt``: your own id, 8 to 64
        letters, digits and hyphens; without one an attempt is made, or the one that was cut is finished.
        ``handshake``: prove it with a mutual-TLS connection as well. ``cloud``: name of a cloud of the settings that
        has to let the device in. ``progress`` is called for each step, in the thread of the engine: it must not block.
        ``deadline_s``: give up after so many seconds (the station's own deadline holds too).

        Raises the families of ``birthmark.errors``: after ``DeviceFault``, ``Tampered`` and ``Refused`` the device
        does not pass, after ``StationFault`` and ``Unavailable`` nothing was decided and the same call goes on.
        """
        return self.begin(
            device_serial,
            target,
            attempt=attempt,
            handshake=handshake,
            cloud=cloud,
            progress=progress,
            deadline_s=deadline_s,
        ).finish()

    def begin(
        self,
        device_serial: str,
        target: str,
        *,
        attempt: str | None = None,
        handshake: bool = False,
        cloud: str | None = None,
        progress: Callable[[Progress], None] = _silent,
        deadline_s: float | None = None,
    ) -> LineRun:
        """As ``provision``, but in a thread of its own: for frameworks that kill or time out whoever waits."""
        fence = self._heads.fence(deadline_s)

        return self._begin(
            lambda: self._heads.provision(
                device_serial, target, attempt=attempt, handshake=handshake, cloud=cloud, progress=progress, fence=fence
            ),
            fence,
        )

    def begin_verify(
        self,
        device_serial: str,
        target: str,
        *,
        handshake: bool = False,
        cloud: str | None = None,
        progress: Callable[[Progress], None] = _silent,
        deadline_s: float | None = None,
    ) -> LineRun:
        """As ``verify``, but in a thread of its own."""
        return self._begin(
            lambda: self._heads.verify(device_serial, target, handshake=handshake, cloud=cloud, progress=progress),
            self._heads.fence(deadline_s),
        )

    def _begin(self, act: Callable[[], Outcome], fence: DeadlineFence) -> LineRun:
        def work() -> Outcome:
            try:
                self._shown.require()
                return act()
            finally:
                with self._lock:
                    self._runs.discard(run)

        run = LineRun(work, fence)
        with self._lock:
            if self._closed:
                raise RuntimeError("the line is closed")
            self._runs.add(run)
        run.start()
        return run

    def verify(
        self,
        device_serial: str,
        target: str,
        *,
        handshake: bool = False,
        cloud: str | None = None,
        progress: Callable[[Progress], None] = _silent,
    ) -> Outcome:
        """Prove again that a verified device holds its identity; nothing is written to it.

        ``cloud``: name of a cloud of the settings that has to let the device in.
        ``Refused("device.not_verified")`` if it has none yet; otherwise raises what ``provision`` does.
        """
        return self.begin_verify(device_serial, target, handshake=handshake, cloud=cloud, progress=progress).finish()

    def attempt_for(self, device_serial: str) -> str:
        """Return the id of the attempt that is under way for this device, or a new one, to be stored before use."""
        return attempt_to_use(self._heads.post, device_serial)

    def certificate(self, device_serial: str) -> bytes:
        """Return the certificate (DER) that was issued for a device; ``Refused("device.unknown")``."""
        device = known_device(self._heads.post.records, device_serial)
        return stored_certificate(self._heads.post.ledger, device)

    def close(self) -> None:
        """Take every right to act away and wait a little for those who had one. ``open_line`` calls it."""
        with self._lock:
            self._closed = True
            runs = list(self._runs)
        for run in runs:
            run.stop()
        end = time.monotonic() + _LEAVE_S
        for run in runs:
            run.wait(max(0.0, end - time.monotonic()))


@contextmanager
def open_line(workspace: str | Path, station: str | None = None) -> Iterator[Line]:
    """Open a station of a workspace until the block ends; ``station`` may be left out where there is only one.

    The station's journal belongs to this process alone (``StationFault("journal.in_use")``), and the log is signed and
    shown every second. ``Misconfigured``: ``workspace.missing``, ``settings.station`` and what the settings lack.
    """
    from birthmark.shell.workspace.wiring import open_workspace

    with (
        open_workspace(Path(workspace).absolute()) as opened,
        open_heads(opened, station) as heads,
        publishing(opened) as shown,
    ):
        line = Line(opened, heads, shown)
        try:
            yield line
        finally:
            line.close()
