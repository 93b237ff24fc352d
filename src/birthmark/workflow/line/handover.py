"""Hand a credential over to a site: its private key leaves only sealed to the site's own vault key."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.serialization import load_der_private_key

from birthmark.errors import Tampered
from birthmark.model.events import SiteAdded, decode_entry
from birthmark.model.records import OrderRecord
from birthmark.pki.algorithms import spki_of
from birthmark.ports import Credential, Entropy, Ledger, SiteRecords
from birthmark.wire.service import CredentialAnswer, OrderFacts, SealedKey
from birthmark.wire.site import open_request
from birthmark.wire.vault import ChunkSealer, VaultRecipient

__all__ = ["credential_answer", "order_facts", "site_recipient"]


def site_recipient(ledger: Ledger, sites: SiteRecords, site: str) -> VaultRecipient:
    """Return the public vault key that a site gave with its request; ``Tampered("site.request.missing")``."""
    record = sites.site(site)
    for _, entry in () if record is None else ledger.entries(record.seq, 1):
        event, request = decode_entry(entry)
        if isinstance(event, SiteAdded) and event.site == site:
            return VaultRecipient(open_request(request).vault)
    raise Tampered(
        "site.request.missing",
        f"the log does not hold the request of site {site}",
        hint="Stop and run `birthmark audit verify`.",
        site=site,
    )


def order_facts(order: OrderRecord) -> OrderFacts:
    """Return what a site may know of an order."""
    return OrderFacts(
        order=order.order,
        product=order.product,
        profile=order.profile,
        key_algorithm=order.key_algorithm,
        key_origin="device" if order.key_origin == "device" else "injected",
        ca=order.ca,
        quantity=order.quantity,
    )


def credential_answer(
    attempt: str, credential: Credential, order: OrderRecord, recipient: VaultRecipient | None, entropy: Entropy
) -> CredentialAnswer:
    """Return the answer of the service. A key is sealed anew: its content key opens nothing else.

    ``recipient`` may be None only if the device made its key.
    """
    sealed = None
    if credential.private_key is not None:
        if recipient is None:
            raise ValueError("a private key leaves sealed or not at all")
        pkcs8 = credential.private_key.reveal()
        spki_hash = sha256(spki_of(load_der_private_key(pkcs8, None).public_key())).digest()
        sealer = ChunkSealer(recipient, entropy, order.key_algorithm)
        sealed = SealedKey(encapsulated=sealer.encapsulated, slot=sealer.seal(0, spki_hash, pkcs8))
    return CredentialAnswer(
        attempt=attempt,
        device_serial=credential.device_serial,
        certificate=credential.certificate,
        chain=credential.chain,
        order=order_facts(order),
        intent=credential.intent,
        entry=credential.issued_seq,
        sealed=sealed,
    )
