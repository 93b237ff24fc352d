"""How certificates lie in the data slots of a chip: compressed as Microchip does it, or as plain DER."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from birthmark.adapters.targets.atecc.compressed import (
    COMPRESSED_OCTETS,
    SERIAL_OCTETS,
    VALIDITY_OCTETS,
    Compressed,
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
    """Slot 10 the device certificate, 12 the issuing CA, 11 its key; slot 8 what the 72 octets have no room for."""

    number = COMPRESSED
    slots = (RECORD_SLOT, _CERTIFICATE_SLOT, _SIGNER_KEY_SLOT, _SIGNER_SLOT)

    def __init__(self, templates: TemplateDirectory) -> None:
        self._templates = templates

    def plan(self, certificates: Certificates, device_serial: str) -> Plan:
        device, issuer = certificates.device_der, certificates.chain_der[0]
        shapes = shape_of(device, device_serial), shape_of(issuer, None)
        template = self._templates.fitting(*shapes)
        named = signer_id(issuer)
        stored = compress(device, shapes[0], template=template.id, chain=_CHAIN_ID, signer=named)
        signer = compress(issuer, shapes[1], template=template.id, chain=_CHAIN_ID, signer=named)
        if rebuild(shapes[0], stored, device_serial) != device or rebuild(shapes[1], signer, "") != issuer:
            raise Refused(
                "atecc.not_compressible",
                "a certificate does not come out of its compressed form as it went in",
                hint="Use layout=der.",
                reason="it is not made as DER wants it",
            )
        regions = (
            Region(RECORD_SLOT, RECORD_OCTETS, stored.validity.ljust(VALIDITY_OCTETS, b"\0")),
            Region(RECORD_SLOT, RECORD_OCTETS + VALIDITY_OCTETS, stored.serial.ljust(SERIAL_OCTETS, b"\0")),
            Region(_SIGNER_KEY_SLOT, 0, _padded(signer.point)),
            Region(_SIGNER_SLOT, 0, signer.octets),
            Region(_CERTIFICATE_SLOT, 0, stored.octets),
        )
        return Plan(regions, (len(device), len(issuer)))

    def read(self, link: ChipLink, record: Record, point: bytes, device_serial: str) -> tuple[bytes, tuple[bytes, ...]]:
        octets, signer_octets = (link.read(slot, 0, COMPRESSED_OCTETS) for slot in (_CERTIFICATE_SLOT, _SIGNER_SLOT))
        if octets[69:] != signer_octets[69:] or octets[69] & 0x0F != _CHAIN_ID or octets[70:] != b"\0\0":
            raise damaged("the compressed certificates in it are not of one template")
        template = self._templates.numbered(octets[69] >> 4)
        if template.signer is None:
            raise damaged("its template has no issuing CA")
        validity = link.read(RECORD_SLOT, RECORD_OCTETS, VALIDITY_OCTETS)
        serial = link.read(RECORD_SLOT, RECORD_OCTETS + VALIDITY_OCTETS, SERIAL_OCTETS)
        padded = link.read(_SIGNER_KEY_SLOT, 0, _PADDED_POINT_OCTETS)
        signer_point = padded[4:36] + padded[40:72]
        device = rebuild(template.device, Compressed(octets, point, validity, serial), device_serial)
        issuer = rebuild(template.signer, Compressed(signer_octets, signer_point, b"", b""), "")
        return device, (issuer,)


class DerLayout:
    """The device certificate, then the issuing CA, in DER: behind the record in slot 8, on in slots 9 to 15."""

    number = DER
    slots = tuple(range(RECORD_SLOT, 16))

    def plan(self, certificates: Certificates, device_serial: str) -> Plan:
        device, issuer = certificates.device_der, certificates.chain_der[0]
        content = device + issuer
        room = sum(SLOT_OCTETS[slot] for slot in self.slots) - RECORD_OCTETS
        if len(content) > room:
            raise Refused(
                "atecc.too_large",
                f"device certificate and issuing CA have {len(content)} octets, the slots {room}",
                hint="Use layout=compressed, or a profile with shorter names and fewer extensions.",
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
        return content[:first], (content[first:],)


def damaged(reason: str) -> DeviceFault:
    """Return the fault of a chip whose certificates cannot be read."""
    return DeviceFault(
        "target.certificate.damaged",
        f"the certificates in the chip cannot be read: {reason}",
        hint="Provision the device again as rework, with a new identity.",
        reason=reason,
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
