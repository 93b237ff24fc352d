"""The label on a unit, format ``BM1`` (docs/formats/label.md): which device it is, and which certificate is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from birthmark.errors import Refused
from birthmark.model.ids import parse_device_serial

__all__ = ["Label", "label_of", "label_zpl", "parse_label"]

_DIGITS = 16
_FORM = re.compile(rf"BM1:([0-9A-F]{{{_DIGITS}}}):(.{{1,64}})")
_DOTS_A_MM = 8


@dataclass(frozen=True, slots=True)
class Label:
    """What a label says. ``fingerprint``: the first 8 octets of the certificate's SHA-256, hex in capitals."""

    device_serial: str
    fingerprint: str

    @property
    def text(self) -> str:
        """What the code on the label holds."""
        return f"BM1:{self.fingerprint}:{self.device_serial}"

    def fits(self, certificate: bytes) -> bool:
        """Say whether the label was made for this certificate (DER)."""
        return self.fingerprint == _fingerprint(certificate)


def label_of(device_serial: str, certificate: bytes) -> Label:
    """Return the label of a device and its certificate (DER)."""
    return Label(parse_device_serial(device_serial), _fingerprint(certificate))


def parse_label(text: str) -> Label:
    """Return what was scanned as a label; ``Refused("label.malformed")`` if it is none."""
    found = _FORM.fullmatch(text.strip("\r\n "))
    if found is None:
        raise Refused(
            "label.malformed",
            f"what was scanned is no label: {text[:80]!a}",
            hint="Scan the code with BM1 on the label, not another one on the unit.",
            label=ascii(text[:80]),
        )
    return Label(parse_device_serial(found[2]), found[1])


def label_zpl(label: Label, *, width_mm: int = 50, height_mm: int = 20) -> str:
    """Return ZPL II for a printer with 8 dots a millimetre: a DataMatrix (ECC 200) and the serial beside it.

    A device serial holds none of ZPL's control characters (``^``, ``~``), so nothing is to be escaped.
    """
    width, height = width_mm * _DOTS_A_MM, height_mm * _DOTS_A_MM
    lines = (
        "^XA",
        f"^PW{width}",
        f"^LL{height}",
        f"^FO16,16^BXN,5,200^FD{label.text}^FS",
        f"^FO176,24^A0N,28,24^FD{label.device_serial}^FS",
        f"^FO176,64^A0N,22,20^FD{label.fingerprint}^FS",
        "^XZ",
    )
    return "\n".join(lines) + "\n"


def _fingerprint(certificate: bytes) -> str:
    return sha256(certificate).hexdigest()[:_DIGITS].upper()
