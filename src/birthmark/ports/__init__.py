"""The ports: what the workflows need from the outside. Every sentence of a docstring is a law with a contract test."""

from birthmark.ports.basics import Clock, DestroysKeys, Entropy, Keys, SecretsHandler
from birthmark.ports.bulk import Engine, MadeChunk, MadeRequests, MakeTask, SignedChunk, SignTask
from birthmark.ports.issuer import KeptRequests, RequestStore, SigningQueue, SigningRequest, SigningService
from birthmark.ports.ledger import Ledger, LogStore, Publisher, Records, SealedChunk, SiteRecords, Transaction, Vault
from birthmark.ports.line import (
    Attestation,
    Attests,
    Authority,
    CountsRepeats,
    Credential,
    CredentialRequest,
    Evidence,
    Fence,
    Journal,
    JournalRecord,
    Probe,
    Source,
    Target,
)
from birthmark.ports.replica import SiteReplica

__all__ = [
    "Attestation",
    "Attests",
    "Authority",
    "Clock",
    "CountsRepeats",
    "Credential",
    "CredentialRequest",
    "DestroysKeys",
    "Engine",
    "Entropy",
    "Evidence",
    "Fence",
    "Journal",
    "JournalRecord",
    "KeptRequests",
    "Keys",
    "Ledger",
    "LogStore",
    "MadeChunk",
    "MadeRequests",
    "MakeTask",
    "Probe",
    "Publisher",
    "Records",
    "RequestStore",
    "SealedChunk",
    "SecretsHandler",
    "SignTask",
    "SignedChunk",
    "SigningQueue",
    "SigningRequest",
    "SigningService",
    "SiteRecords",
    "SiteReplica",
    "Source",
    "Target",
    "Transaction",
    "Vault",
]
