"""CA certificates: read, chained up to their roots, allowed to sign (RFC 5280 sections 4.2.1.3, 4.2.1.9 and 6.1)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.audit.certificates import TemplateForm, load_certificate, open_authority
from birthmark.adapters.audit.der import CertificateSpans, certificate_spans, validity_window
from birthmark.adapters.audit.findings import Findings
from birthmark.adapters.audit.index import Authority, Index

__all__ = ["check_authorities", "check_authority_files", "check_templates"]

_DEEPEST = 16


def check_authorities(index: Index, cert_hashes: dict[int, str], findings: Findings) -> int:
    """Check every CA on record; return the number of signatures verified. ``cert_hashes``: entry to its cert_sha256."""
    known = {authority.ca: authority for authority in index.authorities}
    verified = 0
    for authority in index.authorities:
        where = f"entry {authority.seq}"
        if hashlib.sha256(authority.certificate).hexdigest() != cert_hashes.get(authority.seq):
            findings.add(
                "audit.ca.hash", f"the certificate of CA {authority.ca} has another hash than its event", where
            )
        spans = certificate_spans(authority.certificate)
        extensions = _extensions(authority.certificate)
        if spans is None or extensions is None:
            findings.add("audit.ca.malformed", f"the certificate of CA {authority.ca} cannot be read", where)
            continue
        _check_role(authority, extensions, findings)
        _check_delegation(authority, extensions, index, findings)
        _check_path_lengths(authority, known, findings)
        issuer_gone = index.destroyed.get(authority.issuer or "", authority.seq) < authority.seq
        if issuer_gone:
            what = f"CA {authority.ca} was signed by {authority.issuer} after its key was destroyed"
            findings.add("audit.ca.destroyed", what, where)
        verified += _check_issuer(authority, spans, known, findings)
    return verified


def _extensions(der: bytes) -> x509.Extensions | None:
    """Return the extensions of a certificate, None if they or it cannot be read."""
    certificate = load_certificate(der)
    try:
        return None if certificate is None else certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None


def _check_role(authority: Authority, extensions: x509.Extensions, findings: Findings) -> None:
    where = f"entry {authority.seq}"
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        if not constraints.value.ca or not constraints.critical:
            findings.add("audit.ca.basic_constraints", f"CA {authority.ca} is not marked as a CA (critical)", where)
    except x509.ExtensionNotFound:
        findings.add("audit.ca.basic_constraints", f"CA {authority.ca} has no basicConstraints", where)
    try:
        if not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign:
            findings.add("audit.ca.key_usage", f"CA {authority.ca} lacks keyCertSign", where)
    except x509.ExtensionNotFound:
        findings.add("audit.ca.key_usage", f"CA {authority.ca} has no keyUsage", where)


def _path_length(extensions: x509.Extensions | None) -> int | None:
    try:
        return (
            None if extensions is None else extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        )
    except x509.ExtensionNotFound:
        return None


def _check_path_lengths(authority: Authority, known: dict[str, Authority], findings: Findings) -> None:
    """Check that no CA above allows fewer CAs below it than there are (RFC 5280 section 4.2.1.9)."""
    above, below = known.get(authority.issuer or ""), 1
    while above is not None and above.ca != authority.ca and below < _DEEPEST:
        length = _path_length(_extensions(above.certificate))
        if length is not None and length < below:
            what = f"CA {authority.ca} is {below} below {above.ca}, which allows {length}"
            findings.add("audit.ca.path_length", what, f"entry {authority.seq}")
        above, below = known.get(above.issuer or ""), below + 1


def _check_delegation(authority: Authority, extensions: x509.Extensions, index: Index, findings: Findings) -> None:
    """Check a CA whose key a site holds: it makes no further CAs, and an authority knows the site."""
    if authority.site is None:
        return
    where = f"entry {authority.seq}"
    if _path_length(extensions) != 0:
        findings.add("audit.ca.path_length", f"CA {authority.ca} of site {authority.site} may make further CAs", where)
    if authority.issuer is None or (
        index.role == "authority" and all(site.site != authority.site for site in index.sites)
    ):
        findings.add("audit.ca.issuer", f"CA {authority.ca} is delegated to {authority.site} by nobody we know", where)


def _check_issuer(
    authority: Authority, spans: CertificateSpans, known: dict[str, Authority], findings: Findings
) -> int:
    where = f"entry {authority.seq}"
    self_issued = authority.issuer is None and spans.issuer == spans.subject
    own_root = authority.kind == "root" or authority.issuer == authority.ca or self_issued
    issuer = authority if own_root else known.get(authority.issuer or "")
    if issuer is None:
        if authority.issuer is not None or authority.kind == "access":
            findings.add("audit.ca.issuer", f"CA {authority.ca} was issued by {authority.issuer}, not on record", where)
        return 0
    key = open_authority(issuer.certificate, authority.certificate)
    if key is None:
        findings.add("audit.ca.signature", f"CA {authority.ca} has a signature that does not fit its issuer", where)
        return 0
    if spans.issuer != key.subject:
        findings.add("audit.ca.issuer", f"CA {authority.ca} names another issuer than {issuer.ca}", where)
    window = validity_window(spans.validity)
    if window is None or window[0] < key.not_before or window[1] > key.not_after:
        findings.add("audit.ca.validity", f"CA {authority.ca} is valid outside the life of {issuer.ca}", where)
    try:
        key.verify(spans.tbs, hashlib.sha256(spans.tbs).digest(), spans.signature)
    except InvalidSignature:
        findings.add("audit.ca.signature", f"CA {authority.ca} is not signed by {issuer.ca}", where)
        return 0
    return 1


def check_templates(index: Index, findings: Findings) -> None:
    """Check that every template on record can be read, and names a CA on record (by its certificate's hash)."""
    hashes = {item.ca: hashlib.sha256(item.certificate).hexdigest() for item in index.authorities}
    for template in index.templates:
        where = f"entry {template.seq}"
        if template.ca not in hashes:
            findings.add("audit.entry.unlawful", f"template {template.template} is for {template.ca}, no CA", where)
        try:
            form = TemplateForm(template.body)
        except (ValueError, TypeError, RecursionError) as problem:
            findings.add("audit.template.malformed", f"template {template.template}: {str(problem)[:120]}", where)
            continue
        if form.issuer_certificate != hashes.get(template.ca, form.issuer_certificate):
            what = f"template {template.template} was made for another certificate of {template.ca}"
            findings.add("audit.template.malformed", what, where)


def check_authority_files(root: Path, index: Index, findings: Findings) -> None:
    """Compare ``ca/NAME.pem`` of the workspace with the certificates on record."""
    for authority in index.authorities:
        path = root / "ca" / f"{authority.ca}.pem"
        try:
            stored = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, x509.InvalidVersion):
            findings.add("audit.ca.file", f"ca/{authority.ca}.pem cannot be read", f"ca/{authority.ca}.pem")
            continue
        if stored != authority.certificate:
            what = f"ca/{authority.ca}.pem is not the certificate in entry {authority.seq}"
            findings.add("audit.ca.file", what, f"ca/{authority.ca}.pem")
