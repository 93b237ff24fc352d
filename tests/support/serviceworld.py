"""An authority with its service and a site that asks it online: real workspaces, real TLS, the real server process."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from birthmark.model import events as e
from birthmark.model.events import utc_text
from birthmark.model.ids import OrderId
from birthmark.shell.orders.bulk import make_order
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.setup import SetupRequest, create_workspace
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.wire.site import RequestedStation, SiteRequest, sign_request
from birthmark.workflow.orders.order import NewOrder, create_order
from support.serving import Running, serving

__all__ = ["BORN", "ELSEWHERE", "POOLED", "SITE", "STATION", "Pair", "Running", "World", "build_world", "device_csr"]

SITE, STATION = "shenzhen", "shenzhen/line1"
BORN = tuple(f"EL-{number:04d}" for number in range(160))
POOLED = tuple(f"SN-{number:04d}" for number in range(40))
ELSEWHERE = ("OT-0000", "OT-0001")


@dataclass(frozen=True)
class Pair:
    """A TLS certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def spki_sha256(self) -> str:
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return sha256(spki).hexdigest()

    def write(self, certificate: Path, key: Path) -> None:
        certificate.parent.mkdir(parents=True, exist_ok=True)
        key.parent.mkdir(parents=True, exist_ok=True)
        certificate.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)


def make_pair(name: str, issuer: Pair | None, *, server: bool = False, days: int = 30) -> Pair:
    """Make a TLS certificate; without an issuer a CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC) - timedelta(hours=1)
    builder = x509.CertificateBuilder(
        issuer_name=subject if issuer is None else issuer.certificate.subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now,
        not_valid_after=now + timedelta(days=days),
    ).add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    if issuer is not None:
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    else:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if server:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
        builder = builder.add_extension(names, critical=False)
    signer = key if issuer is None else issuer.key
    return Pair(builder.sign(signer, hashes.SHA256()), key)


def device_csr(device_serial: str, key: Any = None) -> bytes:
    """Return a CSR (DER) of a device."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_serial)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


class World:
    """``hq`` and ``site`` are workspace directories; ``pki`` holds the TLS files."""

    def __init__(self, root: Path, pairs: dict[str, Pair]) -> None:
        self.root = root
        self.hq, self.site, self.pki = root / "hq", root / "site", root / "pki"
        self.pairs = pairs

    def copy(self, to: Path) -> World:
        shutil.copytree(self.root, to)
        world = World(to, self.pairs)
        for place in (world.hq, world.site):
            # The passphrase is named by its path.
            settings = place / "birthmark.toml"
            settings.write_text(settings.read_text().replace(str(self.root), str(to)))
        return world

    @contextmanager
    def running(self, *, environment: dict[str, str] | None = None, command: tuple[str, ...] = ()) -> Iterator[Running]:
        with serving(self.hq, self.root / "serve.log", environment=environment, command=command) as running:
            yield running

    def tls(self, who: str | None) -> ssl.SSLContext:
        """Return a TLS context that trusts the service and shows the certificate of ``who``."""
        context = ssl.create_default_context(cafile=str(self.pki / "access.pem"))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if who is not None:
            context.load_cert_chain(self.pki / f"{who}.pem", self.pki / f"{who}.key")
        return context

    def client(self, url: str, who: str | None, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=url, verify=self.tls(who), trust_env=False, timeout=20, **options)

    def point_site_to(self, url: str) -> None:
        """Write the service's address into the site's settings."""
        path = self.site / "birthmark.toml"
        text = path.read_text().partition("\n[authority]")[0]
        path.write_text(text + f'\n[authority]\nurl = "{url}"\nservice_ca = "../pki/access.pem"\n')


def build_world(root: Path) -> World:
    """Make authority and site: orders ``born`` and ``pooled`` are assigned to the site, ``other`` is not."""
    pairs = {"access": make_pair("Access CA", None), "stranger-ca": make_pair("Stranger CA", None)}
    access = pairs["access"]
    pairs["server"] = make_pair("service", access, server=True)
    for name in ("line1", "munich", "auditor", "operator", "withdrawn", "unknown", "proxy"):
        pairs[name] = make_pair(name, access)
    pairs["stranger"] = make_pair("stranger", pairs["stranger-ca"])
    pairs["expired"] = make_pair("expired", access, days=0)
    world = World(root, pairs)
    for name, pair in pairs.items():
        pair.write(world.pki / f"{name}.pem", world.pki / f"{name}.key")
    make_workspace(world.hq)
    settings = world.hq / "birthmark.toml"
    settings.write_text(
        settings.read_text()
        + '\n[serve]\ntls_certificate = "../pki/server.pem"\ntls_key = "../pki/server.key"\n'
        + 'client_ca = "../pki/access.pem"\nproxy = "proxy"\n'
    )
    _make_site(world)
    with open_workspace(world.hq) as hq, open_workspace(world.site) as site:
        _make_orders(hq, pairs, site)
        _open_orders(hq, site)
    return world


