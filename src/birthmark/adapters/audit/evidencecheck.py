"""Checks exported evidence with nothing but Python's standard library and the openssl command. It needs no birthmark.

    python3 -I check.py DIRECTORY [VKEY [WITNESS ...]]

VKEY is the verifier key of the log as you know it from elsewhere; without it the file log/vkey is believed. Each
WITNESS is the verifier key of a witness that must have cosigned the head in log/cosigned (c2sp.org/tlog-cosignature).
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["main"]

BATCH = 400
RAW = {"06032b6570", "060960864801650304031"}
"""Keys that sign without a hash of their own: Ed25519, ML-DSA."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def openssl(*arguments: str) -> str:
    """Run openssl; return what it printed, or stop."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"FAILED: openssl {arguments[0]}: {(done.stdout + done.stderr).strip()[:2000]}")
    return done.stdout


def require(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"FAILED: {what}")


def check_manifest(root: Path) -> int:
    """Every file has the hash that the manifest says, and there are no others."""
    lines = (root / "MANIFEST.sha256").read_text().splitlines()
    named = {line[66:]: line[:64] for line in lines}
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} - {"MANIFEST.sha256"}
    require(found == set(named), f"the manifest and the directory differ: {sorted(found ^ set(named))[:5]}")
    for name, digest in named.items():
        require(sha256((root / name).read_bytes()).hex() == digest, f"{name} is not what was exported")
    return len(named)


def signed_by(vkey: str, kind: int, note: bytes, scratch: Path) -> tuple[str, list[bytes]]:
    """Return the text of a C2SP signed note and the unverified signatures of ``vkey``; put the key into ``scratch``."""
    name, key_id, encoded = vkey.strip().split("+", 2)
    key = base64.b64decode(encoded)
    require(key[:1] == bytes((kind,)) and len(key) == 33, f"{name} is not an Ed25519 key of type {kind}")
    require(sha256(name.encode() + b"\n" + key)[:4].hex() == key_id, f"the key id of {name} is wrong")
    (scratch / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + key[1:])
    text, _, lines = note.decode().rpartition("\n\n")
    found = []
    for line in lines.splitlines():
        _, signer, blob = line.split(" ")
        signature = base64.b64decode(blob)
        if (signer, signature[:4].hex()) == (name, key_id):
            found.append(signature[4:])
    return text + "\n", found


def open_note(note: bytes, vkey: str, scratch: Path) -> str:
    """Return the text of a note that the Ed25519 key ``vkey`` signed, or stop."""
    text, found = signed_by(vkey, 1, note, scratch)
    require(bool(found), f"{vkey.split('+')[0]} did not sign a note")
    verify(scratch, "DER", text.encode(), found[0], "-rawin")
    return text


def seen_at(note: bytes, witness: str, scratch: Path) -> int | None:
    """Return when a witness cosigned a head (seconds since 1970), None if it did not, or stop."""
    text, found = signed_by(witness, 4, note, scratch)
    times = [int.from_bytes(signature[:8], "big") for signature in found]
    for moment, signature in zip(times, found, strict=True):
        verify(scratch, "DER", b"cosignature/v1\ntime %d\n" % moment + text.encode(), signature[8:], "-rawin")
    return max(times, default=None)


def verify(scratch: Path, form: str, message: bytes, signature: bytes, *options: str) -> None:
    """Verify a signature with the public key in ``scratch/key``."""
    (scratch / "message").write_bytes(message)
    (scratch / "signature").write_bytes(signature)
    files = ("-inkey", str(scratch / "key"), "-in", str(scratch / "message"), "-sigfile", str(scratch / "signature"))
    openssl("pkeyutl", "-verify", "-pubin", "-keyform", form, *files, *options)


def tile(log: Path, level: str, index: int, width: int) -> bytes:
    digits = str(index).zfill(-(-len(str(index)) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    name = "/".join([*("x" + group for group in groups[:-1]), groups[-1]])
    return (log / "tile" / level / (name + ("" if width == 256 else f".p/{width}"))).read_bytes()


@lru_cache(maxsize=16)
def bundle(log: Path, index: int, width: int) -> list[bytes]:
    data, at, found = tile(log, "entries", index, width), 0, []
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : end])
        at = end
    require(len(found) == width and at == len(data), f"{log}: bundle {index} is not {width} entries")
    return found


def entry(log: Path, number: int, size: int) -> tuple[dict[str, Any], bytes]:
    """Return event and attachment of an entry."""
    width = min(256, size - number // 256 * 256)
    head, _, attachment = bundle(log, number // 256, width)[number % 256].partition(b"\n")
    return json.loads(head), attachment


def tree_root(log: Path, size: int, first: int) -> bytes:
    """Return the RFC 6962 root of the ``first`` of all entries, which must also be those of the tiles."""
    stack: list[tuple[int, bytes]] = []
    for index in range(-(-first // 256)):
        width = min(256, size - 256 * index)
        leaves = [sha256(b"\0" + item) for item in bundle(log, index, width)]
        require(b"".join(leaves) == tile(log, "0", index, width), f"{log}: tile {index} is not its entries")
        for leaf in leaves[: first - 256 * index]:
            height, node = 0, leaf
            while stack and stack[-1][0] == height:
                height, node = height + 1, sha256(b"\1" + stack.pop()[1] + node)
            stack.append((height, node))
    node = stack.pop()[1] if stack else sha256(b"")
    while stack:
        node = sha256(b"\1" + stack.pop()[1] + node)
    return node


def der_part(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at ``at`` begins and ends."""
    count = der[at + 1] & 0x7F if der[at + 1] & 0x80 else 0
    length = int.from_bytes(der[at + 2 : at + 2 + count], "big") if count else der[at + 1]
    return at + 2 + count, at + 2 + count + length


