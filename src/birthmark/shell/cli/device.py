"""``birthmark device``: look at one device, give it a new identity, or take it out for good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, write_plan_only
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, fact, table

if TYPE_CHECKING:
    from birthmark.model.records import DeviceRecord
    from birthmark.ports import Ledger
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.workflow.line.rework import Rework

__all__ = ["birth_record", "register"]

SerialArgument = Annotated[str, typer.Argument(help="The device serial.")]
_CERTIFICATE = "certificate"
"""PEM; in the JSON only."""
ReasonOption = Annotated[str, typer.Option(help="Why; it goes on record.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    device = typer.Typer(help="One device and its identity.", no_args_is_help=True)
    device.command("show")(show)
    device.command("rework")(rework)
    device.command("scrap")(scrap)
    device.command("tpm-registration")(tpm_registration)
    app.add_typer(device, name="device")


def show(
    device_serial: SerialArgument,
    history: Annotated[bool, typer.Option("--history", help="Read the whole log for what happened to it.")] = False,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Show where the device stands, its certificate and, on request, everything that happened to it."""
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.handout import known_device

    with open_workspace(workspace, publish=False) as opened:
        device = known_device(opened.records, device_serial)
        document = {**_document(opened, device), **_clouds(opened.root, device_serial)}
        events = _history(opened, device_serial) if history else []
    shown = {name: value for name, value in document.items() if name != _CERTIFICATE}
    rows = [[name, fact(value)] for name, value in shown.items()]
    rows += [[f"{event['seq']:>9}", f"{event['at']}  {event['type']}{_where(event)}"] for event in events]
    whole: dict[str, object] = {**document, "history": events} if history else document
    emit(whole, table(f"Device {device_serial}", ["", ""], rows), as_json=as_json)


def _clouds(root: Path, device_serial: str) -> dict[str, object]:
    from birthmark.shell.register.registration import told_clouds

    return {f"cloud {name}": told for name, told in told_clouds(root, device_serial).items()}