def _make_site(world: World) -> None:
    secrets = world.site / "secrets"
    secrets.mkdir(parents=True, mode=0o700)
    (secrets / "passphrase").write_text("site passphrase")
    (secrets / "passphrase").chmod(0o600)
    request = SetupRequest(
        name="shenzhen", origin="hq.example/birthmark/site/shenzhen", maker="Example Devices", product="device",
        preset="tls-client", key_algorithm="p256", secret=f"file:{(secrets / 'passphrase').resolve()}",
        site_prefix="0202", values={"pen": "99999"},
    )  # fmt: skip
    create_workspace(world.site, request, secrets=SecretsResolver())
    settings = world.site / "birthmark.toml"
    text = settings.read_text().replace(
        'journal = "journal/line1.jsonl"\n',
        'journal = "journal/line1.jsonl"\ntls_certificate = "../pki/line1.pem"\ntls_key = "../pki/line1.key"\n',
    )
    settings.write_text(text)


def _make_orders(hq: Workspace, pairs: dict[str, Pair], site: Workspace) -> None:
    at = utc_text(hq.clock())
    request = SiteRequest(
        site=SITE, origin=site.settings.origin, vkey=(site.root / "log" / "vkey").read_text().strip(),
        site_prefix="0202", mode="online", vault=site.vault_recipient.public,
        stations=(RequestedStation(name="line1", vkey=site.records.stations()["line1"], csr=b""),), ca=None,
        software="test", at=at,
    )  # fmt: skip
    note = sign_request(request, site.private_key(site.settings.log.key))
    grants: tuple[tuple[str, str, Any, str | None], ...] = (
        ("line1", STATION, "station", SITE),
        ("munich", "munich/line1", "station", "munich"),
        ("withdrawn", "shenzhen/line9", "station", SITE),
        ("expired", "shenzhen/line8", "station", SITE),
        ("stranger", "shenzhen/line7", "station", SITE),
        ("auditor", "ada", "auditor", None),
        ("operator", "otto", "operator", None),
        ("proxy", "proxy", "server", None),
    )
    with hq.ledger.transaction() as tx:
        tx.append(
            e.SiteAdded(at=at, site=SITE, origin=request.origin, vkey=request.vkey, site_prefix="0202", mode="online",
                        by="test"),
            note,
        )  # fmt: skip
        tx.append(
            e.SiteAdded(at=at, site="munich", origin="hq.example/birthmark/site/munich", vkey=request.vkey,
                        site_prefix="0303", mode="online", by="test"),
            note,
        )  # fmt: skip
        for pair, name, role, where in grants:
            tx.append(
                e.AccessGranted(at=at, name=name, role=role, spki_sha256=pairs[pair].spki_sha256,
                                cert_sha256=sha256(pairs[pair].der).hexdigest(), by="test", site=where),
                pairs[pair].der,
            )  # fmt: skip
        tx.append(e.AccessWithdrawn(at=at, spki_sha256=pairs["withdrawn"].spki_sha256, reason="stolen", by="test"))
    orders: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
        ("born", "device", BORN), ("pooled", "injected", POOLED), ("other", "device", ELSEWHERE),
    )  # fmt: skip
    for name, origin, serials in orders:
        order = NewOrder(
            order=OrderId(name), product="device", profile=hq.profile("tls-client"), key_algorithm="p256",
            key_origin=origin, ca="issuing", by="test",
        )  # fmt: skip
        create_order(hq.ledger, order, serials, clock=hq.clock)
    make_order(hq, hq.records.order("pooled"), processes=1, progress=lambda count: None)
    with hq.ledger.transaction() as tx:
        for name in ("born", "pooled"):
            tx.append(e.OrderAssigned(at=at, order=name, site=SITE, mode="online", by="test"))
        tx.append(e.OrderAssigned(at=at, order="other", site="munich", mode="online", by="test"))


def _open_orders(hq: Workspace, site: Workspace) -> None:
    """What ``site accept`` and ``bundle open`` record."""
    at = utc_text(site.clock())
    with site.ledger.transaction() as tx:
        tx.append(
            e.GrantAccepted(at=at, authority=hq.settings.origin, vkey=(hq.root / "log" / "vkey").read_text().strip(),
                            mode="online", grant_sha256="00" * 32, by="test"),
        )  # fmt: skip
        for ca in hq.records.cas():
            tx.append(
                e.CaCreated(at=at, ca=ca.ca, kind=ca.kind, key_scheme="none", profile="none",
                            cert_sha256=sha256(ca.certificate).hexdigest(), transcript_sha256="00" * 32, by="test",
                            issuer=ca.issuer),
                ca.certificate,
            )  # fmt: skip
    for name, serials in (("born", BORN), ("pooled", POOLED)):
        known = hq.records.order(name)
        order = NewOrder(
            order=OrderId(name), product="device", profile=site.profile("tls-client"), key_algorithm="p256",
            key_origin=known.key_origin, ca="issuing", by="test",
        )  # fmt: skip
        create_order(site.ledger, order, serials, clock=site.clock)
