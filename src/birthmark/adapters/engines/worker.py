"""What bulk engines do with a chunk: make keys, seal them, fill the TBS; and later, perhaps elsewhere, sign.

The hot loop of the product. Nothing here knows of processes: the engine feeds it tasks and takes results.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha1, sha256

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.errors import Refused, Tampered
from birthmark.pki.algorithms import KeyAlgorithm, spki_of
from birthmark.pki.issuer import Issuer, Permit
from birthmark.pki.template import Filler, Template
from birthmark.ports import Entropy, MadeChunk, MakeTask, SealedChunk, SignedChunk, SignTask
from birthmark.wire.vault import ChunkSealer, VaultRecipient

__all__ = ["BulkWorker", "ChunkMaker", "ChunkSigner", "PreparedChunk", "device_serials_of"]

_SERIALS = re.compile(rb"[A-Za-z0-9._:-]{1,64}(?:\n[A-Za-z0-9._:-]{1,64})*")
_DER, _PKCS8, _PLAIN = Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
# OpenSSL writes EC keys with their public point at the end (RFC 5915, publicKey): one export gives both halves.
_POINT_OCTETS = {"p256": 65, "p384": 97}


@dataclass(frozen=True, slots=True)
class PreparedChunk:
    """A made chunk and what its signature needs: the TBS of each device (DER) and their SHA-256."""

    made: MadeChunk
    device_serials: list[bytes]
    tbs: list[bytes]
    tbs_hashes: list[bytes]


class ChunkMaker:
    """Makes chunks for one template and one vault; it needs no CA key."""

    def __init__(self, template: Template, recipient: VaultRecipient, entropy: Entropy) -> None:
        self._template = template
        self._recipient = recipient
        self._entropy = entropy
        self._algorithm: KeyAlgorithm = template.key_algorithm
        self._make_key = _key_maker(self._algorithm)

    def make(self, task: MakeTask) -> PreparedChunk:
        """Make ``task.count`` keys. Private keys leave this call only sealed."""
        device_serials = device_serials_of(task)
        sealer = ChunkSealer(self._recipient, self._entropy, self._algorithm.name)
        randoms = self._entropy(8 * task.count)
        fillers: dict[int, Callable[[bytes, bytes, bytes, bytes], bytes]] = {}
        records: list[bytes] = []
        slots, tbs_list, tbs_hashes = [], [], []
        make_key, seal, prefix = self._make_key, sealer.seal, task.serial_prefix
        key_bits, has_key_id = self._algorithm.bits_offset, self._template.profile.ski
        for position, device_serial in enumerate(device_serials):
            fill = fillers.get(len(device_serial))
            if fill is None:
                fill = fillers[len(device_serial)] = self._filler(device_serial).fill
            pkcs8, spki = make_key()
            spki_hash = sha256(spki).digest()
            random = randoms[8 * position : 8 * position + 8]
            # RFC 5280, 4.2.1.2, method 1; the same as KeyAlgorithm.key_id without the call.
            key_id = sha1(spki[key_bits:], usedforsecurity=False).digest() if has_key_id else b""
            tbs = fill(prefix + random, device_serial, spki, key_id)
            tbs_hash = sha256(tbs).digest()
            records += (random, spki_hash, tbs_hash)
            slots.append(seal(position, spki_hash, pkcs8))
            tbs_list.append(tbs)
            tbs_hashes.append(tbs_hash)
        sealed = SealedChunk(sealer.encapsulated, sealer.slot_size, b"".join(slots))
        made = MadeChunk(task.task, b"".join(records), sealed)
        return PreparedChunk(made, device_serials, tbs_list, tbs_hashes)

    def _filler(self, device_serial: bytes) -> Filler:
        self._template.check_device_serial(device_serial)
        return self._template.filler(len(device_serial))


class ChunkSigner:
    """Signs prepared chunks with the CA key of this process."""

    def __init__(self, issuer: Issuer, permit: Permit) -> None:
        self._issuer = issuer
        self._permit = permit
        self.template = permit.template

    def sign(self, task: SignTask, prepared: PreparedChunk) -> SignedChunk:
        """Sign a chunk whose TBS this process filled or checked; return its log entries."""
        certificates = self._issuer.sign_many(
            self._permit, prepared.tbs, verify="sample", tbs_hashes=prepared.tbs_hashes
        )
        head, tail = b'{"at":"%s","device":"' % task.at.encode(), b'","intent":%d,"type":"issued"}\n' % task.intent
        entries: list[bytes] = []
        leaf_hashes = []
        for device_serial, certificate in zip(prepared.device_serials, certificates, strict=True):
            entry = b"".join((head, device_serial, tail, certificate))
            entries += (len(entry).to_bytes(2, "big"), entry)
            leaf_hashes.append(sha256(b"\0" + entry).digest())
        return SignedChunk(task.task, b"".join(entries), b"".join(leaf_hashes))


class BulkWorker:
    """Makes and signs chunks in one process: the TBS stay here between the two."""

    def __init__(self, issuer: Issuer, permit: Permit, recipient: VaultRecipient, entropy: Entropy) -> None:
        self._issuer = issuer
        self._maker = ChunkMaker(permit.template, recipient, entropy)
        self._signer = ChunkSigner(issuer, permit)
        self._prepared: dict[int, PreparedChunk] = {}

    def make(self, task: MakeTask) -> MadeChunk:
        """Make a chunk; keep the TBS until ``sign``."""
        prepared = self._prepared[task.task] = self._maker.make(task)
        return prepared.made

    def sign(self, task: SignTask) -> SignedChunk:
        """Sign a made chunk and return its log entries."""
        return self._signer.sign(task, self._prepared.pop(task.task))


def device_serials_of(task: MakeTask) -> list[bytes]:
    """Return the device serials of a task; ``Refused("engine.task.malformed")`` if it does not name them."""
    device_serials = task.device_serials.split(b"\n")
    if len(device_serials) != task.count or not _SERIALS.fullmatch(task.device_serials):
        raise Refused(
            "engine.task.malformed",
            f"task {task.task} does not name {task.count} device serials",
            hint="Run `birthmark audit verify`: the order on record is damaged.",
            task=task.task,
        )
    return device_serials


def _key_maker(algorithm: KeyAlgorithm) -> Callable[[], tuple[bytes, bytes]]:
    """Return a function that makes a key and returns (PKCS#8, SPKI), both DER."""
    generate = algorithm.generate
    octets = _POINT_OCTETS.get(algorithm.name)
    if octets is None:

        def make() -> tuple[bytes, bytes]:
            key = generate()
            return key.private_bytes(_DER, _PKCS8, _PLAIN), spki_of(key.public_key())

        return make

    header = algorithm.spki_prefix[: algorithm.bits_offset]

    def make_ec() -> tuple[bytes, bytes]:
        pkcs8: bytes = generate().private_bytes(_DER, _PKCS8, _PLAIN)
        return pkcs8, header + pkcs8[-octets:]

    probe = generate()
    if header + probe.private_bytes(_DER, _PKCS8, _PLAIN)[-octets:] != spki_of(probe.public_key()):
        raise Tampered(
            "engine.key.form",
            "this OpenSSL writes private keys without their public point",
            hint="Install the pinned version of the cryptography package.",
        )
    return make_ec
