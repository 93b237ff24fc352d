"""``birthmark audit``: verify everything with code that the writer does not share, prove one device to a stranger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured, Tampered, Unavailable
from birthmark.shell.cli.auditreport import report
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, progress_bar, table
from birthmark.shell.cli.witnessing import CosignedOption, PolicyOption, WithinOption, read_demand

if TYPE_CHECKING:
    from birthmark.adapters.audit.verify import Report

__all__ = ["register", "render_proof"]

_SHOWN = 50


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    audit = typer.Typer(help="Verify the record, or prove one device from it.", no_args_is_help=True)
    audit.command("verify")(verify)
    audit.command("prove")(prove)
    audit.command("check-proof")(check)
    audit.command("report")(report)
    audit.command("export")(export)
    app.add_typer(audit, name="audit")


def verify(
    directory: Annotated[Path, typer.Argument(help="The workspace directory; nothing in it is changed.")] = Path(),
    processes: Annotated[int | None, typer.Option(help="Processes; default: one a processor.")] = None,
    vkey: Annotated[str | None, typer.Option(help="Verifier key of the log, as you know it from elsewhere.")] = None,
    head: Annotated[list[Path] | None, typer.Option(help="A checkpoint you kept; it must be of this log.")] = None,
    policy: PolicyOption = None,
    cosigned: CosignedOption = None,
    within: WithinOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every invariant of a workspace: log, tiles, certificates, keys, devices, tables, vault."""
    from birthmark.adapters.audit.verify import verify_workspace
    from birthmark.shell.evidence.witnessed import check_workspace, known_vkey
    from birthmark.shell.workspace.wiring import utc_now

    demand = read_demand(policy, cosigned, within)
    if processes is not None and processes < 1:
        raise Misconfigured("audit.processes", "the audit needs a process", hint="Give --processes 1 or more.")
    if demand is not None and vkey is None:
        vkey = known_vkey(directory, demand.policy)
    with _progress("verifying", quiet=as_json) as progress:
        report = verify_workspace(directory, processes=processes, progress=progress, vkey=vkey, kept_heads=head or ())
    if demand is not None:
        check_workspace(directory, report, demand, utc_now())
    _show(report, as_json=as_json)
    if report.errors:
        raise _failed(report)


