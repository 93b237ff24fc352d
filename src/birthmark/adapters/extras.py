"""Optional packages: an adapter says at once, and by name, which extra is missing."""

from __future__ import annotations

from importlib.util import find_spec

from birthmark.errors import Misconfigured

__all__ = ["require_extra"]


def require_extra(extra: str, package: str) -> None:
    """Return if ``package`` can be imported, else ``Misconfigured("extra.missing")``."""
    if find_spec(package) is None:
        raise Misconfigured(
            "extra.missing",
            f"{package} is not installed",
            hint=f"Run: pip install 'birthmark[{extra}]'",
            extra=extra,
        )
