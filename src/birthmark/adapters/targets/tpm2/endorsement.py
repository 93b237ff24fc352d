"""The endorsement key (EK): what the maker of the TPM says of it, and the proof that a key is in the same TPM.

TCG EK Credential Profile for TPM Family 2.0: NV indexes and templates. TPM 2.0 part 1, section 24: the challenge is
encrypted to the EK and to the Name of a key; only a TPM that holds both gives the answer (TPM2_ActivateCredential).
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from birthmark.adapters.targets.tpm2.cells import TpmCells
from birthmark.adapters.targets.tpm2.keys import TpmKey, tpm_key
from birthmark.adapters.targets.tpm2.link import TpmLink, binding
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, Tampered
from birthmark.pki.algorithms import spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.chain import verify_chain
from birthmark.ports import Attestation

__all__ = [
    "EK_KINDS",
    "EkRoots",
    "Endorsement",
    "attest_key",
    "checked_ek",
    "endorsement_of_kind",
    "find_endorsement",
    "read_ek_roots",
]

EK_KINDS = {
    "ecc256": (0x01C0000A, 0x81010002, "EK-ECC256"),
    "ecc256-high": (0x01C00014, 0x81010014, "EK-HIGH-ECC256"),
    "ecc384": (0x01C00016, 0x81010016, "EK-HIGH-ECC384"),
    "rsa2048": (0x01C00002, 0x81010001, "EK-RSA2048"),
    "rsa2048-high": (0x01C00012, 0x81010012, "EK-HIGH-RSA2048"),
}
"""Kind → NV index of the certificate, usual persistent handle, template (EK Credential Profile, section 2.2.1)."""

_EK_CERTIFICATE = ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
_MOST_ROOTS = 1024
_MOST_ROOT_OCTETS = 8 << 20
_SHOWN = 12 << 10
_REQUIRED = ("FIXEDTPM", "FIXEDPARENT", "SENSITIVEDATAORIGIN", "RESTRICTED", "DECRYPT")


@dataclass(frozen=True, slots=True)
class EkRoots:
    """Certificates (DER) of makers of TPMs: ``roots`` are self-issued and trusted, ``others`` lead there."""

    roots: tuple[bytes, ...]
    others: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The EK of a TPM. ``key`` is loaded or persistent; ``certificate`` (DER) is what NV holds for it."""

    kind: str
    key: TpmKey
    area: Any
    certificate: bytes | None


