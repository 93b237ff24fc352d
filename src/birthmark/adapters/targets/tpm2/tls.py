"""TLS as the device whose key is in a TPM: GnuTLS speaks, and the TPM makes the one signature that it needs.

GnuTLS sees a PKCS#11 token that is ours (``adapters.pkcs11_remote``), so the TPM is asked by the commands, and within
the time, of the target, and only while it signs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from birthmark.adapters.pkcs11_remote import KEY_URI, MODULE, RemoteKey, require_module
from birthmark.adapters.targets.tpm2.keys import check_public, persistent_key, sign_digest
from birthmark.adapters.targets.tpm2.link import open_tpm
from birthmark.adapters.targets.tpm2.stream import Address
from birthmark.adapters.tlsclient import ClientKey, open_client, positive
from birthmark.errors import DeviceFault
from birthmark.pki.algorithms import certified_key, spki_of
from birthmark.ports.admission import KeyHolder, TlsServer, TlsStream

__all__ = ["TpmIdentity"]


@dataclass(frozen=True, slots=True)
class TpmIdentity:
    """Implements ``ports.admission.DeviceTls`` with the key at a persistent handle.

    ``name``: of the target, for a person. ``chain``: DER, device first, issuing CA behind it.
    """

    name: str
    address: Address
    handle: int
    chain: tuple[bytes, ...]

    @property
    def held_by(self) -> KeyHolder:
        return "device"

    def certificates(self) -> Sequence[bytes]:
        return self.chain

    def connect(self, server: TlsServer, seconds: float) -> TlsStream:
        """Start the client and return. What goes wrong with TPM or server is told by ``receive``, which raises what
        the target does besides (``target.tpm.*``, ``target.key.*``).
        """
        positive(seconds)
        public_key = certified_key(x509.load_der_x509_certificate(self.chain[0]))
        # The salt of a PSS signature is as long as the TPM likes, and TLS 1.3 asks for PSS with a certain one.
        versions = ("TLS1.2",) if isinstance(public_key, rsa.RSAPublicKey) else ("TLS1.3", "TLS1.2")
        with ExitStack() as held:
            directory = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="birthmark-tpm-")))
            place = directory / "key"
            remote = RemoteKey(place, public_key, self._sign)
            held.callback(remote.close)
            environment = {"P11_KIT_SERVER_ADDRESS": f"unix:path={place}"}
            key = ClientKey(MODULE, KEY_URI, require_module, environment=environment, versions=versions, beside=remote)
            return open_client(server, self.chain, key, held.pop_all())

    def _sign(self, digest: bytes, hash_name: str, remaining: Callable[[], float]) -> bytes:
        with open_tpm(self.address, remaining) as link:
            key = persistent_key(link, self.handle)
            if key is None or key.spki != spki_of(certified_key(x509.load_der_x509_certificate(self.chain[0]))):
                raise DeviceFault(
                    "handshake.credential",
                    f"the key of the certificate is not in {self.name}",
                    hint="Provision the device again as rework, with a new identity.",
                    target=self.name,
                )
            check_public(key, self.name)
            return sign_digest(link, key, digest, hash_name or f"sha{8 * len(digest)}")
