"""``azure-sphere:``: the CA of an Azure Sphere catalog is made known to a provisioning service.

Microsoft runs the CA and gives each device a certificate of one day (docs/clouds/azure-sphere.md): no single device is
ever told of, the group of the CA lets them in. Only a blocked one has an enrolment of its own, a disabled one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from birthmark.adapters.clouds.azure_dps.auth import Authorization, bearer_token, entra_tokens
from birthmark.adapters.clouds.azure_dps.authorities import Authorities
from birthmark.adapters.clouds.azure_dps.cloud import AzureDpsCloud
from birthmark.adapters.clouds.azure_dps.documents import digest
from birthmark.adapters.clouds.azure_dps.plan import require_possible
from birthmark.adapters.clouds.azure_dps.web import DpsWeb
from birthmark.adapters.clouds.azure_sphere.catalog import Catalog, CatalogCa
from birthmark.adapters.clouds.azure_sphere.uri import parse_sphere_uri
from birthmark.errors import Refused
from birthmark.ports import SecretsHandler
from birthmark.ports.cloud import (
    CloudAuthority,
    CloudLimits,
    CloudPage,
    CloudRecord,
    Estimate,
    EstimatedStep,
    Outcome,
    ProvePossession,
    Registration,
)

__all__ = ["AzureSphereCloud"]

_SPHERE_VERSION, _DPS_VERSION = "2024-04-01", "2022-12-12"
_READ, _GROUP, _PROVEN = 4, 2, 5
"""Calls: catalog, chain, groups and CAs; a group compared and written; a CA listed, sent, coded, signed, verified."""
_MOST = 2
"""Certificates of a group: a primary and a secondary one."""


class AzureSphereCloud:
    """Implements ``ports.Cloud``. ``prove`` is never asked: the catalog signs what proves its possession."""

    def __init__(
        self, uri: str, *, secrets: SecretsHandler, base: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._uri = parse_sphere_uri(uri)
        self._dps = AzureDpsCloud(self._uri.dps, secrets=secrets, base=base, clock=clock, born_elsewhere=True)
        manager = partial(self._manager, self._authorization(secrets), base)
        now = partial(_moment, clock)
        self._web, self._arm = manager(_SPHERE_VERSION), manager(_DPS_VERSION)
        self._catalog = Catalog(self._uri, self._web, base, now)
        self._authorities = Authorities(self._arm, self._uri.service, now)

    @property
    def name(self) -> str:
        return self._uri.name

    @property
    def limits(self) -> CloudLimits:
        return self._dps.limits

    def expected(self, registration: Registration) -> CloudRecord | None:
        return self._dps.expected(registration)

    def estimate(self, devices: int, authorities: Sequence[CloudAuthority]) -> Estimate:
        certificates = sum(len(one.certificates) for one in authorities) or 1
        groups = len(authorities) or 1
        calls = _READ + _GROUP * groups + (_PROVEN * certificates if self._by_reference else 0)
        what = f"{certificates} CA certificates of the catalog {self._uri.catalog} read and let in by {groups} groups"
        why = "Microsoft runs this CA: the catalog proves possession, and its devices come in by daily certificates"
        first = EstimatedStep(what, calls, calls / self.limits.calls_a_minute, why)
        told = EstimatedStep(f"{devices} devices covered by the groups of their CA", 0, 0.0, "none is told of by name")
        found = self._dps.estimate(devices, authorities)
        return replace(found, steps=(first, told, found.steps[-1]))

    def prepare(self, authorities: Sequence[CloudAuthority], prove: ProvePossession) -> Sequence[str]:
        """As the port says; without ``authorities`` it is the CA of the catalog, under the catalog's name.

        ``Refused("cloud.ca.foreign")``: one of them is no CA of the catalog.
        """
        require_possible(self._uri.service, authorities)
        held = self._catalog.certificates()
        lines = [self._found(one) for one in held]
        if not authorities:
            ders = tuple(one.certificate for one in held[:_MOST])
            authorities = [CloudAuthority(self._uri.catalog, ders, self._catalog.chain(held[0]))]
            require_possible(self._uri.service, authorities)
        known = {one.certificate: one for one in held}
        self._require_own(authorities, known)
        proven: list[str] = []
        for authority in authorities if self._by_reference else ():
            for der in authority.certificates:
                proof = partial(self._proof, known[der])
                proven += self._authorities.prepare([replace(authority, certificates=(der,))], proof)
        # The service says once more of each that it is proven.
        return [*lines, *proven, *self._dps.prepare(authorities, _never)[len(proven) :]]

    def calls_of(self, registrations: Sequence[Registration]) -> int:
        return self._dps.calls_of(registrations)

    def tell(self, registrations: Sequence[Registration]) -> Sequence[Outcome]:
        return self._dps.tell(registrations)

    def page(self, after: str) -> CloudPage:
        return self._dps.page(after)

    def close(self) -> None:
        for each in (self._dps, self._web, self._arm):
            each.close()

    @property
    def _by_reference(self) -> bool:
        return self._uri.service.ca == "reference"

    def _authorization(self, secrets: SecretsHandler) -> Authorization:
        if self._uri.arm_token is not None:
            return bearer_token(partial(secrets, self._uri.arm_token))
        if self._uri.chain is not None and not self._by_reference:
            return _nobody  # a file and the service are enough: no credentials for the manager are needed
        return entra_tokens(f"https://{self._uri.arm_host}/.default")

    def _manager(self, authorization: Authorization, base: Path, version: str) -> DpsWeb:
        host, trust = self._uri.arm_host, self._uri.trust
        return DpsWeb(self.name, host, authorization, version=version, trust=trust, base=base)

    def _found(self, ca: CatalogCa) -> str:
        standing = "in use" if ca.active else "not in use now"
        return f"catalog {self._uri.catalog}: CA certificate {digest(ca.certificate)[:16]}, {standing}"

    def _require_own(self, authorities: Sequence[CloudAuthority], known: dict[bytes, CatalogCa]) -> None:
        for authority in authorities:
            if not known.keys() >= set(authority.certificates):
                raise Refused(
                    "cloud.ca.foreign",
                    f"{authority.name} is no CA of the catalog {self._uri.catalog}",
                    hint="Name in cas of this cloud only what was imported from the catalog, or nothing: cas = [].",
                    cloud=self.name,
                    ca=authority.name,
                )

    def _proof(self, ca: CatalogCa, name: str, code: str) -> bytes:
        return self._catalog.proof(ca, code)


def _moment(clock: Callable[[], float]) -> datetime:
    return datetime.fromtimestamp(clock(), UTC)


def _nobody() -> str:
    raise AssertionError("the manager has nothing that is needed")


def _never(name: str, code: str) -> bytes:
    raise AssertionError(f"{name} was proven before")
