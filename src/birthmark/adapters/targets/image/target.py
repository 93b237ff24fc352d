"""The target ``image``: the identity as a part of the firmware image of one device (docs/targets/image.md)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.identity import CHAIN_LENGTHS, certificates_of, key_not_made, mismatch, require_key
from birthmark.adapters.targets.image.assembly import STORE
from birthmark.adapters.targets.image.bases import Base, Store, open_base
from birthmark.adapters.targets.image.form import Identity, damaged
from birthmark.adapters.targets.image.formats import form_of
from birthmark.adapters.targets.image.octets import Overlay, same_octets
from birthmark.adapters.targets.image.output import DeltaOutput, Output, WholeOutput, foreign
from birthmark.adapters.targets.proof import sign_proof
from birthmark.adapters.targets.uri import bad_option, choice, decoded, parse_target_uri
from birthmark.errors import DeviceFault, Misconfigured, StationFault
from birthmark.pki.algorithms import spki_of
from birthmark.ports import Credential, Evidence, Fence, Probe, SecretsHandler

__all__ = ["ImageTarget"]

_OPTIONS = (
    "base",
    "format",
    "write",
    "store",
    "chain",
    "offset",
    "size",
    "partition",
    "path",
    "layout",
    "mode",
    "owner",
    "block",
    "page",
    "subpage",
)
_SUFFIXES = (".delta", ".img", ".bin", ".hex")


class ImageTarget:
    """Implements ``ports.Target`` on ``image:OUT?base=BASE&format=FORMAT&write=delta|full``.

    OUT is a file; its name without ``.delta``, ``.img``, ``.bin`` or ``.hex`` is the device. A power cut during
    ``install`` leaves the old file or the new one, whole.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="image", options=_OPTIONS)
        self._name = uri
        self._path = base / decoded(uri, parsed.path)
        source = parsed.options.get("base")
        if source is None:
            raise bad_option(parsed, "base", "Name the image that all devices have in common.")
        self._source = base / source
        if self._source.resolve() == self._path.resolve():
            raise bad_option(parsed, "base", "The base and the image of the device have to be two files.")
        self._store = Store(base / parsed.options.get("store", str(self._path.parent / STORE)))
        self._chain = choice(parsed, "chain", tuple(CHAIN_LENGTHS))
        self._form = form_of(parsed)
        whole = choice(parsed, "write", ("delta", "full")) == "full"
        self._output: Output = WholeOutput(self._path) if whole else DeltaOutput(self._path, self._store)

    @property
    def place(self) -> str:
        """The file that is written."""
        return f"file:{os.path.realpath(self._path)}"

    def probe(self) -> Probe:
        """Return the device that the image is made for.

        A base that cannot take an identity, and a file that is not ours to replace, are refused here: before one is
        drawn.
        """
        self._check_directory()
        source = open_base(self._source)
        self._form.check_base(source)
        self._refuse_foreign(source)
        found = None
        with suppress(DeviceFault):
            found = self._read()
        if found is None:
            return Probe(self._named(), None, makes_key=False, can_sign=True)
        certificate = found.certificates[0].public_bytes(Encoding.DER)
        return Probe(found.device_serial, certificate, makes_key=False, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        raise key_not_made(self._name, hint="Use an order whose keys are injected: no key is born in an image.")

    def install(self, credential: Credential, fence: Fence) -> None:
        certificates = certificates_of(credential, chain=self._chain)
        key = require_key(credential, certificates)
        identity = Identity(credential.device_serial, key, (certificates.device, *certificates.chain))
        self._check_directory()
        source = open_base(self._source)
        self._form.check_base(source)
        self._refuse_foreign(source)
        base = self._store.keep(source, fence)
        fence.hold()
        size, regions = self._form.compose(base, identity, fence)
        if self._output.holds(base, identity.device_serial, size, regions):
            with suppress(DeviceFault):
                self._output.require_mode()
                self._output.sync()
                return
        self._output.write(base, identity.device_serial, size, regions, fence)

    def prove(self, challenge: bytes) -> Evidence:
        self._check_directory()
        found = self._read()
        if found is None:
            raise DeviceFault(
                "target.image.missing",
                f"{self._path} holds no identity",
                hint="Provision the device again.",
                path=str(self._path),
            )
        self._output.require_mode()
        device, *chain = found.certificates
        if spki_of(found.key.public_key()) != spki_of(device.public_key()):
            raise mismatch(self._name, "the private key")
        return Evidence(
            certificate=device.public_bytes(Encoding.DER),
            chain=tuple(one.public_bytes(Encoding.DER) for one in chain),
            kind="signature",
            signature=sign_proof(found.key, challenge),
            key_digest=None,
        )

    def _read(self) -> Identity | None:
        image = self._output.read()
        try:
            found = None if image is None else self._form.read(image)
        except Misconfigured as problem:  # said of a base, this is a mistake of the command; of an image, a damage
            raise damaged(problem.message) from None
        if found is not None and isinstance(image, Overlay) and image.device_serial != found.device_serial:
            raise damaged(f"its delta is for {image.device_serial}")
        return found

    def _refuse_foreign(self, source: Base) -> None:
        """Raise ``DeviceFault`` if the file that would be replaced is something else than an image of ours.

        A delta says what it is. A whole image holds an identity, or is the base itself.
        """
        image = self._output.read()
        if image is None or isinstance(image, Overlay):
            return
        with suppress(DeviceFault):
            if self._read() is not None or same_octets(image, source):
                return
        raise foreign(self._path, "it holds no whole identity")

    def _named(self) -> str:
        name = self._path.name
        return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)

    def _check_directory(self) -> None:
        if not self._path.parent.is_dir():
            raise StationFault(
                "target.directory.missing",
                f"{self._path.parent} is not a directory",
                hint="Make the directory for the images, or correct it in the target.",
                path=str(self._path.parent),
            )
