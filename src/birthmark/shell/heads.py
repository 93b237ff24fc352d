"""A station at work: one workspace, one journal, any number of heads that do not disturb each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark import __version__
from birthmark.adapters.ledgers.grouped import GroupedLedger
from birthmark.errors import BirthmarkError, Misconfigured, Refused, StationFault, Tampered
from birthmark.model.device import DeviceState
from birthmark.model.events import Rejected, utc_text
from birthmark.model.ids import parse_device_serial
from birthmark.ports import Source
from birthmark.shell.mes import Mes
from birthmark.shell.sources import source_of
from birthmark.workflow.handout import known_device
from birthmark.workflow.line.attempts import NoSource, not_verified
from birthmark.workflow.line.fence import DeadlineFence
from birthmark.workflow.line.residency import Residency
from birthmark.workflow.line.station import Outcome, Progress, ProvisionRequest, StationPost, provision

if TYPE_CHECKING:
    from birthmark.adapters.handshake import FileIdentity, TlsVerifier, TokenIdentity
    from birthmark.shell.wiring import Workspace
    from birthmark.wire.receipt import Handshake

__all__ = ["HeadResult", "StationHeads", "Yield", "open_heads"]

_STOPS_THE_LINE = (StationFault, Tampered)
_PUBLISH_EVERY_S = 1.0
_TOKEN_OCTETS = 16


@dataclass(frozen=True, slots=True)
class HeadResult:
    """What became of one device: an outcome or an error."""

    device_serial: str
    outcome: Outcome | None
    error: BirthmarkError | None
    ms: float


@dataclass(slots=True)
class Yield:
    """The count of a run. ``codes``: error code → devices. ``worst``: the error that decides the exit code."""

    passed: int = 0
    already: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    worst: BirthmarkError | None = None
    seconds: float = 0.0

    def add(self, result: HeadResult) -> None:
        """Count one result."""
        if result.outcome is not None:
            self.passed += result.outcome.outcome == "pass"
            self.already += result.outcome.outcome == "already"
            return
        if result.error is not None:
            self.codes[result.error.code] = self.codes.get(result.error.code, 0) + 1
            if self.worst is None or result.error.exit_code > self.worst.exit_code:
                self.worst = result.error


class StationHeads:
    """The parts all heads share. Threads may call ``provision`` at once, each for another device."""

    def __init__(self, workspace: Workspace, post: StationPost) -> None:
        self._workspace = workspace
        self.post = post
        self.source = source_of(workspace, post.ledger, post.name)
        self._verifiers: dict[str, TlsVerifier] = {}
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
        progress: Callable[[Progress], None] = lambda progress: None,
        fence: DeadlineFence | None = None,
    ) -> Outcome:
        """Provision one device at ``target_uri``, in which ``{device_serial}`` is replaced.

        ``fence``: the right to act that the caller can take away; without one, that of ``fence()``. Raises what
        ``workflow.line.station.provision`` does, and ``Refused("device.in_progress")`` when another head of this
        station has the device.
        """
        held = fence or self.fence()
        with self._alone(parse_device_serial(device_serial)):
            try:
                self._check_route(device_serial, target_uri)
                outcome = self._act(device_serial, target_uri, attempt, handshake, progress, held, self.source)
            except BirthmarkError as problem:
                self._tell_failure(device_serial, problem)
                raise
            self._mes.passed(outcome)
            return outcome

    def verify(
        self,
        device_serial: str,
        target_uri: str,
        *,
        handshake: bool = False,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Outcome:
        """Prove again that a verified device holds its identity. Nothing is made and nothing is written to it.

        ``Refused("device.not_verified")`` if it has none yet; otherwise raises what ``provision`` does.
        """
        device = known_device(self.post.records, device_serial)
        if device.state is not DeviceState.VERIFIED:
            raise not_verified(device_serial, str(device.state))
        powerless = self.fence()
        powerless.revoke()
        # The state may change before the engine looks at it: then there is neither a source nor a right to write.
        with self._alone(device_serial):
            return self._act(device_serial, target_uri, None, handshake, progress, powerless, NoSource())

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

    def _act(
        self,
        device_serial: str,
        target_uri: str,
        attempt: str | None,
        handshake: bool,
        progress: Callable[[Progress], None],
        fence: DeadlineFence,
        source: Source,
    ) -> Outcome:
        from birthmark.adapters.targets.uri import expand_target_uri

        expanded = expand_target_uri(target_uri, device_serial)
        target = self._workspace.target(expanded, device_serial)
        return provision(
            self.post,
            ProvisionRequest(device_serial, expanded, attempt, self._residency(device_serial)),
            target=target,
            source=source,
            fence=fence,
            handshake=(lambda: self._handshake(device_serial, expanded)) if handshake else None,
            progress=progress,
        )

    def run(
        self,
        devices: Iterable[str],
        target_uri: str,
        *,
        heads: int,
        handshake: bool = False,
        progress: Callable[[Progress], None] = lambda progress: None,
        result: Callable[[HeadResult], None] = lambda result: None,
    ) -> Yield:
        """Work through ``devices`` with ``heads`` threads. A bad device does not stop the others; a fault of the
        station or a finding of tampering stops the line: nothing new is begun."""
        total, stop, waiting = Yield(), threading.Event(), iter(devices)
        began = time.monotonic()

        def head() -> None:
            while not stop.is_set():
                with self._lock:
                    device_serial = next(waiting, None)
                if device_serial is None:
                    return
                try:
                    done = self._one(device_serial, target_uri, handshake, progress)
                except BaseException:
                    stop.set()
                    raise
                if isinstance(done.error, _STOPS_THE_LINE):
                    stop.set()
                with self._lock:
                    total.add(done)
                    result(done)

        with _publishing(self._workspace), ThreadPoolExecutor(heads, thread_name_prefix="head") as pool:
            try:
                for finished in [pool.submit(head) for _ in range(heads)]:
                    finished.result()
            finally:
                stop.set()
        total.seconds = time.monotonic() - began
        return total

    def close(self) -> None:
        """Stop the TLS verifiers."""
        for verifier in self._verifiers.values():
            verifier.close()

    def fence(self, seconds: float | None = None) -> DeadlineFence:
        """Return the right to act on the next device, from now until the deadline of this station, or earlier."""
        longest = self._workspace.settings.stations[self.post.name].deadline_s
        token = self.post.entropy(_TOKEN_OCTETS).hex()
        allowed = longest if seconds is None else min(seconds, longest)
        return DeadlineFence(token, seconds=allowed, monotonic=self.post.monotonic)

    def _residency(self, device_serial: str) -> Residency:
        device = self.post.records.device(device_serial)
        order = None if device is None else self.post.records.order(device.order)
        product = None if order is None else self._workspace.settings.products.get(order.product)
        return "any" if product is None else product.residency

    def _one(
        self, device_serial: str, target_uri: str, handshake: bool, progress: Callable[[Progress], None]
    ) -> HeadResult:
        began = time.monotonic()
        outcome, error = None, None
        try:
            outcome = self.provision(device_serial, target_uri, handshake=handshake, progress=progress)
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

    def _handshake(self, device_serial: str, uri: str) -> Handshake:
        records = self.post.records
        order = records.order(known_device(records, device_serial).order)
        ca = "" if order is None else order.ca
        return self._verifier(ca).connect(self._identity(device_serial, uri, ca))

    def _verifier(self, ca: str) -> TlsVerifier:
        from birthmark.adapters.handshake import TlsVerifier

        with self._lock:
            if ca not in self._verifiers:
                self._verifiers[ca] = TlsVerifier(self._workspace.chain(ca)[:1])
            return self._verifiers[ca]

    def _identity(self, device_serial: str, uri: str, ca: str) -> FileIdentity | TokenIdentity:
        from birthmark.adapters.handshake import FileIdentity, TokenIdentity
        from birthmark.adapters.pkcs11_uri import parse_pkcs11_uri
        from birthmark.adapters.targets.uri import decoded
        from birthmark.workflow.handout import stored_certificate

        scheme, _, rest = uri.partition(":")
        path, _, query = rest.partition("?")
        options = dict(item.partition("=")[::2] for item in query.split("&"))
        if scheme == "files" and options.get("layout", "pem") == "pem":
            directory = Path.cwd() / decoded(uri, path)
            return FileIdentity(directory / "device.crt", directory / "device.key")
        if scheme == "pkcs11":
            kept = "&".join(item for item in query.split("&") if not item.startswith("chain="))
            token = parse_pkcs11_uri(f"{scheme}:{path}?{kept}", base=Path.cwd())
            device = known_device(self.post.records, device_serial)
            return TokenIdentity(
                module=token.module,
                token=token.token,
                key_label=token.label or "",
                pin=self._workspace.secrets(token.pin_source),
                chain=(stored_certificate(self.post.ledger, device), *self._workspace.chain(ca)[:1]),
            )
        raise Misconfigured(
            "handshake.target",
            f"no TLS connection can be made from the target {uri[:200]}",
            hint="Use files: with layout=pem or pkcs11:, or leave --handshake out.",
            target=uri[:200],
        )


@contextmanager
def open_heads(workspace: Workspace, station: str | None = None) -> Iterator[StationHeads]:
    """Open a station of the workspace; its journal belongs to this process until the context ends."""
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
    heads = StationHeads(workspace, post)
    try:
        yield heads
    finally:
        heads.close()
        opened.journal.close()  # type: ignore[attr-defined]


@contextmanager
def _publishing(workspace: Workspace) -> Iterator[None]:
    """Sign and show a head every second while the heads work."""
    stop = threading.Event()
    failures: list[BirthmarkError] = []

    def publish() -> None:
        try:
            while not stop.wait(_PUBLISH_EVERY_S):
                workspace.publish()
        except BirthmarkError as problem:
            failures.append(problem)

    thread = threading.Thread(target=publish, name="publisher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]
