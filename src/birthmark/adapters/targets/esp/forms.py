"""What stands in the partitions: key, device certificate and chain, in each of the layouts (docs/targets/esp.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)

from birthmark.adapters.targets.esp.memory import Region
from birthmark.adapters.targets.esp.nvs import NvsItem, decode_nvs, encode_nvs
from birthmark.adapters.targets.esp.nvskeys import XTS_OCTETS, NvsKeys, decode_keys
from birthmark.adapters.targets.esp.securecert import (
    CA_CERTIFICATE,
    DEVICE_CERTIFICATE,
    PRIVATE_KEY,
    Tlv,
    decode_secure_cert,
    encode_secure_cert,
)
from birthmark.errors import DeviceFault, Refused
from birthmark.pki.certread import UNREADABLE

__all__ = ["Held", "NvsForm", "PlainForm", "SecureCertForm", "certificate_entries", "damaged", "read_certificates"]

_NAMESPACE = "esp_secure_cert"
_LARGEST_KEY = 4096
_CANNOT_READ = (*UNREADABLE, UnsupportedAlgorithm, TypeError)

Contents = Mapping[Region, bytes | None]


@dataclass(frozen=True, slots=True)
class Held:
    """An identity as it was found in a device. ``chain``: issuing CA first."""

    device: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: Any


class PlainForm(Protocol):
    """A layout in which the private key stands as it is.

    ``encode`` returns the regions in writing order. ``decode`` returns None of an erased device, and raises
    ``DeviceFault`` unless the regions are exactly what ``encode`` writes.
    """

    @property
    def regions(self) -> tuple[Region, ...]: ...

    def encode(self, held: Held, found: Contents) -> dict[Region, bytes]: ...

    def decode(self, found: Contents) -> Held | None: ...


class SecureCertForm:
    """CA certificates (subtype 0 is the issuing CA), device certificate, private key, as entries of one partition."""

    def __init__(self, region: Region, encoding: Encoding) -> None:
        self.regions = (region,)
        self._encoding = encoding

    def encode(self, held: Held, found: Contents) -> dict[Region, bytes]:
        key = Tlv(PRIVATE_KEY, _ended(_encode_key(held.key, self._encoding), self._encoding))
        return {self.regions[0]: encode_secure_cert((*certificate_entries(held, self._encoding), key))}

    def decode(self, found: Contents) -> Held | None:
        entries = decode_secure_cert(found[self.regions[0]] or b"")
        if not entries:
            return None
        device, chain = read_certificates(entries[:-1], self._encoding)
        held = Held(device, chain, _load_key(entries[-1].data, self._encoding))
        return _exactly(self, held, found)


class NvsForm:
    """PEM strings ``ca_cert``, ``dev_cert`` and ``priv_key`` in the namespace ``esp_secure_cert``.

    ``keys``: the region of the NVS keys; with it every entry is encrypted. ``fixed``: these keys, and no region.
    """

    def __init__(self, region: Region, keys: Region | None, *, fixed: NvsKeys | None = None) -> None:
        self.regions = (region,) if keys is None else (keys, region)
        self._region = region
        self._keys = keys
        self._fixed = fixed

    def encode(self, held: Held, found: Contents) -> dict[Region, bytes]:
        keys = self._keys_in(found)
        if keys is None and self._keys is not None:
            keys = NvsKeys(os.urandom(XTS_OCTETS))
        items = [
            NvsItem("ca_cert", "string", b"".join(one.public_bytes(Encoding.PEM) for one in held.chain)),
            NvsItem("dev_cert", "string", held.device.public_bytes(Encoding.PEM)),
            NvsItem("priv_key", "string", _encode_key(held.key, Encoding.PEM)),
        ]
        data = {self._region: encode_nvs(_NAMESPACE, items, self._region.size, keys)}
        return data if keys is None or self._keys is None else {self._keys: keys.partition(), **data}

    def decode(self, found: Contents) -> Held | None:
        keys = self._keys_in(found)
        if self._keys is not None and keys is None:
            return None
        items = decode_nvs(_NAMESPACE, found[self._region] or b"", keys)
        if not items:
            return None
        values = {item.key: item.value for item in items if isinstance(item.value, bytes)}
        try:
            chain = tuple(x509.load_pem_x509_certificates(values["ca_cert"]))
            held = Held(
                x509.load_pem_x509_certificate(values["dev_cert"]), chain, _load_key(values["priv_key"], Encoding.PEM)
            )
        except (*_CANNOT_READ, KeyError):
            raise damaged() from None
        return _exactly(self, held, found)

    def _keys_in(self, found: Contents) -> NvsKeys | None:
        return self._fixed if self._keys is None else decode_keys(found[self._keys] or b"")


def certificate_entries(held: Held, encoding: Encoding) -> tuple[Tlv, ...]:
    """Return the entries of the certificates: the chain, then the device certificate."""
    return (
        *(
            Tlv(CA_CERTIFICATE, _ended(one.public_bytes(encoding), encoding), place)
            for place, one in enumerate(held.chain)
        ),
        Tlv(DEVICE_CERTIFICATE, _ended(held.device.public_bytes(encoding), encoding)),
    )


def read_certificates(
    entries: tuple[Tlv, ...], encoding: Encoding
) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
    """Return device certificate and chain from such entries; ``DeviceFault("target.partition.damaged")``."""
    try:
        *chain, device = (_load_certificate(entry.data, encoding) for entry in entries)
        held = Held(device, tuple(chain), None)
        if certificate_entries(held, encoding) == entries:
            return held.device, held.chain
    except _CANNOT_READ:
        pass
    raise damaged()


def damaged() -> DeviceFault:
    """Return the fault of a partition that holds other things than it should."""
    return DeviceFault(
        "target.partition.damaged",
        "the partition does not hold exactly the key and the certificates that belong there",
        hint="Provision the device again as rework, with a new identity.",
    )


def _exactly(form: PlainForm, held: Held, found: Contents) -> Held:
    try:
        if form.encode(held, found) == {region: found[region] for region in form.regions}:
            return held
    except Refused:
        pass
    raise damaged()


def _ended(octets: bytes, encoding: Encoding) -> bytes:
    return octets + b"\0" if encoding is Encoding.PEM else octets


def _encode_key(key: Any, encoding: Encoding) -> bytes:
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise Refused(
            "target.key.unsupported",
            "ESP-IDF takes RSA, P-256 and P-384 keys only",
            hint="Use an order with p256, p384, rsa2048 or rsa3072.",
        )
    return bytes(key.private_bytes(encoding, PrivateFormat.TraditionalOpenSSL, NoEncryption()))


def _load_key(octets: bytes, encoding: Encoding) -> Any:
    # The library tests the primes of whatever it loads; a device must not keep it busy with a huge key.
    if len(octets) > _LARGEST_KEY:
        raise damaged()
    try:
        load = load_pem_private_key if encoding is Encoding.PEM else load_der_private_key
        return load(octets.rstrip(b"\0") if encoding is Encoding.PEM else octets, None)
    except _CANNOT_READ:
        raise damaged() from None


def _load_certificate(octets: bytes, encoding: Encoding) -> x509.Certificate:
    if encoding is Encoding.PEM:
        return x509.load_pem_x509_certificate(octets)
    return x509.load_der_x509_certificate(octets)
