"""The file layouts of the target ``files``: which file holds what, in which encoding.

Writing order is key, chain, device certificate: the file with the device certificate is the commit point.
Everything read back has to be, octet for octet, what these functions write: a cut or padded file is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
    pkcs12,
)

from birthmark.adapters.targets.identity import MAX_CHAIN
from birthmark.errors import DeviceFault, Refused
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.derread import SEQUENCE, expect, read_der, read_members

__all__ = [
    "LAYOUTS",
    "P12_FILE",
    "Layout",
    "P12Profile",
    "decode_p12",
    "encode_p12",
    "first_certificate",
    "read_certificates",
    "read_key",
]

P12_FILE = "device.p12"

P12Profile = Literal["modern", "legacy"]
"""``modern``: PBES2 with AES-256-CBC, HMAC-SHA-256. ``legacy``: PBE with SHA-1 and three-key Triple DES, HMAC-SHA-1."""

_P12_ROUNDS = 20_000
# AlgorithmIdentifiers of the MAC's digest (RFC 5754, section 2.2; RFC 3370, section 2.1).
_MODERN = (pkcs12.PBES.PBESv2SHA256AndAES256CBC, SHA256(), bytes.fromhex("300d06096086480165030402010500"))
_LEGACY = (pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC, SHA1(), bytes.fromhex("300906052b0e03021a0500"))  # noqa: S303
_P12_PROFILES: Mapping[str, tuple[pkcs12.PBES, HashAlgorithm, bytes]] = {"modern": _MODERN, "legacy": _LEGACY}
_ROUNDS_OCTETS = 3
_LARGEST_KEY = 8 * 1024
_UNREADABLE = (*UNREADABLE, UnsupportedAlgorithm)


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout with a key file. ``chain_files`` is empty where the chain stands in the certificate file."""

    encoding: Encoding
    key_file: str
    certificate_file: str
    chain_files: tuple[str, ...]
    load_key: Callable[..., Any]

    @property
    def born_file(self) -> str:
        """The file of a key that has no certificate yet."""
        return f"{self.key_file}.new"

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the files in writing order; of a chain in files of its own the first name alone."""
        return (self.key_file, *self.chain_files[:1], self.certificate_file)

    def encode_key(self, key: Any) -> bytes:
        return bytes(key.private_bytes(self.encoding, PrivateFormat.PKCS8, NoEncryption()))

    def encode_certificates(self, device: x509.Certificate, chain: tuple[x509.Certificate, ...]) -> dict[str, bytes]:
        """Return contents by file name in writing order, the commit point last."""
        if self.chain_files:
            files = {
                name: issuer.public_bytes(self.encoding) for name, issuer in zip(self.chain_files, chain, strict=False)
            }
            return {**files, self.certificate_file: device.public_bytes(self.encoding)}
        return {self.certificate_file: b"".join(one.public_bytes(self.encoding) for one in (device, *chain))}


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "pem": Layout(Encoding.PEM, "device.key", "device.crt", (), load_pem_private_key),
        "der": Layout(
            Encoding.DER,
            "device.key.der",
            "device.crt.der",
            tuple(f"chain{place}.crt.der" for place in range(MAX_CHAIN)),
            load_der_private_key,
        ),
    }
)


def read_key(layout: Layout, name: str, data: bytes) -> Any:
    """Return the private key in a file; ``DeviceFault("target.key.damaged")``."""
    try:
        # The library tests the primes of whatever it loads; a key of a megabyte would keep it busy for days.
        key = layout.load_key(data[:_LARGEST_KEY], password=None)
        if layout.encode_key(key) == data:
            return key
    except _UNREADABLE:
        pass
    raise DeviceFault(
        "target.key.damaged",
        f"{name} does not hold exactly one private key",
        hint="Provision the device again as rework, with a new identity.",
        file=name,
    )


def first_certificate(layout: Layout, data: bytes) -> x509.Certificate | None:
    """Return the first certificate in a file that anyone may have written; None if there is none."""
    try:
        if layout.encoding is Encoding.DER:
            return x509.load_der_x509_certificate(data)
        return x509.load_pem_x509_certificates(data)[0]
    except _UNREADABLE:
        return None


def read_certificates(layout: Layout, files: dict[str, bytes]) -> tuple[x509.Certificate, ...]:
    """Return device certificate and chain from ``files`` in writing order.

    ``DeviceFault("target.certificate.damaged")`` if anything is cut, added or out of place.
    """
    try:
        if layout.chain_files:
            *issuers, device = (x509.load_der_x509_certificate(data) for data in files.values())
            chain = tuple(issuers)
        else:
            device, *rest = x509.load_pem_x509_certificates(files[layout.certificate_file])
            chain = tuple(rest)
        if layout.encode_certificates(device, chain) == files:
            return (device, *chain)
    except _UNREADABLE:
        pass
    raise _damaged(layout.certificate_file)


def encode_p12(
    name: str,
    key: Any,
    device: x509.Certificate,
    chain: tuple[x509.Certificate, ...],
    passphrase: bytes,
    *,
    profile: P12Profile = "modern",
) -> bytes:
    """Return a PKCS#12 file (RFC 7292).

    Salts are random: two calls never return the same octets.
    """
    scheme, mac_hash, _ = _P12_PROFILES[profile]
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_P12_ROUNDS)
        .key_cert_algorithm(scheme)
        .hmac_hash(mac_hash)
        .build(passphrase)
    )
    return pkcs12.serialize_key_and_certificates(name.encode(), key, device, chain, encryption)


def decode_p12(
    data: bytes, passphrase: bytes, *, profile: P12Profile = "modern"
) -> tuple[Any, tuple[x509.Certificate, ...]]:
    """Return the key and (device certificate, chain); ``DeviceFault("target.p12.unreadable")``."""
    try:
        _require_mac(data, _P12_PROFILES[profile][2])
        key, device, chain = pkcs12.load_key_and_certificates(data, passphrase)
    except (*_UNREADABLE, Refused):
        key = device = None
        chain = []
    if key is None or device is None:
        raise DeviceFault(
            "target.p12.unreadable",
            "the PKCS#12 file cannot be opened with the passphrase of this target",
            hint="Check the passphrase; if it is right the file is damaged and the device is reworked.",
        )
    return key, (device, *chain)


def _require_mac(data: bytes, digest: bytes) -> None:
    """Refuse what ``encode_p12`` cannot have written, before a device makes us count to its number of rounds.

    Without a MAC (RFC 7292, section 4) anybody's rounds are taken for decryption. The parser behind this would take
    octets after the end for a reason to try BER.
    """
    parts = read_members(read_der(data))
    mac = read_members(expect(parts[2], SEQUENCE)) if len(parts) == 3 else []
    if len(mac) != 3 or not mac[0].content.startswith(digest) or not 0 < len(mac[2].content) <= _ROUNDS_OCTETS:
        raise ValueError("the MAC is missing or of another kind")


def _damaged(name: str) -> DeviceFault:
    return DeviceFault(
        "target.certificate.damaged",
        f"{name} does not hold exactly the certificates that belong there",
        hint="Provision the device again as rework, with a new identity.",
        file=name,
    )
