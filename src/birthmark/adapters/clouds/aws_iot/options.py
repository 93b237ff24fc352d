"""``aws-iot:REGION?mode=…``: what the URI says, every option checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from birthmark.errors import Misconfigured

__all__ = ["AwsIotOptions", "Mode", "parse_aws_iot_uri"]

Mode = Literal["thing", "certificate", "no-ca", "bulk", "jitp", "jitr"]
_MODES: tuple[str, ...] = get_args(Mode)
_NAME = r"[A-Za-z0-9:_-]{1,128}"
_NUMBER = r"[0-9]{1,6}(\.[0-9]{1,3})?"
_FORMS: Mapping[str, str] = {
    "mode": "|".join(_MODES),
    "ca": "default|sni-only",
    "policy": r"[A-Za-z0-9+=,.@_-]{1,128}",
    "policy_document": r"[^\0]{1,1024}",
    "thing_type": _NAME,
    "thing_group": _NAME,
    "template": r"[^\0]{1,1024}",
    "profile": r"[^\0]{1,1024}",
    "fleet": r"[0-9A-Za-z_-]{1,36}",
    "fleet_template": r"[^\0]{1,1024}",
    "bucket": r"[a-z0-9.-]{3,63}",
    "prefix": r"[A-Za-z0-9!_.*'()/-]{1,200}",
    "role": r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]{1,512}",
    "endpoint": r"https?://[!-~]{1,512}",
    "s3_endpoint": r"https?://[!-~]{1,512}",
    "device_endpoint": r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[1-9][0-9]{0,4})?",
    "device_trust": r"[^\0]{1,1024}",
    "device_topic": r"[!-~]{1,256}",
    "rate": _NUMBER,
    "batch": r"[1-9][0-9]{0,3}|10000",
    "blocked": "inactive|revoked",
}
_NEEDS: Mapping[str, tuple[str, ...]] = {
    "thing": ("policy",),
    "certificate": (),
    "no-ca": (),
    "bulk": ("policy", "bucket", "role"),
    "jitp": ("role",),
    "jitr": (),
}
_USELESS: Mapping[str, tuple[str, ...]] = {
    "thing": ("template", "profile", "bucket", "prefix", "batch", "role", "s3_endpoint"),
    "certificate": ("template", "profile", "bucket", "prefix", "batch", "role", "s3_endpoint", "policy"),
    "no-ca": ("template", "profile", "bucket", "prefix", "batch", "role", "s3_endpoint", "ca"),
    "bulk": ("profile",),
    "jitp": ("bucket", "prefix", "batch", "s3_endpoint"),
    "jitr": ("template", "profile", "bucket", "prefix", "batch", "role", "s3_endpoint", "thing_type", "thing_group"),
}
"""An option that the mode would pass over is refused: whoever wrote it expects it to do something."""
_LOOPBACK = re.compile(r"127\.[0-9.]{5,11}|localhost|\[?::1\]?")


@dataclass(frozen=True, slots=True)
class AwsIotOptions:
    """``rate``: most calls a second of each operation. ``batch``: devices of one bulk task. Files are paths.

    ``device_endpoint``: host and port at which devices connect; the account's data endpoint.
    """

    region: str
    mode: Mode
    sni_only: bool
    policy: str | None
    policy_document: Path | None
    thing_type: str | None
    thing_group: str | None
    template: Path | None
    template_name: str | None
    profile: str | None
    fleet: str | None
    fleet_template: Path | None
    bucket: str
    prefix: str
    role: str
    endpoint: str | None
    s3_endpoint: str | None
    device_endpoint: str | None
    device_trust: Path | None
    device_topic: str | None
    rate: float
    batch: int
    blocked: Literal["INACTIVE", "REVOKED"]

    @property
    def with_ca(self) -> bool:
        """Whether the account knows our CAs."""
        return self.mode != "no-ca"

    @property
    def just_in_time(self) -> bool:
        """Whether a device becomes known when it first connects."""
        return self.mode in ("jitp", "jitr")


def parse_aws_iot_uri(uri: str, base: Path) -> AwsIotOptions:
    """Take a URI apart; ``Misconfigured("cloud.aws.uri")``. Relative files are below ``base``."""
    scheme, _, rest = uri.partition(":")
    region, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    if scheme != "aws-iot" or re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]", region) is None:
        raise _bad("it does not have the form aws-iot:REGION?option=value")
    if len(found) != len(pairs):
        raise _bad("an option stands in it twice")
    for name, value in found.items():
        if re.fullmatch(_FORMS.get(name, r"(?!)"), value, re.ASCII) is None:
            raise _bad(f"the option {name[:40]!a} is unknown or has a value that cannot be used")
    mode = found.get("mode", "thing")
    _check(mode, found)
    template = found.get("template")
    is_name = template is not None and re.fullmatch(r"[0-9A-Za-z_-]{1,36}", template) is not None
    return AwsIotOptions(
        region=region,
        mode=mode,  # type: ignore[arg-type]  # the form above lets through nothing else
        sni_only=found.get("ca") == "sni-only",
        policy=found.get("policy"),
        policy_document=_path(base, found.get("policy_document")),
        thing_type=found.get("thing_type"),
        thing_group=found.get("thing_group"),
        template=None if is_name else _path(base, template),
        template_name=template if is_name else None,
        profile=found.get("profile"),
        fleet=found.get("fleet"),
        fleet_template=_path(base, found.get("fleet_template")),
        bucket=found.get("bucket", ""),
        prefix=found.get("prefix", "birthmark/"),
        role=found.get("role", ""),
        endpoint=_endpoint(found.get("endpoint")),
        s3_endpoint=_endpoint(found.get("s3_endpoint")),
        device_endpoint=found.get("device_endpoint"),
        device_trust=_path(base, found.get("device_trust")),
        device_topic=found.get("device_topic"),
        rate=float(found.get("rate", "10")),
        batch=int(found.get("batch", "1000")),
        blocked="REVOKED" if found.get("blocked") == "revoked" else "INACTIVE",
    )


def _check(mode: str, found: Mapping[str, str]) -> None:
    missing = [name for name in _NEEDS[mode] if name not in found]
    if missing:
        raise _bad(f"mode={mode} needs the option {missing[0]}")
    useless = [name for name in _USELESS[mode] if name in found and not (name == "role" and "fleet" in found)]
    if useless:
        raise _bad(f"mode={mode} has no use for the option {useless[0]}")
    if ("fleet" in found) != ("fleet_template" in found) or ("fleet" in found and "role" not in found):
        raise _bad("fleet, fleet_template and role go together")
    if "policy_document" in found and "policy" not in found:
        raise _bad("policy_document needs the option policy, which names it")
    if mode == "jitp" and "template" in found and {"policy", "thing_type", "thing_group"} & set(found):
        raise _bad("policy, thing_type and thing_group stand in the template of mode=jitp, if it has one of its own")
    if mode == "jitp" and "template" not in found and "policy" not in found:
        raise _bad("mode=jitp needs the option policy, or a template that names one")
    if mode == "bulk" and re.fullmatch(r"[0-9A-Za-z_-]{1,36}", found.get("template", ".")):
        raise _bad("the template of mode=bulk is a file: give its path, with a dot or a slash")
    if not 0.01 <= float(found.get("rate", "10")) <= 100_000:
        raise _bad("the rate is not between 0.01 and 100000 calls a second")


def _path(base: Path, text: str | None) -> Path | None:
    return None if text is None else base / text


def _endpoint(text: str | None) -> str | None:
    """A request carries a signature made with a secret, and its answer is believed: by TLS, or on this machine."""
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        plain = parts.path in ("", "/") and not parts.query and not parts.fragment and "@" not in parts.netloc
        good = plain and bool(parts.hostname) and parts.port != 0
        near = _LOOPBACK.fullmatch(parts.hostname or "") is not None
    except ValueError:
        good = near = False
    if not good or (urlsplit(text).scheme == "http" and not near):
        raise _bad("an endpoint is https://HOST[:PORT], or http on this machine")
    return text


def _bad(reason: str) -> Misconfigured:
    return Misconfigured(
        "cloud.aws.uri",
        f"this is not the URI of an AWS IoT account: {reason}",
        hint="docs/clouds/aws-iot.md lists the modes and options.",
    )
