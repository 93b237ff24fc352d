"""Rules: telling a cloud which devices are ours."""

from __future__ import annotations

import re

from birthmark.guide.case import Case
from birthmark.guide.rule import Rule

__all__ = ["NAME_PATTERNS", "RULES"]

_DPS_LIMITS = "Azure DPS limits"
_DPS_X509 = "Azure DPS, X.509 attestation"
_AWS = "AWS IoT API reference"

NAME_PATTERNS: dict[str, str] = {
    "idevid": r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,62}[A-Za-z0-9])?",
    "azure-dps": r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?",
    "aws-iot": r"[A-Za-z0-9](?:[A-Za-z0-9:_-]{0,62}[A-Za-z0-9])?",
    "matter-dac": r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?",
    "tls-client": r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,62}[A-Za-z0-9])?",
}
"""Device serials that each profile takes; a test keeps them equal to the presets."""


def _dps(c: Case) -> bool:
    return "azure_dps" in c.clouds


def _groups(c: Case) -> bool:
    return "azure_dps_groups" in c.registrations


def _individual(c: Case) -> bool:
    return "azure_dps_individual" in c.registrations


def _aws(c: Case) -> bool:
    return "aws_iot" in c.clouds


def _misnamed(c: Case, profile: str) -> bool:
    return re.fullmatch(NAME_PATTERNS[profile], c.f.device_name_example) is None


