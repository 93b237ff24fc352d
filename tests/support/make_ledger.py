"""Makes workspaces for the audit's tests: a ledger and a log, by the writer's own parts, and forgeries of both."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.model import events as e
from birthmark.pki.profile import load_preset
from birthmark.pki.template import Template, compile_template
from birthmark.ports import SealedChunk
from birthmark.tlog.note import encode_vkey, public_octets, sign_note
from support.ledgerfiles import ORIGIN, all_entries, database, publish, rewrite_log

__all__ = [
    "ORIGIN",
    "STATION",
    "Identity",
    "LedgerMaker",
    "all_entries",
    "ca_certificate",
    "database",
    "make_story",
    "publish",
    "rewrite_log",
    "serials",
]

STATION = "line1"
SLOT = 180
_ECDSA = ec.ECDSA(hashes.SHA256())


@dataclass(slots=True)
class Identity:
    """What a device got."""

    device: str
    intent: int
    position: int
    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    cert_serial: bytes


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def ca_certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = True,
    days: int = 20000,
) -> x509.Certificate:
    """Return a CA certificate made with the library's own builder."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) if days == 20000 else start + timedelta(days=days)
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca, (0 if issuer else 1) if ca else None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


class LedgerMaker:
    """A workspace with a root, an issuing CA, a template and a station. Close it before it is audited."""

    def __init__(self, root: Path, *, origin: str = ORIGIN, site_prefix: str = "0101", role: Any = "authority") -> None:
        self.root = root
        self.origin = origin
        self._ticks = itertools.count()
        self.log_key = Ed25519PrivateKey.generate()
        self.station_key = Ed25519PrivateKey.generate()
        self.root_key, self.issuing_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.root_ca = ca_certificate("Test Root", self.root_key, None, self.root_key)
        self.issuing_ca = ca_certificate("Test Issuing", self.issuing_key, self.root_ca, self.root_key)
        self.identities: dict[str, Identity] = {}
        first = e.WorkspaceCreated(
            at=self.at(), workspace="test", origin=origin, site_prefix=site_prefix, software="0.1.0", by="tester",
            role=role,
        )  # fmt: skip
        (root / "log").mkdir(parents=True)
        self.vkey = encode_vkey(origin, public_octets(self.log_key))
        self.station_vkey = encode_vkey(f"{origin}/station/{STATION}", public_octets(self.station_key))
        (root / "log" / "vkey").write_text(self.vkey + "\n")
        self.ledger = SqliteLedger.create(root / "ledger" / "ledger.db", first=first, clock=self.clock)
        if role == "authority":
            self._set_up()

    def clock(self) -> datetime:
        return datetime(2026, 11, 24, 2, 0, tzinfo=UTC) + timedelta(milliseconds=next(self._ticks))

    def at(self) -> str:
        return e.utc_text(self.clock())

    def _set_up(self) -> None:
        self.append(e.StationAdded(at=self.at(), station=STATION, vkey=self.station_vkey, by="tester"))
        self.add_ca("root", "root", self.root_ca, None)
        self.add_ca("issuing", "issuing", self.issuing_ca, "root")
        self.admit("issuing", self.issuing_ca)

    def add_ca(
        self, ca: str, kind: Any, certificate: x509.Certificate, issuer: str | None, *, site: str | None = None
    ) -> None:
        """Record a CA certificate."""
        der = certificate.public_bytes(Encoding.DER)
        self.append(
            e.CaCreated(
                at=self.at(), ca=ca, kind=kind, key_scheme="file", profile=f"{ca}-ca", issuer=issuer, site=site,
                cert_sha256=hashlib.sha256(der).hexdigest(), transcript_sha256="00" * 32, by="tester",
            ),
            der,
        )  # fmt: skip

    def admit(self, ca: str, certificate: x509.Certificate) -> None:
        """Compile a template under a CA; what is reserved from here on is signed with it."""
        self.template: Template = compile_template(
            load_preset("idevid"),
            issuer_certificate=certificate,
            not_before=self.clock(),
            product_values={"maker": "Test & Söhne", "hw_type": "1.3.6.1.4.1.99999.1"},
            key_algorithm="p256",
        )
        self.template_name = self.template.template_hash.hex()
        self.append(
            e.TemplateAdmitted(
                at=self.at(), template=self.template_name, ca=ca, profile="idevid",
                profile_hash=self.template.profile_hash.hex(), linter="none",
            ),
            self.template.to_bytes(),
        )  # fmt: skip

    def append(self, event: e.Event, attachment: bytes = b"") -> int:
        """Append one event in a transaction of its own."""
        with self.ledger.transaction() as tx:
            return tx.append(event, attachment)

    def order(self, order: str, serials: list[str], *, key_origin: Any = "injected", chunk: int = 512) -> None:
        parts = [serials[at : at + chunk] for at in range(0, len(serials), chunk)]
        with self.ledger.transaction() as tx:
            tx.append(
                e.OrderCreated(
                    at=self.at(), order=order, product="probe", profile="idevid", key_algorithm="p256",
                    key_origin=key_origin, ca="issuing", quantity=len(serials), chunks=len(parts), by="tester",
                )
            )  # fmt: skip
            first = 0
            for number, part in enumerate(parts):
                event = e.DevicesOrdered(at=self.at(), order=order, chunk=number, first=first, count=len(part))
                tx.append(event, "\n".join(part).encode())
                first += len(part)

    def reserve(self, order: str, devices: list[str], *, chunk: int | None, attempt: str | None = None) -> Pending:
        """Make keys and record the intent."""
        with self.ledger.transaction() as tx:
            (prefix,) = tx.serial_prefixes(1)
        pending = Pending(order, devices, [], [], [])
        for place, device in enumerate(devices):
            key = ec.generate_private_key(ec.SECP256R1())
            random = hashlib.sha256(prefix + place.to_bytes(2, "big")).digest()[:8]
            spki = _spki(key)
            filler = self.template.filler(len(device))
            tbs = filler.fill(prefix + random, device.encode(), spki, self.template.key_algorithm.key_id(spki))
            pending.keys.append(key)
            pending.tbs.append(tbs)
            pending.records.append(random + hashlib.sha256(spki).digest() + hashlib.sha256(tbs).digest())
        pending.prefix = prefix
        event = e.Reserved(
            at=self.at(), order=order, count=len(devices), serial_prefix=prefix.hex(), template=self.template_name,
            chunk=chunk, device=devices[0] if chunk is None else None, attempt=attempt,
        )  # fmt: skip
        pending.intent = self.append(event, b"".join(pending.records))
        return pending

    def issue(self, pending: Pending, *, bulk: bool, vault: bool) -> None:
        """Sign what was reserved and record it."""
        entries, leaves = [], []
        at = self.at()
        for position, device in enumerate(pending.devices):
            certificate = self.assemble(pending.tbs[position], self.issuing_key.sign(pending.tbs[position], _ECDSA))
            serial = pending.prefix + pending.records[position][:8]
            self.identities[device] = Identity(
                device, pending.intent, position, pending.keys[position], certificate, serial
            )
            entry = e.encode_entry(e.Issued(at=at, device=device, intent=pending.intent), certificate)
            entries.append(len(entry).to_bytes(2, "big") + entry)
            leaves.append(hashlib.sha256(b"\0" + entry).digest())
        count = len(pending.devices)
        with self.ledger.transaction() as tx:
            if bulk:
                tx.append_issued(pending.intent, count=count, entries=b"".join(entries), leaf_hashes=b"".join(leaves))
            else:
                device = pending.devices[0]
                tx.append(e.Issued(at=at, device=device, intent=pending.intent), self.identities[device].certificate)
            if vault:
                slots = b"".join(hashlib.shake_128(device.encode()).digest(SLOT) for device in pending.devices)
                tx.vault.put(pending.intent, SealedChunk(bytes(1120), SLOT, slots))

    @staticmethod
    def assemble(tbs: bytes, signature: bytes) -> bytes:
        """Return the certificate of a TBS and an ECDSA signature."""
        bits = b"\x03" + _length(len(signature) + 1) + b"\0" + signature
        body = tbs + bytes.fromhex("300a06082a8648ce3d040302") + bits
        return b"\x30" + _length(len(body)) + body

    def make(self, order: str, serials: list[str], *, chunk: int = 512) -> None:
        """Order and make a pool."""
        self.order(order, serials, chunk=chunk)
        for number, at in enumerate(range(0, len(serials), chunk)):
            self.issue(self.reserve(order, serials[at : at + chunk], chunk=number), bulk=True, vault=True)

    def draw(self, device: str, attempt: str) -> None:
        self.append(e.Drawn(at=self.at(), device=device, station=STATION, attempt=attempt))

    def install(self, device: str, attempt: str) -> None:
        cert_sha256 = hashlib.sha256(self.identities[device].certificate).hexdigest()
        self.append(
            e.Installed(
                at=self.at(), device=device, station=STATION, attempt=attempt, target="files:out",
                cert_sha256=cert_sha256,
            )
        )  # fmt: skip

    def receipt(self, device: str, attempt: str, **changes: Any) -> bytes:
        """Return a receipt as docs/formats/receipt.md has it."""
        identity = self.identities[device]
        body: dict[str, Any] = {
            "format": "birthmark-receipt/1", "origin": self.origin, "station": STATION, "attempt": attempt,
            "device_serial": device, "target": "files:out", "evidence": "signature", "key_origin": "injected",
            "cert_sha256": hashlib.sha256(identity.certificate).hexdigest(),
            "spki_sha256": hashlib.sha256(_spki(identity.key)).hexdigest(), "nonce": "ab" * 32,
            "key_digest": None, "started_at": self.at(), "finished_at": self.at(), "steps": [],
            "software": "0.1.0", "handshake": None,
        }  # fmt: skip
        lines = ["birthmark-challenge/1"]
        lines += [body[n] for n in ("origin", "station", "attempt", "device_serial", "cert_sha256", "nonce")]
        challenge = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).digest()
        body["challenge"] = challenge.hex()
        signature = identity.key.sign(b"birthmark-proof-v1\0" + challenge, _ECDSA)
        body["signature"] = base64.b64encode(signature).decode()
        body.update(changes)
        text = json.dumps(body, sort_keys=True, separators=(",", ":")) + "\n"
        return sign_note(text, f"{self.origin}/station/{STATION}", self.station_key).encode()

    def verify(self, device: str, attempt: str, *, erase: bool = True, receipt: bytes | None = None) -> None:
        receipt = self.receipt(device, attempt) if receipt is None else receipt
        identity = self.identities[device]
        with self.ledger.transaction() as tx:
            tx.append(
                e.Verified(
                    at=self.at(), device=device, station=STATION, attempt=attempt, evidence="signature",
                    receipt_sha256=hashlib.sha256(receipt).hexdigest(),
                ),
                receipt,
            )  # fmt: skip
            if erase:
                tx.append(e.KeyErased(at=self.at(), device=device, intent=identity.intent, reason="installed"))
                tx.vault.erase(identity.intent, identity.position)

    def provision(self, device: str, attempt: str) -> None:
        """Draw, install, verify, erase."""
        self.draw(device, attempt)
        self.install(device, attempt)
        self.verify(device, attempt)

    def rework(self, device: str, attempt: str, order: str, *, vault: bool = True) -> None:
        """Supersede the identity of a device and give it another, revoked the old one."""
        old = self.identities[device].cert_serial.hex()
        self.append(e.Superseded(at=self.at(), device=device, reason="broken", by="tester", cert_serial=old))
        self.append(e.Revoked(at=self.at(), device=device, cert_serial=old, reason="superseded", by="tester"))
        self.issue(self.reserve(order, [device], chunk=None, attempt=attempt), bulk=False, vault=vault)

    def publish(self) -> None:
        """Write tiles and a checkpoint over everything, and the head into the ledger."""
        publish(self.root, self.log_key, self.origin)

    def close(self, *, publish: bool = True) -> Path:
        self.ledger.close()
        if publish:
            self.publish()
        return self.root


