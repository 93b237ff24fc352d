"""``azure-dps:``: an Azure Device Provisioning Service is told of devices (docs/clouds/azure-dps.md).

In ``mode=groups`` the group of its CA lets a device in, and a blocked device alone has an individual enrolment, a
disabled one: the more specific record wins there. In ``mode=individual`` every device has one. With hubs, a blocked
device is disabled in the hub that it was assigned to as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from math import ceil
from pathlib import Path

from birthmark.adapters.clouds.azure_dps.auth import (
    DPS_AUDIENCE,
    HUB_AUDIENCE,
    Authorization,
    bearer_token,
    entra_tokens,
    sas_tokens,
)
from birthmark.adapters.clouds.azure_dps.authorities import Authorities
from birthmark.adapters.clouds.azure_dps.device import AzureDpsDevices
from birthmark.adapters.clouds.azure_dps.documents import digest
from birthmark.adapters.clouds.azure_dps.endorsements import read_endorsements
from birthmark.adapters.clouds.azure_dps.groups import Groups, known_cas
from birthmark.adapters.clouds.azure_dps.hubs import Hubs
from birthmark.adapters.clouds.azure_dps.individual import BULK, PAGE, Enrollments
from birthmark.adapters.clouds.azure_dps.judge import judge_registration
from birthmark.adapters.clouds.azure_dps.pages import Pages
from birthmark.adapters.clouds.azure_dps.plan import estimate, require_possible, unverified
from birthmark.adapters.clouds.azure_dps.uri import DpsUri, parse_dps_uri, uri_with_hubs
from birthmark.adapters.clouds.azure_dps.web import DpsWeb, tls_roots
from birthmark.errors import Misconfigured, Refused
from birthmark.ports import SecretsHandler
from birthmark.ports.cloud import (
    CloudAuthority,
    CloudLimits,
    CloudPage,
    CloudRecord,
    Estimate,
    Outcome,
    ProvePossession,
    Registration,
)

__all__ = ["AzureDpsCloud"]

_SERVICE_VERSION, _ARM_VERSION, _HUB_VERSION = "2021-10-01", "2022-12-12", "2021-04-12"
_GROUPS_BATCH = 100


class AzureDpsCloud:
    """Implements ``ports.Cloud``; the class ``ports.Admits`` and ``BlocksInHubs``. ``born_elsewhere``: see
    ``judge_registration``."""

    def __init__(
        self,
        uri: str,
        *,
        secrets: SecretsHandler,
        base: Path,
        clock: Callable[[], float] = time.time,
        born_elsewhere: bool = False,
    ) -> None:
        self._uri = parse_dps_uri(uri)
        self._judge = partial(judge_registration, born_elsewhere=born_elsewhere)
        self._web = _service(self._uri, secrets, base, clock)
        named = self._uri.endorsements
        self._endorsements = {} if named is None else read_endorsements(base / named)
        self._enrollments = Enrollments(self._web, self._uri, self._endorsements)
        self._hubs = _hubs(self._uri, self._web, secrets, base, clock) if self._uri.registries else None
        self._pages = Pages(self._enrollments, self._hubs)
        self._groups = Groups(self._web, self._uri)
        self._arm = _manager(self._uri, secrets, base) if self._uri.proves else None
        self._now = lambda: datetime.fromtimestamp(clock(), UTC)
        self._lock = threading.Lock()
        self._cas: frozenset[str] | None = None
        """Whom the groups let in, once they were read; mode=groups only, as what follows."""
        self._held: set[str] = set()
        """Devices that have an individual enrolment, as far as they were read: few, the blocked ones."""
        self._after: str | None = ""
        """Where to go on reading them; None: all were read."""

    @classmethod
    def door(cls, uri: str, *, base: str) -> AzureDpsDevices:
        """``Admits``: the device side of the service that ``uri`` names; ``Misconfigured("cloud.uri.scope")``."""
        parsed = parse_dps_uri(uri)
        if parsed.scope is None:
            raise Misconfigured(
                "cloud.uri.scope",
                f"the uri of {parsed.name} does not say with which ID scope its devices register",
                hint="Add scope=… to the uri of this cloud; the service shows it as ID Scope.",
                cloud=parsed.name,
            )
        host, _, port = parsed.device_host.partition(":")
        trust = "" if parsed.trust is None else str(Path(base) / parsed.trust)
        return AzureDpsDevices(id_scope=parsed.scope, host=host, port=int(port or 443), trust=trust)

    @classmethod
    def with_hubs(cls, uri: str, hubs: Mapping[str, str]) -> str:
        """``BlocksInHubs``: ``uri`` with these hubs in it; ``Misconfigured("cloud.uri")``."""
        return uri_with_hubs(uri, hubs)

    @property
    def name(self) -> str:
        return self._uri.name

    @property
    def limits(self) -> CloudLimits:
        # With hubs a tell has few calls for each of many blocked devices, so that a throttled one repeats little.
        by_hundreds = self._by_groups and self._hubs is None
        return CloudLimits(_GROUPS_BATCH if by_hundreds else BULK, self._uri.rate, self._uri.lanes)

    @property
    def _by_groups(self) -> bool:
        return self._uri.mode == "groups"

    @property
    def _most_pages(self) -> int:
        return ceil(self._uri.most_devices / PAGE) + 1

    @property
    def calls(self) -> int:
        """Implements ``ports.CountsCalls``."""
        hubs = 0 if self._hubs is None else self._hubs.calls
        return self._web.calls + (0 if self._arm is None else self._arm.calls) + hubs

    def expected(self, registration: Registration) -> CloudRecord | None:
        self._judge(registration)
        if self._by_groups and registration.standing == "enabled":
            return None
        serial = registration.device_serial
        by_tpm = serial in self._endorsements
        digests = () if by_tpm else tuple(sorted(digest(der) for der in registration.certificates))
        return CloudRecord(serial.lower(), serial, registration.standing, digests)

    def estimate(self, devices: int, authorities: Sequence[CloudAuthority]) -> Estimate:
        return estimate(self._uri, devices, authorities)

    def prepare(self, authorities: Sequence[CloudAuthority], prove: ProvePossession) -> Sequence[str]:
        require_possible(self._uri, authorities)
        greeted = [] if self._hubs is None else list(self._hubs.greet())
        if not self._by_groups:
            self._enrollments.page("")
            return [f"{self.name} lets us in; individual enrolments need no CA and no group", *greeted]
        held = self._groups.all()
        self._groups.require_room(held, authorities)
        lines = []
        if self._arm is not None:
            lines += Authorities(self._arm, self._uri, self._now).prepare(authorities, prove)
        there = {one.enrollment_group_id.lower() for one in held}
        lines += [self._groups.make(one, one.name.lower() in there) for one in authorities]
        with self._lock:
            self._cas = None
        return [*lines, *greeted]

    def calls_of(self, registrations: Sequence[Registration]) -> int:
        serials = [one.device_serial.lower() for one in registrations if one.standing == "enabled"]
        written = [one for one in registrations if not self._by_groups or one.standing == "blocked"]
        calls = sum(self._enrollments.cost(written[at : at + BULK]) for at in range(0, len(written), BULK))
        in_hub = 0 if self._hubs is None else self._hubs.most_calls
        calls += in_hub * len(written)
        if not self._by_groups or not serials:
            return calls
        with self._lock:
            calls += 0 if self._cas is not None else self._groups.most_calls
            unread = self._after is not None
            doubtful = len(serials) if unread else sum(serial in self._held for serial in serials)
            pages = (1 if self._hubs is None else self._most_pages) if unread else 0
            return calls + pages + ceil(doubtful / BULK) + in_hub * doubtful

    def tell(self, registrations: Sequence[Registration]) -> Sequence[Outcome]:
        outcomes: dict[str, Outcome] = {}
        good: list[Registration] = []
        names: set[str] = set()
        for one in registrations:
            problem = _judged(one, names, self._judge)
            if problem is None:
                good.append(one)
                names.add(one.device_serial.lower())
            else:
                outcomes[one.device_serial] = problem
        own = [one for one in good if not self._by_groups or one.standing == "blocked"]
        told = [*self._cover([one for one in good if self._by_groups and one.standing == "enabled"]), *self._write(own)]
        outcomes |= {outcome.device_serial: outcome for outcome in told}
        return [outcomes[one.device_serial] for one in registrations]

    def page(self, after: str) -> CloudPage:
        before = self.calls
        page = self._pages.page(after)
        with self._lock:
            self._held |= {row.registration_id.lower() for row in page.rows} if self._by_groups else set()
        return CloudPage(page.records, page.after, self.calls - before)

    def close(self) -> None:
        self._web.close()
        if self._arm is not None:
            self._arm.close()
        if self._hubs is not None:
            self._hubs.close()

    def _write(self, told: Sequence[Registration]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for at in range(0, len(told), BULK):
            some = told[at : at + BULK]
            with self._lock:
                self._held |= {one.device_serial.lower() for one in some} if self._by_groups else set()
            if self._hubs is None:
                outcomes += self._enrollments.write(some)
                continue
            blocked = {one.device_serial for one in some if one.standing == "blocked"}
            for one in self._enrollments.write(some, self._hubs.allow):
                here = one.device_serial in blocked and one.kind != "refused"
                outcomes.append(self._hubs.block(one) if here else one)
        return outcomes

    def _cover(self, told: Sequence[Registration]) -> list[Outcome]:
        """Let devices in by their CA: no enrolment of their own, blocking or not, may stand before it."""
        if not told:
            return []
        with self._lock:
            self._require_known(told)
            # A delete in vain costs less than reading on; asking hubs in vain would not.
            for _ in range(1 if self._hubs is None else self._most_pages):
                if self._after is None:
                    break
                rows, self._after = self._enrollments.page(self._after)
                self._held |= {row.registration_id.lower() for row in rows}
            unread = self._after is not None
            doubtful = [one for one in told if unread or one.device_serial.lower() in self._held]
        apart = {one.device_serial for one in doubtful}
        outcomes = [Outcome(one.device_serial, "covered") for one in told if one.device_serial not in apart]
        for at in range(0, len(doubtful), BULK):
            some = doubtful[at : at + BULK]
            if self._hubs is not None:
                for one in some:
                    self._hubs.allow(one.device_serial)
            done = self._enrollments.delete(some)
            with self._lock:
                self._held -= {one.device_serial.lower() for one in done if one.kind != "refused"}
            outcomes += done
        return outcomes

    def _require_known(self, told: Sequence[Registration]) -> None:
        if self._uri.leaves_unverified:
            raise unverified(self._uri)
        if self._cas is None:
            self._cas = known_cas(self._groups.all())
        for one in told:
            digests = {digest(der) for der in one.chain}
            if one.certificates and not self._cas & (digests | {each[:16] for each in digests}):
                self._cas = None
                raise Misconfigured(
                    "cloud.group.missing",
                    f"no enabled enrolment group there lets in {one.device_serial}",
                    hint="Run `birthmark register prepare` for this cloud, or name its issuing CA in cas.",
                    cloud=self.name,
                    device_serial=one.device_serial,
                )


def _judged(told: Registration, names: set[str], judge: Callable[[Registration], None]) -> Outcome | None:
    """Return what refuses a registration here, None if nothing does; ``names``: those before it, in lower case."""
    try:
        judge(told)
    except Refused as problem:
        return Outcome(told.device_serial, "refused", problem.code, problem.message)
    if told.device_serial.lower() in names:
        detail = "another device has this name there: case does not count"
        return Outcome(told.device_serial, "refused", "cloud.name.taken", detail)
    return None


def _service(uri: DpsUri, secrets: SecretsHandler, base: Path, clock: Callable[[], float]) -> DpsWeb:
    if uri.key is None:
        authorization = entra_tokens(DPS_AUDIENCE)
    else:
        authorization = sas_tokens(uri.host, uri.policy, partial(secrets, uri.key), clock)
    return _web(uri, base)(host=uri.host, authorization=authorization, version=_SERVICE_VERSION)


def _manager(uri: DpsUri, secrets: SecretsHandler, base: Path) -> DpsWeb:
    if uri.arm_token is None:
        authorization = entra_tokens(f"https://{uri.arm_host}/.default")
    else:
        authorization = bearer_token(partial(secrets, uri.arm_token))
    return _web(uri, base)(host=uri.arm_host, authorization=authorization, version=_ARM_VERSION)


def _hubs(uri: DpsUri, service: DpsWeb, secrets: SecretsHandler, base: Path, clock: Callable[[], float]) -> Hubs:
    webs: dict[str, DpsWeb] = {}
    entra: Authorization | None = None
    roots = tls_roots(uri.trust, base)
    for hub, reference in uri.registries:
        if reference == "entra":
            entra = authorization = entra or entra_tokens(HUB_AUDIENCE)
        else:
            authorization = sas_tokens(hub, uri.hub_policy, partial(secrets, reference), clock)
        name, host = f"{uri.name} hub {hub}", uri.hub_host or hub
        webs[hub] = DpsWeb(name, host, authorization, version=_HUB_VERSION, trust=uri.trust, base=base, roots=roots)
    return Hubs(uri, service, webs)


def _web(uri: DpsUri, base: Path) -> Callable[..., DpsWeb]:
    return partial(DpsWeb, uri.name, trust=uri.trust, base=base)