def read_ek_roots(path: Path) -> EkRoots:
    """Read a PEM file of TPM makers' certificates; ``Misconfigured("target.tpm.roots")``."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_ROOT_OCTETS + 1)
        found = x509.load_pem_x509_certificates(text) if len(text) <= _MOST_ROOT_OCTETS else []
    except (OSError, *UNREADABLE):
        found = []
    roots = tuple(one.public_bytes(Encoding.DER) for one in found if one.subject == one.issuer)
    if not roots or len(found) > _MOST_ROOTS:
        raise Misconfigured(
            "target.tpm.roots",
            f"{path} does not hold root certificates of makers of TPMs",
            hint="Name a PEM file with the roots, and the certificates between them and the TPMs, in ek-roots=.",
            path=str(path),
        )
    return EkRoots(roots, tuple(one.public_bytes(Encoding.DER) for one in found if one.subject != one.issuer))


def find_endorsement(link: TpmLink, kind: str) -> Endorsement:
    """Find the EK of a kind, or with ``auto`` the first that has a certificate. It is made anew if it is not kept.

    ``DeviceFault("target.tpm.ek_missing")``: there is no certificate of an EK.
    """
    indexes = set(link.handles("nv"))
    kinds = [one for one, (index, _, _) in EK_KINDS.items() if index in indexes and kind in ("auto", one)]
    if not kinds:
        raise _ek_missing(kind)
    index, handle, template = EK_KINDS[kinds[0]]
    cells = TpmCells(link)
    return _endorsement(link, kinds[0], _trimmed(cells.read(index)), handle, template)


def _ek_missing(kind: str) -> DeviceFault:
    return DeviceFault(
        "target.tpm.ek_missing",
        "the TPM holds no certificate of its endorsement key",
        hint="Use TPMs that come with an EK certificate, and name the kind with ek= if there are several.",
        ek=kind,
    )


def endorsement_of_kind(link: TpmLink, kind: str) -> Endorsement:
    """Find the EK of a kind whether or not a certificate speaks of it."""
    index, handle, template = EK_KINDS[kind]
    return _endorsement(link, kind, _trimmed(TpmCells(link).read(index)), handle, template)


def _endorsement(link: TpmLink, kind: str, certificate: bytes | None, handle: int, template: str) -> Endorsement:
    pytss = binding()
    wanted = _template(link, template)
    if handle in link.handles("persistent"):
        kept = tpm_key(link, link.esys.tr_from_tpmpublic(handle))
        if _same_form(kept.public, wanted.publicArea):
            return Endorsement(kind, kept, kept.public, certificate)
    made = link.esys.create_primary(pytss.TPM2B_SENSITIVE_CREATE(), wanted, pytss.ESYS_TR.ENDORSEMENT)
    key = tpm_key(link, link.keep(made[0]))
    return Endorsement(kind, key, key.public, certificate)


def _template(link: TpmLink, name: str) -> Any:
    """Return the template of an EK, with the nonce or the template of the maker where NV holds one."""
    from tpm2_pytss.utils import NoSuchIndex, create_ek_template

    cells = TpmCells(link)

    def read(index: int) -> bytes:
        found = cells.read(int(index))
        if found is None:
            raise NoSuchIndex(index)
        return found

    try:
        return create_ek_template(name, read)[1]
    except ValueError:  # a kind of the high range is made only beside its certificate
        raise _ek_missing(name) from None


def _same_form(area: Any, wanted: Any) -> bool:
    return bool(
        area.type == wanted.type
        and area.nameAlg == wanted.nameAlg
        and int(area.objectAttributes) == int(wanted.objectAttributes)
        and bytes(area.authPolicy) == bytes(wanted.authPolicy)
        and area.parameters.asymDetail.symmetric.marshal() == wanted.parameters.asymDetail.symmetric.marshal()
    )


def checked_ek(endorsement: Endorsement, roots: EkRoots) -> list[x509.Certificate]:
    """Return the path from the EK's certificate to a trusted root, once it is sure that it speaks of this EK.

    ``DeviceFault``: ``target.tpm.ek_missing``, ``target.tpm.ek_untrusted``, ``target.tpm.ek_mismatch``,
    ``target.tpm.ek_form``.
    """
    der = endorsement.certificate or b""
    try:
        path = verify_chain(der, roots.others, roots.roots, at=datetime.now(UTC))
        usages = path[0].extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE).value
        if _EK_CERTIFICATE not in list(usages):  # type: ignore[call-overload]
            raise ValueError("not for an EK")
        certified = spki_of(path[0].public_key())
    except (Tampered, Refused, x509.ExtensionNotFound, *UNREADABLE) as problem:
        raise DeviceFault(
            "target.tpm.ek_untrusted",
            "the certificate of the endorsement key was not made by a maker in ek-roots",
            hint="Take the device off the line; or add the maker's root to the file, once you have it from the maker.",
            cert_sha256=sha256(der).hexdigest(),
            reason=problem.code if isinstance(problem, BirthmarkError) else "chain.ek_usage",
        ) from problem
    if certified != endorsement.key.spki:
        raise DeviceFault(
            "target.tpm.ek_mismatch",
            "the certificate in the TPM speaks of the endorsement key of another TPM",
            hint="Take the device off the line: somebody copied the certificate.",
            certified=sha256(certified).hexdigest(),
            found=sha256(endorsement.key.spki).hexdigest(),
        )
    flags = binding().TPMA_OBJECT
    has = int(endorsement.area.objectAttributes)
    if not all(has & int(getattr(flags, flag)) for flag in _REQUIRED):
        raise DeviceFault(
            "target.tpm.ek_form",
            "the endorsement key is not a key that stays in its TPM and only decrypts",
            hint="Take the device off the line: this is no endorsement key.",
        )
    return path


def attest_key(link: TpmLink, key: TpmKey, endorsement: Endorsement, roots: EkRoots, nonce: bytes) -> Attestation:
    """Let the TPM show that ``key`` is in it. The credential is the nonce itself (32 octets).

    Raises what ``checked_ek`` raises, and ``DeviceFault("target.tpm.not_resident")``.
    """
    path = checked_ek(endorsement, roots)
    blob, secret = make_challenge(endorsement.area, key.name, nonce)
    if not hmac.compare_digest(answer_challenge(link, key, endorsement, blob, secret), nonce):
        raise _not_resident(key)
    return Attestation(
        kind="tpm2-credential",
        spki=key.spki,
        anchor=sha256(path[-1].public_bytes(Encoding.DER)).digest(),
        statement=_statement(path, key, nonce, blob, secret),
    )


def make_challenge(ek: Any, name: bytes, credential: bytes) -> tuple[Any, Any]:
    """Encrypt ``credential`` to an EK (TPMT_PUBLIC) and to the Name of a key. The TPM has no part in it."""
    from tpm2_pytss.utils import make_credential

    made: tuple[Any, Any] = make_credential(ek, credential, name)
    return made


def answer_challenge(link: TpmLink, key: TpmKey, endorsement: Endorsement, blob: Any, secret: Any) -> bytes:
    """Let the TPM decrypt the credential; ``DeviceFault("target.tpm.not_resident")`` if it is not for it."""
    pytss = binding()
    esys, handles = link.esys, pytss.ESYS_TR
    session = handles.PASSWORD
    if not int(endorsement.area.objectAttributes) & int(pytss.TPMA_OBJECT.USERWITHAUTH):
        # EK Credential Profile, section B.6.2 (PolicyA): whoever may use the endorsement hierarchy.
        session = link.keep(
            esys.start_auth_session(
                handles.NONE,
                handles.NONE,
                pytss.TPM2_SE.POLICY,
                pytss.TPMT_SYM_DEF(algorithm=pytss.TPM2_ALG.NULL),
                pytss.TPM2_ALG.SHA256,
            )
        )
        esys.policy_secret(handles.ENDORSEMENT, session, b"", b"", b"", 0)
    try:
        answer = esys.activate_credential(
            key.handle, endorsement.key.handle, blob, secret, session1=handles.PASSWORD, session2=session
        )
    except pytss.TSS2_Exception as problem:
        codes = pytss.TPM2_RC
        if problem.error in (
            codes.INTEGRITY,
            codes.VALUE,
            codes.SIZE,
            codes.ECC_POINT,
            codes.INSUFFICIENT,
            codes.AUTH_UNAVAILABLE,  # only the public half of the key is there
        ):
            raise _not_resident(key) from problem
        raise
    finally:
        if session != handles.PASSWORD:
            link.flush(session)
    return bytes(answer)


def _not_resident(key: TpmKey) -> DeviceFault:
    return DeviceFault(
        "target.tpm.not_resident",
        "the TPM could not show that it holds both the endorsement key and the key of the device",
        hint="Take the device off the line: something answers in the place of its TPM.",
        name=key.name.hex(),
    )


def _statement(path: Sequence[x509.Certificate], key: TpmKey, nonce: bytes, blob: Any, secret: Any) -> bytes:
    """Return what was looked at, as JSON (docs/targets/tpm2.md): never more than 16 KiB."""
    ders = [one.public_bytes(Encoding.DER) for one in path[:-1]]
    while sum(map(len, ders)) > _SHOWN * 3 // 4 - 2048 and len(ders) > 1:
        ders.pop()
    document = {
        "ek_certificates": [base64.b64encode(der).decode() for der in ders],
        "public": base64.b64encode(bytes(key.public.marshal())).decode(),
        "name": key.name.hex(),
        "nonce": nonce.hex(),
        "credential": base64.b64encode(bytes(blob.marshal())).decode(),
        "secret": base64.b64encode(bytes(secret.marshal())).decode(),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _trimmed(octets: bytes | None) -> bytes | None:
    """Cut what follows the certificate: makers fill the index up (EK Credential Profile, section 2.2.1.4)."""
    if octets is None or len(octets) < 4 or octets[:2] != b"\x30\x82":
        return octets
    return octets[: 4 + int.from_bytes(octets[2:4], "big")]
