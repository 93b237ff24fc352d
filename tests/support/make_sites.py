"""An authority and its three sites, one a mode, in which everything lawful has happened; for the audit's tests."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.model import events as e
from birthmark.ports import SealedChunk
from birthmark.tlog.merkle import Frontier
from birthmark.tlog.note import encode_vkey, public_octets, sign_note
from support.ledgerfiles import ORIGIN, all_entries
from support.make_ledger import SLOT, STATION, LedgerMaker, ca_certificate, serials

__all__ = ["APPROVERS", "FACTORY", "LIVE", "POOL", "World", "make_world", "signed_document", "signed_plan"]

FACTORY, POOL, LIVE = "alpha", "beta", "gamma"
MODES: dict[str, Any] = {FACTORY: "factory_ca", POOL: "pool", LIVE: "online"}
PREFIXES = {FACTORY: "0201", POOL: "0202", LIVE: "0203"}
APPROVERS = ("ada", "bob", "cyd")


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def spki_sha256(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def signed_document(members: dict[str, Any], key: Ed25519PrivateKey, name: str) -> bytes:
    """Return a signed note over one line of canonical JSON."""
    return sign_note(json.dumps(members, sort_keys=True, separators=(",", ":")) + "\n", name, key).encode()


def plan_text(action: str, **facts: str) -> str:
    lines = ["birthmark-approval-plan/1", f"action: {action}", f"origin: {ORIGIN}"]
    lines += ["valid-until: 2026-11-28T00:00:00.000Z", "nonce: " + "0f" * 16]
    return "\n".join([*lines, *(f"  {name}: {value}" for name, value in sorted(facts.items()))]) + "\n"


def signed_plan(text: str, keys: dict[str, Ed25519PrivateKey]) -> bytes:
    """Return a plan with one signature a key."""
    note = ""
    for name, key in keys.items():
        signed = sign_note(text, name, key)
        note = signed if not note else note + signed.rpartition("\n\n")[2]
    return note.encode()


@dataclass(slots=True)
class World:
    """The authority, its sites, and the keys that forgeries need."""

    root: Path
    authority: LedgerMaker
    sites: dict[str, LedgerMaker] = field(default_factory=dict)
    approvers: dict[str, Ed25519PrivateKey] = field(default_factory=dict)
    access_key: Any = None
    access_ca: Any = None
    access: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    delegated_ca: Any = None

    def mirror(self, site: str) -> None:
        """Carry the site's published log home and record its head."""
        self.copy_log(site)
        note = (self.sites[site].root / "log/checkpoint").read_bytes()
        self.authority.append(self.reported(site), note)

    def copy_log(self, site: str) -> None:
        target = self.authority.root / "sites" / site / "log"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.sites[site].root / "log", target)
        (target / "vkey").unlink()

    def reported(self, site: str) -> e.SiteReported:
        entries = list(all_entries(self.sites[site].root))
        root = Frontier().extend([hashlib.sha256(b"\0" + entry).digest() for entry in entries]).root()
        return e.SiteReported(at=self.authority.at(), site=site, size=len(entries), root=root.hex())

    def settle(self, site: str, order: str, states: dict[str, str], *, keys: bool = False) -> None:
        """Record what the site's log says of devices: for each, the last entry that brings it into the state."""
        entries = [json.loads(entry.partition(b"\n")[0]) for entry in all_entries(self.sites[site].root)]
        lines = []
        for device, state in states.items():
            kind = {"pooled": ("issued", "received"), "issued": ("issued", "received")}.get(state, (state,))
            number = max(n for n, d in enumerate(entries) if d["type"] in kind and d.get("device") == device)
            key = spki_sha256(self.sites[site].identities[device].key).hex() if keys else "-"
            lines.append(f"{device} {state} {number} {key}")
        event = e.SiteSettled(
            at=self.authority.at(), site=site, order=order, upto=len(entries), count=len(lines)
        )  # fmt: skip
        self.authority.append(event, "\n".join(lines).encode())

    def grant_access(self, name: str, role: Any, site: str | None = None) -> None:
        key = self.access[name] = ec.generate_private_key(ec.SECP256R1())
        certificate = der(ca_certificate(name, key, self.access_ca, self.access_key, ca=False, days=300))
        event = e.AccessGranted(
            at=self.authority.at(), name=name, role=role, spki_sha256=spki_sha256(key).hex(), site=site,
            cert_sha256=hashlib.sha256(certificate).hexdigest(), by="tester",
        )  # fmt: skip
        self.authority.append(event, certificate)

    def approve(self, action: str, signers: tuple[str, ...], **facts: str) -> None:
        """Use a plan that some approvers signed."""
        text = plan_text(action, **facts)
        note = signed_plan(text, {name: self.approvers[name] for name in signers})
        digest = hashlib.sha256(text.encode()).hexdigest()
        event = e.ApprovalUsed(
            at=self.authority.at(), action=action, plan_sha256=digest, approvers=list(signers), by="tester"
        )
        self.authority.append(event, note)

    def close(self) -> Path:
        for maker in (*self.sites.values(), self.authority):
            maker.close()
        return self.root


