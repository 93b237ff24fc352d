"""What a device maker answers: eight decisions, and facts that have defaults.

An answers file is strict TOML: the decisions stand at the top, the facts in ``[facts]``. Every choice is from
a closed list; an unknown key, an unknown choice or a wrong type is ``Misconfigured("guide.answers.*")`` and
names what is allowed.
"""

from __future__ import annotations

import tomllib
from datetime import date
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from birthmark.errors import Misconfigured

__all__ = [
    "Answers",
    "Audit",
    "Connectivity",
    "Facts",
    "GenerateAnswer",
    "InstallAnswer",
    "Registration",
    "Root",
    "Storage",
    "Validity",
    "answers_from",
    "checked_value",
    "parse_answers",
    "read_tables",
]

Root = Literal["bought_intermediate", "third_party_service", "self_managed", "cloud_run"]
Storage = Literal["hsm", "tee", "file_system", "plugin"]
Connectivity = Literal["online", "offline_factory_ca", "offline_prepared"]
Audit = Literal["none", "sensitive"]
Validity = Literal["forever", "rolled"]
GenerateAnswer = Literal["derive", "preloaded", "in_device", "on_demand_online", "on_demand_offline", "ahead_of_time"]
InstallAnswer = Literal["derive", "preloaded", "firmware_image", "line_tool"]
Registration = Literal["azure_dps_groups", "azure_dps_individual", "aws_iot", "export"]
YesNo = Literal["yes", "no"]
YesNoUnknown = Literal["yes", "no", "unknown"]

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Rate = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Days = Annotated[int, msgspec.Meta(ge=0, le=36_500)]
"""Days of life; 0 means: no expiry (99991231235959Z, RFC 5280 §4.1.2.5)."""
Span = Annotated[int, msgspec.Meta(ge=1, le=3_650)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern="^[^\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]*$")]

_MAX_OCTETS = 64 * 1024


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rules need besides the decisions. A day count left out is derived."""

    regulated: YesNoUnknown = "unknown"
    cloud_root: Literal["device_registry", "azure_sphere"] = "device_registry"
    hardware_kind: Literal["pkcs11", "tpm2", "secure_element"] = "pkcs11"
    board_has_hsm: YesNoUnknown = "unknown"
    device_class: Literal["small_mcu", "mcu", "linux"] = "mcu"
    update_path: YesNoUnknown = "unknown"
    end_of_status_plan: YesNo = "no"
    secure_room: Literal["line_in_room", "remote"] = "line_in_room"
    csr_travel: Literal["accepted", "refused"] = "accepted"
    device_count: Count = 10_000
    lines: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    line_rate_per_hour: Rate = 120
    shift_hours: Annotated[int, msgspec.Meta(ge=1, le=24)] = 8
    certificate_days: Days | None = None
    shelf_days: Span = 365
    renewal_window_days: Span = 90
    issuing_ca_days: Days | None = None
    root_ca_days: Days | None = None
    key_algorithm: Literal["derive", "p256", "p384", "ed25519", "rsa2048", "rsa3072", "mldsa44", "mldsa65"] = "derive"
    profile: Literal["derive", "idevid", "azure-dps", "aws-iot", "matter-dac", "tls-client"] = "derive"
    target_free_bytes: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000_000)] | None = None
    ca_key: Literal["derive", "file", "pkcs11"] = "derive"
    ca_signatures_per_second: Rate = 50
    ca_sessions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    ca_scheme: Literal["product", "line_year", "line_month"] = "product"
    third_party_path_length: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    third_party_rate_per_day: Rate = 10_000
    lead_days: Span = 30
    first_request_on: date | None = None
    device_name_example: Name = "sn0000000000"
    more_clouds: tuple[Registration, ...] = ()


class Answers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The eight decisions of a device maker, and the facts."""

    root: Root
    storage: Storage
    connectivity: Connectivity
    audit: Audit
    validity: Validity
    when_to_generate: GenerateAnswer = "derive"
    when_to_install: InstallAnswer = "derive"
    registration: Registration
    facts: Facts = Facts()


