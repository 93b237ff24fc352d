"""The target ``atecc``: a key born in a slot of an ATECC608, and its certificate in the slots beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.adapters.pkcs11_key import TokenEcKey
from birthmark.adapters.targets.atecc.layouts import (
    RECORD_SLOT,
    CompressedLayout,
    DerLayout,
    Layout,
    Region,
    damaged,
    other_layout,
)
from birthmark.adapters.targets.atecc.link import ChipLink, ChipPlace, open_chip
from birthmark.adapters.targets.atecc.locks import Locks
from birthmark.adapters.targets.atecc.record import (
    INSTALLED,
    MAKING,
    RECORD_OCTETS,
    WAITING,
    Record,
    read_record,
    tag_of,
)
from birthmark.adapters.targets.atecc.templates import TemplateDirectory
from birthmark.adapters.targets.atecc.zone import Zone
from birthmark.adapters.targets.identity import certificates_of, mismatch, refuse_key
from birthmark.adapters.targets.proof import device_csr, sign_proof
from birthmark.adapters.targets.standins import stand_in_uri
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice, decoded, parse_target_uri
from birthmark.errors import DeviceFault, Refused
from birthmark.pki.algorithms import spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import Credential, Evidence, Fence, Probe, Rehearsal, SecretsHandler

__all__ = ["AteccTarget"]

_OPTIONS = ("bus", "address", "serial", "layout", "chain", "templates", "lock", "config")
_KEY_SLOTS = range(8)


class AteccTarget:
    """Implements ``ports.Target`` on ``atecc:SLOT?bus=BUS&layout=LAYOUT&lock=LOCK``.

    The device is called what the serial number of its chip is, 18 hexadecimal digits. Every call opens the
    chip anew through Microchip's library, so nothing is remembered between ``install`` and ``prove``. A chip that does
    not answer is ``Unavailable("atecc.silent")``, one that says no ``DeviceFault("atecc.refused")``.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="atecc", options=_OPTIONS)
        slot = decoded(uri, parsed.path)
        if slot not in {str(number) for number in _KEY_SLOTS}:
            raise bad_option(parsed, "slot", f"Name a slot for private keys, atecc:0 to atecc:{_KEY_SLOTS[-1]}.")
        self._name = uri.partition("?")[0]
        self._slot = int(slot)
        self._place = _place_of(parsed, base)
        bus = parsed.options.get("bus", "i2c:1")
        at = base / bus.partition(":")[2] if bus.startswith(("emulator:", "rehearsal:")) else bus
        self._where = f"atecc:{at}:{parsed.options.get('address', '').upper()}"
        self._layout = _layout_of(parsed, base)
        self._lower = choice(parsed, "serial", ("upper", "lower")) == "lower"
        lock, config = choice(parsed, "lock", ("none", "slot", "all")), choice(parsed, "config", ("kept", "birthmark"))
        if config == "birthmark" and lock != "all":
            raise bad_option(parsed, "config", "config=birthmark goes with lock=all.")
        self._locks = Locks(lock, fitting=config == "birthmark", key_slot=self._slot, data_slots=self._layout.slots)

    @classmethod
    def rehearsal(cls, uri: str, *, device_serial: str, directory: str) -> Rehearsal:
        """``Rehearses``: an emulated chip as it comes from the factory, nothing locked."""
        parsed = parse_target_uri(uri, scheme="atecc", options=_OPTIONS)
        if choice(parsed, "lock", ("none", "slot", "all")) != "all":
            raise Refused(
                "rehearsal.impossible",
                "without lock=all this target needs a chip that was locked before, and no stand-in is",
                hint="Rehearse with lock=all, or name an emulated chip with --rehearse-on.",
                target=ascii(uri.partition("?")[0][:200]),
            )
        changes: dict[str, str | None] = {"bus": f"rehearsal:{directory}/{device_serial}.json", "address": None}
        if "templates" in parsed.options:
            changes["templates"] = f"{directory}/templates"
        return Rehearsal(
            target=stand_in_uri(parsed, parsed.path, changes),
            writes=(f"make a key in slot {parsed.path}", "write certificates and their record into the data slots"),
            irreversible=("lock the configuration zone", "lock the data zone", "lock the slots of the identity"),
        )

    @property
    def place(self) -> str:
        """The chip on its bus: one slot is no place of its own."""
        return self._where

    def probe(self) -> Probe:
        with self._opened() as (link, serial):
            certificate = None
            if Zone(link.config()).data_locked:
                record, point = self._record(link), link.public_point(self._slot)
                if record is not None and point is not None and self._counts(record, point):
                    certificate = self._layout.read(link, record, point, serial)[0]
        return Probe(serial, certificate, makes_key=True, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        if algorithm != "p256":
            raise Refused(
                "atecc.algorithm",
                f"an ATECC608 makes P-256 keys, not {algorithm[:20]!a}",
                hint="Use an order whose keys are p256, or another target.",
                algorithm=ascii(algorithm[:20]),
            )
        with self._opened() as (link, serial):
            _require_serial(serial, device_serial)
            zone = self._locks.ready(link, fence)
            point, record = link.public_point(self._slot), self._record(link)
            if point is None or record is None or record.state != WAITING or record.tag != tag_of(point):
                self._locks.require_open(zone, (self._slot, *self._layout.slots))
                point = self._born(link, fence)
            return device_csr(self._signer(link, point), device_serial)

    def install(self, credential: Credential, fence: Fence) -> None:
        refuse_key(credential)
        certificates = certificates_of(credential, chain="issuing")
        with self._opened() as (link, serial):
            zone = self._locks.ready(link, fence)
            point, record = link.public_point(self._slot), self._record(link)
            if point is None or record is None or record.state == MAKING or record.tag != tag_of(point):
                raise mismatch(self._name, "the key born")
            if spki_of(_public_key(point)) != certificates.spki:
                raise mismatch(self._name, "the key born")
            _require_serial(serial, credential.device_serial)
            plan = self._layout.plan(certificates, serial)
            done = Record(INSTALLED, self._layout.number, tag_of(point), plan.lengths)
            wanted = list(plan.regions)
            if record.state == INSTALLED:
                wanted = [one for one in wanted if link.read(one.slot, one.offset, len(one.data)) != one.data]
            if wanted or record != done:
                self._locks.require_open(zone, (*plan.slots, *(one.slot for one in wanted)))
                if wanted and record.state == INSTALLED:
                    self._write(link, fence, _region_of(Record(WAITING, self._layout.number, tag_of(point))))
                for region in wanted:
                    self._write(link, fence, region)
                self._write(link, fence, _region_of(done))
            self._locks.close_slots(link, fence, zone, plan.slots)

    def prove(self, challenge: bytes) -> Evidence:
        with self._opened() as (link, serial):
            zone = Zone(link.config())
            record = self._record(link) if zone.data_locked else None
            if record is None or record.state != INSTALLED:
                raise DeviceFault(
                    "target.certificate.missing",
                    f"there is no certificate in {self._name}",
                    hint="Provision the device again.",
                    target=self._name,
                )
            point = link.public_point(self._slot)
            if point is None or not self._counts(record, point):
                raise mismatch(self._name, "the private key")
            certificate, chain = self._layout.read(link, record, point, serial)
            if _spki_in(certificate) != spki_of(_public_key(point)):
                raise mismatch(self._name, "the private key")
            self._locks.require_closed(zone, (RECORD_SLOT,))
            signature = sign_proof(self._signer(link, point), challenge)
            return Evidence(certificate, chain, "signature", signature, None)

    @contextmanager
    def _opened(self) -> Iterator[tuple[ChipLink, str]]:
        with open_chip(self._place) as link:
            serial = link.serial().hex()
            yield link, serial if self._lower else serial.upper()

    def _record(self, link: ChipLink) -> Record | None:
        return read_record(link.read(RECORD_SLOT, 0, RECORD_OCTETS))

    def _counts(self, record: Record, point: bytes) -> bool:
        """Say whether this record speaks of a certificate for this key. In another layout it cannot be read."""
        if record.state == INSTALLED and record.layout != self._layout.number:
            raise other_layout("layout")
        return record.state == INSTALLED and record.tag == tag_of(point)

    def _born(self, link: ChipLink, fence: Fence) -> bytes:
        """Make a key, over any that is there. It counts once the record says that it waits; one cut before is none."""
        number = self._layout.number
        making = Record(MAKING, number, bytes(14))
        if self._record(link) != making:
            self._write(link, fence, _region_of(making))
        fence.hold()
        point = link.generate(self._slot)
        if link.public_point(self._slot) != point:
            raise _not_stored(self._slot)
        self._write(link, fence, _region_of(Record(WAITING, number, tag_of(point))))
        return point

    def _write(self, link: ChipLink, fence: Fence, region: Region) -> None:
        fence.hold()
        link.write(region.slot, region.offset, region.data)
        if link.read(region.slot, region.offset, len(region.data)) != region.data:
            raise _not_stored(region.slot)

    def _signer(self, link: ChipLink, point: bytes) -> TokenEcKey:
        return TokenEcKey(_public_key(point), lambda digest, _: link.sign(self._slot, digest), self._name)


def _place_of(uri: TargetUri, base: Path) -> ChipPlace:
    bus, _, detail = uri.options.get("bus", "i2c:1").partition(":")
    address = uri.options.get("address", "C0")
    if not re.fullmatch("[0-9A-Fa-f]{2}", address) or int(address, 16) & 1:
        raise bad_option(uri, "address", "Give the eight-bit I2C address as two hexadecimal digits, as C0 or 6C.")
    if bus == "i2c" and not re.fullmatch("[0-9]{1,2}", detail):
        raise bad_option(uri, "bus", "Give the number of the I2C bus, as bus=i2c:1 for /dev/i2c-1.")
    return ChipPlace(bus, detail, int(address, 16), base)


def _layout_of(uri: TargetUri, base: Path) -> Layout:
    layout, templates = choice(uri, "layout", ("compressed", "der")), uri.options.get("templates")
    if (layout == "compressed") != (templates is not None):
        raise bad_option(uri, "templates", "It goes with layout=compressed, and names a directory.")
    issuer = choice(uri, "chain", ("issuing", "none")) == "issuing"
    if templates is None:
        return DerLayout(issuer=issuer)
    return CompressedLayout(TemplateDirectory(base / templates), issuer=issuer)


def _region_of(record: Record) -> Region:
    return Region(RECORD_SLOT, 0, record.octets())


def _require_serial(found: str, device_serial: str) -> None:
    if found != device_serial:
        raise DeviceFault(
            "device.identity.mismatch",
            f"this is the chip {found}, not {device_serial}",
            hint="With this target a device is called what its chip is: order it by the serial number of the chip.",
            device_serial=device_serial,
            found=found,
        )


def _public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        raise DeviceFault(
            "target.key.damaged",
            "the chip shows a public key that is not on its curve",
            hint="Scrap the device.",
        ) from None


def _spki_in(certificate: bytes) -> bytes:
    try:
        return spki_of(x509.load_der_x509_certificate(certificate).public_key())
    except (*UNREADABLE, UnsupportedAlgorithm):
        raise damaged("they are no certificates") from None


def _not_stored(slot: int) -> DeviceFault:
    return DeviceFault(
        "atecc.not_stored",
        f"the chip acknowledged what was written to slot {slot} and does not show it",
        hint="Take the device off the line: its chip does not keep what it acknowledges.",
        slot=slot,
    )