def _people(world: World) -> None:
    """Callers, CAs of others, a CA whose key is destroyed."""
    authority = world.authority
    world.access_key = ec.generate_private_key(ec.SECP256R1())
    world.access_ca = ca_certificate("Test Access", world.access_key, None, world.access_key)
    authority.add_ca("access", "access", world.access_ca, None)
    foreign_key = ec.generate_private_key(ec.SECP256R1())
    authority.add_ca("bought", "external", ca_certificate("Bought", foreign_key, None, foreign_key), None)
    world.grant_access("olga", "operator")
    world.grant_access("old", "auditor")
    old = spki_sha256(world.access["old"]).hex()
    authority.append(e.AccessWithdrawn(at=authority.at(), spki_sha256=old, reason="left", by="tester"))
    old_key = ec.generate_private_key(ec.SECP256R1())
    authority.add_ca("old", "issuing", ca_certificate("Old", old_key, authority.root_ca, authority.root_key), "root")
    transcript = b"the key of old is gone\n"
    digest = hashlib.sha256(transcript).hexdigest()
    authority.append(e.CaKeyDestroyed(at=authority.at(), ca="old", transcript_sha256=digest, by="tester"), transcript)


def _add_site(world: World, name: str) -> None:
    authority, origin = world.authority, f"{ORIGIN}/site/{name}"
    maker = LedgerMaker(world.root / name, origin=origin, site_prefix=PREFIXES[name], role="site")
    world.sites[name] = maker
    body = {"site": name, "origin": origin, "vkey": maker.vkey, "site_prefix": PREFIXES[name], "mode": MODES[name]}
    request = signed_document({"format": "birthmark-site-request/1", **body}, maker.log_key, origin)
    authority.append(e.SiteAdded(at=authority.at(), by="tester", **body), request)
    station = f"{name}/{STATION}"
    authority.append(e.StationAdded(at=authority.at(), station=station, vkey=maker.station_vkey, by="tester"))
    world.grant_access(station, "station", name)
    body = {"authority": ORIGIN, "vkey": authority.vkey, "mode": MODES[name]}
    grant = signed_document({"format": "birthmark-grant/1", **body}, authority.log_key, ORIGIN)
    digest = hashlib.sha256(grant).hexdigest()
    maker.append(e.StationAdded(at=maker.at(), station=STATION, vkey=maker.station_vkey, by="tester"))
    maker.append(e.GrantAccepted(at=maker.at(), grant_sha256=digest, by="tester", **body), grant)
    maker.add_ca("root", "root", authority.root_ca, None)
    maker.add_ca("issuing", "issuing", authority.issuing_ca, "root")


def _assign(world: World, order: str, site: str) -> None:
    event = e.OrderAssigned(at=world.authority.at(), order=order, site=site, mode=MODES[site], by="tester")
    world.authority.append(event)


