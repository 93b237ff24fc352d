"""Permits: the admitted, linted template of an order, ready to sign with.

A template is admitted once, on record, before anything is signed with it. One that is recent is used again, so that
starting a program does not add a template; an old one is not, since a certificate should not be dated long before it
was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509

from birthmark import __version__
from birthmark.errors import Refused, Tampered
from birthmark.model.events import TemplateAdmitted, utc_text
from birthmark.model.records import OrderRecord
from birthmark.pki.algorithms import algorithm_named
from birthmark.pki.issuer import Issuer, Permit
from birthmark.pki.lint import lint_certificate, refuse_findings
from birthmark.pki.profile import Profile
from birthmark.pki.signingtime import signing_window
from birthmark.pki.specimen import FindingLike, signed_certificate
from birthmark.pki.template import Template, compile_template
from birthmark.ports import Clock, Ledger, Records
from birthmark.workflow.orders.orderterms import require_approved_terms

__all__ = ["MAX_TEMPLATE_AGE", "Permits"]

MAX_TEMPLATE_AGE = timedelta(hours=6)
"""After this a template is compiled anew: a certificate's notBefore is never further back than this."""


class Permits:
    """Compiles, lints, admits and keeps permits and the issuers they belong to.

    ``issuer``: CA name → its issuer; ``profile``: name → profile; ``values``: product → placeholder values. An order
    that was approved is signed on the terms of its plan alone (``order.terms``).
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        records: Records,
        issuer: Callable[[str], Issuer],
        profile: Callable[[str], Profile],
        values: Callable[[str], Mapping[str, str]],
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._open_issuer = issuer
        self._profile = profile
        self._values = values
        self._clock = clock
        self._issuers: dict[str, Issuer] = {}
        self._windows: dict[str, tuple[datetime, datetime]] = {}
        self._permits: dict[str, Permit] = {}
        self._latest: dict[str, Permit] = {}

    def issuer(self, ca: str) -> Issuer:
        """Return the issuer of a CA; opened once, since a permit is bound to it."""
        if ca not in self._issuers:
            # Heads are threads: of two that open it at once, one opening is kept and used by both.
            self._issuers.setdefault(ca, self._open_issuer(ca))
        return self._issuers[ca]

    def for_order(self, order: OrderRecord) -> Permit:
        """Return the permit to issue for an order now; its template is on record when this returns.

        Raises what ``compile_template`` and ``Issuer.prepare`` raise: an expired CA, a clock before its notBefore
        and a lint finding are refused here.
        """
        now = self._clock()
        permit = self._latest.get(order.order)
        if permit is not None and self._still_good(permit, order, now):
            return permit
        profile, values = self._profile(order.profile), self._values(order.product)
        require_approved_terms(self._ledger, self._records, order, profile, values)
        found = self._admitted(order, now)
        permit = self._prepare(found, order.ca, now) if found is not None else self._admit(order, now)
        self._latest[order.order] = permit
        return permit

    def for_template(self, template: str, ca: str) -> Permit:
        """Return the permit for a template on record, however old: recovery signs what was reserved."""
        now = self._clock()
        permit = self._permits.get(template)
        if permit is not None and self._ca_is_valid(ca, now):
            return permit
        record = self._records.template(template)
        if record is None:
            raise Tampered(
                "template.missing",
                f"template {template} was reserved with and is not on record",
                hint="Stop and run `birthmark audit verify`.",
                template=template,
            )
        return self._prepare(Template.from_bytes(record.body), ca, now)

    def lint_exact(self, permit: Permit, tbs: bytes, *, ca: str, device_serial: str) -> None:
        """Refuse (``lint.findings``) if the very TBS that is to be signed has a finding its profile does not accept."""
        template = permit.template
        throw_away = _throw_away(template.issuer_algorithm.name)
        signer = template.issuer_algorithm.signer(throw_away)
        specimen = signed_certificate(tbs, template.issuer_algorithm, signer, throw_away.public_key())
        findings = lint_certificate(
            specimen,
            issuer_der=self.issuer(ca).chain_der[0],
            profile=template.profile,
            device_serial=device_serial,
            values=template.file.product_values,
        )
        refuse_findings(findings, template.profile)

    def _still_good(self, permit: Permit, order: OrderRecord, now: datetime) -> bool:
        return _is_recent(permit.template, now) and self._ca_is_valid(order.ca, now)

    def _ca_is_valid(self, ca: str, now: datetime) -> bool:
        """Say whether the CA and all above it are valid; ``Issuer.prepare`` then says why not."""
        if ca not in self._windows:
            self._windows[ca] = _window(self.issuer(ca).chain_der)
        first, last = self._windows[ca]
        return first <= now <= last

    def _admitted(self, order: OrderRecord, now: datetime) -> Template | None:
        """Return a recent template on record that says what the order, the profile and the product say today."""
        profile = self._profile(order.profile)
        wanted = {name: self._values(order.product).get(name) for name in profile.placeholders()}
        for record in self._records.templates(order.ca, order.profile):
            template = Template.from_bytes(record.body)
            if not _is_recent(template, now):
                return None
            same = (
                template.profile_hash == profile.profile_hash()
                and template.file.product_values == wanted
                and template.key_algorithm.name == order.key_algorithm
                and template.file.issuer_certificate == self.issuer(order.ca).fingerprint
            )
            if same:
                return template
        return None

    def _admit(self, order: OrderRecord, now: datetime) -> Permit:
        issuer = self.issuer(order.ca)
        template = compile_template(
            self._profile(order.profile),
            issuer_certificate=issuer.certificate,
            not_before=now,
            product_values=self._values(order.product),
            key_algorithm=order.key_algorithm,
        )
        permit = self._prepare(template, order.ca, now)
        event = TemplateAdmitted(
            at=utc_text(now),
            template=template.template_hash.hex(),
            ca=order.ca,
            profile=order.profile,
            profile_hash=template.profile_hash.hex(),
            linter=_linter(),
            findings_allowed=list(permit.findings_allowed),
        )
        try:
            with self._ledger.transaction() as tx:
                tx.append(event, template.to_bytes())
        except Refused as refusal:
            # Another process compiled the same template within the same second.
            if refusal.code != "ledger.exists":
                raise
        return permit

    def _prepare(self, template: Template, ca: str, now: datetime) -> Permit:
        profile = template.profile
        rule = profile.device_serial

        def lint(der: bytes, issuer_der: bytes) -> Iterable[FindingLike]:
            return lint_certificate(
                der,
                issuer_der=issuer_der,
                profile=profile,
                device_serial=rule.example if rule else None,
                values=template.file.product_values,
            )

        permit = self.issuer(ca).prepare(template, now=now, lint=lint)
        self._permits[template.template_hash.hex()] = permit
        return permit


def _window(chain: Sequence[bytes]) -> tuple[datetime, datetime]:
    """Return the first and the last moment at which every certificate (DER) is valid and the first of them may sign."""
    members = [x509.load_der_x509_certificate(der) for der in chain]
    first, last = signing_window(members[0])
    return (
        max(first, *(member.not_valid_before_utc for member in members)),
        min(last, *(member.not_valid_after_utc for member in members)),
    )


def _is_recent(template: Template, now: datetime) -> bool:
    age = now - datetime.fromisoformat(template.file.moment)
    return timedelta() <= age <= MAX_TEMPLATE_AGE


def _linter() -> str:
    from importlib.metadata import version

    return f"birthmark {__version__}, pkilint {version('pkilint')}"


@cache
def _throw_away(algorithm: str) -> Any:
    """Return a key that certifies nothing, for specimens of what is to be signed."""
    return algorithm_named(algorithm).generate()
