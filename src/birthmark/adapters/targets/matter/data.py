"""Factory data of one Matter device, and its two forms: an NVS namespace for ESP, a CBOR map for nRF Connect."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from birthmark.adapters.targets.esp.nvs import NvsItem, decode_nvs, encode_nvs
from birthmark.adapters.targets.esp.securecert import (
    CA_CERTIFICATE,
    DEVICE_CERTIFICATE,
    PRIVATE_KEY,
    Tlv,
    decode_secure_cert,
    encode_secure_cert,
)
from birthmark.adapters.targets.matter.cbormap import decode_map, encode_map
from birthmark.adapters.targets.matter.intelhex import decode_hex, encode_hex
from birthmark.adapters.targets.matter.onboarding import Onboarding
from birthmark.adapters.targets.matter.product import MatterProduct
from birthmark.errors import DeviceFault

__all__ = [
    "FactoryData",
    "Shown",
    "damaged_data",
    "decode_esp",
    "decode_nordic",
    "decode_secure_dac",
    "encode_esp",
    "encode_nordic",
    "encode_secure_dac",
]

_NAMESPACE = "chip-factory"
_NORDIC_VERSION = 1


@dataclass(frozen=True, slots=True)
class FactoryData:
    """``dac_key``: 32 octets, big-endian, secret. ``dac_public``: 65 octets. Certificates in DER."""

    product: MatterProduct
    declaration: bytes | None
    onboarding: Onboarding
    dac: bytes
    dac_key: bytes = field(repr=False)
    dac_public: bytes
    pai: bytes


@dataclass(frozen=True, slots=True)
class Shown:
    """What a device shows of itself: DAC and PAI (DER), the DAC key, and the SPAKE2+ ``verifier`` (97 octets)."""

    dac: bytes
    dac_key: bytes = field(repr=False)
    pai: bytes
    verifier: bytes


def encode_esp(data: FactoryData, size: int, *, with_dac: bool = True) -> bytes:
    """Return the NVS partition, in the order in which ``esp-matter-mfg-tool`` writes it.

    ``with_dac`` False: DAC, key and PAI stand in a partition of their own.
    """
    product, onboarding = data.product, data.onboarding
    rows: list[tuple[str, int | str | None]] = [
        ("discriminator", onboarding.discriminator),
        ("iteration-count", onboarding.iterations),
        ("salt", b64encode(onboarding.salt).decode()),
        ("vendor-id", product.vendor_id),
        ("vendor-name", product.vendor_name),
        ("product-id", product.product_id),
        ("product-name", product.product_name),
        ("hardware-ver", product.hw_ver),
        ("hw-ver-str", product.hw_ver_str),
        ("mfg-date", product.date),
    ]
    items = [_item(key, value) for key, value in rows if value is not None]
    if onboarding.rotating_id is not None:
        items.append(NvsItem("rd-id-uid", "blob", onboarding.rotating_id))
    if product.part_number is not None:
        items.append(_item("part-number", product.part_number))
    items.append(_item("serial-num", onboarding.device_serial))
    if with_dac:
        items += [
            NvsItem("dac-cert", "blob", data.dac),
            NvsItem("dac-key", "blob", data.dac_key),
            NvsItem("dac-pub-key", "blob", data.dac_public),
            NvsItem("pai-cert", "blob", data.pai),
        ]
    items.append(_item("verifier", b64encode(onboarding.verifier()).decode()))
    if data.declaration is not None:
        items.append(NvsItem("cert-dclrn", "blob", data.declaration))
    last = (("product-label", product.product_label), ("product-url", product.product_url))
    items += [_item(key, value) for key, value in last if value is not None]
    return encode_nvs(_NAMESPACE, items, size)


def decode_esp(partition: bytes) -> Shown | None:
    """Return what a partition shows, None if it is erased; ``DeviceFault`` if it is damaged."""
    values = {item.key: item.value for item in decode_nvs(_NAMESPACE, partition)}
    return _shown(values, ("dac-cert", "dac-key", "pai-cert", "verifier"), unpack=_unpacked_base64)


def encode_secure_dac(data: FactoryData) -> bytes:
    """Return the ``esp_secure_cert`` partition with DAC, PAI and key (SEC 1), all in DER."""
    key = ec.derive_private_key(int.from_bytes(data.dac_key, "big"), ec.SECP256R1())
    sec1 = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return encode_secure_cert(
        (Tlv(DEVICE_CERTIFICATE, data.dac), Tlv(CA_CERTIFICATE, data.pai), Tlv(PRIVATE_KEY, sec1))
    )


def decode_secure_dac(partition: bytes, factory: bytes) -> Shown | None:
    """Return what that partition and the NVS partition beside it show; None if the first is erased."""
    entries = decode_secure_cert(partition)
    if not entries:
        return None
    values = {item.key: item.value for item in decode_nvs(_NAMESPACE, factory)}
    try:
        dac, pai, sec1 = (entry.data for entry in entries)
        key = load_der_private_key(sec1, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise ValueError("kind of the key")
        private = key.private_numbers().private_value.to_bytes(32, "big")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise damaged_data() from None
    shown = {"dac": dac, "key": private, "pai": pai, "verifier": values.get("verifier", b"")}
    return _shown(shown, ("dac", "key", "pai", "verifier"), unpack=_unpacked_base64)


def encode_nordic(data: FactoryData, offset: int, *, intel_hex: bool) -> bytes:
    """Return the factory data of nRF Connect: a CBOR map and one zero octet, as Intel HEX at ``offset`` or as it is."""
    product, onboarding = data.product, data.onboarding
    rows: dict[str, int | str | bytes | None] = {
        "version": _NORDIC_VERSION,
        "sn": onboarding.device_serial,
        "vendor_id": product.vendor_id,
        "product_id": product.product_id,
        "vendor_name": product.vendor_name,
        "product_name": product.product_name,
        "product_label": product.product_label,
        "product_url": product.product_url,
        "part_number": product.part_number,
        "date": product.date,
        "hw_ver": product.hw_ver,
        "hw_ver_str": product.hw_ver_str,
        "dac_cert": data.dac,
        "dac_key": data.dac_key,
        "pai_cert": data.pai,
        "spake2_it": onboarding.iterations,
        "spake2_salt": onboarding.salt,
        "spake2_verifier": onboarding.verifier(),
        "discriminator": onboarding.discriminator,
        "rd_uid": onboarding.rotating_id,
    }
    octets = encode_map({key: value for key, value in rows.items() if value is not None}) + b"\0"
    return encode_hex(octets, offset) if intel_hex else octets


def decode_nordic(octets: bytes, offset: int, *, intel_hex: bool) -> Shown | None:
    """As ``decode_esp``, from what ``encode_nordic`` returns."""
    if not octets:
        return None
    try:
        plain = decode_hex(octets, offset) if intel_hex else octets
        values = decode_map(plain[:-1])
        if plain[-1:] != b"\0":
            raise ValueError("end of the map")
    except ValueError:
        raise damaged_data() from None
    return _shown(values, ("dac_cert", "dac_key", "pai_cert", "spake2_verifier"), unpack=bytes)


def damaged_data() -> DeviceFault:
    """Return the fault of factory data that is not what was written."""
    return DeviceFault(
        "target.partition.damaged",
        "the factory data does not hold exactly what was written into it",
        hint="Provision the device again as rework, with a new identity.",
    )


def _item(key: str, value: int | str) -> NvsItem:
    if isinstance(value, int):
        return NvsItem(key, "u32", value)
    return NvsItem(key, "string", value.encode())


def _shown(
    values: Mapping[str, int | bytes], names: tuple[str, ...], *, unpack: Callable[[bytes], bytes]
) -> Shown | None:
    if not values:
        return None
    octets = [one for one in map(values.get, names) if isinstance(one, bytes)]
    try:
        dac, key, pai, verifier = octets
        return Shown(dac, key, pai, unpack(verifier))
    except ValueError:
        raise damaged_data() from None


def _unpacked_base64(text: bytes) -> bytes:
    return b64decode(text, validate=True)