def receive(
    maker: LedgerMaker, order: str, source: LedgerMaker, devices: list[str], *, chunk: int | None, bundle: str,
    attempt: str | None = None,
) -> None:  # fmt: skip
    """Take certificates in that ``source`` signed, with their sealed keys."""
    identities = [source.identities[device] for device in devices]
    records = b"".join(spki_sha256(identity.key) + bytes(32) for identity in identities)
    request = e.Requested(
        at=maker.at(), order=order, count=len(devices), source=bundle, chunk=chunk,
        device=devices[0] if chunk is None else None, attempt=attempt,
    )  # fmt: skip
    intent, at = maker.append(request, records), maker.at()
    with maker.ledger.transaction() as tx:
        if chunk is None:
            tx.append(e.Received(at=at, device=devices[0], intent=intent), identities[0].certificate)
        else:
            entries = [
                e.encode_entry(e.Received(at=at, device=device, intent=intent), identity.certificate)
                for device, identity in zip(devices, identities, strict=True)
            ]
            packed = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
            leaves = b"".join(hashlib.sha256(b"\0" + entry).digest() for entry in entries)
            tx.append_issued(intent, count=len(devices), entries=packed, leaf_hashes=leaves)
        slots = b"".join(hashlib.shake_128(device.encode()).digest(SLOT) for device in devices)
        tx.vault.put(intent, SealedChunk(bytes(1120), SLOT, slots))
    for position, (device, identity) in enumerate(zip(devices, identities, strict=True)):
        changed = {"device": device, "intent": intent, "position": position}
        kept = {"key": identity.key, "certificate": identity.certificate, "cert_serial": identity.cert_serial}
        maker.identities[device] = type(identity)(**changed, **kept)


def _factory(world: World) -> None:
    """A site that signs for itself: keys injected, one device reworked, one scrapped, one open."""
    authority, site = world.authority, world.sites[FACTORY]
    certificate = ca_certificate("Alpha", site.issuing_key, authority.root_ca, authority.root_key)
    world.delegated_ca = certificate
    authority.add_ca("alpha-ca", "issuing", certificate, "root", site=FACTORY)
    site.add_ca("alpha-ca", "issuing", certificate, "root", site=FACTORY)
    site.admit("alpha-ca", certificate)
    authority.order("fac", serials("F", 6))
    _assign(world, "fac", FACTORY)
    site.order("fac", serials("F", 6))
    site.issue(site.reserve("fac", serials("F", 6), chunk=0), bulk=True, vault=True)
    site.provision("F-00000", "f-attempt-0")
    site.provision("F-00001", "f-attempt-1")
    site.draw("F-00002", "f-attempt-2")
    site.append(e.Scrapped(at=site.at(), device="F-00003", reason="burnt", by="tester"))
    site.publish()
    world.mirror(FACTORY)
    states = {"F-00000": "verified", "F-00001": "verified", "F-00002": "drawn", "F-00003": "scrapped"}
    world.settle(FACTORY, "fac", {**states, "F-00004": "pooled"}, keys=True)
    site.install("F-00002", "f-attempt-2")
    site.verify("F-00002", "f-attempt-2")
    site.publish()
    world.mirror(FACTORY)
    world.settle(FACTORY, "fac", {"F-00002": "verified"})
    serial = site.identities["F-00000"].cert_serial.hex()
    authority.append(e.Revoked(at=authority.at(), device="F-00000", cert_serial=serial, reason="keyCompromise", by="x"))


