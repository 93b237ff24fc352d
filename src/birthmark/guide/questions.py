"""The questions of the guide as data: eight decisions, then the facts that matter for the decisions made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from birthmark.guide.answers import Answers, Facts

__all__ = ["DECISIONS", "FACTS", "Choice", "Question", "default_of"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of a closed list. ``id`` is what an answers file says."""

    id: str
    label: str
    help: str


@dataclass(frozen=True, slots=True)
class Question:
    """One question. ``key``: as in an answers file. Only a ``choice`` or ``choices`` question has choices.

    ``matters``: whether it is worth asking, given the eight decisions.
    """

    key: str
    title: str
    text: str
    kind: Literal["choice", "choices", "number", "date", "text"] = "choice"
    choices: tuple[Choice, ...] = ()
    matters: Callable[[Mapping[str, str]], bool] = lambda decisions: True


_YES_NO = (Choice("yes", "Yes", ""), Choice("no", "No", ""))
_YES_NO_UNKNOWN = (*_YES_NO, Choice("unknown", "Not known yet", "The guide says what depends on it."))
_REGISTRATIONS = (
    Choice("azure_dps_groups", "Azure DPS, enrolment groups", "One entry covers every device below a CA."),
    Choice("azure_dps_individual", "Azure DPS, individual enrolments", "One entry per device."),
    Choice("aws_iot", "AWS IoT", "The CA is registered, devices join when they first connect."),
    Choice("export", "An open export", "A public record of every device, for a cloud or a customer of your choice."),
)

DECISIONS: tuple[Question, ...] = (
    Question(
        "root",
        "Root of trust",
        "Who signs your devices' certificates in the end? Money, experience and pain decide.",
        choices=(
            Choice("bought_intermediate", "Bought intermediate certificates", "You sign, below a vendor's root."),
            Choice("third_party_service", "A private CA as a service", "A vendor signs for you, paid per certificate."),
            Choice("self_managed", "Our own PKI", "Full control and full responsibility."),
            Choice("cloud_run", "The cloud's PKI", "Azure Device Registry or Azure Sphere, for that cloud only."),
        ),
    ),
    Question(
        "storage",
        "Where the device's key lives",
        "Look first whether the board already carries secure hardware.",
        choices=(
            Choice("hsm", "HSM, secure element or TPM", "The key is born inside and never leaves. Recommended."),
            Choice("tee", "Trusted execution environment", "A secure place of the processor, reached by PKCS#11."),
            Choice("file_system", "File system or certificate store", "Whoever reads the storage has the identity."),
            Choice("plugin", "Anything else", "A plug-in of yours writes it."),
        ),
    ),
    Question(
        "connectivity",
        "Connection of the factory",
        "Can the line reach your certification authority while it runs?",
        choices=(
            Choice("online", "Connected", "A certificate is made when a device needs one."),
            Choice("offline_factory_ca", "Offline, with a signed CA on site", "The site signs, within narrow limits."),
            Choice("offline_prepared", "Offline, identities prepared", "Made ahead of time, or by an offline PKI."),
        ),
    ),
    Question(
        "audit",
        "Audit",
        "Must you prove to an auditor how identities were installed? If unsure, ask the legal department.",
        choices=(
            Choice("none", "No", "The log is kept all the same."),
            Choice("sensitive", "Yes: sensitive product", "Secure room, two persons, evidence. Costs real money."),
        ),
    ),
    Question(
        "validity",
        "Length of validity",
        "Is the certificate replaced during the life of the device?",
        choices=(
            Choice("rolled", "Yes, it is rolled", "Needs a way for new certificates into the device."),
            Choice("forever", "No, one for life", "Only sound with a key in secure hardware."),
        ),
    ),
    Question(
        "when_to_generate",
        "When to generate",
        "Mostly this follows from the other answers.",
        choices=(
            Choice("derive", "Let the guide decide", ""),
            Choice("preloaded", "Preloaded by the chip vendor", "Below a signing certificate that you give it."),
            Choice("in_device", "Inside the device", "Its public certificate is taken out for registration."),
            Choice("on_demand_online", "On demand, online", "By the authority, while the line runs."),
            Choice("on_demand_offline", "On demand, offline", "By a CA on site."),
            Choice("ahead_of_time", "Ahead of time", "Ready-made identities in a sealed pool."),
        ),
    ),
    Question(
        "when_to_install",
        "When to install",
        "Mostly this follows from the other answers.",
        choices=(
            Choice("derive", "Let the guide decide", ""),
            Choice("preloaded", "Preloaded", "The chip arrives with its identity."),
            Choice("firmware_image", "With the firmware image", "Every device gets its own image."),
            Choice("line_tool", "By the line tool", "The tool that flashes, installs and tests in one touch."),
        ),
    ),
    Question("registration", "Registration", "Who has to know your devices?", choices=_REGISTRATIONS),
)


