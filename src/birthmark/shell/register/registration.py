"""Registration in a workspace: a cloud, its book, its part of the log, opened together and by one process alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birthmark.adapters.registerbook import SqliteRegisterBook, look_up
from birthmark.adapters.registerscratch import SqliteScratch
from birthmark.errors import Misconfigured, Refused
from birthmark.ports.cloud import BlocksInHubs
from birthmark.shell.register.export import published_feed
from birthmark.shell.workspace.plugins import adapter
from birthmark.workflow.register.authorities import authorities_of, authorities_sha256
from birthmark.workflow.register.fold import BookFold, Scope
from birthmark.workflow.register.onrecord import OnRecord
from birthmark.workflow.register.pace import Pace
from birthmark.workflow.register.reconcile import Reconciliation
from birthmark.workflow.register.run import RunCounts, RunOfRegistrations

if TYPE_CHECKING:
    from birthmark.ports import Cloud, CloudAuthority
    from birthmark.shell.workspace.config import CloudSettings
    from birthmark.shell.workspace.wiring import Workspace

__all__ = [
    "OpenRegister",
    "chosen_clouds",
    "cloud_of",
    "open_cloud",
    "open_register",
    "register_directory",
    "told_clouds",
]

PATIENCE_S = 600.0
_STEPS = Callable[[int, int, int], None]


def chosen_clouds(workspace: Workspace, names: Sequence[str]) -> dict[str, CloudSettings]:
    """Return the settings of these clouds, or of all; ``Misconfigured("settings.cloud")`` if there is none."""
    known = workspace.settings.clouds
    chosen = list(dict.fromkeys(names)) or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise Misconfigured(
            "settings.cloud",
            f"this workspace has no cloud named {unknown[0][:60]!a}" if unknown else "this workspace has no cloud",
            hint=f"Add [clouds.NAME] with a uri to birthmark.toml; there are: {', '.join(known) or 'none'}.",
        )
    return {name: known[name] for name in chosen}


def cloud_of(settings: CloudSettings) -> tuple[Any, str]:
    """Return the class of a cloud and its whole URI, hubs in it. ``Misconfigured("settings.hubs")``: it has none."""
    kind = adapter("clouds", settings.uri)
    if not settings.hubs:
        return kind, settings.uri
    if not isinstance(kind, BlocksInHubs):
        raise Misconfigured(
            "settings.hubs",
            "a cloud of this kind has no hubs in which devices could be blocked",
            hint="Leave hubs out of this cloud in birthmark.toml: azure-dps alone knows them.",
            hubs=sorted(settings.hubs),
        )
    return kind, kind.with_hubs(settings.uri, settings.hubs)


def open_cloud(workspace: Workspace, settings: CloudSettings) -> Cloud:
    """Return the cloud that settings name; nothing is sent. ``Misconfigured``: as ``cloud_of``."""
    kind, uri = cloud_of(settings)
    cloud: Cloud = kind(uri, secrets=workspace.secrets, base=workspace.root)
    return cloud


def register_directory(root: Path) -> Path:
    """Return where the books of a workspace are."""
    return root / "register"


def told_clouds(root: Path, device_serial: str) -> dict[str, str]:
    """Return, for each cloud that has a book here and knows the device, where it stands and what the cloud was told."""
    found: dict[str, str] = {}
    for path in sorted(register_directory(root).glob("*.db")):
        known = look_up(path, device_serial)
        if known is not None:
            cloud, state, told = known
            found[cloud] = f"{state}: {told}" if told else state
    return found


@dataclass(slots=True)
class OpenRegister:
    """One cloud of a workspace. Of one thread."""

    name: str
    workspace: Workspace
    cloud: Cloud
    book: SqliteRegisterBook
    fold: BookFold
    release: Callable[[], None]

    def authorities(self) -> list[CloudAuthority]:
        """Return the CAs that the cloud has to know."""
        return authorities_of(self.fold.feed.records, self.fold.scope)

    def pace(self, clock: Callable[[], float], sleep: Callable[[float], object]) -> Pace:
        """Return the pace of the cloud's limits."""
        return Pace(
            self.cloud.limits.calls_a_minute,
            clock=clock,
            sleep=sleep,
            entropy=self.workspace.entropy,
        )

    def require_prepared(self) -> None:
        """Return if the cloud knows our CAs as they are now, or needs none of them.

        ``Refused("register.prepare")``: devices would be refused one after the other.
        """
        authorities = self.authorities()
        needed = [step.what for step in self.cloud.estimate(0, authorities).steps if step.calls]
        if not needed or self.book.prepared() == authorities_sha256(authorities):
            return
        raise Refused(
            "register.prepare",
            f"{self.cloud.name} does not know the CAs of these devices yet, or one has come since: "
            + ", ".join(one.name for one in authorities),
            hint=f"Run `birthmark register prepare {self.name}` first.",
            cloud=self.cloud.name,
        )

    def prepare(self, prove: Callable[[str, str], bytes]) -> list[str]:
        """Make the CAs known; return a line on each thing that was found or made.

        Power cut: what was made stays made; the same command again finds it.
        """
        authorities = self.authorities()
        lines = list(self.cloud.prepare(authorities, prove))
        self.book.note_prepared(authorities_sha256(authorities))
        return lines

    def on_record(self) -> OnRecord:
        """Return what puts settlements into the log."""
        workspace = self.workspace
        return OnRecord(workspace.ledger, self.book, self.cloud.name, workspace.clock, workspace.by)

    def due(self, devices: int | None = None) -> int:
        """Return ``devices``; without it how many are due once the log is read."""
        if devices is not None:
            return devices
        self.fold.run()
        counts = self.book.counts()
        return counts["due"] + counts["asked"]

    @contextmanager
    def compare(
        self,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> Iterator[Reconciliation]:
        """Yield a comparison of this cloud with the ledger."""
        with closing(SqliteScratch(register_directory(self.workspace.root))) as scratch:
            pace = self.pace(clock, sleep)
            yield Reconciliation(
                self.cloud, self.book, self.fold, scratch, pace, patience_s=patience_s, release=self.release
            )

    def run(
        self,
        *,
        patience_s: float = PATIENCE_S,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        progress: _STEPS = lambda due, settled, parked: None,
        counts: RunCounts | None = None,
    ) -> RunCounts:
        """Tell the cloud of all that is due, and count in ``counts``.

        ``Refused("register.prepare")``, and what ``RunOfRegistrations`` raises.
        """
        self.require_prepared()
        with ThreadPoolExecutor(max(self.cloud.limits.lanes, 1), thread_name_prefix=self.name) as threads:
            run = RunOfRegistrations(
                cloud=self.cloud,
                book=self.book,
                fold=self.fold,
                pace=self.pace(clock, sleep),
                note=self.on_record().flush,
                lanes=threads.map,
                patience_s=patience_s,
                stop=stop,
                release=self.release,
                progress=progress,
                counts=RunCounts() if counts is None else counts,
            )
            return run.run()


@contextmanager
def open_register(workspace: Workspace, name: str, settings: CloudSettings) -> Iterator[OpenRegister]:
    """Open a cloud with its book; the log is read as far as it is published.

    ``Unavailable("workspace.busy")`` if another process works on this cloud; ``Misconfigured``: ``settings.ca``,
    ``settings.product``, ``settings.hubs``, ``register.site``.
    """
    _require_authority(workspace)
    scope = _scope(workspace, settings)
    with ExitStack() as opened:
        opened.enter_context(workspace.lock(f"register-{name}"))
        cloud = open_cloud(workspace, settings)
        opened.callback(cloud.close)
        path = register_directory(workspace.root) / f"{name}.db"
        book = SqliteRegisterBook(path, cloud=cloud.name, scope=scope.text())
        opened.callback(book.close)
        feed, certificates = published_feed(workspace)
        opened.callback(certificates.close)
        yield OpenRegister(name, workspace, cloud, book, BookFold(feed, book, scope), certificates.close)


def _require_authority(workspace: Workspace) -> None:
    if workspace.settings.role == "site" or workspace.records.authority() is not None:
        raise Misconfigured(
            "register.site",
            "a site tells no cloud of its devices",
            hint="Bring its report to the authority (`birthmark site report`); the authority registers them.",
        )


def _scope(workspace: Workspace, settings: CloudSettings) -> Scope:
    for ca in settings.cas or ():
        workspace.ca_certificate(ca)
    for product in settings.products or ():
        workspace.product(product)
    return Scope(settings.cas, settings.products)
