"""Before anything is sent: what each device that is due is to be told as, and which cannot be told at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from birthmark.errors import BirthmarkError, Refused
from birthmark.ports import Cloud, DueDevice, Outcome, RegisterBook, Registration, Settlement
from birthmark.workflow.register.fold import pages_of
from birthmark.workflow.register.wanted import Wanted, WantedNow

__all__ = ["Telling", "parked", "sort_due"]

_DETAIL_LIMIT, _PAGE = 400, 400
_RETRY_HINT = "Mend the cause; then `birthmark register parked NAME --retry`."


@dataclass(frozen=True, slots=True)
class Telling:
    """A device, what the cloud is told of it, and as which record the cloud will hold it (None: as none)."""

    device: DueDevice
    wanted: Wanted
    key: str | None

    @property
    def registration(self) -> Registration:
        return self.wanted.registration

    def settled(self, outcome: Outcome) -> Settlement:
        """Return what the cloud's answer means."""
        return Settlement(
            device=self.device,
            outcome=outcome.kind,
            standing=self.registration.standing,
            key=self.key,
            certificate_seq=self.wanted.certificate_seq,
            code=outcome.code[:_DETAIL_LIMIT],
            detail=outcome.detail[:_DETAIL_LIMIT],
            hint=_RETRY_HINT if outcome.kind == "refused" else "",
        )

    def unknown(self) -> Settlement:
        """Return that nothing is known: due again."""
        return Settlement(self.device, None)


def parked(device: DueDevice, why: BirthmarkError, wanted: Wanted | None = None) -> Settlement:
    """Return that a device cannot be told, and why."""
    return Settlement(
        device=device,
        outcome="refused",
        standing="blocked" if wanted is None else wanted.registration.standing,
        code=why.code,
        detail=why.message[:_DETAIL_LIMIT],
        hint=why.hint[:_DETAIL_LIMIT],
    )


def sort_due(
    cloud: Cloud, book: RegisterBook, wanted: WantedNow, due: Sequence[DueDevice]
) -> tuple[list[Telling], list[Settlement]]:
    """Return who is told, and who is parked: refused by ``cloud.expected``, or of a record that another device has.

    Some clouds do not tell upper case from lower: two devices must not become one record there.
    """
    telling: list[Telling] = []
    refused: list[Settlement] = []
    found = wanted.of({device.device_serial: device.told_seq for device in due})
    for device in due:
        item = found[device.device_serial]
        if isinstance(item, Refused):
            refused.append(parked(device, item))
            continue
        try:
            record = cloud.expected(item.registration)
        except Refused as refusal:
            refused.append(parked(device, refusal, item))
            continue
        telling.append(Telling(device, item, None if record is None else record.key))
    keys = [one.key for one in telling if one.key is not None]
    holder_of: dict[str, str] = {}
    for page in pages_of(keys, _PAGE):
        holder_of |= book.holders(page)
    free: list[Telling] = []
    for one in telling:
        serial = one.device.device_serial
        holder = serial if one.key is None else holder_of.setdefault(one.key, serial)
        if holder == serial:
            free.append(one)
        else:
            refused.append(parked(one.device, _taken(one.device, holder), one.wanted))
    return free, refused


def _taken(device: DueDevice, holder: str) -> Refused:
    return Refused(
        "register.record.taken",
        f"this cloud cannot tell {device.device_serial} from {holder}, which it was told of before",
        hint="Give the unit another serial: rework does not help, the cloud would still take both for one device.",
        device_serial=device.device_serial,
        holder=holder,
    )
