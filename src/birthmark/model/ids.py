"""Identifiers with a checked form: what cannot be an identifier never becomes one.

All of them are plain ``str`` or ``bytes`` at run time (hot paths pay nothing); ``parse_*`` is the only
door through which outside text may enter.
"""

from __future__ import annotations

import re
from typing import NewType

from birthmark.errors import Refused

__all__ = [
    "CERT_SERIAL_OCTETS",
    "AttemptId",
    "CertSerial",
    "DeviceSerial",
    "OrderId",
    "SiteId",
    "SpkiHash",
    "StationId",
    "parse_attempt_id",
    "parse_device_serial",
    "parse_order_id",
    "parse_site_id",
    "parse_station_id",
]

DeviceSerial = NewType("DeviceSerial", str)
"""1 to 64 characters (X.520 ub-serial-number), letters, digits and ``. _ : -`` inside."""

CertSerial = NewType("CertSerial", bytes)
"""16 octets, big endian: site prefix (2, first bit 0) | milliseconds since 1970 (6) | random (8)."""

SpkiHash = NewType("SpkiHash", bytes)
"""SHA-256 of the DER SubjectPublicKeyInfo: the identity of a key. 32 octets."""

OrderId = NewType("OrderId", str)
SiteId = NewType("SiteId", str)
StationId = NewType("StationId", str)
AttemptId = NewType("AttemptId", str)
"""Made and stored by the station before it asks: the same id gets the same answer for ever."""

CERT_SERIAL_OCTETS = 16

_DEVICE_SERIAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,62}[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_STATION = re.compile(rf"(?:{_NAME.pattern}/)?{_NAME.pattern}")
_ATTEMPT = re.compile(r"[A-Za-z0-9-]{8,64}")


def parse_device_serial(text: str) -> DeviceSerial:
    """Return ``text`` as a device serial, or refuse it (``device.serial.malformed``)."""
    if _DEVICE_SERIAL.fullmatch(text) is None:
        raise Refused(
            "device.serial.malformed",
            f"{text[:80]!r} is not a device serial",
            hint="Use 1 to 64 letters, digits or . _ : - with a letter or digit at both ends.",
            device_serial=ascii(text[:80]),
            length=len(text),
        )
    return DeviceSerial(text)


def parse_order_id(text: str) -> OrderId:
    """Return ``text`` as the name of an order, or refuse it (``order.name.malformed``)."""
    if _NAME.fullmatch(text) is None:
        raise Refused(
            "order.name.malformed",
            f"{text[:60]!r} cannot name an order",
            hint="Use 1 to 48 lower-case letters, digits and hyphens.",
            order=ascii(text[:60]),
        )
    return OrderId(text)


def parse_site_id(text: str) -> SiteId:
    """Return ``text`` as the name of a site, or refuse it (``site.name.malformed``)."""
    if _NAME.fullmatch(text) is None:
        raise Refused(
            "site.name.malformed",
            f"{text[:60]!r} cannot name a site",
            hint="Use 1 to 48 lower-case letters, digits and hyphens.",
            site=ascii(text[:60]),
        )
    return SiteId(text)


def parse_station_id(text: str) -> StationId:
    """Return ``text`` as the name of a station (at an authority: SITE/STATION), or refuse it.

    ``Refused("station.name.malformed")``.
    """
    if _STATION.fullmatch(text) is None:
        raise Refused(
            "station.name.malformed",
            f"{text[:60]!r} cannot name a station",
            hint="Use 1 to 48 lower-case letters, digits and hyphens.",
            station=ascii(text[:60]),
        )
    return StationId(text)


def parse_attempt_id(text: str) -> AttemptId:
    """Return ``text`` as an attempt id, or refuse it (``attempt.id.malformed``)."""
    if _ATTEMPT.fullmatch(text) is None:
        raise Refused(
            "attempt.id.malformed",
            f"{text[:70]!r} is not an attempt id",
            hint="Use 8 to 64 letters, digits and hyphens, for example a UUID.",
            attempt_id=ascii(text[:70]),
        )
    return AttemptId(text)
