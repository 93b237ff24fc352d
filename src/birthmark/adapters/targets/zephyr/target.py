"""The target ``zephyr``: key and certificates in the TLS credential store of Zephyr (docs/targets/zephyr.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.identity import certificates_of, key_not_made, pkcs8_of, read_pem_certificates
from birthmark.adapters.targets.links.options import SERIAL_OPTIONS, number
from birthmark.adapters.targets.links.porttarget import PortTarget
from birthmark.adapters.targets.uri import choice, parse_target_uri
from birthmark.adapters.targets.zephyr.credshell import CredShell
from birthmark.errors import DeviceFault
from birthmark.ports import Credential, Evidence, Fence, Probe, SecretsHandler

__all__ = ["ZephyrTarget"]

_OPTIONS = (*SERIAL_OPTIONS, "sec-tag", "chain")
_SEC_TAG, _MOST_TAG = 16842753, 2147483647
_CERTIFICATE, _KEY = "SERV", "PK"


class ZephyrTarget(PortTarget):
    """Implements ``ports.Target`` on ``zephyr:/dev/ttyACM0?sec-tag=16842753``.

    The key is stored as PKCS#8 DER, the certificates as PEM with a NUL. A power cut during ``install`` leaves the old
    identity, the new one, or a key without certificate.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="zephyr", options=_OPTIONS)
        super().__init__(parsed, base)
        self._tag = number(parsed, "sec-tag", _SEC_TAG, 0, _MOST_TAG)
        self._chain = choice(parsed, "chain", ("issuing", "full"))

    def probe(self) -> Probe:
        """Return the hardware id, or the device serial that the map gives for it, as the identity."""
        with self._shell(None) as shell:
            certificates = self._certificates(shell)
        return Probe(self._device_serial(), certificates[0] if certificates else None, makes_key=False, can_sign=False)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        raise key_not_made(self._name, hint="Use an order whose keys are injected: the credentials shell makes none.")

    def install(self, credential: Credential, fence: Fence) -> None:
        certificates = certificates_of(credential, chain=self._chain)
        key = pkcs8_of(credential, certificates)
        ones = (certificates.device, *certificates.chain)
        content = b"".join(one.public_bytes(Encoding.PEM) for one in ones)
        with self._shell(fence) as shell:
            has_certificate = shell.digest_of(self._tag, _CERTIFICATE)
            if shell.digest_of(self._tag, _KEY) != sha256(key).digest():
                if has_certificate is not None:
                    # Without this a power cut would leave the old certificate beside the new key.
                    shell.delete(self._tag, _CERTIFICATE)
                shell.write(self._tag, _KEY, key, ended=False)
            elif has_certificate == sha256(content + b"\0").digest():
                return
            shell.write(self._tag, _CERTIFICATE, content, ended=True)

    def prove(self, challenge: bytes) -> Evidence:
        """Read the certificates out, and the digest of the key: this shell signs nothing."""
        with self._shell(None) as shell:
            key_digest = shell.digest_of(self._tag, _KEY)
            certificates = self._certificates(shell)
        if key_digest is None:
            raise DeviceFault(
                "target.key.missing",
                f"{self._name} holds no key",
                hint="Provision the device again.",
                target=self._name,
            )
        if not certificates:
            raise DeviceFault(
                "target.certificate.missing",
                f"{self._name} holds no certificate that can be read",
                hint="Provision the device again.",
                target=self._name,
            )
        device, *chain = certificates
        return Evidence(device, tuple(chain), kind="digest", signature=None, key_digest=key_digest)

    def _certificates(self, shell: CredShell) -> tuple[bytes, ...]:
        """Return the certificates (DER), device first; none for what cannot be read or has another digest."""
        content = shell.read(self._tag, _CERTIFICATE)
        if not content or shell.digest_of(self._tag, _CERTIFICATE) != sha256(content + b"\0").digest():
            return ()
        return read_pem_certificates(content)

    @contextmanager
    def _shell(self, fence: Fence | None) -> Iterator[CredShell]:
        with self._talk(fence) as talk:
            shell = CredShell(talk)
            self._meet(shell.identity())
            yield shell
