"""The two forms of the target ``files``: a key file beside certificate files, or everything in one PKCS#12 file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from cryptography import x509

from birthmark.adapters.targets.directory import Directory, Found, Permissions
from birthmark.adapters.targets.identity import Certificates, mismatch, refuse_key, require_key
from birthmark.adapters.targets.layouts import (
    P12_FILE,
    Layout,
    P12Profile,
    decode_p12,
    encode_p12,
    first_certificate,
    read_certificates,
    read_key,
)
from birthmark.errors import DeviceFault, Misconfigured
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import spki_of
from birthmark.ports import Credential

__all__ = ["FileForm", "KeyFileForm", "P12Form"]


class FileForm(Protocol):
    """How a credential lies in a directory.

    ``read_device_certificate`` returns None for what is no certificate, so that a damaged device can be reworked.
    ``check_credential`` refuses what can never be installed here and writes nothing. ``install`` is durable on
    return. ``read_all`` returns the key and (device certificate, chain), or the ``DeviceFault`` that says what is
    wrong with them.
    """

    def read_device_certificate(self) -> x509.Certificate | None: ...

    def check_credential(self, credential: Credential, certificates: Certificates) -> None: ...

    def install(self, credential: Credential, certificates: Certificates) -> None: ...

    def read_all(self) -> tuple[Any, tuple[x509.Certificate, ...]]: ...


class KeyFileForm:
    """Key and certificates in files of their own; the certificate file is the commit point."""

    def __init__(
        self, target: str, directory: Directory, layout: Layout, permissions: Permissions, *, born: bool
    ) -> None:
        self._target = target
        self._directory = directory
        self._layout = layout
        self._permissions = permissions
        self._public = Permissions(0o644, permissions.owner)
        self._born = born

    def read_device_certificate(self) -> x509.Certificate | None:
        found = self._directory.read(self._layout.certificate_file)
        return None if found is None else first_certificate(self._layout, found.data)

    def check_credential(self, credential: Credential, certificates: Certificates) -> None:
        if self._born:
            refuse_key(credential)
        else:
            require_key(credential, certificates)

    def waiting_key(self) -> Any:
        """Return the key born here that has no certificate yet, also when ``install`` was cut off; None if none."""
        for name in (self._layout.born_file, self._layout.key_file):
            found = self._directory.read(name)
            if found is not None:
                committed = self._directory.read(self._layout.certificate_file) is not None
                if name == self._layout.born_file or not committed:
                    return read_key(self._layout, name, found.data)
        return None

    def keep_waiting_key(self, key: Any, permissions: Permissions) -> None:
        self._directory.write(self._layout.born_file, self._layout.encode_key(key), permissions)

    def install(self, credential: Credential, certificates: Certificates) -> None:
        layout, directory = self._layout, self._directory
        key = None if self._born else layout.encode_key(require_key(credential, certificates))
        files = layout.encode_certificates(certificates.device, certificates.chain)
        device_data = files.pop(layout.certificate_file)
        move_key = key is None and self._is_waiting(certificates.spki)
        key_stays = not move_key and self._key_stays(key)
        chain_stays = {name: self._certificate_stays(name, data) for name, data in files.items()}
        surplus = [name for name in layout.chain_files if name not in files and directory.read(name) is not None]
        if not key_stays or surplus or not all(chain_stays.values()):
            # Without this a power cut would leave the old certificate beside the new key.
            directory.remove(layout.certificate_file)
        if move_key:
            directory.move(layout.born_file, layout.key_file, self._permissions)
        elif key_stays:
            directory.sync(layout.key_file)
        else:
            directory.write(layout.key_file, key or self._installed_key().data, self._permissions)
        for name in surplus:
            directory.remove(name)
        for name, data in files.items():
            self._put_certificate(name, data, stays=chain_stays[name])
        stays = self._certificate_stays(layout.certificate_file, device_data)
        self._put_certificate(layout.certificate_file, device_data, stays=stays)

    def read_all(self) -> tuple[Any, tuple[x509.Certificate, ...]]:
        found_key = self._installed_key()
        _check_permissions(self._layout.key_file, found_key, self._permissions)
        key = read_key(self._layout, self._layout.key_file, found_key.data)
        found = self._directory.read(self._layout.certificate_file)
        if found is None:
            raise _missing_certificate(self._layout.certificate_file)
        certificates = read_certificates(self._layout, self._certificate_files(found))
        _check_pair(self._target, key, certificates[0])
        return key, certificates

    def _certificate_files(self, device: Found) -> dict[str, bytes]:
        """Return all certificate files that are there, in writing order."""
        chain = ((name, self._directory.read(name)) for name in self._layout.chain_files)
        files = {name: found.data for name, found in chain if found is not None}
        return {**files, self._layout.certificate_file: device.data}

    def _is_waiting(self, spki: bytes) -> bool:
        """Say whether the key of the certificate still waits; ``DeviceFault`` if it is not in the device at all."""
        for name in (self._layout.born_file, self._layout.key_file):
            found = self._directory.read(name)
            with suppress(DeviceFault):
                if found is not None and _spki(read_key(self._layout, name, found.data)) == spki:
                    return name == self._layout.born_file
        raise mismatch(self._target, "the key born")

    def _key_stays(self, key: bytes | None) -> bool:
        """``key``: what has to be there, or None if the key that is there was already found to be the right one."""
        found = self._directory.read(self._layout.key_file)
        return found is not None and found.has(self._permissions) and key in (None, found.data)

    def _certificate_stays(self, name: str, data: bytes) -> bool:
        found = self._directory.read(name)
        return found is not None and found.data == data and found.has(self._public)

    def _put_certificate(self, name: str, data: bytes, *, stays: bool) -> None:
        if stays:
            self._directory.sync(name)
        else:
            self._directory.write(name, data, self._public)

    def _installed_key(self) -> Found:
        found = self._directory.read(self._layout.key_file)
        if found is None:
            raise _missing_key(self._layout.key_file)
        return found


class P12Form:
    """Everything in one file, so a power cut leaves the old file or the new one."""

    _file = P12_FILE

    def __init__(
        self,
        target: str,
        directory: Directory,
        permissions: Permissions,
        *,
        passphrase: Callable[[], Secret],
        profile: P12Profile,
    ) -> None:
        self._target = target
        self._directory = directory
        self._permissions = permissions
        self._passphrase = passphrase
        self._profile = profile

    def read_device_certificate(self) -> x509.Certificate | None:
        # First of all: what is no reference is refused before an identity is drawn and the target is on record.
        passphrase = self._open_passphrase()
        found = self._directory.read(self._file)
        with suppress(DeviceFault):
            return None if found is None else self._decode(found.data, passphrase)[1][0]
        return None

    def check_credential(self, credential: Credential, certificates: Certificates) -> None:
        require_key(credential, certificates)

    def install(self, credential: Credential, certificates: Certificates) -> None:
        passphrase = self._open_passphrase()
        if self._stays(certificates, passphrase):
            self._directory.sync(self._file)
            return
        key = require_key(credential, certificates)
        data = encode_p12(
            credential.device_serial, key, certificates.device, certificates.chain, passphrase, profile=self._profile
        )
        self._directory.write(self._file, data, self._permissions)

    def read_all(self) -> tuple[Any, tuple[x509.Certificate, ...]]:
        found = self._directory.read(self._file)
        if found is None:
            raise _missing_key(self._file)
        _check_permissions(self._file, found, self._permissions)
        key, certificates = self._decode(found.data, self._open_passphrase())
        _check_pair(self._target, key, certificates[0])
        return key, certificates

    def _decode(self, data: bytes, passphrase: bytes) -> tuple[Any, tuple[x509.Certificate, ...]]:
        return decode_p12(data, passphrase, profile=self._profile)

    def _stays(self, certificates: Certificates, passphrase: bytes) -> bool:
        found = self._directory.read(self._file)
        if found is None or not found.has(self._permissions):
            return False
        with suppress(DeviceFault):
            key, installed = self._decode(found.data, passphrase)
            return _spki(key) == certificates.spki and installed == (certificates.device, *certificates.chain)
        return False

    def _open_passphrase(self) -> bytes:
        passphrase = self._passphrase().reveal()
        if not passphrase:
            raise Misconfigured(
                "target.p12.passphrase",
                f"the passphrase for {self._target} is empty",
                hint="Put a passphrase into the secret that p12-secret names.",
                target=self._target,
            )
        return passphrase


def _spki(key: Any) -> bytes:
    return spki_of(key.public_key())


def _check_pair(target: str, key: Any, device: x509.Certificate) -> None:
    if _spki(key) != spki_of(device.public_key()):
        raise mismatch(target, "the private key")


def _check_permissions(name: str, found: Found, permissions: Permissions) -> None:
    if not found.has(permissions):
        raise DeviceFault(
            "target.key.mode",
            f"{name} has mode {found.mode:04o} and owner {found.owner[0]}:{found.owner[1]}, not what was demanded",
            hint="Check how the device's file system is mounted, then provision the device again.",
            file=name,
            mode=f"{found.mode:04o}",
            owner=f"{found.owner[0]}:{found.owner[1]}",
        )


def _missing_key(name: str) -> DeviceFault:
    return DeviceFault(
        "target.key.missing",
        f"there is no {name} in the device",
        hint="Provision the device again.",
        file=name,
    )


def _missing_certificate(name: str) -> DeviceFault:
    return DeviceFault(
        "target.certificate.missing",
        f"there is no {name} in the device",
        hint="Provision the device again.",
        file=name,
    )
