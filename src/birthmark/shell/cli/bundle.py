"""``birthmark bundle``: an order on its way to the site that makes it, sealed at one end and opened at the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.approved import ApprovalOption, PlanOnlyOption, only_planned
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import emit, progress_bar, table

if TYPE_CHECKING:
    from birthmark.shell.workspace.wiring import Workspace
    from birthmark.workflow.bundles.unpack import Opened

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    bundle = typer.Typer(help="Bundles: orders sealed for the sites that make them.", no_args_is_help=True)
    bundle.command("seal")(seal)
    bundle.command("open")(open_file)
    bundle.command("show")(show)
    bundle.command("close")(close)
    bundle.command("forget")(forget)
    bundle.command("recipient")(recipient)
    app.add_typer(bundle, name="bundle")


def seal(
    order: Annotated[str, typer.Option(help="The order; it is assigned to the site.")],
    site: Annotated[str, typer.Option(help="The site that makes it.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The bundle file, its manifest beside it; default: bundles/ORDER.bundle."),
    ] = None,
    suite: Annotated[str, typer.Option(help="HPKE suite: mlkem768-x25519, x25519 or p256.")] = "mlkem768-x25519",
    to: Annotated[
        Path | None, typer.Option("--recipient", help="P-256 public key (PEM) of the site, for --suite p256.")
    ] = None,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Hand an order to its site: one sealed file and a signed manifest. Safe to kill and to repeat."""
    from birthmark.shell.sites.bundles import manifest_path, new_bundle_path, seal_for_site
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=plan_only is None) as opened:
        facts = {"order": order, "site": site}
        if _goes_with_keys(opened, order) and only_planned(
            opened, "bundle.seal", facts, approval, plan_only, as_json=as_json
        ):
            return
        file = output or new_bundle_path(opened, order)
        quantity = _quantity(opened, order)
        with progress_bar("sealing", total=quantity, quiet=as_json) as advance:
            manifest = seal_for_site(
                opened, order=order, site=site, suite=suite, recipient=to, output=file, progress=advance
            )
    document = {
        "bundle": manifest.bundle,
        "order": order,
        "site": site,
        "mode": manifest.mode,
        "devices": manifest.devices,
        "file": str(file),
        "manifest": str(manifest_path(file)),
    }
    what = "identities sealed" if manifest.mode == "pool" else "devices listed"
    emit(
        document,
        f"Bundle {manifest.bundle}: {manifest.devices:,} {what} for site {site}.\n"
        f"Carry {file} and {manifest_path(file)} there by any carrier.\n"
        f"Next, at the site: birthmark bundle open {file.name}",
        as_json=as_json,
    )


def _quantity(workspace: Workspace, order: str) -> int:
    record = workspace.records.order(order)
    return 0 if record is None else record.quantity


def _goes_with_keys(workspace: Workspace, order: str) -> bool:
    assigned = workspace.records.assignment(order)
    return assigned is not None and assigned.mode == "pool"


