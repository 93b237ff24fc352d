"""What an auditor may demand of witnesses, on the command line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured

if TYPE_CHECKING:
    from birthmark.shell.evidence.witnessed import Demand

__all__ = ["CosignedOption", "PolicyOption", "WithinOption", "read_demand"]

PolicyOption = Annotated[
    Path | None,
    typer.Option(help="Policy file (c2sp.org/tlog-policy): a quorum of its witnesses must have seen the log."),
]
CosignedOption = Annotated[
    list[Path] | None,
    typer.Option(help="A cosigned head that you bring, in place of the file log/cosigned; one of each log."),
]
WithinOption = Annotated[
    int | None,
    typer.Option(
        "--witnessed-within",
        metavar="HOURS",
        min=1,
        max=1_000_000,
        help="How many hours ago a quorum of witnesses may have seen it last; default: any time.",
    ),
]


def read_demand(policy: Path | None, cosigned: list[Path] | None, within: int | None) -> Demand | None:
    """Return what these options ask for, None without a policy; ``Misconfigured("audit.policy")`` if it is missing."""
    if policy is None:
        if cosigned or within is not None:
            raise Misconfigured(
                "audit.policy",
                "a cosigned head counts by a policy, and none is given",
                hint="Give --policy FILE: which logs, which witnesses, how many of them (c2sp.org/tlog-policy).",
            )
        return None
    from birthmark.shell.evidence.witnessed import open_demand

    return open_demand(policy, cosigned or (), None if within is None else timedelta(hours=within))
