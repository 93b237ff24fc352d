"""Rules: length of validity, and the profile."""

from __future__ import annotations

from birthmark.guide.case import Case
from birthmark.guide.rule import Rule

__all__ = ["RULES"]

_INSTALL = "Azure IoT, Installing certificates into IoT devices"
_NO_END = "RFC 5280 §4.1.2.5; IEEE 802.1AR-2018 8.7"
_NESTING = "RFC 5280 §6.1.3; birthmark: validity nests"


def _forever(c: Case) -> bool:
    return c.a.validity == "forever" and c.source != "cloud"


def _rolled(c: Case) -> bool:
    return c.a.validity == "rolled"


def _ours_rolled(c: Case) -> bool:
    return _rolled(c) and c.source != "cloud" and c.certificate_days > 0


RULES: tuple[Rule, ...] = (
    Rule(
        "G-VAL-01",
        "discouraged",
        "Never rolled, key outside hardware",
        lambda c: _forever(c) and c.a.storage != "hsm",
        "A key that can be copied and a certificate that is never replaced: one leak lasts for the life of the device. "
        "The certificate gets an end all the same.",
        _INSTALL,
        "Use secure hardware, or roll the certificate.",
    ),
    Rule(
        "G-VAL-02",
        "refused",
        "No expiry outside hardware",
        lambda c: _forever(c) and c.a.storage != "hsm" and c.certificate_days == 0,
        "A certificate without an end is only for a key that cannot be copied.",
        _NO_END,
        "Give certificate_days an end, or keep the key in secure hardware.",
    ),
    Rule(
        "G-VAL-03",
        "discouraged",
        "Never rolled, without an end-of-status plan",
        lambda c: _forever(c) and c.f.end_of_status_plan == "no",
        "A certificate that is never replaced obliges its issuer to say how its status ends: what happens when the "
        "product, the CA or the company does.",
        _NO_END,
        'Write the end-of-status plan, then answer end_of_status_plan = "yes".',
    ),
    Rule(
        "G-VAL-04",
        "allowed",
        "Identity for life in hardware",
        lambda c: _forever(c) and c.a.storage == "hsm" and c.f.end_of_status_plan == "yes",
        "An initial device identity (IDevID) may live as long as the device when hardware keeps its key.",
        _NO_END,
        "Let it be used only to obtain short-lived certificates.",
    ),
    Rule(
        "G-VAL-05",
        "recommended",
        "Rolled during life",
        lambda c: _rolled(c) and c.f.update_path == "yes",
        "Like a driver's licence, the certificate ends and is replaced: a leak heals with time, and algorithms can "
        "change.",
        _INSTALL,
        "Prove a renewal after a long sleep, with an expired certificate, before the first lot ships.",
    ),
    Rule(
        "G-VAL-06",
        "refused",
        "Rolled, but no update path",
        lambda c: _rolled(c) and c.f.update_path == "no",
        "The device has no over-the-air path by which a new certificate could reach it: all devices would stop on the "
        "day their first certificate ends.",
        _INSTALL,
        "Build an update path, or choose secure hardware and an identity for life.",
    ),
    Rule(
        "G-VAL-07",
        "discouraged",
        "Rolled, update path not known",
        lambda c: _rolled(c) and c.f.update_path == "unknown",
        "Rolling needs a way for new certificates into the device, and nobody has said that there is one. The plan "
        "assumes it.",
        _INSTALL,
        "Find out, then answer update_path.",
    ),
    Rule(
        "G-VAL-08",
        "refused",
        "Ends on the shelf",
        lambda c: _ours_rolled(c) and c.certificate_days < c.f.shelf_days,
        "The certificate lives {c.certificate_days} days, but a device may lie in box, ship and shelf for "
        "{c.f.shelf_days}: it would be dead when it is switched on.",
        "birthmark: the first certificate outlives the shelf",
        "Make the first certificate longer, or the shelf time shorter.",
    ),
    Rule(
        "G-VAL-09",
        "discouraged",
        "Wakes up with too little time to renew",
        lambda c: _ours_rolled(c) and c.f.shelf_days <= c.certificate_days < c.f.shelf_days + c.f.renewal_window_days,
        "After {c.f.shelf_days} days on the shelf less than the renewal window of {c.f.renewal_window_days} days is "
        "left of {c.certificate_days}.",
        "birthmark: the first certificate outlives the shelf",
        "Make the first certificate at least as long as shelf time plus renewal window.",
    ),
    Rule(
        "G-VAL-10",
        "refused",
        "The issuing CA ends before its certificates",
        lambda c: c.source != "cloud" and c.ends_before_certificates,
        "When the issuing CA ends, all its devices are locked out, although their certificates still run. Life of the "
        "issuing CA: {c.issuing_ca_life}; of a certificate: {c.certificate_life}; renewal window: "
        "{c.f.renewal_window_days} days.",
        _NESTING,
        "Issuing CA life must be at least certificate life plus renewal window, and without end for certificates "
        "without end.",
    ),
    Rule(
        "G-VAL-11",
        "discouraged",
        "The issuing CA is too short for the last devices",
        lambda c: (
            c.source != "cloud" and not c.ends_before_certificates and 0 < c.issuing_ca_days < c.issuing_needed_for_last
        ),
        "Production takes {c.production_days:,} days; near its end the issuing CA has too little life left for a whole "
        "certificate. Needed from the first day: {c.issuing_needed_for_last:,} days.",
        _NESTING,
        "Make the issuing CA longer, or plan its successor for the middle of production.",
    ),
    Rule(
        "G-VAL-12",
        "refused",
        "The root ends before the issuing CA",
        lambda c: (
            c.source != "cloud"
            and c.root_ca_days != 0
            and (c.issuing_ca_days == 0 or c.root_ca_days < c.issuing_ca_days)
        ),
        "The root lives {c.root_ca_days:,} days. Life of the issuing CA below it: {c.issuing_ca_life}.",
        _NESTING,
        "Make the root at least as long as the issuing CA.",
    ),
    Rule(
        "G-VAL-13",
        "refused",
        "Rolled, but without an end",
        lambda c: _rolled(c) and c.certificate_days == 0,
        'A certificate without an end is never rolled: certificate_days = 0 contradicts the answer "rolled".',
        "birthmark: a rolled certificate ends",
        'Give certificate_days a number, or answer validity = "forever".',
    ),
    Rule(
        "G-VAL-14",
        "refused",
        "For ever from a cloud-run PKI",
        lambda c: c.a.validity == "forever" and c.source == "cloud",
        "The cloud's issuing policy decides the life of a certificate, and it is short: there is no identity for life.",
        "Azure IoT, certificate issuance and tenant CA",
        'Answer validity = "rolled", or run your own PKI.',
    ),
    Rule(
        "G-VAL-15",
        "allowed",
        "Renewal does not come from the factory",
        lambda c: _rolled(c) and c.source in ("factory_ca", "pool", "csr_travel", "vendor"),
        "The factory gives only the first certificate. Later ones come from a CA that devices can reach in the field.",
        "RFC 7030; birthmark: renewal",
        "Decide now which CA renews, and install its trust anchor with the first certificate.",
    ),
    Rule(
        "G-PRO-01",
        "discouraged",
        "A Matter attestation certificate is not rolled",
        lambda c: c.profile == "matter-dac" and _rolled(c),
        "A device attestation certificate proves the product for its whole life and is checked at its start date; "
        "ecosystems have no way to replace it.",
        "Matter core specification 6.2",
        'Answer validity = "forever" with a key in hardware.',
    ),
    Rule(
        "G-PRO-02",
        "refused",
        "A Matter chain has exactly three links",
        lambda c: (
            c.profile == "matter-dac"
            and c.a.root in ("bought_intermediate", "third_party_service")
            and c.source in ("factory_ca", "vendor")
        ),
        "Root, intermediate, device: a site CA or a vendor's CA below a bought intermediate makes four, and every "
        "ecosystem refuses the device.",
        "Matter core specification 6.2.2",
        "Sign with the bought intermediate itself, or run the root yourself.",
    ),
    Rule(
        "G-PRO-03",
        "discouraged",
        "The profile is not the cloud's",
        lambda c: (
            (c.a.registration.startswith("azure_dps") and c.profile != "azure-dps")
            or (c.a.registration == "aws_iot" and c.profile != "aws-iot")
        ),
        "The cloud reads the device's name from the common name of the subject, and {c.profile} certificates are made "
        "for another reader.",
        "Azure DPS, X.509 attestation; AWS IoT, provisioning templates",
        "Use the cloud's own profile, and make this one a second identity.",
    ),
    Rule(
        "G-PRO-04",
        "refused",
        "Cloud-run PKI and a profile of our own",
        lambda c: c.source == "cloud" and c.f.profile in ("idevid", "matter-dac", "aws-iot"),
        "The cloud decides what stands in its certificates; a {c.profile} certificate is not among them.",
        "Azure IoT, certificate issuance and tenant CA",
        "Leave the profile to the guide, or run your own PKI.",
    ),
)