@dataclass(slots=True)
class Pending:
    """A reservation whose certificates are not signed yet."""

    order: str
    devices: list[str]
    keys: list[ec.EllipticCurvePrivateKey]
    tbs: list[bytes]
    records: list[bytes]
    prefix: bytes = b""
    intent: int = -1


def _length(octets: int) -> bytes:
    if octets < 0x80:
        return bytes((octets,))
    size = octets.to_bytes((octets.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(size),)) + size


def serials(prefix: str, count: int) -> list[str]:
    """Return ``count`` device serials."""
    return [f"{prefix}-{number:05d}" for number in range(count)]


def make_story(root: Path, devices: int = 300) -> LedgerMaker:
    """A workspace in which everything that can happen has happened, all of it lawful. Close the maker after use."""
    maker = LedgerMaker(root)
    pool = serials("P", devices)
    maker.order("pool", pool, chunk=64)
    first = maker.reserve("pool", pool[:64], chunk=0)
    maker.append(e.Abandoned(at=maker.at(), intent=first.intent, reason="interrupted"))
    for number, at in enumerate(range(0, devices, 64)):
        maker.issue(maker.reserve("pool", pool[at : at + 64], chunk=number), bulk=True, vault=True)
    maker.order("waiting", serials("W", 10), key_origin="device")
    for number, device in enumerate(pool[:20]):
        maker.provision(device, f"attempt-{number:04d}")
    maker.draw(pool[20], "attempt-0020")
    maker.draw(pool[21], "attempt-0021")
    maker.install(pool[21], "attempt-0021")
    maker.append(
        e.Failed(at=maker.at(), device=pool[21], station=STATION, attempt="attempt-0021", code="target.readback")
    )
    maker.rework(pool[21], "attempt-1021", "pool")
    maker.rework(pool[3], "attempt-1003", "pool")
    maker.draw(pool[3], "attempt-2003")
    maker.install(pool[3], "attempt-2003")
    maker.verify(pool[3], "attempt-2003")
    maker.append(e.Scrapped(at=maker.at(), device=pool[22], reason="crushed", by="tester"))
    maker.append(e.Scrapped(at=maker.at(), device="W-00003", reason="lost", by="tester"))
    maker.order("born", serials("B", 5), key_origin="device")
    for number, device in enumerate(serials("B", 3)):
        attempt = f"attempt-3{number:03d}"
        maker.issue(maker.reserve("born", [device], chunk=None, attempt=attempt), bulk=False, vault=False)
        maker.install(device, attempt)
        if number:
            maker.verify(device, attempt, erase=False)
    given_up = maker.reserve("born", ["B-00004"], chunk=None, attempt="attempt-3004")
    maker.append(e.Abandoned(at=maker.at(), intent=given_up.intent, reason="interrupted"))
    maker.append(e.Rejected(at=maker.at(), station=STATION, code="pool.drawn", device=pool[0]))
    maker.append(e.SoftwareChanged(at=maker.at(), software="0.1.1", by="tester"))
    return maker