def _pool(world: World) -> None:
    """A site that gets sealed identities: a whole chunk, and one that misses a device."""
    authority, site, devices = world.authority, world.sites[POOL], serials("K", 12)
    authority.make("sealed", devices, chunk=8)
    authority.append(e.Scrapped(at=authority.at(), device="K-00009", reason="lost", by="tester"))
    _assign(world, "sealed", POOL)
    with authority.ledger.transaction() as tx:
        at = authority.at()
        tx.append(
            e.BundleSealed(at=at, bundle="b1" * 16, order="sealed", site=POOL, devices=11, suite="x25519", by="tester")
        )
        for chunk, count in ((0, 8), (1, 3)):
            tx.append(e.Consigned(at=at, bundle="b1" * 16, order="sealed", chunk=chunk, count=count))
    site.order("sealed", devices, chunk=8)
    receive(site, "sealed", authority, devices[:8], chunk=0, bundle="bundle:" + "b1" * 16)
    for device in devices[8:]:
        if device != "K-00009":
            receive(site, "sealed", authority, [device], chunk=None, bundle="bundle:" + "b1" * 16)
    body = {"bundle": "b1" * 16, "order": "sealed", "devices": 11}
    members = {"format": "birthmark-manifest/1", "mode": "pool", "site": POOL, **body}
    manifest = signed_document(members, authority.log_key, ORIGIN)
    digest = hashlib.sha256(manifest).hexdigest()
    site.append(e.BundleOpened(at=site.at(), manifest_sha256=digest, by="tester", **body), manifest)
    site.provision("K-00000", "k-attempt-0")
    site.provision("K-00008", "k-attempt-8")
    with site.ledger.transaction() as tx:
        for device in ("K-00001", "K-00010"):
            identity = site.identities[device]
            tx.append(e.KeyErased(at=site.at(), device=device, intent=identity.intent, reason="closed"))
            tx.vault.erase(identity.intent, identity.position)
        tx.append(e.BundleClosed(at=site.at(), order="sealed", count=2, reason="over", by="tester"))
    old = site.identities["K-00008"].cert_serial.hex()
    site.append(e.Revoked(at=site.at(), device="K-00008", cert_serial=old, reason="keyCompromise", by="tester"))
    site.publish()
    world.mirror(POOL)
    world.settle(POOL, "sealed", {"K-00000": "verified", "K-00008": "verified", "K-00001": "pooled"})
    for device in ("K-00000", "K-00008"):
        identity = authority.identities[device]
        with authority.ledger.transaction() as tx:
            tx.append(e.KeyErased(at=authority.at(), device=device, intent=identity.intent, reason="consigned"))
            tx.vault.erase(identity.intent, identity.position)


def _live(world: World) -> None:
    """A site that asks its authority for every device."""
    authority, site, devices = world.authority, world.sites[LIVE], serials("L", 4)
    authority.make("live", devices)
    _assign(world, "live", LIVE)
    site.order("live", devices)
    for number, device in enumerate(devices[:3]):
        attempt = f"l-attempt-{number}"
        authority.append(e.Drawn(at=authority.at(), device=device, station=f"{LIVE}/{STATION}", attempt=attempt))
        receive(site, "live", authority, [device], chunk=None, bundle="online", attempt=f"r-{attempt}")
        site.draw(device, attempt)
        if number < 2:
            site.install(device, attempt)
            site.verify(device, attempt)
        identity = authority.identities[device]
        with authority.ledger.transaction() as tx:
            tx.append(e.KeyErased(at=authority.at(), device=device, intent=identity.intent, reason="handed over"))
            tx.vault.erase(identity.intent, identity.position)
    site.publish()
    world.mirror(LIVE)
    world.settle(LIVE, "live", {"L-00000": "verified", "L-00001": "verified", "L-00002": "drawn"})


def _trouble(world: World) -> None:
    authority = world.authority
    found = e.FindingRaised(
        at=authority.at(), site=LIVE, code="site.receipt", what="forged", device="L-00002", station=STATION, entry=12
    )
    authority.append(found, b"evidence")
    authority.append(e.SiteStopped(at=authority.at(), site=LIVE, reason="site.receipt", by="tester"))
    authority.append(e.SiteResumed(at=authority.at(), site=LIVE, reason="looked at", by="tester"))
    authority.append(e.SiteStopped(at=authority.at(), site=POOL, reason="done", by="tester"))


def _approvers(world: World) -> None:
    """A rule, its change as the rule asks for, and an approved act; what came before needed none."""
    authority = world.authority
    world.approvers = {name: Ed25519PrivateKey.generate() for name in APPROVERS}
    vkeys = [encode_vkey(name, public_octets(key)) for name, key in world.approvers.items()]
    authority.append(e.ApproversSet(at=authority.at(), threshold=1, vkeys=vkeys[:1], by="tester"))
    world.approve("approvers.set", ("ada",), threshold="2")
    authority.append(e.ApproversSet(at=authority.at(), threshold=2, vkeys=vkeys, by="tester"))
    world.approve("bundle.seal", ("ada", "cyd"), order="pool", site=POOL)


def make_world(root: Path, *steps: Callable[[World], None]) -> World:
    """An authority with three sites. Close the world before it is audited. ``steps`` happen after all the rest."""
    world = World(root, LedgerMaker(root / "authority"))
    _people(world)
    for name in MODES:
        _add_site(world, name)
    for step in (_factory, _pool, _live, _trouble, _approvers, *steps):
        step(world)
    return world
