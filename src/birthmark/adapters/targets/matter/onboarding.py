"""What a person needs to take a Matter device into service: passcode, discriminator, and what is printed of them.

Matter core specification 1.3: 3.10 (SPAKE2+), 5.1.3 (QR code), 5.1.4 (manual code), 5.1.7 (passcodes).
"""

from __future__ import annotations

import os
from hashlib import pbkdf2_hmac
from secrets import randbelow
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.adapters.targets.esp.locks import P256_ORDER
from birthmark.adapters.targets.matter.product import MatterProduct
from birthmark.errors import DeviceFault

__all__ = [
    "LARGEST_PASSCODE",
    "P256_ORDER",
    "Onboarding",
    "manual_code",
    "new_onboarding",
    "qr_code",
    "read_onboarding",
]

LARGEST_PASSCODE = 99_999_998

_TRIVIAL = frozenset({12_345_678, 87_654_321, *(11_111_111 * digit for digit in range(10))})
_W_OCTETS = 40
_SALT_OCTETS = 32
_ROTATING_OCTETS = 16
_BASE38 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-."
_CHUNKS = {1: 2, 2: 4, 3: 5}


class Onboarding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Secret. One device's numbers; ``salt`` 16 to 32 octets, ``rotating_id`` 16 octets or none."""

    device_serial: str
    passcode: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_PASSCODE)]
    discriminator: Annotated[int, msgspec.Meta(ge=0, le=0xFFF)]
    salt: Annotated[bytes, msgspec.Meta(min_length=16, max_length=32)]
    iterations: Annotated[int, msgspec.Meta(ge=1000, le=100_000)]
    rotating_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)] | None = None
    qr: str | None = None
    manual: str | None = None

    def __repr__(self) -> str:
        return f"Onboarding({self.device_serial!r})"

    def verifier(self) -> bytes:
        """Return w0 ‖ L, 97 octets: what the device checks a passcode with, and cannot be turned back quickly."""
        ws = pbkdf2_hmac("sha256", self.passcode.to_bytes(4, "little"), self.salt, self.iterations, 2 * _W_OCTETS)
        w0, w1 = (int.from_bytes(half, "big") % P256_ORDER for half in (ws[:_W_OCTETS], ws[_W_OCTETS:]))
        point = ec.derive_private_key(w1, ec.SECP256R1()).public_key()
        return w0.to_bytes(32, "big") + point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def document(self) -> bytes:
        """Return the content of the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def new_onboarding(device_serial: str, product: MatterProduct) -> Onboarding:
    """Draw the numbers of a new device."""
    passcode = 0
    while passcode in _TRIVIAL:
        passcode = 1 + randbelow(LARGEST_PASSCODE)
    discriminator = randbelow(0x1000)
    return Onboarding(
        device_serial,
        passcode,
        discriminator,
        os.urandom(_SALT_OCTETS),
        product.iterations,
        os.urandom(_ROTATING_OCTETS) if product.rotating_id else None,
        qr_code(product, discriminator, passcode),
        manual_code(discriminator, passcode),
    )


def read_onboarding(octets: bytes, product: MatterProduct, device_serial: str | None) -> Onboarding:
    """Read such a file; ``DeviceFault("matter.onboarding.unusable")``.

    Also for a trivial passcode, for codes that are not those of passcode and discriminator (a label printed of them
    would be wrong), and for another device. ``device_serial`` None: whatever device it says.
    """
    reason = "it cannot be read"
    try:
        found = msgspec.json.decode(octets, type=Onboarding)
        if found.passcode in _TRIVIAL:
            reason = "its passcode is one that nobody may use"
        elif device_serial not in (None, found.device_serial):
            reason = f"it is that of {found.device_serial[:64]!a}"
        elif found.qr not in (None, qr_code(product, found.discriminator, found.passcode)):
            reason = "its QR code is not that of its passcode and product"
        elif found.manual not in (None, manual_code(found.discriminator, found.passcode)):
            reason = "its manual code is not that of its passcode"
        else:
            return found
    except ValueError:
        pass
    raise DeviceFault(
        "matter.onboarding.unusable",
        f"onboarding.json cannot be used: {reason}",
        hint="Remove it to let new numbers be drawn, unless the label is printed already.",
    )


def qr_code(product: MatterProduct, discriminator: int, passcode: int) -> str:
    """Return the payload of the QR code, ``MT:`` and base 38: 88 bits, the first field in the lowest ones."""
    packed, place = 0, 0
    fields = ((0, 3), (product.vendor_id, 16), (product.product_id, 16), (0, 2), (product.discovery, 8))
    for value, width in (*fields, (discriminator, 12), (passcode, 27), (0, 4)):
        packed |= value << place
        place += width
    octets = packed.to_bytes(place // 8, "little")
    return "MT:" + "".join(_base38(octets[start : start + 3]) for start in range(0, len(octets), 3))


def manual_code(discriminator: int, passcode: int) -> str:
    """Return the eleven digits that can be typed instead; the last one is a check digit (Verhoeff)."""
    short = discriminator >> 8
    digits = f"{short >> 2:01}{(short & 3) << 14 | passcode & 0x3FFF:05}{passcode >> 14:04}"
    return digits + str(_check_digit(digits))


def _base38(octets: bytes) -> str:
    number, text = int.from_bytes(octets, "little"), ""
    for _ in range(_CHUNKS[len(octets)]):
        number, digit = divmod(number, len(_BASE38))
        text += _BASE38[digit]
    return text


def _check_digit(digits: str) -> int:
    """Return the Verhoeff digit, computed in the dihedral group of order 10 itself instead of by its tables."""
    total = 0
    for place, digit in enumerate(reversed(digits), start=1):
        number = int(digit)
        for _ in range(place % 8):
            number = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[number]
        total = _product(total, number)
    return total if total >= 5 else -total % 5


def _product(left: int, right: int) -> int:
    if left < 5:
        return (left + right) % 5 + (0 if right < 5 else 5)
    return (left - right) % 5 + (5 if right < 5 else 0)
