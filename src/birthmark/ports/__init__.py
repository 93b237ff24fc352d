"""The ports: what the workflows need from the outside. Every sentence of a docstring is a law with a contract test."""

from birthmark.ports.basics import Clock, Entropy, Keys, SecretsHandler
from birthmark.ports.bulk import Engine, MadeChunk, MakeTask, SignedChunk, SignTask
from birthmark.ports.ledger import Ledger, LogStore, Publisher, Records, SealedChunk, SiteRecords, Transaction, Vault
from birthmark.ports.line import Credential, CredentialRequest, Evidence, Journal, JournalRecord, Probe, Source, Target
from birthmark.ports.replica import SiteReplica

__all__ = [
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
    "SiteReplica",
    "Source",
    "Target",
    "Transaction",
    "Vault",
]