@contextmanager
def _progress(title: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of (done, total) that draws a bar; the total is known once the ledger is open."""
    if quiet:
        yield lambda done, total: None
        return
    with ExitStack() as stack:
        bars: list[Callable[[int], None]] = []
        shown = [0]

        def tell(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress_bar(title, total=total, quiet=False)))
            bars[0](done - shown[0])
            shown[0] = done

        yield tell


def _failed(report: Report) -> Tampered:
    codes = [f"{code} ({count})" for code, count in report.totals.items()]
    return Tampered(
        "audit.findings",
        f"the audit found {report.errors} violations",
        hint="Stop the line, keep the workspace as it is, and compare it with a copy of its log.",
        codes=codes,
    )


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        emit(report.document(), "", as_json=True)
        return
    if report.findings:
        rows = [[f.severity, f.invariant, f.code, f.what, f.where] for f in report.findings[:_SHOWN]]
        emit({}, table("Findings", ["", "law", "code", "what", "where"], rows), as_json=False)
        hidden = sum(report.totals.values()) - len(rows)
        if hidden > 0:
            print(f"and {hidden:,} more; --json lists up to 100 of each code")
    emit({}, table(_verdict(report), ["", ""], _summary(report)), as_json=False)


def _verdict(report: Report) -> str:
    state = "every invariant holds" if not report.errors else f"{report.errors:,} VIOLATIONS"
    return f"{report.origin}: {state}"


def _summary(report: Report) -> list[list[str]]:
    counts = report.counts
    duplicates = counts.get("keys", 0) - counts.get("distinct_keys", 0)
    rows: list[tuple[str, object]] = [
        ("entries in the log", report.size),
        ("under the signed head", report.published),
        ("tiles and bundles checked", counts.get("tiles", 0)),
        ("devices ordered", counts.get("devices", 0)),
        ("certificates", counts.get("certificates", 0)),
        ("signatures verified", counts.get("signatures", 0)),
        ("keys reserved", counts.get("keys", 0)),
        ("distinct keys", counts.get("distinct_keys", 0)),
        ("duplicate keys", duplicates),
        ("duplicate certificate serials", report.totals.get("audit.serial.double", 0)),
        ("receipts verified", counts.get("receipts", 0)),
        ("keys erased on record", counts.get("erased_keys", 0)),
    ]
    for name, totals in report.orders.items():
        text = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in totals.items() if count)
        rows.append((f"order {name}", text))
    for name, seen in report.witnessed.items():
        rows.append(
            (f"witnessed of {name}", f"{seen['size']:,} entries, by {', '.join(seen['witnesses']) or 'nobody'}")
        )
    rows.append(("root of all entries", report.root))
    rows.append(("seconds", f"{report.seconds['total']:.1f} on {report.processes} processes"))
    return [[name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in rows]


def prove(
    device: Annotated[str, typer.Argument(help="The device serial.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The proof file to write.")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Write a self-contained proof that the certificate of a device is in the log."""
    from birthmark.adapters.audit.proof import check_proof
    from birthmark.adapters.durable import write_durably

    text, vkey = _make_proof(workspace, device)
    checked = check_proof(text, vkey)
    write_durably(output, text, mode=0o644)
    emit(
        {**checked.document(), "file": str(output), "vkey": vkey},
        f"{output}: device {device} is entry {checked.index:,} of {checked.size:,}.\n"
        f"Anybody can check it offline: birthmark audit check-proof {output} --vkey '{vkey}'",
        as_json=as_json,
    )


def _make_proof(root: Path, device: str) -> tuple[bytes, str]:
    """Return proof and verifier key, made from the published files."""
    from birthmark.adapters.logstore import FileLogStore
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.tlog.checkpoint import open_checkpoint
    from birthmark.tlog.merkle import inclusion_proof
    from birthmark.tlog.proof import DeviceProof
    from birthmark.tlog.tiles import HashReader

    with open_workspace(root, publish=False) as opened:
        record = opened.records.device(device)
        if record is None or record.issued_seq is None:
            raise Misconfigured(
                "audit.prove.device",
                f"device {device} has no certificate on record",
                hint="Check the serial with `birthmark device show`.",
                device_serial=device,
            )
        index: int = record.issued_seq
        ((_, entry),) = opened.ledger.entries(index, 1)
        origin = opened.settings.origin
    store = FileLogStore(root / "log")
    vkey = (store.read("vkey") or b"").decode("utf-8", "replace").strip()
    note = store.read("checkpoint")
    checkpoint = None if note is None else open_checkpoint(note, origin, vkey)
    if note is None or checkpoint is None or index >= checkpoint.size:
        raise Unavailable(
            "audit.prove.unpublished",
            f"no published checkpoint covers entry {index} yet",
            hint="Run any command that writes (it publishes at its end), then try again.",
            index=index,
        )
    path = inclusion_proof(index, checkpoint.size, HashReader(checkpoint.size, store.read))
    proof = DeviceProof(index, tuple(path), note.decode(), extra=entry)
    return render_proof(device, origin, entry, proof.render(), index), vkey


def render_proof(device: str, origin: str, entry: bytes, proof: str, index: int) -> bytes:
    """Return the proof file (docs/formats/device-proof.md)."""
    import json

    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from birthmark.adapters.audit.proof import PROOF_FORMAT

    head, _, der = entry.partition(b"\n")
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
    issued = json.loads(head)["at"]
    preface = f"{PROOF_FORMAT}\ndevice: {device}\nlog: {origin}\nentry: {index}\nissued: {issued}\n\n{pem}\n"
    return (preface + proof).encode()


def check(
    file: Annotated[Path, typer.Argument(help="The proof file.")],
    vkey: Annotated[str, typer.Option(help="Verifier key of the log, from a source you trust.")],
    as_json: JsonOption = False,
) -> None:
    """Check a device proof offline: no workspace, no network, only the verifier key of the log."""
    from birthmark.adapters.audit.proof import check_proof
    from birthmark.adapters.received import read_received

    checked = check_proof(read_received(file), vkey)
    emit(
        checked.document(),
        f"Good: the certificate of device {checked.device_serial}, issued {checked.issued_at},\n"
        f"is entry {checked.index:,} of {checked.size:,} in the log {checked.origin}.",
        as_json=as_json,
    )


def export(
    directory: Annotated[Path, typer.Argument(help="The workspace directory; nothing in it is changed.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new directory for the evidence.")],
    as_json: JsonOption = False,
) -> None:
    """Write the evidence that anybody can check without birthmark: logs, CA certificates, receipts, transcripts."""
    from birthmark.shell.evidence.directory import export_evidence

    with _progress("exporting", quiet=as_json) as progress:
        made = export_evidence(directory, output, progress=progress)
    emit(
        {
            "directory": str(output),
            "files": made.files,
            "entries": made.entries,
            "receipts": made.receipts,
            "sites": made.sites,
            "manifest_sha256": made.manifest_sha256,
        },
        f"{output}: {made.files:,} files, {made.entries:,} entries, {made.receipts:,} receipts of its own, "
        f"logs of {made.sites} sites.\n"
        f"SHA-256 of MANIFEST.sha256: {made.manifest_sha256}\n"
        f"Anybody can check it without birthmark: python3 -I {output}/check.py {output}",
        as_json=as_json,
    )
