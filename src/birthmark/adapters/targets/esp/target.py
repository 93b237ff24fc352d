"""The target ``esp``: an identity in the flash image of an ESP chip (docs/targets/esp.md)."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.devicename import device_name
from birthmark.adapters.targets.directory import Directory
from birthmark.adapters.targets.esp.ds import DS_BITS
from birthmark.adapters.targets.esp.efuse import FUSE_CHIPS, KEY_BLOCKS
from birthmark.adapters.targets.esp.forms import NvsForm, SecureCertForm
from birthmark.adapters.targets.esp.fusefile import FuseFile
from birthmark.adapters.targets.esp.identities import IdentityPlace, LockedIdentity, PlainIdentity
from birthmark.adapters.targets.esp.locks import ECDSA_CHIPS, EcdsaLock, Lock, NvsLock, RsaLock
from birthmark.adapters.targets.esp.memory import LARGEST_FLASH, DeviceMemory, Region
from birthmark.adapters.targets.esp.nvs import NVS_MARKS, PAGE_OCTETS
from birthmark.adapters.targets.esp.nvskeys import KEYS_OCTETS
from birthmark.adapters.targets.esp.securecert import PARTITION_OCTETS, SECURE_CERT_MARKS
from birthmark.adapters.targets.identity import CHAIN_LENGTHS, certificates_of, key_not_made, require_key
from birthmark.adapters.targets.proof import sign_proof
from birthmark.adapters.targets.standins import named_directory, stand_in_uri
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice, decoded, parse_target_uri
from birthmark.errors import DeviceFault
from birthmark.ports import Credential, Evidence, Fence, Probe, Rehearsal, SecretsHandler

__all__ = ["EspTarget", "file_option", "flash_offset"]

_OPTIONS = (
    "layout",
    "encoding",
    "chain",
    "flash",
    "offset",
    "size",
    "keys-offset",
    "key",
    "chip",
    "efuse",
    "efuse-block",
    "read-protect",
    "identity",
)
_OF_LOCKS = ("chip", "efuse-block", "read-protect")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,9}")
_ENCODINGS = {"pem": Encoding.PEM, "der": Encoding.DER}
_ERASED_OCTETS = 4 << 20
"""The flash of a stand-in: four mebibytes, the smallest that modules come with."""
_SECURE_CERT_OFFSET, _NVS_SIZE, _SMALLEST_NVS, _LARGEST_NVS = 0xD000, 0x6000, 0x3000, 0x100000


class EspTarget:
    """Implements ``ports.Target`` on ``esp:DIR?layout=secure-cert|nvs|nvs-encrypted&flash=FILE&offset=0xD000``.

    ``key=ds|ecdsa|hmac&efuse=FILE`` locks the key to the chip; the fuses are virtual ones. The directory has to exist.
    A power cut during ``install`` leaves the old identity or the new one; of a locked key, none or the new one.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="esp", options=_OPTIONS)
        self._name = uri
        self._directory = Directory(base / decoded(uri, parsed.path), largest=LARGEST_FLASH)
        self._chain = choice(parsed, "chain", tuple(CHAIN_LENGTHS))
        efuse = file_option(parsed, "efuse")
        self._fuses = None if efuse is None else FuseFile(self._directory, efuse)
        self._by_mac = choice(parsed, "identity", ("name", "mac")) == "mac"
        if self._by_mac and self._fuses is None:
            raise bad_option(parsed, "identity", "The MAC address is read from the fuses: add efuse=FILE.")
        self._place = _place(parsed, self._directory, self._fuses)

    @classmethod
    def rehearsal(cls, uri: str, *, device_serial: str, directory: str) -> Rehearsal:
        """``Rehearses``: a directory with an erased flash image and fuses as they leave the factory."""
        parsed = parse_target_uri(uri, scheme="esp", options=_OPTIONS)
        made = named_directory(directory, device_serial)
        flash, efuse, locked = parsed.options.get("flash"), parsed.options.get("efuse"), parsed.options.get("key")
        if flash is not None:
            (made / flash).write_bytes(b"\xff" * _ERASED_OCTETS)
        burnt = f"burn the key of key={locked} into the fuses {efuse} of {device_serial}"
        return Rehearsal(
            # A chip from the factory has a MAC address; these fuses are blank.
            target=stand_in_uri(parsed, str(made), {"identity": None}),
            writes=(f"write the identity into {flash or 'a partition'} in {decoded(uri, parsed.path)}",),
            irreversible=() if locked is None else (burnt,),
        )

    @property
    def place(self) -> str:
        """The directory that stands for the device."""
        return self._directory.place

    def probe(self) -> Probe:
        """Return ``device-id``, the name of the directory or the MAC address in the fuses as the identity."""
        self._directory.check()
        device = self._place.certificate()
        certificate = None if device is None else device.public_bytes(Encoding.DER)
        return Probe(self._identity(), certificate, makes_key=False, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        raise key_not_made(self._name)

    def install(self, credential: Credential, fence: Fence) -> None:
        certificates = certificates_of(credential, chain=self._chain)
        key = require_key(credential, certificates)
        self._directory.check()
        with self._directory.under(fence):
            self._place.install(key, certificates)

    def prove(self, challenge: bytes) -> Evidence:
        self._directory.check()
        held = self._place.read()
        return Evidence(
            certificate=held.device.public_bytes(Encoding.DER),
            chain=tuple(one.public_bytes(Encoding.DER) for one in held.chain),
            kind="signature",
            signature=sign_proof(held.key, challenge),
            key_digest=None,
        )

    def _identity(self) -> str:
        if not self._by_mac or self._fuses is None:
            return device_name(self._directory, self._name)
        mac = self._fuses.read().mac
        if mac is None:
            raise DeviceFault(
                "target.identity.malformed",
                f"the fuses of {self._name} hold no MAC address",
                hint="Name the fuse file of a real chip, or use identity=name.",
                target=self._name,
            )
        return mac


def file_option(uri: TargetUri, name: str) -> str | None:
    """Return the value of an option that names a file in the directory of the device."""
    value = uri.options.get(name)
    if value is not None and _FILE.fullmatch(value) is None:
        raise bad_option(uri, name, "Name a file in the directory of the device: letters, digits, '.', '_' and '-'.")
    return value


def flash_offset(uri: TargetUri, name: str, default: int | None, *, multiple: int = PAGE_OCTETS) -> int:
    """Return a number of octets, decimal or as 0x…; flash is erased in sectors, so it is a multiple of 4,096."""
    text = uri.options.get(name)
    number = default if text is None else int(text, 0) if _NUMBER.fullmatch(text) else None
    if number is None or number % multiple or number > LARGEST_FLASH:
        raise bad_option(uri, name, f"Give it in octets, as 0xD000: a multiple of {multiple}, at most 32 MiB.")
    return number


def _place(uri: TargetUri, directory: Directory, fuses: FuseFile | None) -> IdentityPlace:
    layout = choice(uri, "layout", ("secure-cert", "nvs", "nvs-encrypted"))
    flash = file_option(uri, "flash")
    for name in ("offset", "keys-offset") if flash is None else ():
        if name in uri.options:
            raise bad_option(uri, name, "It belongs to flash=FILE.")
    memory = DeviceMemory(directory, flash)
    if layout == "secure-cert":
        return _secure_cert(uri, memory, fuses)
    return _nvs(uri, memory, fuses, encrypted=layout == "nvs-encrypted", in_flash=flash is not None)


def _nvs(
    uri: TargetUri, memory: DeviceMemory, fuses: FuseFile | None, *, encrypted: bool, in_flash: bool
) -> IdentityPlace:
    if "encoding" in uri.options:
        raise bad_option(uri, "encoding", "It belongs to layout=secure-cert.")
    size = flash_offset(uri, "size", _NVS_SIZE)
    if not _SMALLEST_NVS <= size <= _LARGEST_NVS:
        raise bad_option(uri, "size", "An NVS partition has 0x3000 to 0x100000 octets.")
    region = Region("nvs.bin", flash_offset(uri, "offset", None if in_flash else 0), size, NVS_MARKS)
    locked = choice(uri, "key", ("plain", "hmac")) == "hmac"
    if locked and encrypted:
        if "keys-offset" in uri.options:
            raise bad_option(uri, "keys-offset", "With key=hmac no NVS keys are in flash.")
        return _locked(uri, memory, region, fuses, NvsLock(region))
    for name in _OF_LOCKS if not locked else ("key",):
        if name in uri.options:
            raise bad_option(uri, name, "It belongs to a locked key; in NVS layout=nvs-encrypted&key=hmac.")
    if not encrypted:
        if "keys-offset" in uri.options:
            raise bad_option(uri, "keys-offset", "It belongs to layout=nvs-encrypted.")
        return PlainIdentity(uri.text, memory, NvsForm(region, None))
    keys = Region("nvs_keys.bin", flash_offset(uri, "keys-offset", None if in_flash else 0), KEYS_OCTETS)
    if in_flash and region.offset - KEYS_OCTETS < keys.offset < region.offset + size:
        raise bad_option(uri, "keys-offset", "The two partitions lie over one another.")
    return PlainIdentity(uri.text, memory, NvsForm(region, keys))


def _secure_cert(uri: TargetUri, memory: DeviceMemory, fuses: FuseFile | None) -> IdentityPlace:
    for name in ("size", "keys-offset"):
        if name in uri.options:
            raise bad_option(uri, name, "It belongs to the NVS layouts.")
    encoding = _ENCODINGS[choice(uri, "encoding", tuple(_ENCODINGS))]
    offset = flash_offset(uri, "offset", _SECURE_CERT_OFFSET)
    region = Region("esp_secure_cert.bin", offset, PARTITION_OCTETS, SECURE_CERT_MARKS)
    kept = choice(uri, "key", ("plain", "ds", "ecdsa"))
    if kept == "plain":
        for name in _OF_LOCKS:
            if name in uri.options:
                raise bad_option(uri, name, "It belongs to a locked key: key=ds or key=ecdsa.")
        return PlainIdentity(uri.text, memory, SecureCertForm(region, encoding))
    block = _block(uri)
    chip = choice(uri, "chip", tuple(DS_BITS) if kept == "ds" else ECDSA_CHIPS)
    lock: Lock = RsaLock(chip, block, encoding) if kept == "ds" else EcdsaLock(block, encoding)
    return _locked(uri, memory, region, fuses, lock)


def _locked(uri: TargetUri, memory: DeviceMemory, region: Region, fuses: FuseFile | None, lock: Lock) -> LockedIdentity:
    if fuses is None:
        raise bad_option(uri, "key", "A key is locked to fuses: add efuse=FILE.")
    choice(uri, "chip", FUSE_CHIPS)
    read_protect = choice(uri, "read-protect", ("yes", "no")) == "yes"
    return LockedIdentity(uri.text, memory, region, fuses, _block(uri), lock, read_protect=read_protect)


def _block(uri: TargetUri) -> int:
    block = flash_offset(uri, "efuse-block", 1, multiple=1)
    if block not in KEY_BLOCKS:
        raise bad_option(uri, "efuse-block", "A chip has the key blocks 0 to 5.")
    return block
