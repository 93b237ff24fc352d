"""A real issuing CA with a real template, and engines over it: in this process, and in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from birthmark.adapters.engines.processes import ProcessEngine
from birthmark.adapters.engines.start import BulkStart, WorkerStart
from birthmark.adapters.engines.worker import BulkWorker, ChunkSigner
from birthmark.errors import BirthmarkError
from birthmark.pki.algorithms import ALGORITHMS
from birthmark.pki.issuer import Issuer, Permit, issue_ca_certificate
from birthmark.pki.profile import load_preset
from birthmark.pki.template import Template, compile_template
from birthmark.ports import MadeChunk, MakeTask, SignedChunk, SignTask
from birthmark.wire.vault import VaultKey, VaultRecipient

__all__ = ["BulkCa", "InlineEngine", "build_worker", "failing_worker"]


class InlineEngine:
    """Implements ``ports.Engine`` without processes; what a worker refuses comes from ``results``, as there."""

    def __init__(self, worker: BulkWorker) -> None:
        self.worker = worker
        self._done: list[Callable[[], MadeChunk | SignedChunk]] = []

    def make(self, task: MakeTask) -> None:
        self._done.append(self._now(partial(self.worker.make, task)))

    def sign(self, task: SignTask) -> None:
        self._done.append(self._now(partial(self.worker.sign, task)))

    @staticmethod
    def _now(act: Callable[[], MadeChunk | SignedChunk]) -> Callable[[], MadeChunk | SignedChunk]:
        try:
            made = act()
        except BirthmarkError:
            return act
        return lambda: made

    def results(self) -> list[MadeChunk | SignedChunk]:
        done, self._done = self._done, []
        return [result() for result in done]

    def close(self) -> None:
        self._done = []


@dataclass(frozen=True)
class BulkCa:
    """A CA, its key (PKCS#8 DER), a template of it and a vault."""

    certificate: bytes
    key: bytes
    template: Template
    vault_key: VaultKey

    @classmethod
    def make(cls) -> BulkCa:
        moment = datetime.now(UTC) - timedelta(days=1)
        keys = [ALGORITHMS["p256"].generate() for _ in range(2)]
        issuer: Issuer | None = None
        for number, name in enumerate(("root-ca", "issuing-ca")):
            der = issue_ca_certificate(
                load_preset(name),
                subject_key=keys[number].public_key(),
                issuer=issuer,
                cert_serial=b"\x01" + bytes(14) + bytes([number + 1]),
                not_before=moment,
                values={"maker": "Test Maker", "ca_name": f"Test {name}"},
                lint=lambda certificate, issuer_der: [],
                self_key=keys[0] if issuer is None else None,
            )
            issuer = Issuer(x509.load_der_x509_certificate(der), keys[number])
        assert issuer is not None
        template = compile_template(
            load_preset("tls-client"),
            issuer_certificate=issuer.certificate,
            not_before=datetime.now(UTC),
            product_values={"pen": "32473"},
            key_algorithm="p256",
        )
        pkcs8 = keys[1].private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return cls(der, pkcs8, template, VaultKey.generate())

    def worker(self) -> BulkWorker:
        return build_worker({"ca": self.key}, *self.arguments())

    def arguments(self) -> tuple[bytes, bytes, bytes]:
        return self.certificate, self.template.to_bytes(), self.vault_key.recipient().public

    def inline(self) -> InlineEngine:
        return InlineEngine(self.worker())

    def processes(self, count: int, build: Callable[..., BulkWorker] | None = None) -> ProcessEngine:
        return ProcessEngine(WorkerStart(build or build_worker, self.arguments(), {"ca": self.key}), count)

    def start(self) -> BulkStart:
        return BulkStart(
            worker=WorkerStart(build_worker, self.arguments(), {"ca": self.key}),
            signer=lambda: ChunkSigner(*_signer(self.key, self.certificate, self.template.to_bytes())),
            template=self.template.to_bytes(),
            recipient=self.vault_key.recipient().public,
        )


def _signer(key: bytes, certificate: bytes, template: bytes) -> tuple[Issuer, Permit]:
    issuer = Issuer(x509.load_der_x509_certificate(certificate), load_der_private_key(key, None))
    return issuer, issuer.prepare(Template.from_bytes(template), now=datetime.now(UTC), lint=lambda der, issuer_der: [])


def build_worker(secrets: dict[str, bytes], certificate: bytes, template: bytes, recipient: bytes) -> BulkWorker:
    """Build a worker from what can be sent to a process."""
    return BulkWorker(*_signer(secrets["ca"], certificate, template), VaultRecipient(recipient), os.urandom)


def failing_worker(secrets: dict[str, bytes], *arguments: bytes) -> BulkWorker:
    """Fail as a defect would, with a secret in its words."""
    raise ValueError(f"cannot use {secrets!r}")
