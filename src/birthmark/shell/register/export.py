"""Exports of a workspace: the feed of its log, and a directory of files that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.adapters.durable import create_durably, naming_os_errors, sync_directory, sync_path
from birthmark.errors import Refused
from birthmark.model.events import decode_entry, utc_text
from birthmark.wire.registry import ExportManifest, LogCursor, sign_export_manifest
from birthmark.workflow.register.changes import ChangeFeed, foreign_source
from birthmark.workflow.register.export import FILES, write_changes

if TYPE_CHECKING:
    from birthmark.adapters.ledgers.sqlite.replica import SqliteReplica
    from birthmark.model.records import DeviceRecord
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.workflow.homecoming.sitemirror import SiteMirror

__all__ = ["StoredCertificates", "change_feed", "export_directory", "published_feed"]


def change_feed(workspace: Workspace) -> ChangeFeed:
    """Return the changes of this workspace's log, published up to now. It is of one thread."""
    workspace.publish()
    return published_feed(workspace)[0]


def published_feed(workspace: Workspace) -> tuple[ChangeFeed, StoredCertificates]:
    """Return the changes as far as they are published, and what reads the certificates. Both are of one thread."""
    from birthmark.adapters.logstore import FileLogStore

    certificates = StoredCertificates(workspace)
    workspace.close_later(certificates.close)
    store = FileLogStore(workspace.root / "log")
    return ChangeFeed(workspace.ledger, workspace.records, store, certificates.certificate_of), certificates


class StoredCertificates:
    """Finds the certificate of a device: in our log, or where a site signs for itself in the kept log of that site.

    From the first certificate of a site on its reports wait, until ``close``; it may be used again afterwards.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._opened = ExitStack()
        self._sites: dict[str, tuple[SqliteReplica, SiteMirror]] = {}

    def certificate_of(self, device: DeviceRecord) -> bytes:
        from birthmark.workflow.handout import stored_certificate

        if device.issued_seq is not None:
            return stored_certificate(self._workspace.ledger, device)
        settled = self._workspace.records.settled(device.device_serial)
        if settled is None:
            raise foreign_source(device.device_serial, "?")
        replica, mirror = self._site(settled.site)
        found = replica.records.device(device.device_serial)
        if found is None or found.issued_seq is None:
            raise foreign_source(device.device_serial, settled.site)
        return decode_entry(mirror.entry(found.issued_seq))[1]

    def _site(self, site: str) -> tuple[SqliteReplica, SiteMirror]:
        from birthmark.adapters.ledgers.sqlite.replica import SqliteReplica
        from birthmark.adapters.logstore import FileLogStore
        from birthmark.workflow.homecoming.sitemirror import SiteMirror

        if site not in self._sites:
            # Opening a replica may mend it: nobody takes a report of this site in meanwhile.
            self._opened.enter_context(self._workspace.lock(f"ingest-{site}", wait=True))
            root = self._workspace.root / "sites" / site
            record = self._workspace.records.site(site)
            replica = SqliteReplica(root / "replica")
            self._opened.callback(replica.close)
            mirror = SiteMirror(FileLogStore(root / "log"), origin=record.origin, vkey=record.vkey)
            self._sites[site] = (replica, mirror)
        return self._sites[site]

    def close(self) -> None:
        self._opened.close()
        self._sites.clear()


def export_directory(
    workspace: Workspace,
    feed: ChangeFeed,
    output: Path,
    *,
    since: LogCursor | None,
    progress: Callable[[int], None] = lambda count: None,
) -> ExportManifest:
    """Write an export into the new directory ``output`` and return its manifest.

    Power cut: the directory is there whole or not at all; at worst ``.NAME.new`` is left, which the next export
    replaces. ``Refused("export.exists")``: what is there is never written over.
    """
    if os.path.lexists(output):
        raise Refused(
            "export.exists",
            f"{output} exists already",
            hint="Name a new directory: each export is kept, so that a registry that fell behind can take all in turn.",
            path=str(output),
        )
    first, head = 0 if since is None else since.size, feed.head()
    unfinished = output.with_name(f".{output.name}.new")
    with naming_os_errors(output):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o755)
        with ExitStack() as opened:
            files = [opened.enter_context((unfinished / name).open("xb")) for name in FILES]
            lines = feed.changes(first, head.size, progress=progress)
            counts = write_changes(lines, tuple(file.write for file in files))
        for name in FILES:
            sync_path(unfinished / name)
    manifest = ExportManifest(
        origin=workspace.settings.origin,
        since=None if since is None else since.text(),
        next=head.text(),
        first=first,
        size=head.size,
        changes=counts.changes,
        verified=counts.verified,
        files=counts.files,
        created_at=utc_text(workspace.clock()),
    )
    signed = sign_export_manifest(manifest, workspace.private_key(workspace.settings.log.key))
    create_durably(unfinished / "manifest", signed, mode=0o644)
    with naming_os_errors(output):
        unfinished.rename(output)
    sync_directory(output.parent)
    return manifest
