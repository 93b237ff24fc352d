"""Private keys that nobody needs any more: what a site did not use, and what its authority handed over.

Erasing and its record are one transaction. Power cut before it: the keys are there; after it: they are gone and the
log says so. The command is simply given again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from birthmark.errors import Refused
from birthmark.model.device import DeviceState
from birthmark.model.events import BundleClosed, KeyErased, Revoked, Scrapped, decode_entry, utc_text
from birthmark.model.records import DeviceRecord
from birthmark.ports import Clock, Ledger, Transaction
from birthmark.workflow.bundles.chunks import chunks_in, device_serials_of
from birthmark.workflow.bundles.consign import BundleRecords
from birthmark.workflow.handout import cert_serial_of

__all__ = ["close_bundle", "forget_keys"]

_REASON_LIMIT = 200
_ALL = ("ordered", "issued", "consigned")


def close_bundle(
    ledger: Ledger,
    records: BundleRecords,
    order: str,
    *,
    reason: str,
    returned: bool,
    by: str,
    clock: Clock,
    progress: Callable[[int], None],
) -> int | None:
    """At a site: end what is left of an order's pool, in one transaction; return how many.

    None: it was closed before, nothing changed.
    Each key that was not drawn is erased. Unless the identities are ``returned`` to the authority, which has its own
    copy of the keys, their certificates are revoked and the devices scrapped. ``progress`` is told how many devices
    were looked at. Raises ``Refused``: ``bundle.unopened``, ``bundle.reason``.
    """
    opened = [bundle for bundle in records.bundles(order) if bundle.site is None]
    if not opened:
        raise Refused(
            "bundle.unopened",
            f"no bundle of order {order[:60]} was opened here",
            hint="`birthmark order list` shows the orders of this site; open the bundle first.",
            order=order[:60],
        )
    if not reason.strip() or len(reason) > _REASON_LIMIT:
        raise Refused(
            "bundle.reason",
            f"a reason of {len(reason)} characters",
            hint=f"Say in 1 to {_REASON_LIMIT} characters why the order is closed.",
            characters=len(reason),
        )
    if _is_closed(ledger, order, opened[0].seq):
        return None
    at, count = utc_text(clock()), 0
    told = f"returned: {reason}" if returned else reason
    with ledger.transaction() as tx:
        for devices in _devices(ledger, records, order):
            for device in devices:
                if device.state is DeviceState.POOLED:
                    _erase(tx, device, at=at, reason="returned" if returned else "closed")
                    if not returned:
                        _scrap(tx, ledger, records, device, at=at, reason=reason, by=by)
                    count += 1
            progress(len(devices))
        tx.append(BundleClosed(at=at, order=order, count=count, reason=told, by=by))
    return count


def _is_closed(ledger: Ledger, order: str, after: int) -> bool:
    """Look through the log: that an order is closed stands nowhere else."""
    for _, entry in ledger.entries(after, ledger.head().size - after):
        if b'"type":"bundle_closed"' in entry.partition(b"\n")[0]:
            event, _ = decode_entry(entry)
            if isinstance(event, BundleClosed) and event.order == order:
                return True
    return False


def _scrap(
    tx: Transaction, ledger: Ledger, records: BundleRecords, device: DeviceRecord, *, at: str, reason: str, by: str
) -> None:
    intent = None if device.intent is None else records.intent(device.intent)
    if intent is not None:
        cert_serial = cert_serial_of(ledger, intent, device)
        if not records.is_revoked(cert_serial):
            revoked = Revoked(
                at=at, device=device.device_serial, cert_serial=cert_serial.hex(), reason="cessationOfOperation", by=by
            )
            tx.append(revoked)
    tx.append(Scrapped(at=at, device=device.device_serial, reason=reason, by=by))


def forget_keys(
    ledger: Ledger, records: BundleRecords, order: str, *, clock: Clock, progress: Callable[[int], None]
) -> tuple[int, int]:
    """At an authority: erase our copy of the keys that went to a site and arrived; return (erased now, kept).

    They went in a bundle (``pool``), or one by one through the service (``online``).

    A key counts as arrived when the site's verified report settled its device: then the site has the identity in its
    own log. Until then our copy is the only one that is known to exist, and stays. One transaction a chunk.
    Raises ``Refused``: ``bundle.unsealed``, ``bundle.unreported``.
    """
    assigned = records.assignment(order)
    sealed = any(bundle.site is not None for bundle in records.bundles(order))
    if assigned is None or not (sealed or assigned.mode == "online"):
        raise Refused(
            "bundle.unsealed",
            f"no keys of order {order[:60]} went to a site",
            hint="`birthmark order show` tells where its devices stand.",
            order=order[:60],
        )
    site = records.site(assigned.site)
    if site is None or site.reported == 0:
        raise _unreported(order, assigned.site)
    gone = DeviceState.CONSIGNED if sealed else DeviceState.DRAWN
    erased = kept = arrived = 0
    for devices in _devices(ledger, records, order, states=("consigned",) if sealed else _ALL):
        settled = [device for device in devices if records.settled(device.device_serial) is not None]
        waiting = sum(device.state is gone for device in devices if device not in settled)
        with ledger.transaction() as tx:
            erased += sum(_erase(tx, device, at=utc_text(clock()), reason="consigned") for device in settled)
        kept += waiting
        arrived += len(settled)
        progress(len(devices))
    if not arrived:
        raise _unreported(order, site.site)
    return erased, kept


def _devices(
    ledger: Ledger, records: BundleRecords, order: str, states: Sequence[str] = _ALL
) -> Iterator[list[DeviceRecord]]:
    """Yield the devices of an order, chunk by chunk."""
    for chunk in chunks_in(records, order, states):
        serials = device_serials_of(ledger, chunk)[1].decode("ascii").split("\n")
        yield [device for serial in serials if (device := records.device(serial)) is not None]


def _erase(tx: Transaction, device: DeviceRecord, *, at: str, reason: str) -> bool:
    if device.intent is None or device.position is None or tx.vault.read(device.intent, device.position) is None:
        return False
    tx.vault.erase(device.intent, device.position)
    tx.append(KeyErased(at=at, device=device.device_serial, intent=device.intent, reason=reason))
    return True


def _unreported(order: str, site: str | None) -> Refused:
    return Refused(
        "bundle.unreported",
        f"site {site} has not reported that the bundle of order {order} arrived",
        hint="Take in the site's report with `birthmark site ingest` first; until then our copy is the only sure one.",
        order=order,
        site=site,
    )
