"""The ports: what the workflows need from the outside. Every sentence of a docstring is a law with a contract test."""

from birthmark.ports.basics import Clock, Entropy, Keys, SecretsHandler
from birthmark.ports.bulk import Engine, MadeChunk, MakeTask, SignedChunk, SignTask
from birthmark.ports.ledger import Ledger, LogStore, Publisher, Records, SealedChunk, SiteRecords, Transaction, Vault
from birthmark.ports.line import (
    Authority,
    Credential,
    CredentialRequest,
    Evidence,
    Journal,
    JournalRecord,
    Probe,
    Source,
    Target,
)

__all__ = [
    "Authority",
    "Clock",
    "Credential",
    "CredentialRequest",
    "Engine",
    "Entropy",
    "Evidence",
    "Journal",
    "JournalRecord",
    "Keys",
    "Ledger",
    "LogStore",
    "MadeChunk",
    "MakeTask",
    "Probe",
    "Publisher",
    "Records",
    "SealedChunk",
    "SecretsHandler",
    "SignTask",
    "SignedChunk",
    "SiteRecords",
    "Source",
    "Target",
    "Transaction",
    "Vault",
]
