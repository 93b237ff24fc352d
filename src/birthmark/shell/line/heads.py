"""A station at work: one workspace, one journal, any number of heads that do not disturb each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from birthmark import __version__
from birthmark.adapters.ledgers.grouped import GroupedLedger
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Rejected, utc_text
from birthmark.model.ids import parse_device_serial
from birthmark.shell.line.headruns import DeviceRuns
from birthmark.shell.line.mes import Mes
from birthmark.shell.line.places import PlaceLocks, place_of
from birthmark.shell.line.proofs import LineProofs, Proofs
from birthmark.shell.line.sources import source_of
from birthmark.shell.line.yields import HeadResult, Yield, not_to_be_shipped
from birthmark.shell.workspace.publishing import publishing
from birthmark.workflow.handout import known_device
from birthmark.workflow.line.attempts import not_verified
from birthmark.workflow.line.fence import DeadlineFence
from birthmark.workflow.line.residency import Residency
from birthmark.workflow.line.station import Outcome, Progress, ProvisionRequest, StationPost, provision

if TYPE_CHECKING:
    from birthmark.ports import Target
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["HeadResult", "OpenTarget", "StationHeads", "Yield", "open_heads"]

_STOPS_THE_LINE = (StationFault, Tampered)
_TOKEN_OCTETS = 16
_NOBODY = "to-be-identified"
"""Stands where a target is opened before anybody knows which device is in it."""


OpenTarget = Callable[[str, str], "Target"]
"""(Expanded URI, device serial) → target."""


class StationHeads:
    """The parts all heads share. Threads may call ``provision`` at once, each for another device."""

    def __init__(
        self, workspace: Workspace, post: StationPost, *, deadline_s: float, open_target: OpenTarget | None = None
    ) -> None:
        self._workspace = workspace
        self.post = post
        self.source = source_of(workspace, post.ledger, post.name)
        self._deadline_s = deadline_s
        self._open_target = open_target or workspace.target
        self._proofs = LineProofs(workspace, post)
        self._places = PlaceLocks(workspace.root / "journal" / "places.lock")
        self._runs = DeviceRuns()
        self._mes = Mes(workspace.settings.stations[post.name].mes, station=post.name, directory=workspace.root)
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def provision(
        self,
        device_serial: str,
        target_uri: str,
        *,
        attempt: str | None = None,
        handshake: bool = False,
        cloud: str | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
        fence: DeadlineFence | None = None,
    ) -> Outcome:
        """Provision one device at ``target_uri``, in which ``{device_serial}`` is replaced.

        ``cloud``: name of the cloud that has to let the device in. ``fence``: the right to act that the caller can take
        away; without one, that of ``fence()``. Raises what
        ``workflow.line.station.provision`` does, ``Refused("device.in_progress")`` when another head of this station
        has the device, ``mes.*``, and ``Unavailable``: ``station.target.busy``, and ``station.deadline`` when the
        device is not done in time, even if it never answers.
        """
        held = fence or self.fence()

        def act(target: Target, expanded: str) -> Outcome:
            request = ProvisionRequest(device_serial, expanded, attempt, self._residency(device_serial))
            try:
                self._check_route(device_serial, target_uri)
                outcome = self._provision(request, target, held, Proofs(handshake, cloud), progress)
            except BirthmarkError as problem:
                self._tell_failure(device_serial, problem)
                raise
            self._mes.passed(outcome)
            return outcome

        return self._at_device(device_serial, target_uri, held, act)

    def verify(
        self,
        device_serial: str,
        target_uri: str,
        *,
        handshake: bool = False,
        cloud: str | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Outcome:
        """Prove again that a verified device holds its identity. Nothing is made and nothing is written to it.

        ``Refused("device.not_verified")`` if it has none yet; otherwise raises what ``provision`` does.
        """
        device = known_device(self.post.records, device_serial)
        if device.state is not DeviceState.VERIFIED:
            raise not_verified(device_serial, str(device.state))
        fence = self.fence()

        def act(target: Target, expanded: str) -> Outcome:
            # The state may change before the engine looks at it.
            request = ProvisionRequest(device_serial, expanded, proves_only=True)
            return self._provision(request, target, fence, Proofs(handshake, cloud), progress)

        return self._at_device(device_serial, target_uri, fence, act)

    def _provision(
        self,
        request: ProvisionRequest,
        target: Target,
        fence: DeadlineFence,
        proofs: Proofs,
        progress: Callable[[Progress], None],
    ) -> Outcome:
        return provision(
            self.post,
            request,
            target=target,
            source=self.source,
            fence=fence,
            handshake=self._proofs.handshake(proofs, request),
            admit=self._proofs.admit(proofs, request, fence),
            progress=progress,
        )

    def _at_device(
        self, device_serial: str, target_uri: str, fence: DeadlineFence, act: Callable[[Target, str], Outcome]
    ) -> Outcome:
        """Do something at one device, alone with it and at its place, for as long as ``fence`` holds."""
        from birthmark.adapters.targets.uri import expand_target_uri

        expanded = expand_target_uri(target_uri, device_serial)

        def work() -> Outcome:
            with self._alone(device_serial):
                target = self._open_target(expanded, device_serial)
                with self._places.alone(place_of(target, expanded)):
                    return act(target, expanded)

        with not_to_be_shipped():
            return self._runs.run(device_serial, fence, work)

    def _check_route(self, device_serial: str, target_uri: str) -> None:
        """Ask the factory's own system; its refusal goes on record as every other."""
        try:
            self._mes.check(device_serial, target_uri)
        except Refused as refusal:
            event = Rejected(
                at=utc_text(self.post.clock()), station=self.post.name, code=refusal.code, device=device_serial
            )
            with self.post.ledger.transaction() as tx:
                tx.append(event)
            raise

    def _tell_failure(self, device_serial: str, problem: BirthmarkError) -> None:
        """Tell the factory's own system; the fault of the device is what counts, even if that cannot be told."""
        try:
            self._mes.failed(device_serial, problem)
        except StationFault as second:
            raise problem from second

    def identify(self, target_uri: str) -> str:
        """Return the device serial that the device itself says; nothing is written to it.

        ``Misconfigured("station.identify.placeholder")`` if the target needs the serial to be named at all,
        ``DeviceFault("device.identity.unusable")`` if what the device says is no serial.
        """
        if "{device_serial}" in target_uri:
            raise Misconfigured(
                "station.identify.placeholder",
                "this target is named by the serial that the device is to be asked for",
                hint="Name a port, a mount or a reader without {device_serial}, or scan the serial.",
                target=target_uri[:200],
            )
        fence = self.fence()

        def work() -> str:
            target = self._open_target(target_uri, _NOBODY)
            with self._places.alone(place_of(target, target_uri)):
                return target.probe().identity

        return _device_serial_in(self._runs.run("to be identified", fence, work))

    def take_over(
        self,
        origin: Literal["preloaded", "adopted"],
        device_serial: str,
        target_uri: str,
        *,
        identity: str | None = None,
        attempt: str | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Outcome:
        """Bind a preloaded identity to a device or adopt a foreign one; raises what ``workflow.line.bind`` does."""
        from birthmark.workflow.line.bind import BindRequest, take_over

        fence = self.fence()

        def act(target: Target, expanded: str) -> Outcome:
            return take_over(
                self.post,
                self._workspace.records,
                BindRequest(device_serial, expanded, attempt, identity, self._residency(device_serial)),
                origin=origin,
                target=target,
                fence=fence,
                progress=progress,
            )

        return self._at_device(device_serial, target_uri, fence, act)

    def run(
        self,
        devices: Iterable[str],
        target_uri: str,
        *,
        heads: int,
        handshake: bool = False,
        cloud: str | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
        result: Callable[[HeadResult], None] = lambda result: None,
    ) -> Yield:
        """Work through ``devices`` with ``heads`` threads. A bad or a slow device does not stop the others; a fault of
        the station or a finding of tampering stops the line: what is under way ends, nothing new is begun.

        An interruption takes the fences of the devices under way away: they stay where they are, to be gone on with.
        """
        total, stop, waiting = Yield(), threading.Event(), iter(devices)
        proofs = Proofs(handshake, cloud)
        began = time.monotonic()

        def head() -> None:
            while not stop.is_set() and shown.failure is None:
                with self._lock:
                    device_serial = next(waiting, None)
                if device_serial is None:
                    return
                try:
                    done = self._one(device_serial, target_uri, proofs, progress)
                except BaseException:
                    stop.set()
                    raise
                if isinstance(done.error, _STOPS_THE_LINE):
                    stop.set()
                with self._lock:
                    total.add(done)
                    result(done)

        with publishing(self._workspace) as shown, ThreadPoolExecutor(heads, thread_name_prefix="head") as pool:
            try:
                for finished in [pool.submit(head) for _ in range(heads)]:
                    finished.result()
            except BaseException as problem:
                if not isinstance(problem, Exception):
                    self._runs.give_up()
                raise
            finally:
                stop.set()
        total.seconds = time.monotonic() - began
        return total

    def close(self) -> None:
        """Take the fences of whatever is still under way away, and stop the TLS servers."""
        self._runs.give_up()
        self._proofs.close()

    def fence(self, seconds: float | None = None) -> DeadlineFence:
        """Return the right to act on the next device, from now until the deadline of this station, or earlier."""
        allowed = self._deadline_s if seconds is None else min(seconds, self._deadline_s)
        token = self.post.entropy(_TOKEN_OCTETS).hex()
        return DeadlineFence(token, seconds=allowed, monotonic=self.post.monotonic, lock=threading.Lock())

    def _residency(self, device_serial: str) -> Residency:
        device = self.post.records.device(device_serial)
        order = None if device is None else self.post.records.order(device.order)
        product = None if order is None else self._workspace.settings.products.get(order.product)
        return "any" if product is None else product.residency

    def _one(
        self, device_serial: str, target_uri: str, proofs: Proofs, progress: Callable[[Progress], None]
    ) -> HeadResult:
        began = time.monotonic()
        outcome, error = None, None
        try:
            outcome = self.provision(
                device_serial, target_uri, handshake=proofs.handshake, cloud=proofs.cloud, progress=progress
            )
        except BirthmarkError as problem:
            error = problem
        return HeadResult(device_serial, outcome, error, round((time.monotonic() - began) * 1000, 3))

    @contextmanager
    def _alone(self, device_serial: str) -> Iterator[None]:
        with self._lock:
            if device_serial in self._busy:
                raise Refused(
                    "device.in_progress",
                    f"another head of this station works on {device_serial}",
                    hint="A serial stands for one unit: check what is in the other head.",
                    device_serial=device_serial,
                )
            self._busy.add(device_serial)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(device_serial)


def _device_serial_in(identity: str) -> str:
    try:
        return parse_device_serial(identity)
    except Refused:
        raise DeviceFault(
            "device.identity.unusable",
            f"the device calls itself {identity[:80]!a}, and that is no device serial",
            hint="Give the device its serial first, or take it off the line.",
            found=ascii(identity[:80]),
        ) from None


@contextmanager
def open_heads(
    workspace: Workspace,
    station: str | None = None,
    *,
    deadline_s: float | None = None,
    open_target: OpenTarget | None = None,
) -> Iterator[StationHeads]:
    """Open a station of the workspace; its journal belongs to this process until the context ends.

    ``deadline_s``: seconds for each device; None takes those of the station's settings. ``open_target``: opens targets
    in place of the plug-ins.
    """
    opened = workspace.station(station)
    post = StationPost(
        name=opened.name,
        origin=workspace.settings.origin,
        software=f"birthmark {__version__}",
        ledger=GroupedLedger(workspace.ledger),
        records=workspace.records,
        journal=opened.journal,
        receipt_key=opened.key,
        chain_of=workspace.chain,
        clock=workspace.clock,
        monotonic=time.monotonic,
        entropy=workspace.entropy,
    )
    settings = workspace.settings.stations[opened.name]
    seconds = settings.deadline_s if deadline_s is None else deadline_s
    heads = StationHeads(workspace, post, deadline_s=seconds, open_target=open_target)
    try:
        yield heads
    finally:
        heads.close()
        opened.journal.close()  # type: ignore[attr-defined]
