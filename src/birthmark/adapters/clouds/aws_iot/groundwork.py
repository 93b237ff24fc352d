"""What the devices need at AWS before they come: policy, thing type, thing group, template, CAs.

Everything is looked at before anything is made, and what is there is never changed: it is as wanted, or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from birthmark.adapters.clouds.aws_iot.authorities import (
    ca_obstacles,
    look_at_authorities,
    register_authorities,
    same_json,
)
from birthmark.adapters.clouds.aws_iot.calls import AwsTurn
from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.errors import Misconfigured, Refused
from birthmark.pki.awstemplate import ProvisioningTemplate, bulk_template, just_in_time_template, parse_aws_template
from birthmark.pki.profile import Profile, load_preset, parse_profile, preset_names
from birthmark.ports import CloudAuthority, Obstacle, ProvePossession, Registration

__all__ = ["Groundwork"]

_MOST_OCTETS = 65_536


class Groundwork:
    """What stands in the URI, read from its files once. Its constructor refuses files that cannot be used."""

    def __init__(self, options: AwsIotOptions, base: Path) -> None:
        self._options = options
        self._document = None if options.policy_document is None else _read(options.policy_document)
        self._profile = None if options.profile is None else _profile(options.profile, base)
        self.template = self._open_template()
        self._fleet = None
        if options.fleet_template is not None:
            self._fleet = parse_aws_template(_read(options.fleet_template))
            self._fleet.require_fleet()

    def _open_template(self) -> ProvisioningTemplate | None:
        options = self._options
        if options.mode == "jitp" and options.template_name is None:
            made = just_in_time_template(options.policy or "", options.thing_type, options.thing_group)
            template = parse_aws_template(made if options.template is None else _read(options.template))
            return self._checked(template)
        if options.mode == "bulk":
            made = bulk_template(options.policy or "", options.thing_type, options.thing_group)
            template = parse_aws_template(made if options.template is None else _read(options.template))
            template.require_bulk()
            return template
        return None

    def _checked(self, template: ProvisioningTemplate) -> ProvisioningTemplate:
        template.require_just_in_time()
        if self._profile is not None:
            template.require_profile(self._profile)
        return template

    def require_subject(self, registration: Registration) -> None:
        """Return if the certificates have all that a just-in-time template names; ``cloud.aws.template.subject``."""
        if self._options.mode == "jitp" and self.template is not None and registration.standing == "enabled":
            for der in registration.certificates:
                self.template.require_certificate(registration.device_serial, der)

    def obstacles(self, authorities: Sequence[CloudAuthority]) -> tuple[Obstacle, ...]:
        """Return what stands against these CAs, known without a question to AWS."""
        return ca_obstacles(authorities) if self._options.with_ca else ()

    def prepare(self, turn: AwsTurn, authorities: Sequence[CloudAuthority], prove: ProvePossession) -> Sequence[str]:
        """Look at everything, then make what is missing. Raises ``AwsSays`` and ``Refused("cloud.aws.*")``."""
        for obstacle in self.obstacles(authorities):
            raise Refused(obstacle.code, obstacle.message, hint=obstacle.hint)
        options, config = self._options, self._config()
        missing = self._missing(turn)
        plans = look_at_authorities(options, turn, authorities, config) if options.with_ca else []
        lines = [f"{what}: {'made' if what in missing else 'is there, unchanged'}" for what in self._wanted()]
        for what in missing:
            self._make(turn, what)
        lines += register_authorities(options, turn, plans, config, prove)
        if not options.with_ca:
            lines.append("CAs: none is registered, certificates are registered without one (mode=no-ca)")
        return lines

    def _config(self) -> Mapping[str, str]:
        """Return what a CA is registered with (registrationConfig)."""
        if self._options.mode != "jitp":
            return {}
        if self._options.template_name is not None:
            return {"templateName": self._options.template_name}
        return {"templateBody": self.template.text if self.template else "", "roleArn": self._options.role}

    def _wanted(self) -> list[str]:
        options = self._options
        named = (
            ("policy", options.policy),
            ("thing type", options.thing_type),
            ("thing group", options.thing_group),
            ("provisioning template", options.template_name),
            ("fleet template", options.fleet),
        )
        return [f"{kind} {name}" for kind, name in named if name is not None]

    def _missing(self, turn: AwsTurn) -> list[str]:
        return [what for what in self._wanted() if not self._is_there(turn, what)]

    def _is_there(self, turn: AwsTurn, what: str) -> bool:
        kind, _, name = what.rpartition(" ")
        if kind == "policy":
            return self._has_policy(turn, name)
        if kind == "thing type":
            found = turn.found("describe_thing_type", thingTypeName=name)
            if found is not None and (found.get("thingTypeMetadata") or {}).get("deprecated"):
                raise _different(what, "it is deprecated, so no thing can have it")
            return found is not None
        if kind == "thing group":
            return turn.found("describe_thing_group", thingGroupName=name) is not None
        if kind == "fleet template":
            return self._has_fleet(turn, name)
        return self._has_template(turn, name)

    def _has_fleet(self, turn: AwsTurn, name: str) -> bool:
        found = turn.found("describe_provisioning_template", templateName=name)
        if found is None:
            return False
        same = same_json(found.get("templateBody"), self._fleet.text if self._fleet else None)
        same = same and found.get("provisioningRoleArn") == self._options.role and found.get("enabled") is True
        if not same or found.get("type", "FLEET_PROVISIONING") != "FLEET_PROVISIONING":
            raise _different(f"fleet template {name}", "body, role, type or standing is not that of the URI")
        return True

    def _has_policy(self, turn: AwsTurn, name: str) -> bool:
        found = turn.found("get_policy", policyName=name)
        if found is None and self._document is None:
            raise Refused(
                "cloud.aws.policy.missing",
                f"there is no policy {name} in the account",
                hint="Make it in AWS, or give its document in the URI: policy_document=FILE.",
                policy=name,
            )
        if (
            found is not None
            and self._document is not None
            and not same_json(found.get("policyDocument"), self._document)
        ):
            raise _different(f"policy {name}", "its document is not that of the URI")
        return found is not None

    def _has_template(self, turn: AwsTurn, name: str) -> bool:
        found = turn.found("describe_provisioning_template", templateName=name)
        if found is None:
            raise Refused(
                "cloud.aws.template.missing",
                f"there is no provisioning template {name} in the account",
                hint="Make it in AWS, or give the template as a file: template=./FILE.",
                template=name,
            )
        if found.get("type") != "JITP" or not found.get("enabled", True):
            raise _different(f"provisioning template {name}", "it is not an enabled one of type JITP")
        self.template = self._checked(parse_aws_template(str(found.get("templateBody", ""))))
        return True

    def _make(self, turn: AwsTurn, what: str) -> None:
        kind, _, name = what.rpartition(" ")
        if kind == "policy":
            turn.iot("create_policy", policyName=name, policyDocument=self._document)
        elif kind == "thing type":
            turn.iot("create_thing_type", thingTypeName=name)
        elif kind == "fleet template" and self._fleet is not None:
            turn.iot(
                "create_provisioning_template",
                templateName=name,
                templateBody=self._fleet.text,
                provisioningRoleArn=self._options.role,
                type="FLEET_PROVISIONING",
                enabled=True,
            )
        else:
            turn.iot("create_thing_group", thingGroupName=name)


def _different(what: str, how: str) -> Refused:
    return Refused(
        "cloud.aws.different",
        f"AWS has {what}, but not as it is wanted: {how}",
        hint="Change it in AWS, or name another one in the URI: what devices may do is never widened from here.",
        what=what,
    )


def _profile(text: str, base: Path) -> Profile:
    return load_preset(text) if text in preset_names() else parse_profile(_read(base / text).encode())


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_OCTETS + 1)
        if len(data) > _MOST_OCTETS:
            raise ValueError
        return data.decode()
    except (OSError, ValueError):
        raise Misconfigured(
            "cloud.aws.file",
            f"the file {str(path)[:200]!a} of the URI cannot be read as text of at most 64 KiB",
            hint="Give its path relative to the settings file.",
            path=str(path)[:200],
        ) from None
