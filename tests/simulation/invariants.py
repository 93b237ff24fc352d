"""What must hold in the whole world, whoever wrote it: checked after every step, and closely at the end."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from simulation.unit import Unit
from simulation.watch import Broken, Identity, LedgerWatch

__all__ = ["WorldWatch"]


class WorldWatch:
    """All ledgers and all devices side by side. ``restored``: machines that an older copy was put on."""

    def __init__(self, ledgers: dict[str, LedgerWatch]) -> None:
        self.ledgers = ledgers
        self.restored: set[str] = set()
        self._owners: dict[bytes, tuple[str, str]] = {}
        self._certificates: dict[int, tuple[str, str]] = {}
        self._draws: dict[bytes, str] = {}
        self._promises: list[tuple[str, str, str]] = []

    def promise(self, machine: str, device_serial: str, cert_sha256: str) -> None:
        """A station was told that a device passed: from now on that must be on record."""
        self._promises.append((machine, device_serial, cert_sha256))

    def look(self, units: Iterable[Unit], machines: Iterable[str]) -> None:
        """Check what may have changed at ``machines`` and in all devices."""
        for name in machines:
            for identity in self.ledgers[name].look():
                self._identity(name, identity)
        self._devices(units)
        self._kept(set(machines))

    def look_closely(self, units: Iterable[Unit]) -> None:
        """Check everything from the first entry on."""
        for watch in self.ledgers.values():
            watch.look_closely()
        self._draws_everywhere()
        self._devices(units)
        self._kept(set(self.ledgers))

    def forget(self, name: str) -> None:
        """An older copy was put on this machine: its log goes back, which is for the authority to find."""
        self.restored.add(name)
        self.ledgers[name].start_over()
        self._promises = [promise for promise in self._promises if promise[0] != name]

    def _identity(self, name: str, identity: Identity) -> None:
        key = sha256(identity.spki).digest()
        serial, owner = self._owners.setdefault(key, (identity.device, name if identity.own else ""))
        if serial != identity.device:
            raise Broken("a key belongs to one device", f"{serial} and {identity.device} at {name}")
        if identity.own and owner != name:
            if owner:
                raise Broken("a key belongs to one device", f"{serial}: {owner} and {name} signed for the same key")
            self._owners[key] = (serial, name)
        known = self._certificates.setdefault(identity.cert_serial, (identity.device, identity.cert_sha256))
        if known != (identity.device, identity.cert_sha256):
            raise Broken("a certificate serial is unique", f"{identity.cert_serial:x}: {known[0]}, {identity.device}")

    def _draws_everywhere(self) -> None:
        """A key that is drawn at the authority for a site is drawn there by the same attempt or not at all."""
        draws: dict[bytes, str] = {}
        for name, watch in self.ledgers.items():
            for identity in watch.identities:
                if identity.drawn_by is None or name in self.restored:
                    continue
                if draws.setdefault(identity.spki, identity.drawn_by) != identity.drawn_by:
                    raise Broken("a drawn key is never drawn again", f"{identity.device} at {name}")

    def _devices(self, units: Iterable[Unit]) -> None:
        held: dict[bytes, str] = {}
        for unit in units:
            spki = unit.spki
            if spki is None:
                continue
            if held.setdefault(spki, unit.uri) != unit.uri and not self._from_a_copy(held[spki], unit.uri):
                raise Broken("two devices never hold one key", f"{held[spki]} and {unit.uri}")
            if not unit.holds_its_own():
                raise Broken("a device holds a pair", unit.uri)
            if sha256(spki).digest() not in self._owners:
                raise Broken("a device holds what is on record", unit.uri)

    def _from_a_copy(self, *uris: str) -> bool:
        """Say whether both units were made by a machine that an older copy was put on.

        With no network nothing can stop such a machine from handing out a key again; ``picture`` asks that it is found.
        """
        return (
            len({uri.split("/")[0] for uri in uris}) == 1 and uris[0].split("/")[0].partition(":")[2] in self.restored
        )

    def _kept(self, machines: set[str]) -> None:
        for name, serial, cert_sha256 in self._promises:
            if name in machines and cert_sha256 not in self.ledgers[name].devices[serial].verified:
                raise Broken("an acknowledged answer survives", f"{serial} at {name}")
