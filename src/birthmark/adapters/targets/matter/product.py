"""What all devices of one Matter product have in common: a TOML file that the target names (docs/targets/matter.md)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography import x509

from birthmark.errors import Misconfigured, Refused

__all__ = ["MatterProduct", "load_product", "require_ids"]

_LARGEST_FILE = 64 * 1024
_LARGEST_CD = 541
_VENDOR_OID = x509.ObjectIdentifier("1.3.6.1.4.1.37244.2.1")
_PRODUCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.37244.2.2")

_ID = re.compile(r"[0-9A-F]{4}")

_Id = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_Url = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
_Date = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
_Iterations = Annotated[int, msgspec.Meta(ge=1000, le=100_000)]


class MatterProduct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts of the product; lengths are those of the Basic Information cluster (Matter core specification, 11.1).

    ``cd`` names the certification declaration (DER), beside the product file. ``discovery``: bits of the onboarding
    payload (2 BLE, 4 on network, 8 Wi-Fi PAF, 16 NFC, 32 Thread). ``iterations`` of PBKDF2.
    """

    vendor_id: _Id
    product_id: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    vendor_name: _Name
    product_name: _Name
    hw_ver: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    hw_ver_str: _Text
    date: _Date | None = None
    part_number: _Name | None = None
    product_label: _Text | None = None
    product_url: _Url | None = None
    cd: str | None = None
    discovery: Annotated[int, msgspec.Meta(ge=2, le=0x3E)] = 2
    iterations: _Iterations = 10_000
    rotating_id: bool = True


def load_product(path: Path) -> tuple[MatterProduct, bytes | None]:
    """Read a product file and its declaration; ``Misconfigured("matter.product.unreadable")``."""
    try:
        product = msgspec.toml.decode(_bounded(path, _LARGEST_FILE), type=MatterProduct)
        return product, None if product.cd is None else _bounded(path.parent / product.cd, _LARGEST_CD)
    except (OSError, ValueError) as problem:
        raise Misconfigured(
            "matter.product.unreadable",
            f"the product file {path} cannot be used: {problem}",
            hint="See docs/targets/matter.md for its keys.",
            path=str(path),
        ) from None


def require_ids(product: MatterProduct, device: x509.Certificate, issuer: x509.Certificate) -> None:
    """Return if DAC and PAI name this vendor and product; ``Refused("matter.id.differs")``.

    The DAC names both; the PAI the vendor, and the product if it is limited to one (Matter core specification, 6.2.2).
    """
    wanted = (f"{product.vendor_id:04X}", f"{product.product_id:04X}")
    found, above = _ids(device), _ids(issuer)
    if found == wanted and above[0] in (None, wanted[0]) and above[1] in (None, wanted[1]):
        return
    raise Refused(
        "matter.id.differs",
        f"the certificate names vendor {found[0]} and product {found[1]}, its issuer {above[0]} and {above[1]}, the"
        f" product file {wanted[0]} and {wanted[1]}",
        hint="Use the order of this product, or the product file of this order.",
        vendor_id=wanted[0],
        product_id=wanted[1],
    )


def _ids(certificate: x509.Certificate) -> tuple[str | None, str | None]:
    """Return vendor and product id from the subject: attributes of their own, or words in the common name."""
    found: list[str | None] = []
    for oid, word in ((_VENDOR_OID, "Mvid:"), (_PRODUCT_OID, "Mpid:")):
        values = [str(one.value) for one in certificate.subject.get_attributes_for_oid(oid)]
        if not values:
            names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            values = [part[:4] for name in names for part in str(name.value).split(word)[1:]]
        found.append(values[0] if len(values) == 1 and _ID.fullmatch(values[0]) else None)
    return found[0], found[1]


def _bounded(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path.name} has more than {most} octets")
    return data
