"""A vendor's file in whichever form it came: told apart by its content, read as often as it takes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from cryptography import x509

from birthmark.adapters.vendorfiles.lists import list_items
from birthmark.adapters.vendorfiles.members import Member, directory_members, tar_members, zip_members
from birthmark.adapters.vendorfiles.received import Received
from birthmark.errors import Refused
from birthmark.model.preloadevents import ManifestForm
from birthmark.pki.certfile import read_certificates
from birthmark.pki.certread import open_parts, parse_certificate
from birthmark.wire.jsonarray import array_elements
from birthmark.wire.microchip import ManifestSigner, read_element
from birthmark.wire.preload import VendorItem

__all__ = ["VendorFile"]

_HEAD = 512
_MAX_CAS = 256
_USTAR_AT = 257


class VendorFile:
    """One file or directory. Use as a context; ``scratch``: a directory for unnamed copies.

    ``form`` says what it is, ``authorities`` gives the CA certificates in it, ``items`` what it says of each chip, and
    ``sha256`` what names it, once ``items`` is read to its end. A directory is named by the SHA-256 over name, length
    and content of its files.
    """

    def __init__(
        self, path: Path, *, scratch: Path, signers: Mapping[str, ManifestSigner], accept_short: bool = False
    ) -> None:
        self._path, self._signers, self._accept_short = path, signers, accept_short
        self._closing = ExitStack()
        self._archive: IO[bytes] | None = None
        self._is_zip = False
        self._digest = hashlib.sha256()
        self._received = None if path.is_dir() else self._closing.enter_context(Received(path))
        try:
            self.form = self._open(scratch)
        except BaseException:
            self._closing.close()
            raise

    def _open(self, scratch: Path) -> ManifestForm:
        if self._received is None:
            return "certificates"
        head = self._received.head(_HEAD)
        gzipped = head.startswith(b"\x1f\x8b")
        self._is_zip = head.startswith(b"PK\x03\x04")
        if gzipped or self._is_zip or head[_USTAR_AT : _USTAR_AT + 5] == b"ustar":
            self._archive = self._closing.enter_context(self._received.copy(scratch, gzipped=gzipped))
            return "certificates"
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        return "microchip" if text.startswith(b"[") else "list"

    def __enter__(self) -> VendorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def sha256(self) -> str:
        return self._digest.hexdigest() if self._received is None else self._received.sha256

    def named(self) -> str:
        """Read the whole and return what ``sha256`` will be, without looking at what it says."""
        pieces: Iterator[object] = self._members() if self._received is None else self._received.pieces()
        deque(pieces, maxlen=0)
        return self.sha256()

    def authorities(self) -> list[bytes]:
        """Return the CA certificates (DER) that stand beside those of the chips, at most 256."""
        if self.form == "microchip":
            return []
        found: dict[bytes, None] = {}
        for _, certificate, where in self._certificates():
            if _is_ca(certificate, where):
                found[certificate] = None
                if len(found) > _MAX_CAS:
                    raise Refused(
                        "preload.authorities",
                        f"this file has more than {_MAX_CAS} CA certificates",
                        hint="Split it: chips of one lot are signed by a few CAs.",
                    )
        return list(found)

    def items(self) -> Iterator[VendorItem]:
        if self.form == "microchip" and self._received is not None:
            for number, element in enumerate(array_elements(self._received.pieces()), 1):
                yield read_element(element, number, self._signers, accept_short=self._accept_short)
            return
        for unique_id, certificate, where in self._certificates():
            if not _is_ca(certificate, where):
                yield VendorItem(unique_id, certificate, where)

    def _certificates(self) -> Iterator[tuple[str | None, bytes, str]]:
        if self.form == "list" and self._received is not None:
            yield from list_items(self._received.pieces())
            return
        for name, data in self._members():
            try:
                certificates = read_certificates(data)
            except Refused as problem:
                raise Refused(
                    "preload.certificate",
                    f"file {name[:80]!a} holds no certificate",
                    hint="Take out what is no certificate; nothing was taken in.",
                    cause=problem.code,
                ) from problem
            for certificate in certificates:
                yield None, certificate, f"file {name[:80]!a}"

    def _members(self) -> Iterator[Member]:
        if self._archive is not None:
            self._archive.seek(0)
            yield from zip_members(self._archive) if self._is_zip else tar_members(self._archive)
            return
        self._digest = hashlib.sha256()
        for name, data in directory_members(self._path):
            self._digest.update(f"{name}\n{len(data)}\n".encode("utf-8", "surrogateescape") + data)
            yield name, data


def _is_ca(certificate: bytes, where: str) -> bool:
    try:
        parsed = parse_certificate(open_parts(certificate))
        return parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
    except Refused as problem:
        raise Refused(
            "preload.certificate",
            f"{where} is not a certificate that can be read: {problem.message}",
            hint="Ask the vendor for it again; nothing was taken in.",
            where=where,
        ) from problem
