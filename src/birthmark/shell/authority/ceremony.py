"""Holding a ceremony in a workspace: its keys, ledger and files around the workflow."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.durable import naming_os_errors, write_durably
from birthmark.errors import Misconfigured
from birthmark.shell.authority.approvals import find_approval
from birthmark.workflow.authority.approval import record_approval
from birthmark.workflow.authority.ceremony import (
    Ceremony,
    CeremonyResult,
    CeremonyTools,
    check_ceremony,
    parse_ceremony,
    run_ceremony,
)

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.workflow.authority.ceremonycheck import PlannedStep

__all__ = ["ceremony_facts", "hold_ceremony", "rehearse_ceremony", "unnamed_cas"]

_LARGEST = 16 << 20


def ceremony_facts(source: bytes) -> dict[str, str]:
    """Return what a plan for this ceremony file states."""
    return {"ceremony_sha256": sha256(source).hexdigest(), "title": parse_ceremony(source).title}


def rehearse_ceremony(workspace: Workspace, source: bytes, *, base: Path) -> list[PlannedStep]:
    """Do everything with throw-away keys; return what would happen. ``base``: where paths in the file start."""
    return check_ceremony(parse_ceremony(source), source=source, tools=_tools(workspace, base))


def hold_ceremony(
    workspace: Workspace, source: bytes, *, base: Path = Path(), approval_file: Path | None = None
) -> CeremonyResult:
    """Run the ceremony of a file and leave certificates (PEM) and transcripts in ``ca/``.

    Nothing of an approval is used up before the rehearsal has passed.
    """
    ceremony, tools = parse_ceremony(source), _tools(workspace, base)
    with workspace.lock("ceremony"):
        check_ceremony(ceremony, source=source, tools=tools)
        approved = _approve(workspace, source, approval_file)
        result = run_ceremony(ceremony, source=source, tools=tools, approved=approved)
        for name, der in result.certificates:
            pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
            write_durably(workspace.root / "ca" / f"{name}.pem", pem, mode=0o644)
    return result


def _approve(workspace: Workspace, source: bytes, approval_file: Path | None) -> tuple[str, ...]:
    """Put the approval on record; return its lines in the transcript."""
    approval = find_approval(workspace, "ceremony.run", ceremony_facts(source), approval_file)
    if approval is None:
        return ()
    record_approval(workspace.ledger, approval, clock=workspace.clock, by=workspace.by)
    return (f"plan {approval.plan.sha256}", *(f"by {name}" for name in approval.approvers))


def _tools(workspace: Workspace, base: Path) -> CeremonyTools:
    directory = workspace.root / "ca"

    def kept(name: str) -> bytes | None:
        try:
            return (directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def read(path: str) -> bytes:
        try:
            with (base / path).open("rb") as file:
                return file.read(_LARGEST)
        except OSError as problem:
            raise Misconfigured(
                "ceremony.request.missing",
                f"cannot read {path}: {problem.strerror}",
                hint="Paths in a ceremony file start at the directory it lies in.",
                path=path,
            ) from problem

    def keep(name: str, data: bytes) -> None:
        with naming_os_errors(directory / name):
            write_durably(directory / name, data, mode=0o644)

    return CeremonyTools(
        ledger=workspace.ledger,
        records=workspace.records,
        sites=workspace.records,
        keys=workspace.keys,
        key_uri=workspace.ca_key_uri,
        issuer=workspace.issuer,
        profile=workspace.profile,
        read=read,
        keep=keep,
        kept=kept,
        log_key=workspace.private_key(workspace.settings.log.key),
        origin=workspace.settings.origin,
        clock=workspace.clock,
        entropy=workspace.entropy,
        by=workspace.by,
    )


def unnamed_cas(workspace: Workspace, ceremony: Ceremony) -> list[str]:
    """Return lines for birthmark.toml: CAs of a ceremony whose keys the settings do not name yet."""
    lines = []
    for step in ceremony.making:
        key = getattr(step, "key", None)
        if key is not None and step.name not in workspace.settings.cas:
            lines += [f"[cas.{step.name}]", f'key = "{key}"']
    return lines
