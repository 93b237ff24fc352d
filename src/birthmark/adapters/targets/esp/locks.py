"""The ways in which fuses lock a private key to one chip: the RSA, the ECDSA and the HMAC peripheral."""

from __future__ import annotations

import os
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.esp.ds import ds_context, open_rsa_key, seal_rsa_key
from birthmark.adapters.targets.esp.forms import Held, NvsForm, certificate_entries, damaged, read_certificates
from birthmark.adapters.targets.esp.memory import Region
from birthmark.adapters.targets.esp.nvskeys import hmac_keys
from birthmark.adapters.targets.esp.securecert import (
    DS_CONTEXT,
    DS_DATA,
    KEY_IN_FUSES,
    PRIVATE_KEY,
    SECURITY_CONFIGURATION,
    Tlv,
    decode_secure_cert,
    encode_secure_cert,
)
from birthmark.errors import DeviceFault, Refused

__all__ = ["ECDSA_CHIPS", "P256_ORDER", "EcdsaLock", "Lock", "NvsLock", "RsaLock"]

ECDSA_CHIPS = ("esp32h2",)
"""The chips with an ECDSA peripheral whose fuses are known here."""

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order of the group of P-256 (SP 800-186)."""

_FUSE_KEY_OCTETS = 32
_IV_OCTETS = 16
_FEWEST_ENTRIES = 3
_FIRST_KEY_BLOCK = 4
_CONFIGURATION_OCTETS = 40


class Lock(Protocol):
    """``purpose``: what the key block is burnt for, a name of ``efuse.PURPOSES``.

    ``fuse_key`` returns what is burnt for ``key``; ``burnt`` is what the block holds already, None of a blank one, and
    a lock that can go on with it returns it. ``seal`` returns the partition. ``certificate`` reads the device
    certificate in it; ``open`` does besides what the peripheral does before it signs. Both raise ``DeviceFault``.
    """

    purpose: str

    def fuse_key(self, key: Any, burnt: bytes | None) -> bytes: ...

    def seal(self, held: Held, fuse_key: bytes) -> bytes: ...

    def certificate(self, partition: bytes, fuse_key: bytes) -> x509.Certificate: ...

    def open(self, partition: bytes, fuse_key: bytes) -> Held: ...


class RsaLock:
    """The RSA key is in the partition, encrypted under a random key in the fuses."""

    purpose = "HMAC_DOWN_DIGITAL_SIGNATURE"

    def __init__(self, chip: str, block: int, encoding: Encoding) -> None:
        self._chip = chip
        self._block = block
        self._encoding = encoding

    def fuse_key(self, key: Any, burnt: bytes | None) -> bytes:
        return burnt or os.urandom(_FUSE_KEY_OCTETS)

    def seal(self, held: Held, fuse_key: bytes) -> bytes:
        data = seal_rsa_key(held.key, fuse_key, os.urandom(_IV_OCTETS), self._chip)
        context = Tlv(DS_CONTEXT, ds_context(self._block, held.key.key_size))
        return encode_secure_cert((Tlv(DS_DATA, data), context, *certificate_entries(held, self._encoding)))

    def certificate(self, partition: bytes, fuse_key: bytes) -> x509.Certificate:
        return self._read(partition)[0]

    def open(self, partition: bytes, fuse_key: bytes) -> Held:
        device, chain, data = self._read(partition)
        return Held(device, chain, open_rsa_key(data, fuse_key, device.public_key(), self._chip))

    def _read(self, partition: bytes) -> tuple[x509.Certificate, tuple[x509.Certificate, ...], bytes]:
        entries = _entries(partition)
        device, chain = read_certificates(entries[2:], self._encoding)
        bits = getattr(device.public_key(), "key_size", 0)
        if entries[1] != Tlv(DS_CONTEXT, ds_context(self._block, bits)) or entries[0].kind != DS_DATA:
            raise damaged()
        return device, chain, entries[0].data


class EcdsaLock:
    """The P-256 key itself is in the fuses, and nowhere else: the partition only says in which block."""

    purpose = "ECDSA_KEY"

    def __init__(self, block: int, encoding: Encoding) -> None:
        self._encoding = encoding
        configuration = bytes((block + _FIRST_KEY_BLOCK,)).ljust(_CONFIGURATION_OCTETS, b"\0")
        self._configuration = Tlv(SECURITY_CONFIGURATION, configuration)
        # The firmware looks at the flags alone, and its reader of entries wants some data.
        self._marker = Tlv(PRIVATE_KEY, bytes(16), flags=KEY_IN_FUSES)

    def fuse_key(self, key: Any, burnt: bytes | None) -> bytes:
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise Refused(
                "target.key.unsupported",
                "the ECDSA peripheral takes P-256 keys only",
                hint="Use an order with p256, key=ds for RSA keys, or key=plain.",
            )
        return key.private_numbers().private_value.to_bytes(_FUSE_KEY_OCTETS, "big")

    def seal(self, held: Held, fuse_key: bytes) -> bytes:
        return encode_secure_cert((self._configuration, *certificate_entries(held, self._encoding), self._marker))

    def certificate(self, partition: bytes, fuse_key: bytes) -> x509.Certificate:
        return self._read(partition)[0]

    def open(self, partition: bytes, fuse_key: bytes) -> Held:
        device, chain = self._read(partition)
        number = int.from_bytes(fuse_key, "big")
        if 0 < number < P256_ORDER:
            key = ec.derive_private_key(number, ec.SECP256R1())
            if key.public_key() == device.public_key():
                return Held(device, chain, key)
        raise DeviceFault(
            "target.ds.unreadable",
            "the key in the fuses is not that of the certificate",
            hint="A locked chip is scrapped.",
        )

    def _read(self, partition: bytes) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
        entries = _entries(partition)
        if entries[0] != self._configuration or entries[-1] != self._marker:
            raise damaged()
        return read_certificates(entries[1:-1], self._encoding)


class NvsLock:
    """The NVS keys are made of a random key in the fuses, and none is in flash (ESP-IDF, "NVS Encryption", HMAC)."""

    purpose = "HMAC_UP"

    def __init__(self, region: Region) -> None:
        self._region = region

    def fuse_key(self, key: Any, burnt: bytes | None) -> bytes:
        return burnt or os.urandom(_FUSE_KEY_OCTETS)

    def seal(self, held: Held, fuse_key: bytes) -> bytes:
        return NvsForm(self._region, None, fixed=hmac_keys(fuse_key)).encode(held, {})[self._region]

    def certificate(self, partition: bytes, fuse_key: bytes) -> x509.Certificate:
        return self.open(partition, fuse_key).device

    def open(self, partition: bytes, fuse_key: bytes) -> Held:
        held = NvsForm(self._region, None, fixed=hmac_keys(fuse_key)).decode({self._region: partition})
        if held is None:
            raise damaged()
        return held


def _entries(partition: bytes) -> tuple[Tlv, ...]:
    entries = decode_secure_cert(partition)
    if len(entries) < _FEWEST_ENTRIES:
        raise damaged()
    return entries
