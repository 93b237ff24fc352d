"""What one worker does with a chunk that somebody else signs: make keys, seal them, build the requests."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import NoReturn

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.pki.algorithms import algorithm_named, spki_of
from birthmark.pki.profile import Profile
from birthmark.pki.request import DeviceRequests
from birthmark.ports import Entropy, MadeRequests, MakeTask, SealedChunk, SignTask
from birthmark.wire.vault import ChunkSealer, VaultRecipient

__all__ = ["RequestWorker"]


class RequestWorker:
    """Makes the keys and requests of one product's devices. Private keys leave ``make`` only sealed."""

    def __init__(
        self,
        profile: Profile,
        values: Mapping[str, str],
        key_algorithm: str,
        recipient: VaultRecipient,
        entropy: Entropy,
    ) -> None:
        self._requests = DeviceRequests(profile, values)
        self._algorithm = algorithm_named(key_algorithm)
        self._recipient = recipient
        self._entropy = entropy

    def make(self, task: MakeTask) -> MadeRequests:
        """Make ``task.count`` keys and their requests."""
        sealer = ChunkSealer(self._recipient, self._entropy, self._algorithm.name)
        records: list[bytes] = []
        slots, requests = [], []
        for position, device_serial in enumerate(task.device_serials.decode("ascii").split("\n")):
            key = self._algorithm.generate()
            pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            spki_hash = sha256(spki_of(key.public_key())).digest()
            csr = self._requests.make(device_serial, key)
            records += (spki_hash, sha256(csr).digest())
            slots.append(sealer.seal(position, spki_hash, pkcs8))
            requests.append(csr)
        sealed = SealedChunk(sealer.encapsulated, sealer.slot_size, b"".join(slots))
        return MadeRequests(task.task, b"".join(records), sealed, tuple(requests))

    def sign(self, task: SignTask) -> NoReturn:
        """Nothing is signed here."""
        raise TypeError("somebody else signs these chunks")
