"""Rules: one identity per device, and the root of trust."""

from __future__ import annotations

from birthmark.guide.case import Case
from birthmark.guide.rule import Rule

__all__ = ["RULES"]

_MAKERS = "Azure IoT, Security practices for device manufacturers"
_INSTALL = "Azure IoT, Installing certificates into IoT devices"


def _needs_ca_below(c: Case) -> bool:
    """Whether somebody else than the bought CA itself has to sign: a site or a chip vendor."""
    return c.a.root in ("bought_intermediate", "third_party_service") and c.source in ("factory_ca", "vendor")


def _service(c: Case) -> bool:
    return c.ca_owner == "third_party" and c.source in ("pool", "csr_travel", "online")


RULES: tuple[Rule, ...] = (
    Rule(
        "G-ONE-01",
        "recommended",
        "One identity per device",
        lambda c: True,
        "Two devices with one certificate are one device: one of them is cloned or locked out. Every device gets its "
        "own key, made from randomness, never from anything printed on the box. There is no option to change this.",
        "birthmark: one identity per device",
    ),
    Rule(
        "G-ROOT-01",
        "allowed",
        "Bought intermediate signing certificate",
        lambda c: c.a.root == "bought_intermediate",
        "You sign yourself below a certificate that a vendor sold you. Chain, lifetime and constraints are the "
        "vendor's: when it ends, your line stops.",
        _INSTALL,
        "Put its last day and the order of its successor into the calendar now.",
    ),
    Rule(
        "G-ROOT-02",
        "refused",
        "No room for a CA below the bought one",
        lambda c: _needs_ca_below(c) and c.f.third_party_path_length == 0,
        "The bought certificate forbids any CA below it (path length 0), but a site CA or a chip vendor has to sign "
        "below it: no relying party would accept such a device.",
        "RFC 5280 §4.2.1.9",
        "Order a certificate with path length 1, or sign centrally.",
    ),
    Rule(
        "G-ROOT-03",
        "allowed",
        "Private CA as a service",
        lambda c: c.a.root == "third_party_service",
        "Somebody else runs the PKI and is paid per certificate. Its rate limit and its price decide between signing "
        "on demand and signing ahead of time.",
        _INSTALL,
    ),
    Rule(
        "G-ROOT-04",
        "allowed",
        "Self-managed PKI",
        lambda c: c.a.root == "self_managed",
        "Full control and full responsibility: ceremonies, an offline root, hardware for keys, revocation, rollover "
        "and an end-of-status plan. Every ceremony is one reviewed file; nothing is done by hand.",
        _INSTALL,
    ),
    Rule(
        "G-ROOT-05",
        "allowed",
        "Cloud-run PKI",
        lambda c: c.a.root == "cloud_run",
        "The cloud signs, for its own devices only. There is nothing for us to generate: the tenant CA is imported, "
        "its possession proven, and the devices are registered.",
        "Azure IoT, certificate issuance and tenant CA",
    ),
    Rule(
        "G-ROOT-06",
        "allowed",
        "Cloud-run PKI and an offline factory",
        lambda c: c.a.root == "cloud_run" and c.a.connectivity == "offline_prepared",
        "Nothing is generated at the factory: the line only collects device ids, and each device obtains its "
        "certificate when it first reaches the cloud.",
        "birthmark: cloud-run root, offline factory",
    ),
    Rule(
        "G-ROOT-07",
        "refused",
        "Cloud-run PKI and a factory CA",
        lambda c: c.a.root == "cloud_run" and c.a.connectivity == "offline_factory_ca",
        "A cloud-run PKI does not sign a CA for your site, so there can be no signed factory CA below it.",
        "Azure IoT, certificate issuance and tenant CA",
        "Answer offline_prepared and let the line collect device ids, or run your own PKI.",
    ),
    Rule(
        "G-ROOT-08",
        "refused",
        "Cloud-run PKI and another cloud",
        lambda c: c.a.root == "cloud_run" and "aws_iot" in c.clouds,
        "The certificates of a cloud-run PKI are for that cloud's devices only; AWS IoT does not get to trust Azure's "
        "issuing policy.",
        _INSTALL,
        "Register with Azure DPS or export, or choose a root of trust of your own.",
    ),
    Rule(
        "G-ROOT-09",
        "refused",
        "Cloud-run PKI cannot sign on site or ahead",
        lambda c: c.a.root == "cloud_run" and c.generate in ("on_demand_offline", "ahead_of_time"),
        "The cloud signs for a device that asks, at that moment. It signs nothing offline and nothing in stock.",
        "Azure IoT, certificate issuance and tenant CA",
        "Leave when_to_generate to the guide, or run your own PKI.",
    ),
    Rule(
        "G-ROOT-10",
        "refused",
        "Azure Sphere without its chip",
        lambda c: c.a.root == "cloud_run" and c.f.cloud_root == "azure_sphere" and c.a.storage != "hsm",
        "Azure Sphere signs only for chips that carry its security subsystem; the key is inside that hardware.",
        "Azure Sphere, device authentication and attestation",
        'Answer storage = "hsm", or use the Device Registry\'s issuing policy.',
    ),
    Rule(
        "G-ROOT-11",
        "refused",
        "Azure Sphere and individual enrolment",
        lambda c: (
            c.a.root == "cloud_run" and c.f.cloud_root == "azure_sphere" and "azure_dps_individual" in c.registrations
        ),
        "Azure Sphere gives a device a new certificate every day; an individual enrolment pins one certificate and "
        "would lock the device out tomorrow.",
        "Azure Sphere, tenant CA certificates",
        "Use an enrolment group with the tenant CA.",
    ),
    Rule(
        "G-ROOT-12",
        "discouraged",
        "Azure Sphere (Legacy) ends",
        lambda c: c.a.root == "cloud_run" and c.f.cloud_root == "azure_sphere",
        "Azure Sphere (Legacy) retires on 27 September 2027, and a tenant CA lives two years: both dates fall into the "
        "life of the product.",
        "Azure Sphere documentation, retirement notice",
        "Plan for Azure Sphere (Integrated), and register each successor of the tenant CA in time.",
    ),
    Rule(
        "G-ROOT-13",
        "recommended",
        "CA key in hardware",
        lambda c: c.ca_key == "pkcs11",
        "The CA key stays in a token and never leaves it: a stolen disk or backup cannot make devices.",
        "CA/Browser Forum BR 6.2.7; Azure IoT, Security practices for device manufacturers",
    ),
    Rule(
        "G-ROOT-14",
        "discouraged",
        "CA key in a file",
        lambda c: c.ca_key == "file",
        "Whoever copies the file and learns its passphrase can make devices nobody can tell from yours, for as long as "
        "the CA lives, and no log would show it.",
        _MAKERS,
        'Keep the CA key in a token (ca_key = "pkcs11"); a file is for trials and small series.',
    ),
    Rule(
        "G-ROOT-15",
        "refused",
        "The service signs too slowly for this order",
        lambda c: _service(c) and c.source != "online" and c.order_days > c.f.lead_days,
        "At {c.f.third_party_rate_per_day:,} certificates a day the service needs {c.order_days:,} days for "
        "{c.f.device_count:,} devices; the lead time is {c.f.lead_days} days. It fits on: {c.fits_on}.",
        "birthmark: third-party rate × lead time against the order",
        "Order earlier, split the order, buy a higher rate, or sign yourself.",
    ),
    Rule(
        "G-ROOT-16",
        "refused",
        "The service signs too slowly for this line",
        lambda c: _service(c) and c.source == "online" and c.f.third_party_rate_per_day < c.devices_per_day,
        "The lines make {c.devices_per_day:,} devices a day, the service signs {c.f.third_party_rate_per_day:,}: the "
        "line would stand still every day.",
        "birthmark: third-party rate against the line",
        "Buy a higher rate, have identities made ahead of time (key not born in the device), or sign yourself.",
    ),
    Rule(
        "G-ROOT-17",
        "discouraged",
        "The CA token is slower than the line",
        lambda c: c.ca_key == "pkcs11" and c.source in ("online", "factory_ca") and c.sessions_needed > c.f.ca_sessions,
        "The lines make {c.devices_per_hour:,} devices an hour; {c.f.ca_sessions} token session(s) at "
        "{c.f.ca_signatures_per_second:,} signatures a second cannot follow. Sessions needed: {c.sessions_needed}.",
        "birthmark: token signing rate against the line",
        "Open that many sessions, or take a faster token.",
    ),
)
