"""Judging what a target says and shows: the right device, nobody else's certificate, the issued identity, its key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

from cryptography import x509

from birthmark.errors import DeviceFault, Refused, StationFault, Tampered
from birthmark.pki.algorithms import spki_of
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.chain import verify_chain
from birthmark.ports import Evidence, Probe
from birthmark.ports.admission import Admission
from birthmark.wire.jwtproof import jwt_holds
from birthmark.wire.receipt import Handshake, evidence_holds

__all__ = ["check_admission", "check_evidence", "check_handshake", "check_probe", "checked_path", "spki_hash_of"]

_FOREIGN = "Take it off the line and find out how it got this certificate: a certificate is never on two devices."
_REWORK = "Do not ship it; run `birthmark device rework` with a reason and provision it again."


def spki_hash_of(certificate: bytes) -> bytes:
    """Return the SHA-256 of the key in a certificate (DER); ``Tampered("credential.malformed")`` if it is none."""
    try:
        return sha256(spki_of(x509.load_der_x509_certificate(certificate).public_key())).digest()
    except (*UNREADABLE, Refused):
        raise Tampered(
            "credential.malformed",
            "a certificate on record cannot be read",
            hint="Stop the line and run `birthmark audit verify`.",
        ) from None


def check_probe(probe: Probe, device_serial: str) -> None:
    """Return if this target is the device and shows nobody else's certificate. Nothing was written yet.

    Raises ``DeviceFault``: ``device.identity.mismatch``, ``device.certificate.foreign``.
    """
    if probe.identity != device_serial:
        raise DeviceFault(
            "device.identity.mismatch",
            f"this is device {probe.identity[:80]!a}, not {device_serial}",
            hint="Put the right device into the fixture or scan its serial again; nothing was written.",
            device_serial=device_serial,
            found=ascii(probe.identity[:80]),
        )
    if probe.certificate is not None and not _names(probe.certificate, device_serial):
        raise DeviceFault(
            "device.certificate.foreign",
            f"device {device_serial} holds a certificate that does not name it",
            hint=_FOREIGN,
            device_serial=device_serial,
            cert_sha256=sha256(probe.certificate).hexdigest(),
        )


def check_evidence(
    evidence: Evidence,
    *,
    device_serial: str,
    certificate: bytes,
    chain: Sequence[bytes],
    challenge: bytes,
    private_key: bytes | None,
    now: datetime,
) -> None:
    """Return if the device holds ``certificate`` (DER) and the key to it, below the root that ends ``chain``.

    ``private_key`` (PKCS#8 DER) is what was installed, where it is known. Raises ``DeviceFault``:
    ``device.certificate.differs``, ``device.chain.foreign``, ``device.key.differs``; ``Tampered("chain.*")``;
    ``StationFault("station.clock")``: it is not the device that is wrong; ``Refused("device.digest.unknown")`` where
    a digest has nothing to be compared with.
    """
    if evidence.certificate != certificate:
        raise DeviceFault(
            "device.certificate.differs",
            f"device {device_serial} shows another certificate than the one issued to it",
            hint=_REWORK,
            device_serial=device_serial,
            issued=sha256(certificate).hexdigest(),
            found=sha256(evidence.certificate).hexdigest(),
        )
    if any(member not in chain for member in evidence.chain):
        raise DeviceFault(
            "device.chain.foreign",
            f"device {device_serial} shows a CA certificate that does not belong to its chain",
            hint=_REWORK,
            device_serial=device_serial,
        )
    path = checked_path(certificate, chain, now)
    if evidence.kind != "digest":
        check = jwt_holds if evidence.kind == "jwt" else evidence_holds
        holds = evidence.signature is not None and check(path[0].public_key(), challenge, evidence.signature)
    else:
        if private_key is None:
            raise Refused(
                "device.digest.unknown",
                f"device {device_serial} only reports a digest of its key, and there is nothing to compare it with",
                hint="Such a device is proven once, when its key is installed; its receipt is on record.",
                device_serial=device_serial,
            )
        holds = evidence.key_digest == sha256(private_key).digest()
    if not holds:
        raise DeviceFault(
            "device.key.differs",
            f"device {device_serial} could not show that it holds the key of its certificate",
            hint=_REWORK,
            device_serial=device_serial,
            evidence=evidence.kind,
        )


def checked_path(certificate: bytes, chain: Sequence[bytes], now: datetime) -> list[x509.Certificate]:
    """Return the path to the root that ends ``chain``; ``Tampered("chain.*")`` if there is none.

    A certificate that exists is valid already: a clock that says otherwise is behind (``StationFault``).
    """
    try:
        return verify_chain(certificate, chain[:-1], chain[-1:], at=now)
    except Tampered as fault:
        if fault.code != "chain.not_yet_valid":
            raise
        raise StationFault(
            "station.clock",
            f"the clock of this station says {now:%F %T} UTC, and {fault.message}",
            hint="Set the clock of the machine; then run the same command again, nothing was decided.",
        ) from fault


def check_handshake(handshake: Handshake, *, device_serial: str, certificate: bytes) -> None:
    """Return if the server saw exactly this certificate; ``DeviceFault("device.handshake.peer")``."""
    if handshake.peer_cert_sha256 != sha256(certificate).hexdigest():
        raise DeviceFault(
            "device.handshake.peer",
            f"device {device_serial} made a TLS connection with another certificate",
            hint=_REWORK,
            device_serial=device_serial,
            found=handshake.peer_cert_sha256,
        )


def check_admission(admission: Admission, *, device_serial: str, certificate: bytes) -> None:
    """Return if the cloud was shown exactly this certificate; ``DeviceFault("device.cloud.certificate")``."""
    if admission.cert_sha256 != sha256(certificate).hexdigest():
        raise DeviceFault(
            "device.cloud.certificate",
            f"device {device_serial} showed its cloud another certificate",
            hint=_REWORK,
            device_serial=device_serial,
            found=admission.cert_sha256,
        )


def _names(certificate: bytes, device_serial: str) -> bool:
    """Say whether subject or subject alternative name hold the device serial as a word of its own."""
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(device_serial)}(?![A-Za-z0-9])".encode())
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        texts = [parsed.subject.public_bytes()]
        texts += [
            extension.value.public_bytes()
            for extension in parsed.extensions
            if isinstance(extension.value, x509.SubjectAlternativeName)
        ]
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    return any(word.search(text) for text in texts)