def open_file(
    file: Annotated[Path, typer.Argument(help="The bundle file.")],
    manifest: Annotated[Path | None, typer.Option(help="Its manifest; default: FILE.manifest.")] = None,
    key: Annotated[str | None, typer.Option(help="Key URI of the P-256 key it was sealed to, suite p256 only.")] = None,
    approval: ApprovalOption = None,
    plan_only: PlanOnlyOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """Take in a bundle at its site: verified first, then once, whole. Safe to kill and to repeat."""
    from birthmark.shell.sites.bundles import manifest_path, open_for_site, opening_facts, told_quantity
    from birthmark.shell.workspace.wiring import open_workspace

    beside = manifest or manifest_path(file)
    total = 2 * told_quantity(beside)  # it is read twice
    with open_workspace(workspace, publish=plan_only is None) as opened:
        facts = opening_facts(opened, beside)
        if only_planned(opened, "bundle.open", facts, approval, plan_only, as_json=as_json):
            return
        with progress_bar("opening", total=total, quiet=as_json) as advance:
            done = open_for_site(opened, bundle=file, manifest=beside, key=key, progress=advance)
    _tell_opened(done, as_json=as_json)


def _tell_opened(done: Opened, *, as_json: bool) -> None:
    told = done.manifest
    document = {
        "bundle": told.bundle,
        "order": told.order,
        "mode": told.mode,
        "devices": told.devices,
        "taken": done.taken,
        "before": done.before,
    }
    if done.before:
        text = f"Bundle {told.bundle} of order {told.order} was opened before; nothing changed."
    elif told.mode == "pool":
        text = f"Order {told.order}: {done.taken:,} of {told.devices:,} identities taken into the pool."
    else:
        text = f"Order {told.order}: {told.devices:,} devices may be made here ({told.mode})."
    following = "birthmark station provision --device-serial SERIAL --target files:out/SERIAL"
    emit(document, f"{text}\nNext: {following}", as_json=as_json)


def show(
    file: Annotated[Path, typer.Argument(help="The bundle file.")],
    manifest: Annotated[Path | None, typer.Option(help="Its manifest; default: FILE.manifest if it is there.")] = None,
    vkey: Annotated[
        str | None, typer.Option(help="Verifier key of the authority's log, from a trusted source.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a bundle is without opening it; with --vkey also whether its manifest is signed and fits."""
    from birthmark.adapters.bundlefile import BundleInput
    from birthmark.shell.sites.bundles import manifest_path, read_small
    from birthmark.workflow.bundles.look import look_at_bundle

    beside = manifest or manifest_path(file)
    if vkey is None and manifest is not None:
        raise Misconfigured(
            "bundle.show.vkey",
            "a manifest is worth what its signature is",
            hint="Give --vkey with the verifier key of the authority's log: log/vkey of its workspace.",
        )
    note = read_small(beside) if vkey is not None else None
    with BundleInput(file) as opened:
        looked = look_at_bundle(opened.read, note, vkey)
    rows = [[name, "–" if value is None else str(value)] for name, value in looked.items()]
    emit(looked, table(f"Bundle {looked['bundle']}", ["", ""], rows), as_json=as_json)


def close(
    order: Annotated[str, typer.Argument(help="The order whose pool is done with.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the log.")],
    returned: Annotated[
        bool, typer.Option("--returned", help="Give the identities back: erase the keys here, scrap no device.")
    ] = False,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """End what is left of an order at its site: keys erased, certificates revoked, devices scrapped, all on record."""
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.bundles.leftovers import close_bundle

    with open_workspace(workspace) as opened:
        quantity = _quantity(opened, order)
        with progress_bar("closing", total=quantity, quiet=as_json) as advance:
            count = close_bundle(
                opened.ledger,
                opened.records,
                order,
                reason=reason,
                returned=returned,
                by=opened.by,
                clock=opened.clock,
                progress=advance,
            )
    what = "given back" if returned else "destroyed"
    text = f"Order {order} was closed before; nothing changed."
    if count is not None:
        text = f"Order {order}: closed, {count:,} identities that were left are {what}.\nNext: birthmark site report"
    emit({"order": order, "closed": count, "returned": returned, "before": count is None}, text, as_json=as_json)


def forget(
    order: Annotated[str, typer.Argument(help="The order that was sealed for a site.")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At the authority: erase our copy of the keys that are known to have arrived at the site. Safe to repeat."""
    from birthmark.shell.workspace.wiring import open_workspace
    from birthmark.workflow.bundles.leftovers import forget_keys

    with open_workspace(workspace) as opened:
        quantity = _quantity(opened, order)
        with progress_bar("erasing", total=quantity, quiet=as_json) as advance:
            erased, kept = forget_keys(opened.ledger, opened.records, order, clock=opened.clock, progress=advance)
    emit(
        {"order": order, "erased": erased, "kept": kept},
        f"Order {order}: {erased:,} keys erased here; {kept:,} are kept until the site reports their devices.",
        as_json=as_json,
    )


def recipient(
    key: Annotated[str, typer.Argument(help="Key URI, for example file:keys/bundle.pem?secret=env:NAME.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where its public half goes (PEM).")],
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At a site: make a P-256 key for bundles of the suite p256 and write its public half for the authority."""
    from hashlib import sha256

    from birthmark.shell.sites.bundles import bundle_recipient_file
    from birthmark.shell.workspace.wiring import open_workspace

    with open_workspace(workspace, publish=False) as opened:
        pem = bundle_recipient_file(opened, key, output)
    digest = sha256(pem).hexdigest()
    emit(
        {"file": str(output), "sha256": digest},
        f"{output}: P-256 key of this site, SHA-256 of the file {digest}.\n"
        "Compare that with the authority by another way, then there: birthmark bundle seal --suite p256 --recipient …",
        as_json=as_json,
    )