def parse_answers(toml: bytes) -> Answers:
    """Return the answers in ``toml`` (UTF-8, at most 64 KiB).

    Raises ``Misconfigured``: ``guide.answers.toml``, ``guide.answers.key.unknown``,
    ``guide.answers.key.missing``, ``guide.answers.value``.
    """
    return answers_from(read_tables(toml))


def read_tables(toml: bytes) -> dict[str, Any]:
    """Return the tables of a TOML document of at most 64 KiB, or ``Misconfigured("guide.answers.toml")``."""
    if len(toml) > _MAX_OCTETS:
        raise _not_toml("it is larger than 64 KiB")
    try:
        return tomllib.loads(toml.decode("utf-8"))
    except RecursionError:
        raise _not_toml("it is nested too deeply") from None
    except ValueError as problem:
        raise _not_toml(ascii(str(problem))[1:-1][:200]) from None


def answers_from(tables: dict[str, Any]) -> Answers:
    """Return answers made of plain values; errors as in ``parse_answers``."""
    facts = tables.get("facts", {})
    if not isinstance(facts, dict):
        raise _bad_value("facts", "it is a table: write its keys below a line that says [facts]", [])
    _refuse_unknown(tables, Answers, place="")
    _refuse_unknown(facts, Facts, place="facts.")
    missing = [name for name in _required(Answers) if name not in tables]
    if missing:
        raise Misconfigured(
            "guide.answers.key.missing",
            f"the answers do not say: {', '.join(missing)}",
            hint="Add the missing decisions; `birthmark plan` without --answers asks them one by one.",
            missing=missing,
        )
    decisions = {name: checked_value(name, value) for name, value in tables.items() if name != "facts"}
    known = {name: checked_value(f"facts.{name}", value) for name, value in facts.items()}
    return Answers(**decisions, facts=Facts(**known))


def checked_value(key: str, value: object) -> Any:
    """Return ``value`` as the answer to ``key`` (``facts.`` before a fact), or ``guide.answers.value``."""
    kind, _, name = key.rpartition(".")
    annotation = _HINTS[Facts if kind else Answers][name]
    try:
        return msgspec.convert(value, annotation, strict=True)
    except msgspec.ValidationError as problem:
        allowed = _allowed(annotation)
        reason = f"{ascii(value)[:80]} is not one of the choices" if allowed else str(problem)
        raise _bad_value(key, reason, allowed) from None


_HINTS = {kind: get_type_hints(kind, include_extras=True) for kind in (Answers, Facts)}


def _required(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind) if field.required]


def _refuse_unknown(tables: dict[str, Any], kind: type[msgspec.Struct], *, place: str) -> None:
    allowed = list(kind.__struct_fields__)
    unknown = [name for name in tables if name not in allowed]
    if unknown:
        shown = ascii(place + unknown[0])[1:-1][:80]
        raise Misconfigured(
            "guide.answers.key.unknown",
            f"{shown!r} is not a question of the guide",
            hint=f"Use only these keys{' in [facts]' if place else ''}: {', '.join(allowed)}.",
            key=shown,
            allowed=allowed,
        )


def _allowed(annotation: object) -> list[str]:
    """Return the closed list of choices in an annotation; empty for numbers, dates and texts."""
    choices: list[str] = []
    for part in get_args(annotation):
        choices += [part] if isinstance(part, str) else _allowed(part)
    return choices


def _bad_value(key: str, reason: str, allowed: list[str]) -> Misconfigured:
    hint = f"Use one of: {', '.join(allowed)}." if allowed else "Mend the value; docs/guide.md lists every question."
    return Misconfigured(
        "guide.answers.value",
        f"the answer to {key!r} cannot be used: {reason[:200]}",
        hint=hint,
        key=key,
        allowed=allowed,
    )


def _not_toml(reason: str) -> Misconfigured:
    return Misconfigured(
        "guide.answers.toml",
        f"the file is not TOML: {reason}",
        hint="Mend the file at the place named; docs/examples holds files that work.",
        reason=reason,
    )