def pem(der: bytes) -> str:
    text = base64.encodebytes(der).decode().replace("\n", "")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


class Log:
    """One log of the evidence: its head, its entries, its certificates and its receipts."""

    def __init__(self, directory: Path, vkey: str, scratch: Path) -> None:
        self.directory, self.scratch = directory, scratch
        origin, size, root, *_ = open_note((directory / "checkpoint").read_bytes(), vkey, scratch).split("\n")
        self.origin, self.size, self.root = origin, int(size), base64.b64decode(root)
        require(vkey.split("+")[0] == origin, f"{directory}: the checkpoint is that of another log")
        self.vkey, under = vkey, tree_root(directory, self.size, self.size)
        require(under == self.root, f"{directory}: the entries are not under the signed root")

    def entries(self) -> Iterator[tuple[int, dict[str, Any], bytes]]:
        for number in range(self.size):
            yield number, *entry(self.directory, number, self.size)

    def witnesses(self, keys: Sequence[str]) -> set[str]:
        """Check the cosigned head, if there is one: signed by the log, and what was seen is in it; tell who saw it."""
        path = self.directory / "cosigned"
        if not path.exists():
            return set()
        note = path.read_bytes()
        origin, size, root, *_ = open_note(note, self.vkey, self.scratch).split("\n")
        require(origin == self.origin and int(size) <= self.size, f"{path} is the head of more or other entries")
        under = tree_root(self.directory, self.size, int(size))
        require(under == base64.b64decode(root), f"{path}: the log does not hold the {size} entries that were cosigned")
        times = {key: seen_at(note, key, self.scratch) for key in keys}
        for key, moment in times.items():
            if moment is not None:
                when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(moment, 1 << 37)))
                print(f"{self.origin}: {key.split('+')[0]} saw {size} of the {self.size} entries at {when}")
        if not keys:
            print(f"{self.origin}: a head of {size} entries was cosigned; give the keys of witnesses to check by whom")
        return {key for key, moment in times.items() if moment is not None}

    def check(self, trusted: Path, intermediate: Path, vendors: Path) -> tuple[int, int, int]:
        """Check certificates and receipts; return how many there are, and how many certificates were adopted."""
        certificates = receipts = adopted = 0
        stations: dict[str, str] = {}
        latest: dict[str, int] = {}
        batches: dict[Path, list[str]] = {trusted: [], vendors: []}
        for number, event, attachment in self.entries():
            kind = event["type"]
            if kind == "station_added":
                stations[event["station"]] = event["vkey"]
            elif kind in ("issued", "received"):
                source = self.reserved(number, event, attachment)
                latest[event["device"]] = number
                certificates += 1
                if source == "adopted":  # made by somebody else, below a CA that nobody here vouches for
                    adopted += 1
                    continue
                trust = vendors if source.startswith("preload:") else trusted
                batches[trust].append(pem(attachment))
                if len(batches[trust]) == BATCH:
                    batches[trust] = self.chain(batches[trust], trust, intermediate)
            elif kind in ("verified", "admitted"):
                require(sha256(attachment).hex() == event["receipt_sha256"], f"entry {number}: another receipt")
                self.receipt(event, attachment, stations[event["station"]], latest[event["device"]])
                receipts += 1
        for trust, batch in batches.items():
            if batch:
                self.chain(batch, trust, intermediate)
        return certificates, receipts, adopted

    def reserved(self, number: int, event: dict[str, Any], der: bytes) -> str:
        """The signed bytes (issued) or the key (received) were on record before. Return who signed, if not we."""
        require(event["intent"] < number, f"entry {number}: nothing was reserved")
        intent, records = entry(self.directory, event["intent"], self.size)
        length, start = (72, 40) if intent["type"] == "reserved" else (64, 0)
        known = [records[at + start : at + start + 32] for at in range(0, len(records), length)]
        tbs = der_part(der, 0)[0]
        wanted = sha256(der[tbs : der_part(der, tbs)[1]] if length == 72 else spki(der))
        require(wanted in known, f"entry {number}: the certificate of {event['device']} is not the reserved one")
        return str(intent.get("source", ""))

    def chain(self, batch: list[str], trusted: Path, intermediate: Path) -> list[str]:
        names = []
        for at, text in enumerate(batch):
            names.append(str(self.scratch / f"{at}.pem"))
            Path(names[-1]).write_text(text)
        trust = ("-CAfile", str(trusted), "-untrusted", str(intermediate))
        openssl("verify", "-no_check_time", "-partial_chain", *trust, *names)
        return []

    def receipt(self, event: dict[str, Any], note: bytes, vkey: str, issued: int) -> None:
        """The station signed it, and the device signed its challenge with the key of its certificate."""
        said = json.loads(open_note(note, vkey, self.scratch))
        _, der = entry(self.directory, issued, self.size)
        expected = (event["device"], event["station"], event["attempt"], self.origin, sha256(der).hex())
        names = ("device_serial", "station", "attempt", "origin", "cert_sha256")
        require(
            tuple(said[name] for name in names) == expected, f"the receipt of {event['device']} names something else"
        )
        order = ("origin", "station", "attempt", "device_serial", "cert_sha256", "nonce")
        lines = ["birthmark-challenge/1", *(said[name] for name in order)]
        challenge = sha256("".join(f"{line}\n" for line in lines).encode())
        require(challenge.hex() == said["challenge"], f"the challenge of {event['device']} was made for another")
        if said["evidence"] in ("signature", "jwt"):
            (self.scratch / "device.pem").write_text(pem(der))
            key = openssl("x509", "-in", str(self.scratch / "device.pem"), "-pubkey", "-noout")
            (self.scratch / "key").write_text(key)
            raw = any(oid in spki(der)[:24].hex() for oid in RAW)
            digest = () if raw else ("-digest", "sha384" if "2b81040022" in spki(der)[:32].hex() else "sha256")
            message, signature = b"birthmark-proof-v1\0" + challenge, base64.b64decode(said["signature"])
            if said["evidence"] == "jwt":
                message, signature = token_parts(signature, challenge)
            verify(self.scratch, "PEM", message, signature, "-rawin", *digest)


