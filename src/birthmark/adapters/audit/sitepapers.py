"""Signed papers between an authority, its sites and approvers: requests, grants, manifests, heads, approved plans."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from birthmark.adapters.audit.certificates import Fault
from birthmark.adapters.audit.der import certificate_spans
from birthmark.adapters.audit.entries import Document
from birthmark.adapters.audit.index import Site
from birthmark.adapters.audit.issuers import Issuers
from birthmark.adapters.audit.logcheck import LogKey, open_head, open_signed, read_vkey
from birthmark.errors import BirthmarkError

__all__ = ["access_fault", "grant_fault", "head_fault", "manifest_fault", "plan_faults", "request_fault"]


def _signed_members(note: bytes, vkey: str) -> Mapping[str, Any] | str:
    """Return the members of a signed JSON object, or why there are none."""
    try:
        text = open_signed(note, read_vkey(vkey))
    except BirthmarkError as problem:
        return problem.message
    try:
        members = msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "it is not JSON"
    return members if isinstance(members, dict) else "it is not an object"


def _document_fault(note: bytes, vkey: str, expected: Mapping[str, object]) -> str | None:
    members = _signed_members(note, vkey)
    if isinstance(members, str):
        return members
    for name, value in expected.items():
        if members.get(name) != value:
            return f"it has another {name} than its event"
    return None


def request_fault(document: Document, request: bytes) -> Fault | None:
    """Return what is wrong with the request of a ``site_added`` event."""
    names = ("site", "origin", "vkey", "site_prefix", "mode")
    expected = {"format": "birthmark-site-request/1", **{name: document[name] for name in names}}
    reason = _document_fault(request, document["vkey"], expected)
    return None if reason is None else ("audit.site.request", f"the request of site {document['site']}: {reason}")


def grant_fault(document: Document, grant: bytes) -> Fault | None:
    """Return what is wrong with the grant of a ``grant_accepted`` event."""
    expected = {"format": "birthmark-grant/1", **{name: document[name] for name in ("authority", "vkey", "mode")}}
    reason = _document_fault(grant, document["vkey"], expected)
    if hashlib.sha256(grant).hexdigest() != document["grant_sha256"]:
        reason = "it does not have the hash in its event"
    return None if reason is None else ("audit.site.grant", f"the grant of {document['authority']}: {reason}")


def manifest_fault(document: Document, manifest: bytes, authority_vkey: str | None) -> Fault | None:
    """Return what is wrong with the manifest of a ``bundle_opened`` event. ``authority_vkey``: of the last grant."""
    names = ("bundle", "order", "devices")
    expected = {"format": "birthmark-manifest/1", **{name: document[name] for name in names}}
    if authority_vkey is None:
        reason: str | None = "no grant says whose it must be"
    elif hashlib.sha256(manifest).hexdigest() != document["manifest_sha256"]:
        reason = "it does not have the hash in its event"
    else:
        reason = _document_fault(manifest, authority_vkey, expected)
    return None if reason is None else ("audit.bundle.manifest", f"the manifest of {document['bundle']}: {reason}")


def head_fault(document: Document, note: bytes, site: Site) -> Fault | None:
    """Return what is wrong with the signed head of a ``site_reported`` event."""
    try:
        head = open_head(note, read_vkey(site.vkey))
    except BirthmarkError as problem:
        return "audit.site.head", f"the head of site {site.site}: {problem.message}"
    if (head.origin, head.size, head.root.hex()) != (site.origin, document["size"], document["root"]):
        return "audit.site.head", f"the signed head of site {site.site} is not the one its event names"
    return None


def access_fault(document: Document, certificate: bytes, issuers: Issuers, seq: int) -> Fault | None:
    """Return what is wrong with the certificate of an ``access_granted`` event; ``issuers``: the access CAs."""
    spans = certificate_spans(certificate)
    name = ascii(document["name"])[1:-1]
    if hashlib.sha256(certificate).hexdigest() != document["cert_sha256"] or spans is None:
        return "audit.access.certificate", f"the certificate of {name} is not the one its event names"
    if hashlib.sha256(spans.spki).hexdigest() != document["spki_sha256"]:
        return "audit.access.certificate", f"the certificate of {name} holds another key than its event names"
    fault = issuers.signature_fault(spans, certificate, seq)
    if fault is None or fault[0] == "audit.ca.destroyed":
        return fault
    return "audit.access.certificate", f"the certificate of {name} {fault[1]}"


def plan_faults(document: Document, plan: bytes, rule: tuple[int, Sequence[str]] | None, origin: str) -> list[Fault]:
    """Return what is wrong with an ``approval_used`` event. ``rule``: threshold and verifier keys in force then."""
    action = ascii(document["action"])[1:-1]
    if rule is None:
        return [("audit.approval.threshold", f"{action} was approved before anybody was named who can")]
    threshold, vkeys = rule
    signers: dict[bytes, str] = {}
    text = ""
    for vkey in vkeys:
        try:
            key: LogKey = read_vkey(vkey)
            text = open_signed(plan, key)
        except BirthmarkError:
            continue
        signers[key.public] = key.name
    found: list[Fault] = []
    if len(signers) < threshold:
        what = f"{action} has {len(signers)} of {threshold} approvals"
        found.append(("audit.approval.threshold", what))
    head = ["birthmark-approval-plan/1", f"action: {document['action']}", f"origin: {origin}"]
    if signers and text.split("\n")[:3] != head:
        found.append(("audit.approval.plan", f"{action}: the approvers signed a plan for another act or workspace"))
    if signers and hashlib.sha256(text.encode()).hexdigest() != document["plan_sha256"]:
        found.append(("audit.approval.plan", f"{action}: the approvers signed another plan than its event names"))
    if not set(document["approvers"]) <= set(signers.values()):
        found.append(("audit.approval.plan", f"{action}: its event names approvers who did not sign"))
    return found
