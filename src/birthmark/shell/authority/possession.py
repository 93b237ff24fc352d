"""Proofs of possession in a workspace: which CAs can prove themselves here, and under whose approval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from birthmark.errors import Refused
from birthmark.shell.authority.access import require_role
from birthmark.shell.authority.approvals import approve_first
from birthmark.workflow.register.possession import Possession, PossessionTools

if TYPE_CHECKING:
    from birthmark.pki.issuer import Issuer
    from birthmark.ports.cloud import ProvePossession
    from birthmark.shell.workspace.wiring import Workspace

__all__ = ["ACTION", "possession", "possession_facts"]

ACTION = "ca.possession"


def possession_facts(cloud: str, cas: Sequence[str]) -> dict[str, str]:
    """Return what a plan states: the cloud as it stands in the log, and the CAs that may prove themselves to it."""
    return {"cas": " ".join(sorted(cas)), "cloud": cloud}


def possession(
    workspace: Workspace, *, cloud: str, cas: Sequence[str], approval: Path | None = None
) -> ProvePossession:
    """Return what proves to ``cloud`` that the keys of ``cas`` are ours.

    Under dual control the first proof puts the ``approval`` of exactly these facts on record, before it is intended;
    the same plan holds for the others, and for a run that goes on after a power cut.

    Calling it raises ``Refused``: ``possession.ca`` (not one of ``cas``), ``possession.key`` (a third party or a site
    has the key), what ``approve_first`` and ``Possession`` raise.
    """

    def issuer(ca: str) -> Issuer:
        record = workspace.records.ca(ca)
        if workspace.is_external(ca) or (record is not None and record.site is not None):
            raise Refused(
                "possession.key",
                f"the key of CA {ca} is not in this workspace: nobody here can prove that it is ours",
                hint="Let the cloud take the certificate without a proof, proof=upload in its uri; or verify a CA "
                "above it there.",
                ca=ca,
            )
        return workspace.issuer(ca)

    tools = PossessionTools(workspace.ledger, issuer, workspace.clock, workspace.entropy, workspace.by)
    proof = Possession(tools, cloud)

    def prove(ca: str, code: str) -> bytes:
        require_role(workspace, "authority")
        if ca not in cas:
            raise Refused(
                "possession.ca",
                f"CA {ca[:80]!a} was not to prove itself to {cloud}",
                hint="Name it in cas of this cloud, and run the same command again.",
                ca=ca[:80],
            )
        approve_first(workspace, ACTION, possession_facts(cloud, cas), approval)
        return proof(ca, code)

    return prove
