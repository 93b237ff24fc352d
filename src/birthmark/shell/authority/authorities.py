"""CAs of a workspace around their workflows: requests, imports, revocation lists, and the files in ``ca/``."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.durable import write_durably
from birthmark.errors import Misconfigured
from birthmark.pki.certfile import read_certificates
from birthmark.workflow.authority.caimport import CaImport, ImportedCa, ProductNeed
from birthmark.workflow.authority.crl import make_crl, require_own_ca

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["import_ca", "import_facts", "publish_crl", "request_ca"]

_FILE_LIMIT = 1 << 20


def request_ca(workspace: Workspace, ca: str, *, subject: str, new_key: str | None, path_length: int | None) -> Path:
    """Write ``ca/NAME.csr`` (PEM) for a CA of birthmark.toml; ``new_key``: make a key of this algorithm first.

    Power cut after the key was made and before the request is on disk: ask again without ``new_key``.
    """
    from birthmark.pki.request import ca_request

    uri = workspace.ca_key_uri(ca)
    key: Any = workspace.private_key(uri) if new_key is None else workspace.keys(uri).generate(uri, new_key)
    csr = x509.load_der_x509_csr(ca_request(subject, key, path_length=path_length))
    path = workspace.root / "ca" / f"{ca}.csr"
    write_durably(path, csr.public_bytes(Encoding.PEM), mode=0o644)
    return path


def import_facts(ca: str, files: Sequence[Path]) -> dict[str, str]:
    """Return what a plan states about an import: the CA's own certificate is the one that signed no other."""
    certificates = [der for path in files for der in read_certificates(_read(path))]
    issuers = {x509.load_der_x509_certificate(der).issuer for der in certificates}
    lowest = [der for der in certificates if x509.load_der_x509_certificate(der).subject not in issuers]
    own = lowest[0] if len(lowest) == 1 else certificates[0]
    return {"ca": ca, "certificate_sha256": sha256(own).hexdigest()}


def import_ca(workspace: Workspace, ca: str, files: Sequence[Path]) -> ImportedCa:
    """Take in a bought intermediate, or the CA of a third party's service, and leave the certificates in ``ca/``."""
    settings = workspace.settings.cas.get(ca)
    if settings is None:
        raise Misconfigured(
            "settings.ca",
            f"birthmark.toml has no CA named {ca}",
            hint=f"Add [cas.{ca}] with the key of its request, or with the issuer that signs for us.",
            ca=ca,
        )
    certificates = [der for path in files for der in read_certificates(_read(path))]
    key = None if settings.key is None else workspace.private_key(settings.key)
    named = settings.key or settings.issuer or ""
    job = CaImport(workspace.ledger, workspace.records, workspace.clock, workspace.entropy, workspace.by)
    with workspace.lock("ceremony"):
        imported = job.run(
            ca, certificates, private_key=key, key_scheme=named.partition(":")[0], products=_needs(workspace, ca)
        )
        for name, der in imported.new:
            pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            write_durably(workspace.root / "ca" / f"{name}.pem", pem, mode=0o644)
    return imported


def _needs(workspace: Workspace, ca: str) -> list[ProductNeed]:
    return [
        ProductNeed(name, workspace.profile(product.profile), product.key_algorithm, product.values)
        for name, product in workspace.settings.products.items()
        if product.ca == ca
    ]


def publish_crl(workspace: Workspace, ca: str, *, days: int) -> Path:
    """Make the revocation list of one of our CAs and write it to ``ca/NAME.crl`` (DER).

    Power cut: the old list or the new one. The new one is made from what is on record, so nothing is ever lost.
    """
    site = workspace.settings.name if workspace.settings.role == "site" else None
    require_own_ca(workspace.records, ca, site=site)
    path = workspace.root / "ca" / f"{ca}.crl"
    with workspace.lock("crl"):
        crl = make_crl(
            ca,
            days=days,
            issuer=workspace.issuer(ca),
            private_key=workspace.private_key(workspace.ca_key_uri(ca)),
            last=path.read_bytes() if path.exists() else None,
            ledger=workspace.ledger,
            records=workspace.records,
            clock=workspace.clock,
        )
        write_durably(path, crl, mode=0o644)
    return path


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_LIMIT)
    except OSError as problem:
        raise Misconfigured(
            "ca.file",
            f"cannot read {path}: {problem.strerror}",
            hint="Name the file that the CA sent.",
            path=str(path),
        ) from problem
