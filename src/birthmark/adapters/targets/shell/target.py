"""The targets ``serial`` and ``ssh``: key and certificates as files of a Linux device (docs/targets/shell.md)."""

from __future__ import annotations

import base64
import binascii
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from birthmark.adapters.targets.identity import (
    CHAIN_LENGTHS,
    Certificates,
    certificates_of,
    key_not_made,
    mismatch,
    pkcs8_of,
    refuse_key,
)
from birthmark.adapters.targets.layouts import LAYOUTS, first_certificate, read_certificates
from birthmark.adapters.targets.links.budget import RetryBudget
from birthmark.adapters.targets.links.options import (
    LINE_OPTIONS,
    SERIAL_OPTIONS,
    IdentityMap,
    answer_seconds,
    number,
    open_port,
    retries,
)
from birthmark.adapters.targets.links.port import port_place
from birthmark.adapters.targets.links.session import same_device
from birthmark.adapters.targets.links.shells import LineShell, Shell
from birthmark.adapters.targets.links.sshchild import SshShell
from birthmark.adapters.targets.links.talk import Talk
from birthmark.adapters.targets.proof import proof_message
from birthmark.adapters.targets.shell import scripts
from birthmark.adapters.targets.shell.scripts import CERTIFICATE_FILE, KEY_FILE, WAITING_FILE
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice, decoded, parse_target_uri
from birthmark.errors import DeviceFault, Misconfigured, Refused, StationFault
from birthmark.model.ids import parse_device_serial
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.csr import parse_csr
from birthmark.ports import Credential, Evidence, Fence, Probe, SecretsHandler

__all__ = ["SerialTarget", "SshTarget"]

_OPTIONS = ("dir", "chain", "key", "identity", "proof")
_PEM = LAYOUTS["pem"]
_KEY_LINE = re.compile(r"([0-9a-f]{64}) ([0-7]{3,4}) ([0-9a-f]{64})")
_IDENTITY = re.compile(r"[!-~]{1,64}")
_DESTINATION = re.compile(
    r"([a-z_][a-z0-9_.-]{0,31})@([A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:]{2,39}\])(?::([0-9]{1,5}))?"
)


class _Found:
    """What stands in the directory of the device."""

    def __init__(self, output: bytes) -> None:
        lines = output.decode("ascii", errors="replace").splitlines()
        pairs = dict(line.partition("=")[::2] for line in lines if "=" in line)
        self.identity = _decoded_text(pairs.get("id", "")).strip()
        self.certificate_file = _decoded(pairs[CERTIFICATE_FILE]) if CERTIFICATE_FILE in pairs else None
        self.key = _KEY_LINE.fullmatch(pairs.get(KEY_FILE, ""))
        self.waits = WAITING_FILE in pairs
        self.has_key = KEY_FILE in pairs


