"""The target ``files``: key and certificates as files in a directory of the device (docs/targets.md)."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.devicename import device_name
from birthmark.adapters.targets.directory import Directory, Permissions
from birthmark.adapters.targets.fileforms import FileForm, KeyFileForm, P12Form
from birthmark.adapters.targets.identity import CHAIN_LENGTHS, certificates_of, key_not_made
from birthmark.adapters.targets.layouts import LAYOUTS, P12_FILE, P12Profile
from birthmark.adapters.targets.proof import device_csr, sign_proof
from birthmark.adapters.targets.standins import named_directory, stand_in_uri
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice, decoded, parse_target_uri
from birthmark.adapters.targets.windowsform import PFX_FILE, SCRIPT_FILE, WindowsForm
from birthmark.errors import Refused
from birthmark.pki.algorithms import algorithm_named, algorithm_of
from birthmark.ports import Credential, Evidence, Fence, Probe, Rehearsal, SecretsHandler

__all__ = ["FilesTarget"]

_OPTIONS = ("layout", "mode", "chain", "owner", "p12-secret", "p12-profile", "key")
_MODE = re.compile(r"0?[0-7]{3}")
_OWNER = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
_NEW_KEY = Permissions(0o600)


class FilesTarget:
    """Implements ``ports.Target`` on ``files:DIR?layout=LAYOUT&mode=0600&chain=full|issuing&owner=uid:gid``.

    Layouts: pem, der, p12, windows. ``p12-secret`` is a secret reference for the last two; ``key=born`` makes the key
    in the directory itself. The directory has to exist. A power cut during ``install`` leaves the old identity, the
    new one, or a key without certificate from which ``install`` (and ``make_key``) go on.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="files", options=_OPTIONS)
        self._name = uri
        self._directory = Directory(base / decoded(uri, parsed.path))
        self._chain = choice(parsed, "chain", tuple(CHAIN_LENGTHS))
        self._born = parsed.options.get("key") is not None
        if self._born:
            choice(parsed, "key", ("born",))
        self._form = _form(parsed, self._directory, secrets, born=self._born)

    @classmethod
    def rehearsal(cls, uri: str, *, device_serial: str, directory: str) -> Rehearsal:
        """``Rehearses``: a directory that holds ``device-id``, with the same options."""
        parsed = parse_target_uri(uri, scheme="files", options=_OPTIONS)
        stand_in = named_directory(directory, device_serial)
        layout = choice(parsed, "layout", (*LAYOUTS, "p12", "windows"))
        others = {"p12": (P12_FILE,), "windows": (SCRIPT_FILE, PFX_FILE)}
        names = LAYOUTS[layout].files if layout in LAYOUTS else others[layout]
        return Rehearsal(
            target=stand_in_uri(parsed, str(stand_in), {}),
            writes=tuple(f"write {Path(decoded(uri, parsed.path)) / name}" for name in names),
        )

    @property
    def place(self) -> str:
        """The directory: files and images of one device are one device."""
        return self._directory.place

    def probe(self) -> Probe:
        """Return the content of ``device-id``, or else the name of the directory, as the identity."""
        self._directory.check()
        device = self._form.read_device_certificate()
        certificate = None if device is None else device.public_bytes(Encoding.DER)
        return Probe(device_name(self._directory, self._name), certificate, makes_key=self._born, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        if not isinstance(self._form, KeyFileForm) or not self._born:
            raise key_not_made(self._name, hint="Add key=born to the target, or use an order whose keys are injected.")
        chosen = algorithm_named(algorithm)
        self._directory.check()
        key = self._form.waiting_key()
        if key is None:
            key = chosen.generate()
            with self._directory.under(fence):
                self._form.keep_waiting_key(key, _NEW_KEY)
        made = algorithm_of(key.public_key())
        if made is not chosen:
            raise Refused(
                "target.key.other_algorithm",
                f"a {made.title} key already waits in {self._name}, not a {chosen.title} key",
                hint="Finish the attempt that made it, or remove the waiting key from the device.",
                target=self._name,
                algorithm=made.name,
            )
        return device_csr(key, device_serial)

    def install(self, credential: Credential, fence: Fence) -> None:
        certificates = certificates_of(credential, chain=self._chain)
        self._form.check_credential(credential, certificates)
        self._directory.check()
        with self._directory.under(fence):
            self._form.install(credential, certificates)

    def prove(self, challenge: bytes) -> Evidence:
        self._directory.check()
        key, (device, *chain) = self._form.read_all()
        return Evidence(
            certificate=device.public_bytes(Encoding.DER),
            chain=tuple(one.public_bytes(Encoding.DER) for one in chain),
            kind="signature",
            signature=sign_proof(key, challenge),
            key_digest=None,
        )


def _form(uri: TargetUri, directory: Directory, secrets: SecretsHandler, *, born: bool) -> FileForm:
    layout = choice(uri, "layout", (*LAYOUTS, "p12", "windows"))
    permissions = Permissions(_mode(uri), _owner(uri))
    secret = uri.options.get("p12-secret")
    if layout in LAYOUTS:
        for option in ("p12-secret", "p12-profile"):
            if option in uri.options:
                raise bad_option(uri, option, "It belongs to layout=p12 and layout=windows only.")
        return KeyFileForm(uri.text, directory, LAYOUTS[layout], permissions, born=born)
    if secret is None:
        raise bad_option(uri, "p12-secret", "Name the secret that closes the file, for example env:P12_PASSPHRASE.")
    if born:
        raise bad_option(uri, "key", "A key is born in layout=pem or layout=der only.")
    profile: P12Profile = "legacy" if choice(uri, "p12-profile", ("modern", "legacy")) == "legacy" else "modern"
    form = WindowsForm if layout == "windows" else P12Form
    return form(uri.text, directory, permissions, passphrase=lambda: secrets(secret), profile=profile)


def _mode(uri: TargetUri) -> int:
    text = uri.options.get("mode", "0600")
    mode = int(text, 8) if _MODE.fullmatch(text) else 0
    if not mode & 0o400 or mode & 0o137:
        raise bad_option(uri, "mode", "Use 0400, 0600, 0440 or 0640: others never read a private key.")
    return mode


def _owner(uri: TargetUri) -> tuple[int, int] | None:
    text = uri.options.get("owner")
    if text is None:
        return None
    match = _OWNER.fullmatch(text)
    if match is None:
        raise bad_option(uri, "owner", "Use two numbers, for example owner=1000:1000.")
    return int(match[1]), int(match[2])
