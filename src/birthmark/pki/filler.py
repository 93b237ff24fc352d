"""The hot path: joins prepared segments and the values of one certificate into to-be-signed octets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter

from birthmark.errors import Refused, Tampered
from birthmark.pki.der import Hole, Part, length_octets, settle, size, tlv

__all__ = ["Filler", "HoleValues", "assemble", "serial_length_refused", "template_mismatch"]

_HOLES = tuple(Hole)
_BITS = tuple(b"\x03" + length_octets(length + 1) + b"\0" for length in range(127))

Validate = Callable[[bytes, bytes, bytes, bytes, bool], None]


@dataclass(frozen=True, slots=True)
class HoleValues:
    """What was filled in: raw octets each, empty for a hole that the template does not have."""

    cert_serial: bytes
    device_serial: bytes
    spki: bytes
    key_id: bytes


class Filler:
    """A template for one length of device serial. ``fill`` trusts its caller; ``checked_fill`` trusts nobody."""

    __slots__ = ("_literals", "_pick", "_plan", "_segments", "_validate", "device_serial_length", "tbs_length")

    def __init__(self, parts: tuple[Part, ...], lengths: Mapping[Hole, int], validate: Validate) -> None:
        settled = settle(parts, lengths)
        self._validate = validate
        self.device_serial_length = lengths[Hole.DEVICE_SERIAL]
        self.tbs_length = size(settled, lengths)
        self._segments = tuple(part for part in settled if isinstance(part, bytes))
        segment = iter(range(len(_HOLES), len(_HOLES) + len(self._segments)))
        self._pick: Callable[[tuple[bytes, ...]], tuple[bytes, ...]] = itemgetter(
            *(_HOLES.index(part) if isinstance(part, Hole) else next(segment) for part in settled)
        )
        self._plan: list[tuple[Hole, int, int]] = []
        self._literals: list[tuple[bytes, int]] = []
        at = 0
        for part in settled:
            octets = size((part,), lengths)
            if isinstance(part, Hole):
                self._plan.append((part, at, at + octets))
            elif isinstance(part, bytes):
                self._literals.append((part, at))
            at += octets

    def fill(self, cert_serial: bytes, device_serial: bytes, spki: bytes, key_id: bytes) -> bytes:
        """Return the TBS (DER). The values are what ``Template.validate_values`` accepts: nothing is checked here."""
        return b"".join(self._pick((cert_serial, device_serial, spki, key_id, *self._segments)))

    def checked_fill(
        self, cert_serial: bytes, device_serial: bytes, spki: bytes, key_id: bytes, *, own_key: bool = False
    ) -> bytes:
        """Return the TBS (DER) of checked values; ``Refused`` as in ``Template.validate_values``."""
        self._validate(cert_serial, device_serial, spki, key_id, own_key)
        if len(device_serial) != self.device_serial_length:
            raise serial_length_refused(len(device_serial), f"this filler is for {self.device_serial_length}")
        return self.fill(cert_serial, device_serial, spki, key_id)

    def covers(self, tbs: bytes) -> bool:
        """Say whether ``tbs`` is this template with something in its holes."""
        if len(tbs) != self.tbs_length:
            return False
        starts = tbs.startswith
        for literal, at in self._literals:  # noqa: SIM110  a generator costs half a microsecond more
            if not starts(literal, at):
                return False
        return True

    def read(self, tbs: bytes) -> HoleValues:
        """Return what is in the holes; ``Tampered("template.mismatch")`` if ``tbs`` is not of this template."""
        if not self.covers(tbs):
            raise template_mismatch("octets outside its holes differ")
        values: dict[Hole, bytes] = {}
        for hole, start, end in self._plan:
            if values.setdefault(hole, tbs[start:end]) != tbs[start:end]:
                raise template_mismatch(f"two different values stand for {hole.value}")
        return HoleValues(*(values.get(hole, b"") for hole in _HOLES))


def assemble(tbs: bytes, signature_algorithm: bytes, signature: bytes) -> bytes:
    """Return the certificate (DER): SEQUENCE of TBS, AlgorithmIdentifier and signature (RFC 5280, 4.1)."""
    octets = len(signature)
    bits = _BITS[octets] if octets < 127 else b"\x03" + length_octets(octets + 1) + b"\0"
    length = len(tbs) + len(signature_algorithm) + len(bits) + octets
    if 256 <= length <= 65535:
        return b"".join((b"0\x82", length.to_bytes(2, "big"), tbs, signature_algorithm, bits, signature))
    return tlv(0x30, b"".join((tbs, signature_algorithm, bits, signature)))


def serial_length_refused(length: int, reason: str) -> Refused:
    """Return the refusal of a device serial that does not fit."""
    return Refused(
        "device.serial.length",
        f"a device serial of {length} octets does not fit: {reason}",
        hint="Use a device serial that fits the profile's names, or shorten what stands around it.",
        octets=length,
    )


def template_mismatch(reason: str) -> Tampered:
    """Return the finding that to-be-signed octets are not of a template."""
    return Tampered(
        "template.mismatch",
        f"this is not a filling of the template: {reason}",
        hint="Stop, keep the certificate, and compare it with the template that its log entry names.",
        reason=reason,
    )