class _ShellTarget(ABC):
    """Implements ``ports.Target`` over a shell, however it is reached.

    A power cut during ``install`` leaves the old identity, the new one, or a key without certificate.
    """

    def __init__(self, uri: TargetUri, base: Path) -> None:
        self._uri = uri
        self._name = uri.text
        directory = uri.options.get("dir", "")
        if not directory.startswith("/") or ".." in directory.split("/") or not directory.isprintable():
            raise bad_option(uri, "dir", "Name the directory on the device, from the root: dir=/etc/identity.")
        self._directory = directory
        self._chain = choice(uri, "chain", tuple(CHAIN_LENGTHS))
        self._born = uri.options.get("key") is not None
        if self._born:
            choice(uri, "key", ("born",))
        signs, digests = "openssl", "digest"
        self._signs = choice(uri, "proof", (signs,) if self._born else (digests, signs)) == signs
        self._identity_command = uri.options.get("identity")
        self._budget = RetryBudget(retries(uri))
        self._answer_s = answer_seconds(uri)
        self._map = IdentityMap(uri, base)
        self._identity: str | None = None

    @property
    def link_repeats(self) -> int:
        """How many repeats the link cost since this object was made."""
        return self._budget.spent

    @abstractmethod
    def _shell(self, fence: Fence | None) -> AbstractContextManager[Shell]: ...

    def probe(self) -> Probe:
        """Return the content of ``device-id``, or what the command ``identity`` prints, as the identity."""
        with self._shell(None) as shell:
            found = self._look(shell)
        device = None if found.certificate_file is None else first_certificate(_PEM, found.certificate_file)
        return Probe(
            identity=self._map.device_serial(found.identity),
            certificate=None if device is None else device.public_bytes(Encoding.DER),
            makes_key=self._born,
            can_sign=self._signs,
        )

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        if not self._born:
            raise key_not_made(self._name, hint="Add key=born to the target, or use an order whose keys are injected.")
        if algorithm not in scripts.ALGORITHMS:
            raise Refused(
                "target.key.algorithm",
                f"this target makes no {algorithm} keys",
                hint=f"Order keys of kind {', '.join(sorted(scripts.ALGORITHMS))}.",
                algorithm=algorithm,
            )
        with self._shell(fence) as shell:
            found = self._look(shell)
            name = KEY_FILE if found.has_key and found.certificate_file is None and not found.waits else WAITING_FILE
            if name == WAITING_FILE and not found.waits:
                shell.hold()
                self._done(shell, scripts.birth(self._directory, algorithm))
            self._require_kind(self._public_key(shell, name), algorithm)
            csr = self._done(
                shell, scripts.request(self._directory, name, algorithm, parse_device_serial(device_serial))
            )
            parse_csr(csr)
            return csr

    def install(self, credential: Credential, fence: Fence) -> None:
        certificates = certificates_of(credential, chain=self._chain)
        key = None
        if self._born:
            refuse_key(credential)
        else:
            key = _pem(pkcs8_of(credential, certificates))
        content = _PEM.encode_certificates(certificates.device, certificates.chain)[CERTIFICATE_FILE]
        with self._shell(fence) as shell:
            found = self._look(shell)
            moves = key is None and self._is_waiting(shell, found, certificates)
            stays = not moves and found.key is not None and found.key[2] == "600"
            stays = stays and (key is None or (found.key is not None and found.key[1] == sha256(key).hexdigest()))
            if stays and found.certificate_file == content:
                return
            if not stays and found.certificate_file is not None:
                # Without this a power cut would leave the old certificate beside the new key.
                shell.hold()
                self._done(shell, scripts.remove(self._directory, CERTIFICATE_FILE))
            if moves:
                shell.hold()
                self._done(shell, scripts.keep_waiting(self._directory))
            elif not stays and key is not None:
                shell.hold()
                self._done(shell, scripts.put(self._directory, KEY_FILE, key, "600"))
            shell.hold()
            self._done(shell, scripts.put(self._directory, CERTIFICATE_FILE, content, "644"))

    def prove(self, challenge: bytes) -> Evidence:
        with self._shell(None) as shell:
            found = self._look(shell)
            if not found.has_key:
                raise DeviceFault(
                    "target.key.missing",
                    f"{self._name} holds no key",
                    hint="Provision the device again.",
                    target=self._name,
                )
            if found.certificate_file is None:
                raise DeviceFault(
                    "target.certificate.missing",
                    f"{self._name} holds no certificate",
                    hint="Provision the device again.",
                    target=self._name,
                )
            if found.key is None or found.key[2] != "600":
                raise DeviceFault(
                    "target.key.mode",
                    f"the key in {self._name} is not a small file with mode 0600",
                    hint="Provision the device again as rework: others may have read its key.",
                    target=self._name,
                )
            device, *chain = read_certificates(_PEM, {CERTIFICATE_FILE: found.certificate_file})
            signature = None
            if self._signs:
                kind = self._kind_of(device)
                signature = self._done(shell, scripts.sign(self._directory, kind, proof_message(challenge)))
        return Evidence(
            certificate=device.public_bytes(Encoding.DER),
            chain=tuple(one.public_bytes(Encoding.DER) for one in chain),
            kind="signature" if self._signs else "digest",
            signature=signature,
            key_digest=None if self._signs else bytes.fromhex(found.key[3]),
        )

    def _look(self, shell: Shell) -> _Found:
        found = _Found(self._done(shell, scripts.look(self._directory, self._identity_command)))
        if _IDENTITY.fullmatch(found.identity) is None:
            raise DeviceFault(
                "target.identity.malformed",
                f"the device behind {self._name} does not say one name of its own",
                hint="Write its serial into device-id in the directory, or name a command with identity=.",
                target=self._name,
            )
        self._identity = same_device(self._identity, found.identity)
        return found

    def _is_waiting(self, shell: Shell, found: _Found, certificates: Certificates) -> bool:
        """Say whether the key of the certificate still waits; ``DeviceFault`` if it is not in the device at all."""
        names = ([WAITING_FILE] if found.waits else []) + ([KEY_FILE] if found.has_key else [])
        for name in names:
            with suppress(DeviceFault):
                if self._public_key(shell, name) == certificates.spki:
                    return name == WAITING_FILE
        raise mismatch(self._name, "the key born")

    def _public_key(self, shell: Shell, name: str) -> bytes:
        output = self._done(shell, scripts.public_key(self._directory, name))
        try:
            return spki_of(load_der_public_key(output))
        except (*UNREADABLE, UnsupportedAlgorithm, Refused):
            raise mismatch(self._name, "the key") from None

    def _kind_of(self, certificate: x509.Certificate) -> str:
        """Return the kind of key in a certificate of the device, one that its openssl signs with."""
        try:
            kind = algorithm_of(certificate.public_key()).name
        except (*UNREADABLE, UnsupportedAlgorithm, Refused):
            kind = ""
        if kind not in scripts.ALGORITHMS:
            raise mismatch(self._name, "the key")
        return kind

    def _require_kind(self, spki: bytes, algorithm: str) -> None:
        made = algorithm_of(load_der_public_key(spki))
        if made.name != algorithm:
            raise Refused(
                "target.key.other_algorithm",
                f"a {made.title} key already waits in {self._name}",
                hint="Finish the attempt that made it, or remove the waiting key from the device.",
                target=self._name,
                algorithm=made.name,
            )

    def _done(self, shell: Shell, script: str) -> bytes:
        """Run a script and return what it printed; a named error for every way it can end."""
        ran = shell.run(script)
        if ran.status == 0:
            return ran.output
        if ran.status == scripts.NO_DIRECTORY:
            raise StationFault(
                "target.directory.missing",
                f"{self._directory} is not a directory on the device behind {self._name}",
                hint="Make it in the device's image; birthmark does not.",
                path=self._directory,
            )
        if ran.status == scripts.NO_TOOL:
            raise DeviceFault(
                "target.tool.missing",
                f"a program is missing on the device behind {self._name}",
                hint="It needs base64, sha256sum, stat, cut, tr, sed, and openssl for key=born or proof=openssl.",
                target=self._name,
            )
        raise DeviceFault(
            "target.script.failed",
            f"the device behind {self._name} could not do what it was asked (status {ran.status})",
            hint="Look whether its file system is full or read only, and whether the login may write there.",
            target=self._name,
            status=ran.status,
        )


