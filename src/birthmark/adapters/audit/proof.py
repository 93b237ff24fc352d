"""Reads a device proof (docs/formats/device-proof.md) offline, with the log's verifier key alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from birthmark.adapters.audit.certificates import load_certificate
from birthmark.adapters.audit.entries import canonical_fault, parse_head
from birthmark.adapters.audit.logcheck import Head, fold_path, open_head, read_vkey
from birthmark.errors import Tampered

__all__ = ["PROOF_FORMAT", "CheckedProof", "check_proof"]

PROOF_FORMAT = "birthmark-device-proof/1"
_PROOF_LINE = b"c2sp.org/tlog-proof@v1\n"
_MAX_OCTETS = 1_000_000
_MAX_PATH = 63
_CERTIFIED = ("issued", "received")


@dataclass(frozen=True, slots=True)
class CheckedProof:
    """What a good proof shows: the certificate (DER) of the device is entry ``index`` of the log ``origin``."""

    device_serial: str
    origin: str
    index: int
    size: int
    issued_at: str
    certificate: bytes

    def document(self) -> dict[str, object]:
        """Return a JSON-ready object."""
        return {
            "device_serial": self.device_serial,
            "log": self.origin,
            "index": self.index,
            "size": self.size,
            "issued_at": self.issued_at,
            "cert_sha256": hashlib.sha256(self.certificate).hexdigest(),
        }


def check_proof(data: bytes, vkey: str) -> CheckedProof:
    """Return what a proof file shows, if everything in it holds.

    Raises ``Tampered``: ``audit.proof.malformed``, ``audit.proof.inclusion`` (the entry is not under the signed head),
    ``audit.proof.entry`` (the entry is no certificate), ``audit.proof.preface`` (the text for people says something
    else), ``audit.note.*`` (the checkpoint is not signed by the key); ``Misconfigured("audit.vkey")``.
    """
    key = read_vkey(vkey)
    preface, mark, rest = (b"\n" + data).partition(b"\n" + _PROOF_LINE)
    if not mark or len(data) > _MAX_OCTETS:
        raise _malformed("it holds no tlog-proof")
    text, blank, note = rest.partition(b"\n\n")
    if not blank:
        raise _malformed("it holds no checkpoint")
    entry, index, path = _parts(text)
    head: Head = open_head(note, key)
    if head.origin != key.name:
        raise _malformed("the checkpoint is that of another log than the key's")
    if fold_path(hashlib.sha256(b"\0" + entry).digest(), index, head.size, path) != head.root:
        raise Tampered(
            "audit.proof.inclusion",
            f"the entry is not number {index} of the {head.size} entries under the signed head",
            hint="Treat the device as not logged and ask its maker for a new proof.",
            index=index,
            size=head.size,
        )
    checked = _issued(entry, head, index)
    _check_preface(preface, checked)
    return checked


def _parts(text: bytes) -> tuple[bytes, int, list[bytes]]:
    """Return entry, index and audit path of the lines behind the first."""
    lines = text.split(b"\n")
    if len(lines) < 2 or not lines[0].startswith(b"extra ") or not lines[1].startswith(b"index "):
        raise _malformed("it does not tell entry and index")
    decimal = lines[1].removeprefix(b"index ")
    if not decimal.isdigit() or len(decimal) > 18 or str(int(decimal)).encode() != decimal:
        raise _malformed("its index is not a number")
    path = [_decode(line) for line in lines[2:]]
    if len(path) > _MAX_PATH or any(len(item) != 32 for item in path):
        raise _malformed("its path is not a list of hashes")
    return _decode(lines[0].removeprefix(b"extra ")), int(decimal), path


def _decode(text: bytes) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("a line is not base64") from None
    if base64.b64encode(data) != text:
        raise _malformed("a line is not base64 in its one form")
    return data


def _issued(entry: bytes, head: Head, index: int) -> CheckedProof:
    line, feed, certificate = entry.partition(b"\n")
    document = parse_head(line) if feed else None
    if document is None or canonical_fault(line, document) is not None or document["type"] not in _CERTIFIED:
        raise _no_certificate("it is not an entry of type issued or received")
    if load_certificate(certificate) is None:
        raise _no_certificate("its certificate cannot be read")
    return CheckedProof(document["device"], head.origin, index, head.size, document["at"], certificate)


def _check_preface(preface: bytes, checked: CheckedProof) -> None:
    """The text for people must not say anything that the proof does not show."""
    encoded = base64.b64encode(checked.certificate).decode()
    lines = [encoded[at : at + 64] for at in range(0, len(encoded), 64)]
    certificate = "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]).encode()
    expected = (
        f"\n{PROOF_FORMAT}\ndevice: {checked.device_serial}\nlog: {checked.origin}\nentry: {checked.index}\n"
        f"issued: {checked.issued_at}\n\n"
    ).encode() + certificate
    if preface != expected:
        raise Tampered(
            "audit.proof.preface",
            "the text above the proof does not say what the proof shows",
            hint="Trust nothing in this file and ask the maker of the device for the original.",
            device_serial=checked.device_serial,
        )


def _malformed(reason: str) -> Tampered:
    return Tampered(
        "audit.proof.malformed",
        f"this is not a device proof: {reason}",
        hint="Fetch the file again, unchanged.",
        reason=reason,
    )


def _no_certificate(reason: str) -> Tampered:
    return Tampered(
        "audit.proof.entry",
        f"the proven entry is not a certificate: {reason}",
        hint="Ask the maker of the device for the proof of its certificate.",
        reason=reason,
    )