RULES: tuple[Rule, ...] = (
    Rule(
        "G-REG-01",
        "recommended",
        "Azure DPS enrolment groups",
        lambda c: _groups(c) and not _individual(c),
        "One entry covers every device below a verified CA: no call per device, no list to keep in step. Keep the "
        "common name when a certificate is rolled.",
        _DPS_X509,
    ),
    Rule(
        "G-REG-02",
        "discouraged",
        "Azure DPS individual enrolments",
        lambda c: _individual(c) and c.f.device_count <= 1_000_000,
        "Every device needs its own entry: at least {c.dps_minutes:,} minutes of calls for {c.f.device_count:,} "
        "devices at 1,000 operations a minute, sent one by one.",
        _DPS_LIMITS,
        "Use groups; keep individual enrolments for single devices that need another treatment.",
    ),
    Rule(
        "G-REG-03",
        "refused",
        "Too many individual enrolments",
        lambda c: _individual(c) and c.f.device_count > 1_000_000,
        "A DPS instance holds 1,000,000 individual enrolments; {c.f.device_count:,} devices do not fit.",
        _DPS_LIMITS,
        "Use enrolment groups.",
    ),
    Rule(
        "G-REG-04",
        "discouraged",
        "More devices than one DPS instance registers",
        lambda c: _groups(c) and 1_000_000 < c.f.device_count <= 10_000_000,
        "An instance holds 1,000,000 registrations. Instances needed: {c.dps_instances} of the 10 a subscription has.",
        _DPS_LIMITS,
        "Decide which lots go to which instance before the first device is made: the id scope is in its firmware.",
    ),
    Rule(
        "G-REG-05",
        "refused",
        "More devices than a subscription registers",
        lambda c: _groups(c) and c.f.device_count > 10_000_000,
        "A subscription has 10 DPS instances of 1,000,000 registrations each; {c.f.device_count:,} devices need "
        "{c.dps_instances}.",
        _DPS_LIMITS,
        "Plan several subscriptions, one plan for each.",
    ),
    Rule(
        "G-REG-06",
        "refused",
        "One CA per line and month on Azure DPS",
        lambda c: _dps(c) and c.f.ca_scheme == "line_month",
        "A DPS instance knows 25 CAs and 100 groups. With a new CA per line and month {c.f.lines} line(s) use them up "
        "within {c.dps_ca_months} month(s), and no entry may go while its devices live.",
        _DPS_LIMITS,
        "Register the root or one CA per product; keep the CAs of lines below it, unregistered.",
    ),
    Rule(
        "G-REG-07",
        "refused",
        "Too many CAs for Azure DPS",
        lambda c: _dps(c) and c.f.ca_scheme == "line_year" and c.cas_planned > 25,
        "One CA per line and year makes {c.cas_planned:,} over this production; a DPS instance knows 25.",
        _DPS_LIMITS,
        "Register the root or one CA per product; keep the CAs of lines below it, unregistered.",
    ),
    Rule(
        "G-REG-08",
        "discouraged",
        "A new CA per line and year on Azure DPS",
        lambda c: _dps(c) and c.f.ca_scheme == "line_year" and c.cas_planned <= 25,
        "{c.cas_planned} of the 25 CAs of the instance are used up by this production alone.",
        _DPS_LIMITS,
        "Register the root or one CA per product.",
    ),
    Rule(
        "G-REG-09",
        "refused",
        "Azure DPS would refuse the name",
        lambda c: _dps(c) and _misnamed(c, "azure-dps"),
        "{c.f.device_name_example!a} cannot be a registration id: 1 to 64 lower-case letters, digits and . _ - with a "
        "letter or digit at both ends. Case does not count there, so SN1A and sn1a would be one device.",
        _DPS_X509,
        "Choose serials of that form before the first label is printed.",
    ),
    Rule(
        "G-REG-10",
        "refused",
        "AWS IoT would refuse the name",
        lambda c: _aws(c) and _misnamed(c, "aws-iot"),
        "{c.f.device_name_example!a} cannot be the name of a thing from a certificate: 1 to 64 letters, digits and : _ "
        "- with a letter or digit at both ends.",
        "AWS IoT API reference, CreateThing; RFC 5280 appendix A (ub-common-name)",
        "Choose serials of that form before the first label is printed.",
    ),
    Rule(
        "G-REG-11",
        "refused",
        "The profile would refuse the name",
        lambda c: c.source != "cloud" and _misnamed(c, c.profile),
        "{c.f.device_name_example!a} is not a device serial that a {c.profile} certificate can carry.",
        "RFC 5280 appendix A (ub-common-name, ub-serial-number); RFC 9039 §3.2",
        "Use 1 to 64 letters and digits, inside also - ; that fits every profile when it is in lower case.",
    ),
    Rule(
        "G-REG-12",
        "discouraged",
        "Individual enrolments of rolled certificates",
        lambda c: _individual(c) and c.a.validity == "rolled",
        "An individual enrolment names one certificate. Every renewal has to be written there as the secondary one "
        "before the device changes over, or the device is locked out.",
        "Azure DPS, Roll device certificates",
        "Use groups, or make the renewal service write the enrolment first.",
    ),
    Rule(
        "G-REG-13",
        "allowed",
        "AWS IoT",
        _aws,
        "Register the CA once and devices join when they first connect. A certificate is known by the SHA-256 of its "
        "bytes; the bulk way runs one task at a time per account.",
        "AWS IoT developer guide, X.509 client certificates",
    ),
    Rule(
        "G-REG-14",
        "discouraged",
        "Many CAs of one name on AWS IoT",
        lambda c: _aws(c) and c.f.ca_scheme != "product" and c.cas_planned > 10,
        "An account takes 10 CA certificates with the same subject; this production makes {c.cas_planned:,}.",
        _AWS,
        "Give each CA its own name, or register one CA per product.",
    ),
    Rule(
        "G-REG-15",
        "recommended",
        "Open export",
        lambda c: "export" in c.clouds,
        "The public record of every device can be handed to any cloud or customer; no private key is in it.",
        "birthmark: manifest",
    ),
    Rule(
        "G-REG-16",
        "allowed",
        "Several clouds, one identity",
        lambda c: len(c.clouds) > 1,
        "One certificate is registered in several places. All of them have to hear of a revocation, and the name has "
        "to suit the strictest.",
        "birthmark: clouds read the ledger, none can slow the line",
    ),
)
