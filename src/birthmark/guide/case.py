"""A case: the answers with everything that follows from them, before any rule has judged it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from birthmark.guide.answers import Answers, Facts

__all__ = [
    "CREDENTIAL_BYTES",
    "PROFILE_ALGORITHMS",
    "CaKey",
    "CaOwner",
    "Case",
    "Cloud",
    "Generate",
    "Install",
    "KeyAlgorithm",
    "KeyOrigin",
    "Profile",
    "Source",
    "Target",
    "case_of",
]

Generate = Literal[
    "preloaded", "in_device", "on_demand_online", "on_demand_offline", "ahead_of_time", "by_cloud"
]  # fmt: skip
Install = Literal["preloaded", "firmware_image", "line_tool", "by_cloud"]
Source = Literal["online", "factory_ca", "pool", "csr_travel", "vendor", "cloud"]
KeyOrigin = Literal["device", "injected"]
CaOwner = Literal["maker", "third_party", "cloud"]
CaKey = Literal["file", "pkcs11", "none"]
Profile = Literal["idevid", "azure-dps", "aws-iot", "matter-dac", "tls-client"]
KeyAlgorithm = Literal["p256", "p384", "ed25519", "rsa2048", "rsa3072", "mldsa44", "mldsa65"]
Target = Literal["files", "pkcs11", "tpm2", "secure_element", "plugin"]
Cloud = Literal["azure_dps", "aws_iot", "export"]

_CLOUD: dict[str, Cloud] = {
    "azure_dps_groups": "azure_dps",
    "azure_dps_individual": "azure_dps",
    "aws_iot": "aws_iot",
    "export": "export",
}
_CLOUD_PROFILE: dict[str, Profile] = {"azure_dps": "azure-dps", "aws_iot": "aws-iot"}
_BY_CONNECTIVITY: dict[str, Generate] = {
    "online": "on_demand_online",
    "offline_factory_ca": "on_demand_offline",
    "offline_prepared": "ahead_of_time",
}
_SOURCE: dict[str, Source] = {
    "preloaded": "vendor",
    "on_demand_online": "online",
    "on_demand_offline": "factory_ca",
    "ahead_of_time": "pool",
}
_SOURCE_OF_DEVICE_KEY: dict[str, Source] = {
    "online": "online",
    "offline_factory_ca": "factory_ca",
    "offline_prepared": "csr_travel",
}
_EC_RSA = frozenset({"p256", "p384", "rsa2048", "rsa3072"})
PROFILE_ALGORITHMS: dict[str, frozenset[str]] = {
    "idevid": frozenset({"p256", "p384", "rsa2048"}),
    "azure-dps": _EC_RSA,
    "aws-iot": _EC_RSA,
    "matter-dac": frozenset({"p256"}),
    "tls-client": _EC_RSA | {"ed25519", "mldsa44", "mldsa65"},
}
"""Key algorithms each profile grants."""
CREDENTIAL_BYTES: dict[str, int] = {
    "p256": 1_800,
    "p384": 2_100,
    "ed25519": 1_600,
    "rsa2048": 3_600,
    "rsa3072": 4_800,
    "mldsa44": 10_800,
    "mldsa65": 11_600,
}
"""Octets of device certificate, one issuing CA certificate and private key in DER, rounded up (ML-DSA: RFC 9881)."""

_VERY_LONG_DAYS = 7_300
_NO_DATE = "no date within a hundred years"


@dataclass(frozen=True, slots=True)
class Case:
    """Answers (``a``), facts (``f``) and the decisions derived from them. Days: 0 means no expiry."""

    a: Answers
    f: Facts
    generate: Generate
    install: Install
    source: Source
    key_origin: KeyOrigin
    ca_owner: CaOwner
    ca_key: CaKey
    profile: Profile
    key_algorithm: KeyAlgorithm
    target: Target
    clouds: tuple[Cloud, ...]
    certificate_days: int
    issuing_ca_days: int
    root_ca_days: int

    @property
    def sensitive(self) -> bool:
        """Whether identities are installed in a secure room under certification rules."""
        return self.a.audit == "sensitive"

    @property
    def registrations(self) -> tuple[str, ...]:
        """Every way of registration that was asked for."""
        return (self.a.registration, *self.f.more_clouds)

    @property
    def devices_per_hour(self) -> int:
        """What all lines make in an hour."""
        return self.f.lines * self.f.line_rate_per_hour

    @property
    def devices_per_day(self) -> int:
        """What all lines make in a day."""
        return self.devices_per_hour * self.f.shift_hours

    @property
    def production_days(self) -> int:
        """Days from the first to the last device."""
        return _per(self.f.device_count, self.devices_per_day)

    @property
    def production_years(self) -> int:
        """Years begun from the first to the last device."""
        return _per(self.production_days, 365)

    @property
    def order_days(self) -> int:
        """Days the third party needs to sign the whole order."""
        return _per(self.f.device_count, self.f.third_party_rate_per_day)

    @property
    def fits_on(self) -> str:
        """When the whole order is signed: a date if the first request has one, else days after it."""
        if self.order_days > 36_500:
            return _NO_DATE
        if self.f.first_request_on is None:
            return f"{self.order_days} days after the first request"
        try:
            return (self.f.first_request_on + timedelta(days=self.order_days)).isoformat()
        except OverflowError:
            return _NO_DATE

    @property
    def sessions_needed(self) -> int:
        """Token sessions that sign as fast as the lines make devices."""
        return _per(self.devices_per_hour, self.f.ca_signatures_per_second * 3_600)

    @property
    def credential_bytes(self) -> int:
        """Octets the credential takes in the target, about."""
        return CREDENTIAL_BYTES[self.key_algorithm]

    @property
    def dps_instances(self) -> int:
        """DPS instances that hold the devices: 1,000,000 registrations each."""
        return _per(self.f.device_count, 1_000_000)

    @property
    def dps_minutes(self) -> int:
        """Minutes to enrol every device by itself: ten a call, 1,000 operations a minute, counted one by one."""
        return _per(self.f.device_count, 1_000)

    @property
    def cas_planned(self) -> int:
        """Issuing CAs a cloud would have to know over the whole production."""
        per_line = {"product": 0, "line_year": self.production_years, "line_month": _per(self.production_days, 30)}
        return max(1, self.f.lines * per_line[self.f.ca_scheme])

    @property
    def dps_ca_months(self) -> int:
        """Months after which a new CA per line and month has used up the 25 CAs of a DPS instance."""
        return max(1, 25 // self.f.lines)

    @property
    def issuing_needed(self) -> int:
        """Days the issuing CA has to live: certificate plus renewal window."""
        return self.certificate_days + self.f.renewal_window_days

    @property
    def issuing_needed_for_last(self) -> int:
        """The same, seen from the last device made."""
        return self.issuing_needed + self.production_days

    @property
    def certificate_life(self) -> str:
        """Life of a certificate in words."""
        return _life(self.certificate_days)

    @property
    def issuing_ca_life(self) -> str:
        """Life of the issuing CA in words."""
        return _life(self.issuing_ca_days)

    @property
    def ends_before_certificates(self) -> bool:
        """Whether the issuing CA ends before the certificates it signs have had their renewal window."""
        if self.certificate_days == 0:
            return self.issuing_ca_days != 0
        return 0 < self.issuing_ca_days < self.issuing_needed


def case_of(answers: Answers) -> Case:
    """Return the case of any answers: total, nothing is refused here."""
    facts = answers.facts
    generate = _generate(answers)
    source = _source(answers, generate)
    clouds = tuple(dict.fromkeys(_CLOUD[way] for way in (answers.registration, *facts.more_clouds)))
    owner = _ca_owner(answers, source)
    profile = _profile(answers, clouds)
    certificate_days, issuing_ca_days, root_ca_days = _lives(answers, owner)
    return Case(
        a=answers,
        f=facts,
        generate=generate,
        install=_install(answers, generate),
        source=source,
        key_origin=_key_origin(answers, generate),
        ca_owner=owner,
        ca_key=_ca_key(answers, source, owner),
        profile=profile,
        key_algorithm="p256" if facts.key_algorithm == "derive" else facts.key_algorithm,
        target=_target(answers),
        clouds=clouds,
        certificate_days=certificate_days,
        issuing_ca_days=issuing_ca_days,
        root_ca_days=root_ca_days,
    )


def _per(amount: int, each: int) -> int:
    return -(-amount // each)


def _life(days: int) -> str:
    return f"{days:,} days" if days else "no end"


def _generate(answers: Answers) -> Generate:
    if answers.when_to_generate != "derive":
        return answers.when_to_generate
    if answers.when_to_install == "preloaded":
        return "preloaded"
    if answers.root == "cloud_run":
        return "by_cloud"
    if answers.storage in ("hsm", "tee"):
        return "in_device"
    facts = answers.facts
    wanted = facts.lines * facts.line_rate_per_hour * facts.shift_hours
    if answers.root == "third_party_service" and facts.third_party_rate_per_day < wanted:
        return "ahead_of_time"
    return _BY_CONNECTIVITY[answers.connectivity]


def _source(answers: Answers, generate: Generate) -> Source:
    if answers.root == "cloud_run":
        return "cloud"
    return _SOURCE.get(generate) or _SOURCE_OF_DEVICE_KEY[answers.connectivity]


def _install(answers: Answers, generate: Generate) -> Install:
    if answers.when_to_install != "derive":
        return answers.when_to_install
    if generate == "preloaded":
        return "preloaded"
    if answers.root == "cloud_run" and generate != "on_demand_online":
        return "by_cloud"
    return "line_tool"


def _key_origin(answers: Answers, generate: Generate) -> KeyOrigin:
    born_inside = answers.storage in ("hsm", "tee") or generate in ("in_device", "preloaded", "by_cloud")
    return "device" if born_inside or answers.root == "cloud_run" else "injected"


def _ca_owner(answers: Answers, source: Source) -> CaOwner:
    if answers.root == "cloud_run":
        return "cloud"
    return "third_party" if answers.root == "third_party_service" and source != "factory_ca" else "maker"


def _ca_key(answers: Answers, source: Source, owner: CaOwner) -> CaKey:
    if owner != "maker":
        return "none"
    if answers.facts.ca_key != "derive":
        return answers.facts.ca_key
    return "pkcs11" if answers.audit == "sensitive" or source == "factory_ca" else "file"


def _profile(answers: Answers, clouds: tuple[Cloud, ...]) -> Profile:
    if answers.facts.profile != "derive":
        return answers.facts.profile
    for cloud in clouds:
        if cloud in _CLOUD_PROFILE:
            return _CLOUD_PROFILE[cloud]
    return "idevid" if answers.validity == "forever" and answers.storage == "hsm" else "tls-client"


def _target(answers: Answers) -> Target:
    if answers.storage == "hsm":
        return answers.facts.hardware_kind
    table: dict[str, Target] = {"tee": "pkcs11", "file_system": "files", "plugin": "plugin"}
    return table[answers.storage]


def _lives(answers: Answers, owner: CaOwner) -> tuple[int, int, int]:
    """Return days of certificate, issuing CA and root: what was answered, else what fits."""
    facts = answers.facts
    certificate = facts.certificate_days
    if certificate is None:
        if answers.validity == "forever":
            certificate = 0 if answers.storage == "hsm" else _VERY_LONG_DAYS
        else:
            certificate = 30 if owner == "cloud" else 730
    issuing = facts.issuing_ca_days
    if issuing is None:
        made = _per(facts.device_count, facts.lines * facts.line_rate_per_hour * facts.shift_hours)
        fitting = 0 if certificate == 0 else min(36_500, certificate + facts.renewal_window_days + made + 365)
        issuing = {"self_managed": fitting, "cloud_run": 730}.get(answers.root, 3_650)
    root = facts.root_ca_days
    if root is None:
        root = 0 if issuing == 0 else min(36_500, max(_VERY_LONG_DAYS, issuing + 365))
    return certificate, issuing, root