def _is(key: str, *values: str) -> Callable[[Mapping[str, str]], bool]:
    return lambda decisions: decisions[key] in values


def _isnt(key: str, *values: str) -> Callable[[Mapping[str, str]], bool]:
    return lambda decisions: decisions[key] not in values


def _number(
    key: str, title: str, text: str, matters: Callable[[Mapping[str, str]], bool] = lambda decisions: True
) -> Question:
    return Question(key, title, text, kind="number", matters=matters)


FACTS: tuple[Question, ...] = (
    Question(
        "facts.regulated",
        "Regulated product",
        "Does regulation demand a traceable record of how identities are installed?",
        choices=_YES_NO_UNKNOWN,
    ),
    Question(
        "facts.cloud_root",
        "Which cloud-run PKI",
        "Whose issuing CA is it?",
        choices=(
            Choice("device_registry", "Azure Device Registry", "An issuing policy of your namespace."),
            Choice("azure_sphere", "Azure Sphere", "The tenant CA; needs Azure Sphere chips."),
        ),
        matters=_is("root", "cloud_run"),
    ),
    Question(
        "facts.hardware_kind",
        "Kind of secure hardware",
        "How is the chip reached?",
        choices=(
            Choice("pkcs11", "PKCS#11 token", ""),
            Choice("tpm2", "TPM 2.0", ""),
            Choice("secure_element", "Secure element", "For example on I²C."),
        ),
        matters=_is("storage", "hsm"),
    ),
    Question(
        "facts.board_has_hsm",
        "Secure hardware on the board",
        "Does the board already carry a secure element, a TPM or a key store in its processor?",
        choices=_YES_NO_UNKNOWN,
        matters=_isnt("storage", "hsm"),
    ),
    Question(
        "facts.device_class",
        "Size of the device",
        "How strong is its processor?",
        choices=(
            Choice("small_mcu", "Small microcontroller", "Up to about 100 MHz, no crypto unit."),
            Choice("mcu", "Microcontroller", ""),
            Choice("linux", "Runs Linux or larger", ""),
        ),
    ),
    Question(
        "facts.update_path",
        "Update path",
        "Can a new certificate reach the device over the air?",
        choices=_YES_NO_UNKNOWN,
        matters=_is("validity", "rolled"),
    ),
    Question(
        "facts.end_of_status_plan",
        "End-of-status plan",
        "Is it written down how the status of certificates ends when product, CA or company do?",
        choices=_YES_NO,
        matters=_is("validity", "forever"),
    ),
    Question(
        "facts.secure_room",
        "Place of the station",
        "Where does the station stand that installs identities?",
        choices=(
            Choice("line_in_room", "In the secure room", ""),
            Choice("remote", "Outside of it", ""),
        ),
        matters=_is("audit", "sensitive"),
    ),
    Question(
        "facts.csr_travel",
        "Requests that travel",
        "If nobody on site may sign: may requests be carried out, signed and carried back?",
        choices=(
            Choice("accepted", "Yes", "Every device is touched twice."),
            Choice("refused", "No", ""),
        ),
        matters=_is("connectivity", "offline_prepared"),
    ),
    _number("facts.device_count", "Devices", "How many devices will this plan make in all?"),
    _number("facts.lines", "Lines", "How many lines work at the same time?"),
    _number("facts.line_rate_per_hour", "Rate of a line", "Devices per hour on one line?"),
    _number("facts.shift_hours", "Hours a day", "How many hours a day do the lines work?"),
    _number("facts.certificate_days", "Life of a certificate", "Days; 0 means no expiry. Empty: derived."),
    _number("facts.shelf_days", "Shelf time", "Days in box, ship and shelf.", _is("validity", "rolled")),
    _number(
        "facts.renewal_window_days",
        "Renewal window",
        "Days before its end in which a certificate is renewed.",
        _is("validity", "rolled"),
    ),
    _number("facts.issuing_ca_days", "Life of the issuing CA", "Days left; 0 means no expiry. Empty: derived."),
    _number("facts.root_ca_days", "Life of the root", "Days left; 0 means no expiry. Empty: derived."),
    Question(
        "facts.key_algorithm",
        "Key algorithm",
        "Which keys do devices have? P-256 suits everything on the market.",
        choices=(
            Choice("derive", "Let the guide decide", "P-256."),
            Choice("p256", "ECDSA P-256", ""),
            Choice("p384", "ECDSA P-384", ""),
            Choice("ed25519", "Ed25519", "Not for Azure, AWS or 802.1AR."),
            Choice("rsa2048", "RSA 2048", "Slow on small devices."),
            Choice("rsa3072", "RSA 3072", "Slower."),
            Choice("mldsa44", "ML-DSA-44", "Post-quantum; about 5 KB a certificate."),
            Choice("mldsa65", "ML-DSA-65", "Post-quantum; larger."),
        ),
    ),
    Question(
        "facts.profile",
        "Profile",
        "Does a customer or an ecosystem ask for a certain kind of certificate?",
        choices=(
            Choice("derive", "Let the guide decide", "By cloud, storage and validity."),
            Choice("idevid", "IEEE 802.1AR IDevID", "The identity a device is born with and keeps."),
            Choice("azure-dps", "Azure DPS", ""),
            Choice("aws-iot", "AWS IoT", ""),
            Choice("matter-dac", "Matter attestation", ""),
            Choice("tls-client", "Plain TLS client", "For a service of your own."),
        ),
    ),
    _number("facts.target_free_bytes", "Free space", "Bytes free for the credential in the device. Empty: not known."),
    Question(
        "facts.ca_key",
        "Key of the issuing CA",
        "Where does the CA key live?",
        choices=(
            Choice("derive", "Let the guide decide", "A token on site and in sensitive production, else a file."),
            Choice("pkcs11", "HSM or token", "Recommended."),
            Choice("file", "Encrypted file", "For trials and small series."),
        ),
        matters=_isnt("root", "cloud_run"),
    ),
    _number(
        "facts.ca_signatures_per_second",
        "Speed of the CA token",
        "Signatures per second of one session.",
        _isnt("root", "cloud_run"),
    ),
    _number("facts.ca_sessions", "Sessions of the CA token", "Open at the same time.", _isnt("root", "cloud_run")),
    Question(
        "facts.ca_scheme",
        "Issuing CAs a cloud has to know",
        "How often is a new one registered?",
        choices=(
            Choice("product", "One per product, or the root", "CAs of lines stay below it. Recommended."),
            Choice("line_year", "One per line and year", ""),
            Choice("line_month", "One per line and month", ""),
        ),
        matters=_isnt("registration", "export"),
    ),
    _number(
        "facts.third_party_path_length",
        "Path length of the bought certificate",
        "How many CAs may stand below it? 0: none.",
        _is("root", "bought_intermediate", "third_party_service"),
    ),
    _number(
        "facts.third_party_rate_per_day",
        "Rate of the service",
        "Certificates per day it signs for you.",
        _is("root", "third_party_service"),
    ),
    _number(
        "facts.lead_days",
        "Lead time",
        "Days between the first request and the start of the lot.",
        _is("root", "third_party_service"),
    ),
    Question(
        "facts.first_request_on",
        "First request",
        "On which day is the first certificate requested (YYYY-MM-DD)? Empty: not known.",
        kind="date",
        matters=_is("root", "third_party_service"),
    ),
    Question(
        "facts.device_name_example",
        "A device serial",
        "Type one as it will stand on the label: clouds refuse some names.",
        kind="text",
    ),
    Question(
        "facts.more_clouds",
        "More clouds",
        "Where else are the same devices registered? Empty: nowhere.",
        kind="choices",
        choices=_REGISTRATIONS,
    ),
)

_DEFAULTS: dict[str, object] = {
    **{f.name: f.default for f in msgspec.structs.fields(Answers) if f.default is not msgspec.NODEFAULT},
    **{f"facts.{f.name}": f.default for f in msgspec.structs.fields(Facts)},
}


def default_of(question: Question) -> object:
    """Return the answer that holds if nothing is said; None if there is none."""
    return _DEFAULTS.get(question.key)
