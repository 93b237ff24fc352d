"""Looking up an adapter by the scheme of a URI: ours are found the same way as anyone else's."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from birthmark.errors import Misconfigured

__all__ = ["adapter"]


def adapter(family: str, uri: str) -> Any:
    """Return the adapter class of ``family`` ("keys", "targets") that serves the scheme of ``uri``."""
    scheme = uri.partition(":")[0]
    found = entry_points(group=f"birthmark.{family}", name=scheme)
    for entry_point in found:
        return entry_point.load()
    known = sorted({entry.name for entry in entry_points(group=f"birthmark.{family}")})
    raise Misconfigured(
        f"plugin.{family}.unknown",
        f"nothing serves {scheme!r} among the {family}",
        hint=f"Known schemes: {', '.join(known)}. A plug-in adds one through the entry point group birthmark.{family}.",
        scheme=scheme,
        family=family,
    )
