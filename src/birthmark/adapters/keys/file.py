"""``file:PATH?secret=REFERENCE``: a private key in an encrypted PKCS#8 PEM file, mode 0600."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from birthmark.adapters.durable import create_durably, destroy_durably, naming_os_errors, read_private_file
from birthmark.errors import Misconfigured, Refused
from birthmark.pki.algorithms import algorithm_named, algorithm_of
from birthmark.ports import SecretsHandler

__all__ = ["FileKeys"]

_NO_SECRET = "none"  # noqa: S105  the word in the URI that says there is none
_LONGEST = 1023  # OpenSSL takes no longer passphrase


class FileKeys:
    """Implements ``ports.Keys`` and ``ports.DestroysKeys``. Relative paths start at ``base``.

    ``secret=none``: not encrypted (for tests only).
    """

    def __init__(self, secrets: SecretsHandler, base: Path) -> None:
        self._secrets = secrets
        self._base = base

    def open(self, uri: str) -> Any:
        path, reference = self._parse(uri)
        data = read_private_file(path)
        password = self._password(reference)
        try:
            key = load_pem_private_key(data, password)
        except TypeError as problem:
            raise _bad_secret(path, "it is encrypted and secret=none was said, or the other way round") from problem
        except ValueError as problem:
            if _is_encrypted_whole(data):
                raise _bad_secret(path, "the passphrase does not open it") from None
            raise _malformed(path) from problem
        except UnsupportedAlgorithm as problem:
            raise _malformed(path) from problem
        algorithm_of(key.public_key())
        return key

    def generate(self, uri: str, algorithm: str) -> Any:
        path, reference = self._parse(uri)
        key = algorithm_named(algorithm).generate()
        password = self._password(reference)
        encryption: KeySerializationEncryption = NoEncryption()
        if password is not None:
            encryption = BestAvailableEncryption(password)
        try:
            create_durably(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)
        except FileExistsError:
            raise Refused(
                "key.exists",
                f"there is already a key at {path}",
                hint="A key is never overwritten: name another file, or destroy that key on purpose.",
                path=str(path),
            ) from None
        return key

    def inventory(self, uri: str) -> list[str]:
        """Return the names in the key's directory."""
        path, _ = self._parse(uri)
        with naming_os_errors(path.parent):
            return sorted(f"file {entry.name}" for entry in path.parent.iterdir())

    def destroy(self, uri: str) -> str:
        """Overwrite the key file and remove it, with what a dead writer may have left beside it."""
        path, _ = self._parse(uri)
        destroy_durably(path.with_name(f".{path.name}.tmp"))
        if not destroy_durably(path):
            return "the file was gone when this run looked for it"
        return (
            "file overwritten with zeros, synced, removed, directory synced;"
            " flash cells, snapshots and backups are out of reach of this"
        )

    def close(self) -> None:
        """Nothing stays open."""

    def _password(self, reference: str) -> bytes | None:
        if reference == _NO_SECRET:
            return None
        password = self._secrets(reference).reveal()
        if not 1 <= len(password) <= _LONGEST:
            raise Misconfigured(
                "secret.length",
                f"the passphrase of a key file has {len(password)} octets",
                hint=f"Use one of 1 to {_LONGEST} octets.",
                octets=len(password),
            )
        return password

    def _parse(self, uri: str) -> tuple[Path, str]:
        scheme, _, rest = uri.partition(":")
        path, _, query = rest.partition("?")
        options = parse_qs(query, keep_blank_values=True)
        references = options.get("secret", [])
        path = unquote(path)
        if (
            scheme != "file"
            or not path
            or "\0" in path
            or len(options) != 1
            or len(references) != 1
            or not references[0]
        ):
            raise Misconfigured(
                "key.uri",
                "this is not the URI of a key file",
                hint="Write file:PATH?secret=REFERENCE, for example file:keys/root.pem?secret=env:NAME.",
            )
        return self._base / path, references[0]


def _is_encrypted_whole(data: bytes) -> bool:
    """Say whether a PEM holds one EncryptedPrivateKeyInfo from its first to its last octet (RFC 5958, section 3)."""
    _, begin, rest = data.partition(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    body, end, _ = rest.partition(b"-----END ENCRYPTED PRIVATE KEY-----")
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except ValueError:
        return False
    octets = der[1] & 0x7F if len(der) > 2 and der[1] & 0x80 else 0
    length = int.from_bytes(der[2 : 2 + octets], "big") if octets else der[1] if len(der) > 2 else 0
    return bool(begin and end) and der[:1] == b"\x30" and len(der) == 2 + octets + length


def _bad_secret(path: Path, reason: str) -> Misconfigured:
    return Misconfigured(
        "key.secret.wrong",
        f"cannot open {path}: {reason}",
        hint="Check the secret that birthmark.toml refers to.",
        path=str(path),
    )


def _malformed(path: Path) -> Misconfigured:
    return Misconfigured(
        "key.file.malformed",
        f"{path} holds no private key",
        hint="Put the right PKCS#8 PEM file there.",
        path=str(path),
    )