class SerialTarget(_ShellTarget):
    """``serial:/dev/ttyUSB0?dir=/etc/identity``: the shell that is logged in on a serial console."""

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="serial", options=(*_OPTIONS, *SERIAL_OPTIONS))
        super().__init__(parsed, base)
        self._path = decoded(uri, parsed.path)

    @property
    def place(self) -> str:
        """The port at which the device stands."""
        return port_place(self._path)

    @contextmanager
    def _shell(self, fence: Fence | None) -> Iterator[Shell]:
        port = open_port(self._uri, self._path)
        try:
            yield LineShell(Talk(port, self._budget, answer_s=self._answer_s, fence=fence))
        finally:
            port.close()


class SshTarget(_ShellTarget):
    """``ssh:root@192.0.2.7:22?dir=/etc/identity&known-hosts=FILE&login-key=FILE``: a login by the OpenSSH client.

    No password is ever asked for or sent, and a host key that does not stand in ``known-hosts`` ends it.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        options = (*_OPTIONS, *LINE_OPTIONS, "known-hosts", "login-key", "connect-s")
        parsed = parse_target_uri(uri, scheme="ssh", options=options)
        super().__init__(parsed, base)
        match = _DESTINATION.fullmatch(decoded(uri, parsed.path))
        if match is None or not 0 < int(match[3] or 22) < 65536:
            raise Misconfigured(
                "target.uri.malformed",
                f"the target {uri[:200]!r} cannot be read: it does not have the form ssh:user@host:port",
                hint="See docs/targets/shell.md for the form of this target.",
                target=ascii(uri[:200]),
            )
        self._where = f"ssh:{match[2].lower()}:{match[3] or '22'}:{self._directory}"
        self._command = self._ssh(parsed, base, user=match[1], host=match[2].strip("[]"), port=match[3] or "22")

    @property
    def place(self) -> str:
        """The directory on the machine, whoever logs in there."""
        return self._where

    @contextmanager
    def _shell(self, fence: Fence | None) -> Iterator[Shell]:
        shell = SshShell(self._command, self._name, self._budget, answer_s=self._answer_s, fence=fence)
        try:
            yield shell
        finally:
            shell.close()

    def _ssh(self, uri: TargetUri, base: Path, *, user: str, host: str, port: str) -> list[str]:
        known = uri.options.get("known-hosts")
        if known is None:
            raise bad_option(uri, "known-hosts", "Name the file with the host keys of the devices: known-hosts=FILE.")
        given = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": _quoted_path(base / known),
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "IdentitiesOnly": "yes" if "login-key" in uri.options else "no",
            "ConnectTimeout": str(number(uri, "connect-s", 10, 1, 600)),
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "ControlPath": "none",
            "LogLevel": "ERROR",
        }
        options = [part for name, value in given.items() for part in ("-o", f"{name}={value}")]
        if "login-key" in uri.options:
            options += ["-i", str(base / uri.options["login-key"])]
        return ["ssh", "-F", "none", "-T", *options, "-p", port, "-l", user, "--", host]


def _pem(pkcs8: bytes) -> bytes:
    """Return the key in PEM (RFC 7468) with the very octets that came: its digest has to be theirs."""
    text = base64.b64encode(pkcs8).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", "")).encode()


def _quoted_path(path: Path) -> str:
    return f'"{path}"'


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _decoded_text(text: str) -> str:
    return _decoded(text).decode("ascii", errors="replace")
