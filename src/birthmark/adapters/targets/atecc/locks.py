"""Locks of an ATECC608: what is asked of its configuration, and what is locked for ever, each under the fence."""

from __future__ import annotations

from collections.abc import Sequence

from birthmark.adapters.targets.atecc.link import ChipLink
from birthmark.adapters.targets.atecc.zone import Zone, checksum, with_fitting
from birthmark.errors import DeviceFault, Refused
from birthmark.ports import Fence

__all__ = ["Locks"]


class Locks:
    """``lock``: ``none``, ``slot`` or ``all``. ``fitting``: an open configuration is replaced before it is locked."""

    def __init__(self, lock: str, *, fitting: bool, key_slot: int, data_slots: Sequence[int]) -> None:
        self._lock = lock
        self._fitting = fitting
        self._key_slot = key_slot
        self._data_slots = data_slots

    def ready(self, link: ChipLink, fence: Fence) -> Zone:
        """Return the configuration once both zones are locked and fit. ``Refused`` before anything is written:
        ``atecc.config.misfit``, ``atecc.zone.open``."""
        zone = Zone(link.config())
        wanted = Zone(with_fitting(zone.octets)) if self._fitting and not zone.config_locked else zone
        self._require_fit(wanted)
        if self._lock != "all" and not (zone.config_locked and zone.data_locked):
            raise Refused(
                "atecc.zone.open",
                "the zones of the chip are not locked, and the target does not say that they shall be",
                hint="Say lock=all, or use chips that come configured and locked.",
                config_locked=zone.config_locked,
                data_locked=zone.data_locked,
            )
        if not zone.config_locked:
            zone = self._close_config(link, fence, zone, wanted)
        if not zone.data_locked:
            fence.hold()
            link.lock_data()
            zone = Zone(link.config())
        if not (zone.config_locked and zone.data_locked):
            raise not_locked("its zones")
        return zone

    def require_open(self, zone: Zone, slots: Sequence[int]) -> None:
        """``Refused("atecc.slot.locked")`` if one of these slots can never be written again."""
        shut = [slot for slot in sorted(set(slots)) if zone.slot_locked(slot)]
        if shut:
            raise Refused(
                "atecc.slot.locked",
                f"slot {', '.join(map(str, shut))} of the chip is locked for ever",
                hint="This chip keeps the identity it has; scrap the device if it is the wrong one.",
                slots=[str(slot) for slot in shut],
            )

    def close_slots(self, link: ChipLink, fence: Fence, zone: Zone, data_slots: Sequence[int]) -> None:
        """Lock key and certificates for ever if that is asked for. Doing it twice is safe."""
        if self._lock == "none":
            return
        *others, last = data_slots
        for slot in (*others, self._key_slot, last):
            if not zone.slot_locked(slot):
                fence.hold()
                link.lock_slot(slot)
        self.require_closed(Zone(link.config()), data_slots)

    def require_closed(self, zone: Zone, data_slots: Sequence[int]) -> None:
        """``DeviceFault("atecc.not_locked")`` if a slot that shall be locked is not."""
        if self._lock != "none" and not all(zone.slot_locked(slot) for slot in (self._key_slot, *data_slots)):
            raise not_locked("a slot")

    def _close_config(self, link: ChipLink, fence: Fence, zone: Zone, wanted: Zone) -> Zone:
        if wanted != zone:
            fence.hold()
            link.write_config(wanted.octets)
            if link.config() != wanted.octets:
                raise DeviceFault(
                    "atecc.not_stored",
                    "the chip acknowledged a configuration and does not show it",
                    hint="Scrap the device; nothing was locked.",
                )
        fence.hold()
        link.lock_config(checksum(wanted.octets))
        return Zone(link.config())

    def _require_fit(self, zone: Zone) -> None:
        locks = self._lock != "none"
        reasons = zone.key_misfits(self._key_slot, lock=locks)
        for slot in self._data_slots:
            reasons += zone.data_misfits(slot, lock=locks)
        if reasons:
            raise Refused(
                "atecc.config.misfit",
                f"the configuration of the chip does not fit: {'; '.join(reasons)[:400]}",
                hint="Use another slot or layout, or chips with a configuration as in docs/targets/atecc.md.",
                reasons=reasons,
            )


def not_locked(what: str) -> DeviceFault:
    """Return the fault of a chip that acknowledges a lock and is open."""
    return DeviceFault(
        "atecc.not_locked",
        f"{what} of the chip shall be locked and is not",
        hint="Do not ship it: provision it again, or scrap it.",
    )
