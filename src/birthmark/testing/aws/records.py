"""What moto has no record of: provisioning templates with their versions, and bulk registration tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = ["ProvisioningTemplate", "Task", "TemplateVersion", "now"]


def now() -> datetime:
    """Return the present moment."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class TemplateVersion:
    """One version of a template. ``body``: JSON text."""

    number: int
    body: str
    created: datetime = field(default_factory=now)


@dataclass(slots=True)
class ProvisioningTemplate:
    """A named template. ``kind``: ``FLEET_PROVISIONING`` or ``JITP``; ``default``: the version that is used."""

    name: str
    arn: str
    kind: str
    role: str
    enabled: bool
    description: str
    hook: dict[str, Any] | None
    versions: dict[int, TemplateVersion]
    default: int = 1
    last: int = 1
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)

    @property
    def body(self) -> str:
        """The text of the version that is used."""
        return self.versions[self.default].body


@dataclass(slots=True)
class Task:
    """A bulk registration. ``results`` and ``errors``: lines of its reports; ``wanted`` False: it was told to stop."""

    task_id: str
    template: str
    bucket: str
    key: str
    role: str
    total: int
    status: str = "InProgress"
    message: str = ""
    done: int = 0
    failed: int = 0
    wanted: bool = True
    results: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    created: datetime = field(default_factory=now)
    modified: datetime = field(default_factory=now)
