"""Holding a ceremony in a workspace: its keys, ledger and files around the workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.durable import write_durably
from birthmark.workflow.ceremony import CeremonyResult, CeremonyTools, parse_ceremony, run_ceremony

if TYPE_CHECKING:
    from birthmark.shell.wiring import Workspace

__all__ = ["hold_ceremony"]


def hold_ceremony(workspace: Workspace, source: bytes) -> CeremonyResult:
    """Run the ceremony of a file and leave certificates (PEM) and transcript in ``ca/``."""
    tools = CeremonyTools(
        ledger=workspace.ledger,
        records=workspace.records,
        keys=workspace.keys,
        profile=workspace.profile,
        log_key=workspace.private_key(workspace.settings.log.key),
        origin=workspace.settings.origin,
        clock=workspace.clock,
        entropy=workspace.entropy,
        by=workspace.by,
    )
    with workspace.lock("ceremony"):
        result = run_ceremony(parse_ceremony(source), source=source, tools=tools)
        for name, der in result.certificates:
            pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            write_durably(workspace.root / "ca" / f"{name}.pem", pem, mode=0o644)
        first = result.certificates[0][0]
        write_durably(workspace.root / "ca" / f"transcript-{first}.txt", result.transcript, mode=0o644)
    return result
