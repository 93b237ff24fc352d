"""Proofs of possession: certificates that clouds asked for, each against its intent and its CA."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from birthmark.adapters.audit.certificates import load_certificate, open_authority
from birthmark.adapters.audit.der import certificate_spans
from birthmark.adapters.audit.entries import Document
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.index import Authority
from birthmark.adapters.audit.issuers import is_ca

__all__ = ["check_possession"]


def check_possession(
    indexed: Iterable[tuple[int, Document, bytes]], authorities: Sequence[Authority], findings: Findings
) -> int:
    """Check every proof; return the number of signatures verified. ``indexed``: entries in the order of the log."""
    known = {authority.ca: authority for authority in authorities}
    open_intents: dict[int, Document] = {}
    serials: set[str] = set()
    verified = 0
    for seq, document, attachment in indexed:
        where = f"entry {seq}"
        if document["type"] == "possession_intended":
            if document["cert_serial"] in serials or document["ca"] not in known:
                what = f"entry {seq} intends a proof by {document['ca']} with a serial that was given, or by no CA"
                findings.add("audit.possession.intent", ascii(what)[1:-1], where)
            serials.add(document["cert_serial"])
            open_intents[seq] = document
        elif document["type"] == "possession_proven":
            intent = open_intents.pop(document["intent"], None)
            if intent is None or intent["ca"] != document["ca"]:
                what = f"entry {seq} is a proof of possession that no open intent before it names"
                findings.add("audit.possession.intent", what, where)
                continue
            fault = _fault(intent, document, attachment, known.get(document["ca"]))
            verified += 1
            if fault is not None:
                findings.add("audit.possession.certificate", f"entry {seq}: {fault}", where)
    return verified


def _fault(intent: Document, document: Document, der: bytes, authority: Authority | None) -> str | None:
    """Return what is wrong with a proof, None if nothing is."""
    certificate, spans = load_certificate(der), certificate_spans(der)
    if certificate is None or spans is None or sha256(der).hexdigest() != document["cert_sha256"]:
        return "the certificate is not the one that the entry names"
    if sha256(spans.tbs).hexdigest() != intent["tbs_sha256"]:
        return "the certificate is not the one that was intended"
    if spans.cert_serial.hex() != intent["cert_serial"] or sha256(spans.spki).hexdigest() != intent["spki_sha256"]:
        return "its serial or its key is not the intended one"
    names = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [intent["code"]] or len(certificate.subject) != 1:
        return "its name is not the verification code"
    if is_ca(spans):
        return "it claims to be a CA"
    key = None if authority is None else open_authority(authority.certificate, der)
    if key is None or spans.issuer != key.subject:
        return "its issuer is not the CA"
    try:
        key.verify(spans.tbs, sha256(spans.tbs).digest(), spans.signature)
    except InvalidSignature:
        return "the CA did not sign it"
    return None
