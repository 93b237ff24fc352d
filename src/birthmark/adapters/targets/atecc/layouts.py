"""How certificates lie in the data slots of a chip: compressed as Microchip does it, or as plain DER."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from birthmark.adapters.targets.atecc.compressed import (
    COMPRESSED_OCTETS,
    SERIAL_OCTETS,
    SN_STORED,
    VALIDITY_OCTETS,
    Compressed,
    Shape,
    compress,
    rebuild,
    shape_of,
    signer_id,
)
from birthmark.adapters.targets.atecc.link import ChipLink
from birthmark.adapters.targets.atecc.record import COMPRESSED, DER, RECORD_OCTETS, Record
from birthmark.adapters.targets.atecc.templates import TemplateDirectory
from birthmark.adapters.targets.atecc.zone import SLOT_OCTETS
from birthmark.adapters.targets.identity import Certificates
from birthmark.errors import DeviceFault, Refused

__all__ = ["RECORD_SLOT", "CompressedLayout", "DerLayout", "Layout", "Plan", "Region"]

RECORD_SLOT = 8
_CERTIFICATE_SLOT, _SIGNER_KEY_SLOT, _SIGNER_SLOT = 10, 11, 12
_PADDED_POINT_OCTETS = 72
_CHAIN_ID = 0


@dataclass(frozen=True, slots=True)
class Region:
    """``data`` belongs at ``offset`` of ``slot``; offset and size are multiples of four."""

    slot: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """What is written for one credential, before the record says that it is there."""

    regions: tuple[Region, ...]
    lengths: tuple[int, int]

    @property
    def slots(self) -> list[int]:
        """The data slots in use, that of the record last."""
        return [*sorted({region.slot for region in self.regions} - {RECORD_SLOT}), RECORD_SLOT]


class Layout(Protocol):
    """``plan`` refuses what does not fit and writes nothing to the chip; ``read`` rebuilds from the chip alone."""

    @property
    def number(self) -> int: ...

    @property
    def slots(self) -> Sequence[int]: ...

    def plan(self, certificates: Certificates, device_serial: str) -> Plan: ...

    def read(
        self, link: ChipLink, record: Record, point: bytes, device_serial: str
    ) -> tuple[bytes, tuple[bytes, ...]]: ...


class CompressedLayout:
    """Slot 10 the device certificate, 12 the issuing CA, 11 its key; slot 8 what the 72 octets have no room for.

    Without ``issuer`` the issuing CA is left out.
    """

    number = COMPRESSED

    def __init__(self, templates: TemplateDirectory, *, issuer: bool) -> None:
        self._templates = templates
        self._issuer = issuer
        signer = (_SIGNER_KEY_SLOT, _SIGNER_SLOT) if issuer else ()
        self.slots: Sequence[int] = (RECORD_SLOT, _CERTIFICATE_SLOT, *signer)

    def plan(self, certificates: Certificates, device_serial: str) -> Plan:
        device, issuer = certificates.device_der, certificates.chain_der[0]
        shape, named = shape_of(device, device_serial), signer_id(issuer)
        signer_shape = shape_of(issuer, None) if self._issuer else None
        stored = compress(device, shape, template=0, chain=_CHAIN_ID, signer=named)
        _require_same(rebuild(shape, stored, device_serial), device)
        if signer_shape is not None:
            signer = compress(issuer, signer_shape, template=0, chain=_CHAIN_ID, signer=named)
            _require_same(rebuild(signer_shape, signer, ""), issuer)
        template = self._templates.fitting(shape, signer_shape).id
        stored = compress(device, shape, template=template, chain=_CHAIN_ID, signer=named)
        regions = [
            Region(RECORD_SLOT, RECORD_OCTETS, stored.validity.ljust(VALIDITY_OCTETS, b"\0")),
            Region(RECORD_SLOT, RECORD_OCTETS + VALIDITY_OCTETS, stored.serial.ljust(SERIAL_OCTETS, b"\0")),
        ]
        if signer_shape is not None:
            signer = compress(issuer, signer_shape, template=template, chain=_CHAIN_ID, signer=named)
            regions.append(Region(_SIGNER_KEY_SLOT, 0, _padded(signer.point)))
            regions.append(Region(_SIGNER_SLOT, 0, signer.octets))
        regions.append(Region(_CERTIFICATE_SLOT, 0, stored.octets))
        return Plan(tuple(regions), (len(device), len(issuer) if self._issuer else 0))

    def read(self, link: ChipLink, record: Record, point: bytes, device_serial: str) -> tuple[bytes, tuple[bytes, ...]]:
        octets = link.read(_CERTIFICATE_SLOT, 0, COMPRESSED_OCTETS)
        if octets[69] & 0x0F != _CHAIN_ID or octets[70:] != bytes([SN_STORED << 4, 0]):
            raise damaged("its compressed certificate is not of this form")
        template = self._templates.numbered(octets[69] >> 4)
        validity = link.read(RECORD_SLOT, RECORD_OCTETS, VALIDITY_OCTETS)
        serial = link.read(RECORD_SLOT, RECORD_OCTETS + VALIDITY_OCTETS, SERIAL_OCTETS)
        device = rebuild(template.device, Compressed(octets, point, validity, serial), device_serial)
        if self._issuer != bool(record.lengths[1]):
            raise other_layout("chain")
        return device, (self._read_issuer(link, octets, template.signer),) if self._issuer else ()

    def _read_issuer(self, link: ChipLink, device: bytes, shape: Shape | None) -> bytes:
        octets = link.read(_SIGNER_SLOT, 0, COMPRESSED_OCTETS)
        if shape is None or octets[69:] != device[69:]:
            raise damaged("there is no issuing CA of the same template")
        padded = link.read(_SIGNER_KEY_SLOT, 0, _PADDED_POINT_OCTETS)
        return rebuild(shape, Compressed(octets, padded[4:36] + padded[40:72], b"", b""), "")


class DerLayout:
    """The device certificate, then the issuing CA, in DER: behind the record in slot 8, on in slots 9 to 15."""

    number = DER
    slots = tuple(range(RECORD_SLOT, 16))

    def __init__(self, *, issuer: bool) -> None:
        self._issuer = issuer

    def plan(self, certificates: Certificates, device_serial: str) -> Plan:
        device, issuer = certificates.device_der, certificates.chain_der[0] if self._issuer else b""
        content = device + issuer
        room = sum(SLOT_OCTETS[slot] for slot in self.slots) - RECORD_OCTETS
        if len(content) > room:
            raise Refused(
                "atecc.too_large",
                f"what is to be installed has {len(content)} octets, the slots {room}",
                hint="Use layout=compressed, or chain=none, or a profile with shorter names and fewer extensions.",
                octets=len(content),
                room=room,
            )
        regions = []
        for slot, offset, size in _spans(len(content)):
            part, content = content[:size], content[size:]
            regions.append(Region(slot, offset, part.ljust(-(-len(part) // 4) * 4, b"\0")))
        return Plan(tuple(regions), (len(device), len(issuer)))

    def read(self, link: ChipLink, record: Record, point: bytes, device_serial: str) -> tuple[bytes, tuple[bytes, ...]]:
        first, second = record.lengths
        if first + second > sum(SLOT_OCTETS[slot] for slot in self.slots) - RECORD_OCTETS:
            raise damaged("its record speaks of more octets than it has")
        content = b"".join(
            link.read(slot, offset, -(-size // 4) * 4)[:size] for slot, offset, size in _spans(first + second)
        )
        if self._issuer != bool(second):
            raise other_layout("chain")
        return content[:first], (content[first:],) if self._issuer else ()


def other_layout(option: str) -> DeviceFault:
    """Return the fault of a chip that was written by a target with another ``layout`` or ``chain``."""
    return DeviceFault(
        "atecc.layout",
        f"the chip was written with another {option}= than the target says",
        hint="Say layout= and chain= as when the device was provisioned; a rework begins with these too.",
        option=option,
    )


def damaged(reason: str) -> DeviceFault:
    """Return the fault of a chip whose certificates cannot be read."""
    return DeviceFault(
        "target.certificate.damaged",
        f"the certificates in the chip cannot be read: {reason}",
        hint="Provision the device again as rework, with a new identity.",
        reason=reason,
    )


def _require_same(rebuilt: bytes, issued: bytes) -> None:
    if rebuilt != issued:
        raise Refused(
            "atecc.not_compressible",
            "a certificate does not come out of its compressed form as it went in",
            hint="Use layout=der.",
            reason="it is not made as DER wants it",
        )


def _spans(octets: int) -> list[tuple[int, int, int]]:
    """Return slot, offset and size of each piece that so many octets of DER lie in."""
    spans = []
    for slot in DerLayout.slots:
        offset = RECORD_OCTETS if slot == RECORD_SLOT else 0
        size = min(octets, SLOT_OCTETS[slot] - offset)
        if size > 0:
            spans.append((slot, offset, size))
        octets -= size
    return spans


def _padded(point: bytes) -> bytes:
    return bytes(4) + point[:32] + bytes(4) + point[32:]
