"""What the RSA digital signature peripheral reads: a private key encrypted under a key that only eFuses hold.

Source: ESP32-C3 and ESP32-S3 technical reference manuals, chapter "Digital Signature". The AES key is
HMAC-SHA-256(fuse key, 32 octets 0xFF); AES-256-CBC over Y ‖ M ‖ Rb ‖ MD ‖ M' ‖ L ‖ 8 octets 0x08, all little-endian.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import digest
from struct import Struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from birthmark.errors import DeviceFault, Refused

__all__ = ["DS_BITS", "ds_context", "open_rsa_key", "seal_rsa_key"]

DS_BITS = {"esp32c3": 3072, "esp32c6": 3072, "esp32h2": 3072, "esp32s3": 4096}
"""Chip → largest RSA modulus of its peripheral, in bits; every operand has that size."""

_SMALLEST_BITS = 2048
_TAIL = Struct("<II")
_CONTEXT = Struct("<IBBH")
_LENGTH = Struct("<i")
_PADDING = b"\x08" * 8
_IV_OCTETS = 16


def seal_rsa_key(key: Any, fuse_key: bytes, iv: bytes, chip: str) -> bytes:
    """Return the DS data of ``key``: length word, ``iv`` (16 octets, never used before) and ciphertext.

    ``Refused("target.key.unsupported")`` if it is no RSA key that the chip can take.
    """
    octets = DS_BITS[chip] // 8
    if not isinstance(key, rsa.RSAPrivateKey) or not _SMALLEST_BITS <= key.key_size <= DS_BITS[chip]:
        raise Refused(
            "target.key.unsupported",
            f"the signature peripheral of {chip} takes RSA keys of {_SMALLEST_BITS} to {DS_BITS[chip]} bits only",
            hint="Use an order with rsa2048 or rsa3072, or key=plain.",
            chip=chip,
        )
    numbers = key.private_numbers()
    modulus = numbers.public_numbers.n
    operands = b"".join(
        number.to_bytes(octets, "little") for number in (numbers.d, modulus, (1 << 2 * key.key_size) % modulus)
    )
    tail = _TAIL.pack(-pow(modulus, -1, 1 << 32) & 0xFFFFFFFF, key.key_size // 32 - 1)
    plain = operands + sha256(operands + tail + iv).digest() + tail + _PADDING
    encryptor = Cipher(algorithms.AES(_aes_key(fuse_key)), modes.CBC(iv)).encryptor()
    return _LENGTH.pack(key.key_size // 32 - 1) + iv + encryptor.update(plain) + encryptor.finalize()


def open_rsa_key(data: bytes, fuse_key: bytes, public_key: Any, chip: str) -> rsa.RSAPrivateKey:
    """Do what the peripheral does before it signs: decrypt, check the digest, and take the key of ``public_key``.

    ``DeviceFault("target.ds.unreadable")``.
    """
    octets = DS_BITS[chip] // 8
    start = _LENGTH.size + _IV_OCTETS
    try:
        iv, sealed = data[_LENGTH.size : start], data[start:]
        decryptor = Cipher(algorithms.AES(_aes_key(fuse_key)), modes.CBC(iv)).decryptor()
        plain = decryptor.update(sealed) + decryptor.finalize()
        operands, md, tail = plain[: 3 * octets], plain[3 * octets : 3 * octets + 32], plain[3 * octets + 32 :][:8]
        if md == sha256(operands + tail + iv).digest() and isinstance(public_key, rsa.RSAPublicKey):
            key = _key_of(int.from_bytes(operands[:octets], "little"), public_key)
            if seal_rsa_key(key, fuse_key, iv, chip) == data:
                return key
    except (ValueError, Refused):
        pass
    raise DeviceFault(
        "target.ds.unreadable",
        "the encrypted key does not open with the key in the fuses, or is not that of the certificate",
        hint="Provision the device again as rework, with a new identity; a locked chip is scrapped.",
    )


def ds_context(block: int, bits: int) -> bytes:
    """Return the DS context entry: which fuse key block, which RSA size."""
    return _CONTEXT.pack(0, block, 0, bits)


def _key_of(exponent: int, public_key: rsa.RSAPublicKey) -> rsa.RSAPrivateKey:
    public = public_key.public_numbers()
    if public_key.key_size > max(DS_BITS.values()):
        raise ValueError("size of the key")
    if not 1 < exponent < public.n or pow(pow(2, public.e, public.n), exponent, public.n) != 2:
        raise ValueError("exponent of another key")
    p, q = rsa.rsa_recover_prime_factors(public.n, public.e, exponent)
    return rsa.RSAPrivateNumbers(
        p, q, exponent, rsa.rsa_crt_dmp1(exponent, p), rsa.rsa_crt_dmq1(exponent, q), rsa.rsa_crt_iqmp(p, q), public
    ).private_key()


def _aes_key(fuse_key: bytes) -> bytes:
    return digest(fuse_key, b"\xff" * 32, "sha256")