def rework(
    device_serial: SerialArgument,
    reason: ReasonOption,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """End the device's identity on record, revoke its certificate, and open it for a new one."""
    from birthmark.shell.authority.approvals import require_approval
    from birthmark.shell.workspace.wiring import open_workspace

    facts = {"device": device_serial, "reason": reason}
    with open_workspace(workspace, publish=plan_only is None) as opened:
        if plan_only is not None:
            write_plan_only(opened, "device.rework", facts, plan_only, as_json=as_json)
            return
        ledger = require_approval(opened, "device.rework", facts, approval)
        device = _rework(opened, ledger).rework(device_serial, reason=reason, by=opened.by)
        document = _document(opened, device)
    emit(document, f"Device {device_serial} is {device.state} with a new start; its old identity is revoked.\n"
         f"Next: birthmark station provision --device-serial {device_serial} --target …", as_json=as_json)  # fmt: skip


def scrap(
    device_serial: SerialArgument,
    reason: ReasonOption,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Take the device out for good: its certificate is revoked and its sealed key erased."""
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace) as opened:
        device = _rework(opened, opened.ledger).scrap(device_serial, reason=reason, by=opened.by)
        document = _document(opened, device)
    emit(document, f"Device {device_serial} is scrapped.", as_json=as_json)


def tpm_registration(
    device_serial: SerialArgument,
    target: Annotated[str, typer.Option(help="Where its TPM is, as tpm2:0x81010100?tcti=…")],
    registration_id: Annotated[
        str | None, typer.Option(help="The id at the cloud; the device serial in small letters if it is not given.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Read what a cloud that attests TPMs wants to know of one: its endorsement key and storage root key."""
    from birthmark.adapters.targets.tpm2 import Tpm2Target
    from birthmark.errors import Misconfigured
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.line.readback import check_probe

    with open_workspace(workspace, publish=False) as opened:
        link = opened.target(target, device_serial)
        if not isinstance(link, Tpm2Target):
            raise Misconfigured(
                "device.registration.target",
                "only a target tpm2: has an endorsement key to register",
                hint="Name the TPM of the device, as tpm2:0x81010100?tcti=device:/dev/tpmrm0.",
            )
        check_probe(link.probe(), device_serial)
        document = link.registration(registration_id or device_serial.lower()).document()
    rows = [["registration id", str(document["registrationId"])]]
    rows += [[name, value] for name, value in _flat(document["attestation"])]
    emit(document, table(f"TPM of {device_serial}", ["", ""], rows), as_json=as_json)


def _flat(part: object) -> list[tuple[str, str]]:
    if not isinstance(part, dict):
        return []
    return [
        pair
        for name, value in part.items()
        for pair in (_flat(value) if isinstance(value, dict) else [(str(name), str(value))])
    ]


def _rework(workspace: Workspace, ledger: Ledger) -> Rework:
    from birthmark.workflow.line.rework import Rework

    return Rework(
        ledger=ledger,
        records=workspace.records,
        permits=workspace.permits,
        recipient=workspace.vault_recipient,
        clock=workspace.clock,
        entropy=workspace.entropy,
        is_made_elsewhere=lambda order: _signs_for_itself(workspace, order),
    )


def _signs_for_itself(workspace: Workspace, order: str) -> bool:
    assigned = workspace.records.assignment(order)
    return assigned is not None and assigned.mode == "factory_ca"


def _document(workspace: Workspace, device: DeviceRecord) -> dict[str, object]:
    document: dict[str, object] = {
        "device_serial": device.device_serial,
        "order": device.order,
        "state": str(device.state),
        "attempt": device.attempt,
        "log_entry": device.issued_seq,
    }
    settled = workspace.records.settled(device.device_serial)
    if settled is not None:
        document |= {"site": settled.site, "site_log_entry": settled.site_seq}
    if device.issued_seq is None:
        return document
    from hashlib import sha256

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    from birthmark.pki.algorithms import spki_of
    from birthmark.workflow.handout import stored_certificate

    der = stored_certificate(workspace.ledger, device)
    certificate = x509.load_der_x509_certificate(der)
    origin = _origin(workspace, device)
    ours = origin["key_origin"] in ("injected", "device")
    number = certificate.serial_number
    cert_serial = number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")
    return {
        **document,
        **origin,
        "cert_serial": cert_serial.hex(),
        "cert_sha256": sha256(der).hexdigest(),
        "cert_sha1": certificate.fingerprint(hashes.SHA1()).hex(),  # noqa: S303  a name that clouds use, no proof
        "spki_sha256": sha256(spki_of(certificate.public_key())).hexdigest(),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "revoked": workspace.records.is_revoked(cert_serial) if ours else None,
        _CERTIFICATE: certificate.public_bytes(Encoding.PEM).decode("ascii"),
    }


def _origin(workspace: Workspace, device: DeviceRecord) -> dict[str, object]:
    """Return where the identity comes from, and what its vendor calls the chip."""
    order = workspace.records.order(device.order)
    bound = workspace.records.preloaded_of(device.device_serial)
    found: dict[str, object] = {"key_origin": None if order is None else order.key_origin}
    return found if bound is None else {**found, "vendor": bound.vendor, "unique_id": bound.unique_id}


def _where(event: dict[str, object]) -> str:
    cloud = event.get("cloud")
    return f"  {cloud['service']}: {cloud['device_name']} at {cloud['assigned_to']}" if isinstance(cloud, dict) else ""


def _history(workspace: Workspace, device_serial: str) -> list[dict[str, object]]:
    """Return number, time, type and members of every event that names the device, with the cloud of its receipt."""
    import msgspec

    from birthmark.model.events import Admitted, Verified, decode_entry
    from birthmark.wire.receipt import cloud_in

    found: list[dict[str, object]] = []
    needle = f'"device":"{device_serial}"'.encode()
    for seq, entry in workspace.ledger.entries(0, workspace.ledger.head().size):
        if needle in entry.partition(b"\n")[0]:
            event, attachment = decode_entry(entry)
            cloud = cloud_in(attachment) if isinstance(event, Verified | Admitted) else None
            told = {} if cloud is None else {"cloud": msgspec.to_builtins(cloud)}
            found.append({"seq": seq, **msgspec.to_builtins(event), **told})
    return found


def birth_record(workspace: Workspace, device_serial: str) -> list[str]:
    """Return one line for people for each event that names the device, and one for its certificate."""
    from birthmark.workflow.handout import known_device

    document = _document(workspace, known_device(workspace.records, device_serial))
    lines = []
    if "cert_serial" in document:
        lines = [f"certificate {document['cert_serial']}", f"{document['subject']}, until {document['not_after']}"]
    for event in _history(workspace, device_serial):
        told = [
            f"{name} {str(event[name]).partition('?')[0]}"
            for name in ("station", "evidence", "target", "reason", "code")
            if name in event
        ]
        lines.append(f"{event['seq']:>6}  {event['at']}  {event['type']:<10} {'  '.join(told)[:90]}")
    return lines