def token_parts(token: bytes, challenge: bytes) -> tuple[bytes, bytes]:
    """Return what a JSON Web Token signs and its ES256 signature in DER; it has to be for this challenge."""
    signed, _, last = token.rpartition(b".")
    header, claims = (json.loads(base64.urlsafe_b64decode(part + b"==")) for part in signed.split(b"."))
    fits = (header["alg"], claims["sub"], claims["aud"]) == ("ES256", challenge.hex(), "birthmark-proof-v1")
    raw = base64.urlsafe_b64decode(last + b"==")
    require(fits and len(raw) == 64, "a token was made for something else")
    numbers = b""
    for half in (raw[:32], raw[32:]):
        content = half.lstrip(b"\0")
        content = b"\0" + content if not content or content[0] & 0x80 else content
        numbers += bytes((2, len(content))) + content
    return signed, bytes((0x30, len(numbers))) + numbers


def spki(der: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo: the seventh element of a version 3 TBSCertificate."""
    at = der_part(der, der_part(der, 0)[0])[0]
    for _ in range(6):
        at = der_part(der, at)[1]
    return der[at : der_part(der, at)[1]]


def main(root: Path, vkey: str | None = None, *witnesses: str) -> None:
    """Check the evidence in ``root``; say what was found, or stop with what is wrong."""
    print(f"{check_manifest(root)} files are what was exported")
    known = (root / "log/vkey").read_text().strip()
    require(vkey is None or vkey.strip() == known, "log/vkey is not the key that you gave")
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        main_log = Log(root / "log", known, scratch)
        trusted, intermediate, vendors = (scratch / name for name in ("trusted", "intermediate", "vendors"))
        for file in (trusted, intermediate, vendors):
            file.write_text("")
        sites: dict[str, str] = {}
        heads: dict[str, tuple[int, str]] = {}
        for _, event, attachment in main_log.entries():
            if event["type"] == "ca_created":
                file = trusted if event["kind"] in ("root", "external") else intermediate
                file = vendors if event["ca"].startswith("vendor:") else file
                file.write_text(file.read_text() + pem(attachment))
            elif event["type"] == "site_added":
                sites[event["site"]] = event["vkey"]
            elif event["type"] == "site_reported":
                heads[event["site"]] = (event["size"], event["root"])
        logs = [main_log]
        for directory in sorted(root.glob("sites/*/log")):
            log = Log(directory, sites[directory.parent.name], scratch)
            reported = heads[directory.parent.name]
            require((log.size, log.root.hex()) == reported, f"{directory}: another head than was taken in")
            logs.append(log)
        for log in logs[1:]:
            log.witnesses(witnesses)
        saw = main_log.witnesses(witnesses)
        for key in witnesses:
            require(key in saw, f"{key.split('+')[0]} did not cosign the head in log/cosigned")
        for log in logs:
            certificates, receipts, adopted = log.check(trusted, intermediate, vendors)
            counts = f"{log.size} entries under the signed root, {certificates} certificates, {receipts} receipts"
            counts += f"; {adopted} certificates were adopted: who signed them is not checked" if adopted else ""
            print(f"{log.origin}: {counts}")
    print("GOOD")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), *sys.argv[2:])
