"""What ``demo-factories`` does, without a word on the screen: an authority, three factories, and sticks that travel.

Everything is the product: real workspaces, the real service in a process of its own, files that somebody carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.model.ids import OrderId
from birthmark.shell.bench.serviceprocess import running_service
from birthmark.shell.demo.directory import write_secret
from birthmark.shell.demo.tokens import MAGAZINE, MODULE, make_tokens, use_tokens
from birthmark.shell.line.heads import open_heads
from birthmark.shell.orders.bulk import default_processes, make_order
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.config import CONFIG_NAME
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.workflow.orders.order import NewOrder, create_order, serial_range

if TYPE_CHECKING:
    from birthmark.adapters.audit.verify import Report
    from birthmark.model.events import KeyOrigin
    from birthmark.model.siteevents import SiteMode
    from birthmark.shell.sites.ingest import IngestResult
    from birthmark.wire.manifest import Manifest

__all__ = ["FACTORIES", "PRODUCT", "Factories", "Site"]

PRODUCT = "thermostat"
_SERVE = """
[serve]
tls_certificate = "serve/server.pem"
tls_key = "serve/server.key"
"""


@dataclass(frozen=True, slots=True)
class Site:
    """A factory of the demo: its order has ``ordered`` devices, ``made`` of them are on the line today."""

    name: str
    mode: SiteMode
    letter: str
    key_origin: KeyOrigin
    ordered: int
    made: int

    @property
    def order(self) -> str:
        return f"lot-{self.letter}"

    @property
    def serials(self) -> list[str]:
        return list(serial_range(f"{self.letter}-000001", self.ordered))


FACTORIES = (
    Site("fab-a", "online", "a", "device", 20, 10),
    Site("fab-b", "factory_ca", "b", "device", 40, 30),
    Site("fab-c", "pool", "c", "injected", 200, 30),
)


class Factories:
    """The authority and the factories below ``directory``. ``tokens``: whether SoftHSM2 stands for secure elements."""

    def __init__(self, directory: Path, *, tokens: bool) -> None:
        self.directory = directory.resolve()
        self.tokens = tokens
        self.hq = self.directory / "authority"
        self.stick = self.directory / "stick"
        self._url: str | None = None

    def root(self, name: str) -> Path:
        """Return the workspace of a factory."""
        return self.directory / name

    @contextmanager
    def authority(self) -> Iterator[Workspace]:
        """Open the authority's workspace."""
        with open_workspace(self.hq) as workspace:
            yield workspace

    def found_authority(self) -> None:
        """Make the authority: root, issuing CA, and the certificate of its service."""
        from birthmark.shell.authority.access import make_server_certificate

        self.stick.mkdir()
        (self.directory / "secrets").mkdir(mode=0o700)
        make_workspace(self.hq, product=PRODUCT)
        with self.authority() as workspace:
            make_server_certificate(workspace, ["127.0.0.1"])
        path = self.hq / CONFIG_NAME
        path.write_text(path.read_text() + _SERVE)

    @contextmanager
    def service(self) -> Iterator[str]:
        """Run the authority's service; yield its address."""
        with running_service(self.hq, log=self.directory / "service.log") as (port, _):
            self._url = f"https://127.0.0.1:{port}"
            yield self._url

    def join(self, site: Site) -> str:
        """Let a factory make its keys and ask, take it in, and let it accept; return the SHA-256 of its request."""
        from birthmark.shell.sites.accept import take_grant
        from birthmark.shell.sites.admin import CaWishes, GrantWishes, take_in_site
        from birthmark.shell.sites.setup import NewSite, create_site_workspace

        secret = self.directory / "secrets" / site.name
        pin = write_secret(secret)
        with self.authority() as workspace:
            origin = workspace.settings.origin
        token = self._ca_token(site, pin)
        new = NewSite(
            name=site.name,
            mode=site.mode,
            authority=origin,
            origin=f"{origin}/site/{site.name}",
            site_prefix=f"02{ord(site.letter):02x}",
            secret=f"file:{secret}",
            stations=("line1",),
            ca=f"{site.name}-ca-1" if site.mode == "factory_ca" else None,
            token=token,
        )
        request = create_site_workspace(self.root(site.name), new, secrets=SecretsResolver())
        asked = self.carry(f"{site.name}.request", request)
        wishes = GrantWishes(url=self._url if site.mode == "online" else None)
        with self.authority() as workspace:
            grant = take_in_site(workspace, asked.read_bytes(), wishes, CaWishes())
        taken = self.carry(f"{site.name}.grant", grant.data)
        vkey = (self.hq / "log" / "vkey").read_text().strip()
        with open_workspace(self.root(site.name)) as workspace:
            take_grant(workspace, taken.read_bytes(), authority_vkey=vkey)
        return sha256(request).hexdigest()

    def carry(self, name: str, data: bytes) -> Path:
        """Put a file on the stick."""
        path = self.stick / name
        path.write_bytes(data)
        return path

    def send_order(self, site: Site, progress: Callable[[int], None]) -> Manifest:
        """Order a factory's devices and hand it the bundle; for a pool the identities are made first."""
        from birthmark.workflow.sites.site import assign_order, signing_ca

        with self.authority() as workspace:
            ca = signing_ca(workspace.records, site.name)
            self.create_order(workspace, site.order, site.serials, site.key_origin, ca=ca)
            record = workspace.records.order(site.order)
            assign_order(workspace.ledger, workspace.records, record, site.name, clock=workspace.clock, by=workspace.by)
            if site.mode == "pool":
                make_order(workspace, record, processes=default_processes(), progress=progress)
        manifest = self.seal(site, site.order)
        self.open_bundle(site, site.order)
        return manifest

    def create_order(
        self, workspace: Workspace, name: str, serials: list[str], key_origin: KeyOrigin, *, ca: str | None = None
    ) -> None:
        """Put an order on record in a workspace."""
        settings = workspace.product(PRODUCT)
        order = NewOrder(
            order=OrderId(name),
            product=PRODUCT,
            profile=workspace.profile(settings.profile),
            key_algorithm=settings.key_algorithm,
            key_origin=key_origin,
            ca=ca or settings.ca,
            by=workspace.by,
        )
        create_order(workspace.ledger, order, serials, clock=workspace.clock)

    def seal(self, site: Site, order: str) -> Manifest:
        """Write the bundle of an order to the stick; ``Refused("site.stopped")`` for a factory that was stopped."""
        from birthmark.shell.sites.bundles import seal_for_site

        with self.authority() as workspace:
            return seal_for_site(
                workspace,
                order=order,
                site=site.name,
                suite="mlkem768-x25519",
                recipient=None,
                output=self.stick / f"{order}.bundle",
                progress=lambda count: None,
            )

    def open_bundle(self, site: Site, order: str) -> None:
        """Take the bundle on the stick in, at its factory."""
        from birthmark.shell.sites.bundles import manifest_path, open_for_site

        bundle = self.stick / f"{order}.bundle"
        with open_workspace(self.root(site.name)) as workspace:
            open_for_site(
                workspace, bundle=bundle, manifest=manifest_path(bundle), key=None, progress=lambda count: None
            )

    def provision(
        self, site: Site, serials: list[str], progress: Callable[[], None] = lambda: None, *, machine: str | None = None
    ) -> int:
        """Provision devices at a factory's station with two heads; return how many passed.

        ``machine``: another copy of the factory's workspace. Raises what the worst device met.
        """
        name = machine or site.name
        passed = 0
        with open_workspace(self.root(name)) as workspace, open_heads(workspace) as heads:
            for batch, target in self._place_devices(site, name, serials):
                done = heads.run(batch, target, heads=2, handshake=True, result=lambda result: progress())
                if done.worst is not None:
                    raise done.worst
                passed += done.passed
        return passed

    def report(self, name: str) -> Path:
        """Write the report of a factory's machine to the stick."""
        from birthmark.shell.sites.report import write_report_file

        path = self.stick / f"{name}.report"
        with open_workspace(self.root(name)) as workspace:
            workspace.publish()
            write_report_file(workspace, path, since=0)
        return path

    def ingest(self, path: Path) -> IngestResult:
        """Take a report in at the authority."""
        from birthmark.shell.sites.ingest import ingest_file

        with self.authority() as workspace:
            return ingest_file(workspace, path, processes=1)

    def audit(self, name: str) -> Report:
        """Verify a workspace by the audit's own code."""
        from birthmark.adapters.audit.verify import verify_workspace

        return verify_workspace(self.directory / name, processes=1)

    def write_evidence(self) -> list[Path]:
        """Write the authority's evidence report as HTML and as PDF."""
        from birthmark.adapters.durable import write_durably
        from birthmark.shell.web.evidencefile import read_evidence
        from birthmark.shell.web.evidencepage import page_pdf
        from birthmark.workflow.evidence.evidence import Scope

        html = read_evidence(self.hq, Scope()).html
        paths = [self.directory / "evidence.html", self.directory / "evidence.pdf"]
        for path, data in zip(paths, (html.encode(), page_pdf(html)), strict=True):
            write_durably(path, data, mode=0o644)
        return paths

    def forget_copies(self, site: Site) -> int:
        """Erase the authority's copies of keys that are known to have arrived; return how many."""
        from birthmark.workflow.bundles.leftovers import forget_keys

        with self.authority() as workspace:
            return forget_keys(
                workspace.ledger, workspace.records, site.order, clock=workspace.clock, progress=lambda count: None
            )[0]

    def _ca_token(self, site: Site, pin: str) -> tuple[str, str] | None:
        if site.mode != "factory_ca" or not self.tokens:
            return None
        make_tokens(self.directory / "softhsm" / site.name, [site.name], pin)
        return str(MODULE), site.name

    def _place_devices(self, site: Site, machine: str, serials: list[str]) -> Iterator[tuple[list[str], str]]:
        """Put empty devices on the line and yield them with their target: a token each or a directory each."""
        softhsm = self.directory / "softhsm"
        if site.mode == "online" and self.tokens:
            pin = self.directory / "secrets" / f"tokens-of-{machine}"
            text = write_secret(pin)
            for first in range(0, len(serials), MAGAZINE):
                batch = serials[first : first + MAGAZINE]
                make_tokens(softhsm / f"{machine}-{first // MAGAZINE + 1}", batch, text)
                yield (
                    batch,
                    f"pkcs11:token={{device_serial}};object=identity?module-path={MODULE}&pin-source=file:{pin}",
                )
            return
        if site.mode == "factory_ca" and self.tokens:
            use_tokens(softhsm / site.name)
        devices = self.directory / "devices" / machine
        for device_serial in serials:
            (devices / device_serial).mkdir(parents=True)
        yield serials, f"files:{devices}/{{device_serial}}" + ("?key=born" if site.key_origin == "device" else "")
