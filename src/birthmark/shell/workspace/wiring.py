"""The only place where workflows and adapters meet: a workspace directory becomes working objects."""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birthmark.adapters.durable import naming_os_errors
from birthmark.errors import BirthmarkError, Misconfigured, Refused, Unavailable
from birthmark.shell.workspace.config import ProductSettings, WorkspaceSettings, load_settings
from birthmark.shell.workspace.ledgers import open_ledger
from birthmark.shell.workspace.plugins import adapter
from birthmark.shell.workspace.secrets import SecretsResolver

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from birthmark.adapters.ledgers.sql.store import SqlLedger
    from birthmark.pki.issuer import Issuer
    from birthmark.pki.profile import Profile
    from birthmark.ports import Journal, Keys, Target
    from birthmark.wire.vault import VaultKey, VaultRecipient
    from birthmark.workflow.log.publish import LogPublication
    from birthmark.workflow.orders.permits import Permits

__all__ = ["Station", "Workspace", "open_private_key", "open_workspace", "utc_now"]


def utc_now() -> datetime:
    """Return the present moment, aware, UTC."""
    return datetime.now(UTC)


def _account() -> str:
    """Return the name of the account that gives the command; the environment is not asked, it says what it is told."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid:{os.getuid()}"


@dataclass(frozen=True, slots=True)
class Station:
    """A station of this workspace: its name, the key for its receipts and its journal."""

    name: str
    key: Ed25519PrivateKey
    journal: Journal


class Workspace:
    """Everything that lives in one workspace directory; parts are opened when they are first used."""

    def __init__(self, root: Path, settings: WorkspaceSettings, secrets: SecretsResolver) -> None:
        self.root = root
        self.settings = settings
        self.secrets = secrets
        self.clock: Callable[[], datetime] = utc_now
        self.entropy: Callable[[int], bytes] = os.urandom
        self.by = _account()
        self._keys: dict[str, Keys] = {}
        self._closing = ExitStack()

    @cached_property
    def ledger(self) -> SqlLedger:
        ledger = open_ledger(self.root, self.settings.ledger, secrets=self.secrets, clock=self.clock)
        ledger.note_software(self.by)
        return ledger

    @property
    def records(self) -> Any:
        return self.ledger.records

    def private_key(self, uri: str) -> Any:
        """Return the private key that ``uri`` names."""
        return self.keys(uri).open(uri)

    def keys(self, uri: str) -> Keys:
        """Return the key adapter for ``uri``; one a scheme, kept open."""
        scheme = uri.partition(":")[0]
        if scheme not in self._keys:
            self._keys[scheme] = adapter("keys", uri)(self.secrets, self.root)
        return self._keys[scheme]

    def ca_key_uri(self, ca: str) -> str:
        """Return the key URI of a CA; ``Misconfigured("settings.ca")`` if this workspace does not hold it."""
        key = self.settings.cas[ca].key if ca in self.settings.cas else None
        if key is None:
            raise Misconfigured(
                "settings.ca",
                f"this workspace has no key for a CA named {ca}",
                hint=f"Add [cas.{ca}] with a key to birthmark.toml; it has: {', '.join(self.settings.cas) or 'none'}.",
                ca=ca,
            )
        return key

    def is_external(self, ca: str) -> bool:
        """Say whether a third party's service signs for this CA."""
        settings = self.settings.cas.get(ca)
        return settings is not None and settings.issuer is not None

    def ca_certificate(self, ca: str) -> bytes:
        """Return the certificate (DER) of a CA on record."""
        record = self.records.ca(ca)
        if record is None:
            raise Misconfigured(
                "ca.unknown",
                f"there is no CA named {ca} on record",
                hint="Make it: `birthmark ceremony run DIR/ceremony.toml`, where DIR is the workspace.",
                ca=ca,
            )
        return bytes(record.certificate)

    def chain(self, ca: str) -> tuple[bytes, ...]:
        """Return the certificates (DER) from ``ca`` up to its root."""
        found = [self.ca_certificate(ca)]
        issuer = self.records.ca(ca).issuer
        while issuer is not None:
            found.append(self.ca_certificate(issuer))
            issuer = self.records.ca(issuer).issuer
        return tuple(found)

    def issuer(self, ca: str) -> Issuer:
        """Return a CA for devices, ready to sign; ``Refused("ca.access")`` for the one that signs TLS certificates."""
        from cryptography import x509

        from birthmark.pki.issuer import Issuer

        record = self.records.ca(ca)
        if record is not None and record.kind == "access":
            raise Refused(
                "ca.access",
                f"the CA {ca} signs the TLS certificates of this workspace, never devices or their CAs",
                hint="Name an issuing CA in the product of birthmark.toml.",
                ca=ca,
            )

        certificates = [x509.load_der_x509_certificate(der) for der in self.chain(ca)]
        return Issuer(certificates[0], self.private_key(self.ca_key_uri(ca)), certificates[1:])

    def profile(self, name: str) -> Profile:
        """Return a profile of this workspace (``profiles/NAME.toml``)."""
        from birthmark.pki.profile import parse_profile

        path = self.root / "profiles" / f"{name}.toml"
        try:
            return parse_profile(path.read_bytes())
        except OSError as problem:
            raise Misconfigured(
                "profile.missing",
                f"there is no profile {name} in this workspace",
                hint=f"Put it at {path}; `birthmark profile list` names the presets.",
                profile=name,
            ) from problem

    def product(self, name: str) -> ProductSettings:
        """Return the settings of a product."""
        if name not in self.settings.products:
            raise Misconfigured(
                "settings.product",
                f"this workspace makes no product named {name}",
                hint=f"Add it to birthmark.toml; there are: {', '.join(self.settings.products) or 'none'}.",
                product=name,
            )
        return self.settings.products[name]

    @cached_property
    def permits(self) -> Permits:
        from birthmark.workflow.orders.permits import Permits

        return Permits(
            ledger=self.ledger,
            records=self.records,
            issuer=self.issuer,
            profile=self.profile,
            values=lambda product: self.product(product).values,
            clock=self.clock,
        )

    @cached_property
    def vault_key(self) -> VaultKey:
        """The private half of the vault: it opens device keys."""
        from birthmark.adapters.durable import read_private_file
        from birthmark.wire.vault import VaultKey

        vault = self.settings.vault
        return VaultKey.from_pem(read_private_file(self.root / vault.file), self.secrets(vault.secret))

    @property
    def vault_recipient(self) -> VaultRecipient:
        """The public half of the vault: device keys are sealed to it."""
        return self.vault_key.recipient()

    @cached_property
    def publication(self) -> LogPublication:
        from birthmark.adapters.logstore import FileLogStore
        from birthmark.workflow.log.publish import LogPublication

        key = self.private_key(self.settings.log.key)
        store = FileLogStore(self.root / "log")
        return LogPublication(self.ledger, store, origin=self.settings.origin, key=key)

    def publish(self) -> int:
        """Sign and show the log up to now, one process at a time; return the size that is shown."""
        with self.lock("publish", wait=True):
            return self.publication.publish()

    def sign_head(self) -> None:
        """Sign a head over what is durable and record it, without showing it in files yet."""
        with self.lock("publish", wait=True):
            self.publication.sign()

    def station(self, name: str | None = None) -> Station:
        """Return a station; without a name the only one there is."""
        from birthmark.adapters.journal import FileJournal

        stations = self.settings.stations
        chosen = name or (next(iter(stations)) if len(stations) == 1 else "")
        if chosen not in stations:
            raise Misconfigured(
                "settings.station",
                f"which station is this? {name or 'none was named'}",
                hint=f"Name one with --station; there are: {', '.join(stations) or 'none'}.",
                station=name,
            )
        journal = FileJournal(self.root / stations[chosen].journal)
        return Station(chosen, self.private_key(stations[chosen].key), journal)

    def target(self, uri: str, device_serial: str) -> Target:
        """Return the target that ``uri`` names for one device."""
        from birthmark.adapters.targets.uri import expand_target_uri

        expanded = expand_target_uri(uri, device_serial)
        target: Target = adapter("targets", expanded)(expanded, secrets=self.secrets, base=Path.cwd())
        return target

    @contextmanager
    def lock(self, name: str, *, wait: bool = False) -> Iterator[None]:
        """Hold a named lock among all who use the ledger.

        Unless told to wait, ``Unavailable("workspace.busy")`` if it is held.
        """
        path = self.root / "ledger" / f"{name}.lock"
        with naming_os_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                raise _busy(name) from problem
            with self.ledger.exclusive(name, wait=wait) as held:
                if not held:
                    raise _busy(name)
                yield
        finally:
            os.close(descriptor)

    def close_later(self, close: Callable[[], None]) -> None:
        """Call ``close`` when this workspace is closed."""
        self._closing.callback(close)

    def close(self) -> None:
        self._closing.close()
        for keys in self._keys.values():
            keys.close()
        if "ledger" in self.__dict__:
            self.ledger.close()


def _busy(name: str) -> Unavailable:
    return Unavailable(
        "workspace.busy",
        f"another process is busy with: {name}",
        hint="Wait until it ends, then try again.",
        lock=name,
    )


@contextmanager
def open_workspace(root: Path, *, secrets: SecretsResolver | None = None, publish: bool = True) -> Iterator[Workspace]:
    """Open a workspace; on the way out publish what the log gained.

    Whoever is going to publish first shows that this ledger is the one that published last: a restored old copy would
    sign certificates and hand out keys a second time.
    """
    workspace = Workspace(root, load_settings(root), secrets or SecretsResolver())
    try:
        if publish:
            workspace.publication.require_continuity()
        yield workspace
        if publish:
            workspace.publish()
    except BirthmarkError:
        if publish:
            _publish_if_possible(workspace)
        raise
    finally:
        workspace.close()


def _publish_if_possible(workspace: Workspace) -> None:
    """Publish, but let the first error be the one that is told."""
    try:
        workspace.publish()
    except BirthmarkError:
        return


def open_private_key(uri: str, secrets: Callable[[str], Any], root: Path) -> Any:
    """Open one private key outside a workspace object (a worker process does)."""
    return adapter("keys", uri)(secrets, root).open(uri)
