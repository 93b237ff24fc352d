"""Proof that a CA's key is ours, as clouds want to see it: one certificate with their code as its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from birthmark.errors import Misconfigured

if TYPE_CHECKING:
    from birthmark.ports import ProvePossession
    from birthmark.shell.wiring import Workspace

__all__ = ["prover"]


def prover(workspace: Workspace) -> ProvePossession:
    """Return what proves possession of the CAs whose keys this workspace has."""

    def prove(ca: str, code: str) -> bytes:
        workspace.ca_key_uri(ca)
        raise Misconfigured(
            "register.possession",
            f"the key of {ca} is not used for a proof of possession here",
            hint="Let the cloud verify the CA in its own console, then run the same command again.",
            ca=ca,
        )

    return prove
