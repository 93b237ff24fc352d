"""Making CAs, one step of a ceremony at a time: key, certificate, lint, chain. Nothing is recorded here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from birthmark.errors import Refused
from birthmark.model.records import CaRecord
from birthmark.pki.algorithms import algorithm_of
from birthmark.pki.chain import verify_chain
from birthmark.pki.csr import parse_csr
from birthmark.pki.issuer import Issuer, issue_ca_certificate
from birthmark.pki.lint import lint_certificate, refuse_findings
from birthmark.pki.profile import Profile
from birthmark.pki.specimen import Lint
from birthmark.ports import Clock, Entropy, Keys, Ledger, Records, SiteRecords
from birthmark.wire.site import SiteRequest, open_request
from birthmark.workflow.authority.ceremonyfile import CaStep, DelegateStep, IssuingStep, RolloverStep, RootStep
from birthmark.workflow.authority.rollover import created_event, link_names, link_profile, require_same_name, subject_of

__all__ = ["CaMaker", "CeremonyTools", "MadeCa", "key_title", "lint_for"]


@dataclass(frozen=True, slots=True)
class CeremonyTools:
    """What a ceremony works with.

    ``issuer``: CA on record → ready to sign; ``key_uri``: CA → URI of its key; ``read``: path in the ceremony file →
    content; ``keep`` and ``kept``: write durably to, and read from, the directory of CA files, None if it is not there.
    """

    ledger: Ledger
    records: Records
    sites: SiteRecords
    keys: Callable[[str], Keys]
    key_uri: Callable[[str], str]
    issuer: Callable[[str], Issuer]
    profile: Callable[[str], Profile]
    read: Callable[[str], bytes]
    keep: Callable[[str, bytes], None]
    kept: Callable[[str], bytes | None]
    log_key: Ed25519PrivateKey
    origin: str
    clock: Clock
    entropy: Entropy
    by: str


@dataclass(frozen=True, slots=True)
class MadeCa:
    """One CA certificate (DER) and what its event will say. ``signer``: ready for the steps after it."""

    name: str
    kind: Literal["root", "issuing"]
    profile: str
    key_scheme: str
    der: bytes
    issuer: str | None
    signer: Issuer | None
    site: str | None = None
    replaces: str | None = None

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.der)


class CaMaker:
    """Makes the CAs of a ceremony in their order. ``now``: the moment of issue of all of them."""

    def __init__(self, tools: CeremonyTools, now: datetime) -> None:
        self.tools = tools
        self.now = now
        self.made: dict[str, MadeCa] = {}

    def make(self, step: CaStep) -> list[MadeCa]:
        """Carry out one step; return what it made. Raises what the profile, the lint, the keys and the chain raise."""
        makers: dict[type, Callable[[Any], list[MadeCa]]] = {
            RootStep: self._root,
            IssuingStep: self._issuing,
            DelegateStep: self._delegate,
            RolloverStep: self._rollover,
        }
        for name in self.names(step):
            if self.tools.records.ca(name) is not None or name in self.made:
                raise Refused(
                    "ceremony.ca.exists",
                    f"CA {name} is already on record",
                    hint="A ceremony never replaces a CA: give the new one another name.",
                    ca=name,
                )
        made = makers[type(step)](step)
        self.made.update({ca.name: ca for ca in made})
        return made

    def names(self, step: CaStep) -> tuple[str, ...]:
        """Return the names of the CAs that a step makes: itself, and the links of a root's rollover."""
        old = self.tools.records.ca(step.replaces) if isinstance(step, RolloverStep) else None
        links = link_names(old.ca, step.name) if old is not None and old.kind == "root" else ()
        return (step.name, *links)

    def new_key(self, uri: str, algorithm: str) -> Any:
        """Make the private key of a CA where it will stay."""
        return self.tools.keys(uri).generate(uri, algorithm)

    def recorded_issuer(self, ca: str) -> Issuer:
        """Return a CA on record, ready to sign."""
        return self.tools.issuer(ca)

    def cert_serial(self) -> bytes:
        """Return a certificate serial that was never given."""
        with self.tools.ledger.transaction() as tx:
            (prefix,) = tx.serial_prefixes(1)
        return prefix + self.tools.entropy(8)

    def certify(
        self, profile: Profile, public_key: Any, *, issuer: Issuer | None, self_key: Any, values: Mapping[str, str]
    ) -> bytes:
        """Return a CA certificate (DER), linted before and after it was signed, its chain verified."""
        der = issue_ca_certificate(
            profile,
            subject_key=public_key,
            issuer=issuer,
            self_key=self_key,
            cert_serial=self.cert_serial(),
            not_before=self.now,
            values=values,
            lint=lint_for(profile),
        )
        ancestors = () if issuer is None else issuer.chain_der
        refuse_findings(lint_certificate(der, issuer_der=ancestors[0] if ancestors else der, profile=profile), profile)
        verify_chain(der, ancestors[:-1], ancestors[-1:] or (der,), at=self.now)
        return der

    def issuer(self, ca: str) -> Issuer:
        """Return the CA that signs: one that was made before in this ceremony, or one on record."""
        if ca in self.made:
            signer = self.made[ca].signer
            if signer is not None:
                return signer
        record = self.tools.records.ca(ca)
        if record is None or record.site is not None or record.kind not in ("root", "issuing"):
            raise Refused(
                "ceremony.issuer",
                f"{ca} cannot sign here: there is no such CA on record, or its key is elsewhere",
                hint="Name a root or an issuing CA of this workspace, or make it in an earlier step.",
                issuer=ca,
            )
        return self.recorded_issuer(ca)

    def _root(self, step: RootStep | RolloverStep) -> list[MadeCa]:
        profile = self.tools.profile(step.profile)
        key = self.new_key(step.key, step.key_algorithm)
        der = self.certify(profile, key.public_key(), issuer=None, self_key=key, values=step.values)
        signer = Issuer(x509.load_der_x509_certificate(der), key)
        return [MadeCa(step.name, "root", step.profile, _scheme(step.key), der, None, signer)]

    def _issuing(self, step: IssuingStep) -> list[MadeCa]:
        return [self._below(step, step.issuer)]

    def _below(self, step: IssuingStep | RolloverStep, issuer: str) -> MadeCa:
        above = self.issuer(issuer)
        profile = self.tools.profile(step.profile)
        key = self.new_key(step.key, step.key_algorithm)
        der = self.certify(profile, key.public_key(), issuer=above, self_key=None, values=step.values)
        replaces = step.replaces if isinstance(step, RolloverStep) else None
        signer = self.signer(der, key, above)
        return MadeCa(step.name, "issuing", step.profile, _scheme(step.key), der, issuer, signer, replaces=replaces)

    def signer(self, der: bytes, key: Any, above: Issuer) -> Issuer:
        """Return the CA that was just certified, ready to sign."""
        chain = [x509.load_der_x509_certificate(member) for member in above.chain_der]
        return Issuer(x509.load_der_x509_certificate(der), key, chain)

    def _delegate(self, step: DelegateStep) -> list[MadeCa]:
        request = self._reviewed_request(step)
        above = self.issuer(step.issuer)
        profile = self.tools.profile(step.profile)
        limits = profile.basic_constraints
        if limits is None or limits.path_length != 0 or profile.validity.days == "none":
            raise Refused(
                "ceremony.delegate.profile",
                f"profile {profile.name} gives a site more than it needs",
                hint="Use an issuing-ca profile with path_length = 0 and an end of validity.",
                profile=profile.name,
            )
        assert request.ca is not None, "looked at before"  # noqa: S101
        public_key = load_der_public_key(parse_csr(request.ca.csr).spki)
        der = self.certify(profile, public_key, issuer=above, self_key=None, values=step.values)
        scheme = request.ca.key_scheme
        return [MadeCa(step.name, "issuing", step.profile, scheme, der, step.issuer, None, site=step.site)]

    def _reviewed_request(self, step: DelegateStep) -> SiteRequest:
        data = self.tools.read(step.request)
        if sha256(data).hexdigest() != step.request_sha256:
            raise Refused(
                "ceremony.request.changed",
                f"{step.request} is not the request that was reviewed",
                hint="Compare its SHA-256 with the site by another way; then write that one into the ceremony file.",
                sha256=sha256(data).hexdigest(),
            )
        request = open_request(data)
        known = self.tools.sites.site(step.site)
        if request.site != step.site or request.ca is None or (known is not None and known.vkey != request.vkey):
            raise Refused(
                "ceremony.request.other",
                f"{step.request} is not a request of site {step.site} for a CA",
                hint="Use the request that `birthmark site init --mode factory_ca` wrote at that site.",
                site=step.site,
            )
        return request

    def _rollover(self, step: RolloverStep) -> list[MadeCa]:
        old = self._to_replace(step)
        if old.kind == "issuing":
            return [self._below(step, step.issuer or old.issuer or "")]
        old_issuer = self.issuer(step.replaces)
        (new,) = self._root(step)
        assert new.signer is not None, "a root is made with its key"  # noqa: S101
        old_name, new_name = link_names(step.replaces, step.name)
        scheme = created_event(self.tools.ledger, old.seq).key_scheme
        old_by_new = self._link(step, old_name, old_issuer, new.signer, step.name, scheme)
        new_by_old = self._link(step, new_name, new.signer, old_issuer, step.replaces, new.key_scheme)
        root = MadeCa(new.name, "root", new.profile, new.key_scheme, new.der, None, new.signer, replaces=step.replaces)
        return [root, old_by_new, new_by_old]

    def _to_replace(self, step: RolloverStep) -> CaRecord:
        old = self.tools.records.ca(step.replaces)
        if old is None or old.kind not in ("root", "issuing") or old.site is not None:
            raise Refused(
                "ceremony.rollover.unknown",
                f"{step.replaces} is no CA of this workspace that could be replaced",
                hint="Name a root or an issuing CA that is on record.",
                ca=step.replaces,
            )
        for record in self.tools.records.cas():
            if created_event(self.tools.ledger, record.seq).replaces == step.replaces:
                raise Refused(
                    "ceremony.rollover.twice",
                    f"{record.ca} has taken the place of {step.replaces} already",
                    hint=f"Replace {record.ca} instead.",
                    ca=step.replaces,
                    replaced_by=record.ca,
                )
        return old

    def _link(
        self, step: RolloverStep, name: str, certified: Issuer, issuer: Issuer, issuer_name: str, scheme: str
    ) -> MadeCa:
        subject = subject_of(certified.certificate)
        profile = link_profile(
            self.tools.profile(step.profile),
            subject,
            certified=certified.certificate,
            issuer=issuer.certificate,
            now=self.now,
        )
        public_key = certified.certificate.public_key()
        der = self.certify(profile, public_key, issuer=issuer, self_key=None, values={})
        require_same_name(der, certified.certificate)
        return MadeCa(name, "issuing", profile.name, scheme, der, issuer_name, None)


def lint_for(profile: Profile) -> Lint:
    """Return the lint of specimens of a CA profile."""
    return lambda specimen, issuer_der: lint_certificate(specimen, issuer_der=issuer_der, profile=profile)


def _scheme(uri: str) -> str:
    return uri.partition(":")[0]


def key_title(certificate: x509.Certificate) -> str:
    """Return the name of the key algorithm of a certificate."""
    return algorithm_of(certificate.public_key()).name
