"""``birthmark init``: a plan becomes a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured, Refused
from birthmark.shell.cli.options import JsonOption
from birthmark.shell.cli.screen import emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from birthmark.guide.plan import Plan
    from birthmark.shell.workspace.setup import SetupRequest

__all__ = ["register"]

_NOT_YET = ("csr_travel", "vendor", "cloud")
_REFERENCE = "env:BIRTHMARK_PASSPHRASE"
_SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    app.command("init")(init)


def init(
    directory: Annotated[Path, typer.Argument(help="The new workspace.")],
    maker: Annotated[str, typer.Option(help="Name of the device maker, as it stands in certificates.")],
    plan: Annotated[Path | None, typer.Option(help="plan.toml made by `birthmark plan`.")] = None,
    profile: Annotated[str, typer.Option(help="Preset for device certificates, if there is no plan.")] = "idevid",
    product: Annotated[str, typer.Option(help="Name of the first product.")] = "device",
    origin: Annotated[str | None, typer.Option(help="Name of the log, for ever, like example.com/factory1.")] = None,
    secret: Annotated[
        str, typer.Option(help="Where the passphrase of key files (or the PIN) is: env:, file:, fd: or prompt:.")
    ] = _REFERENCE,
    token: Annotated[str | None, typer.Option(help="Label of the PKCS#11 token for CA keys.")] = None,
    module: Annotated[str, typer.Option(help="PKCS#11 module of the token.")] = _SOFTHSM,
    ledger: Annotated[
        str | None, typer.Option(help="Shared ledger, like postgres:host=db dbname=birthmark; default: a file.")
    ] = None,
    ledger_password: Annotated[
        str | None, typer.Option(help="Where the password of the shared ledger is: env:, file:, fd: or prompt:.")
    ] = None,
    value: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for placeholders of the profile, like hw_type=1.3.6.1.4.1.…")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a workspace: settings, profiles, a ceremony file to review, keys of log, vault and station, a ledger."""
    from birthmark.guide.plan import parse_plan
    from birthmark.shell.workspace.secrets import SecretsResolver
    from birthmark.shell.workspace.setup import SetupRequest, create_workspace, missing_values

    name = directory.resolve().name.lower()
    data = _read(plan) if plan is not None else None
    request = SetupRequest(
        name=name,
        origin=origin or f"{name}.example/birthmark",
        maker=maker,
        product=product,
        preset=profile,
        key_algorithm="p256",
        secret=secret,
        token=(str(Path(module).resolve()), token) if token is not None else None,
        ledger=ledger,
        ledger_password=ledger_password,
        values=_values(value or []),
        plan=data,
    )
    if data is not None:
        request = _planned(request, parse_plan(data))
    made = create_workspace(directory, request, secrets=SecretsResolver())
    missing = missing_values(request)
    document = {"workspace": str(directory), "read": [str(path) for path in made], "missing_values": missing}
    emit(document, "\n".join(_lines(directory, request, made, missing)), as_json=as_json)


def _lines(directory: Path, request: SetupRequest, made: Sequence[Path], missing: Sequence[str]) -> list[str]:
    """Return what is told of a new workspace: what to read, what it lacks, what comes next."""
    lines = [f"Workspace {directory} is ready. Read these before you go on:", *(f"  {path}" for path in made)]
    if missing:
        lines += [
            f"Not said yet, and needed by the profile before the first order: {', '.join(missing)}",
            f"  [products.{request.product}.values] in {directory}/birthmark.toml",
        ]
    lines.append("Next:")
    if request.sensitive:
        lines.append(f"  birthmark approval set --threshold N --approver VKEY --approver VKEY … -C {directory}")
    order = f"lot-1 --product {request.product} --quantity 1000 --first SN-000001"
    return [
        *lines,
        f"  birthmark ceremony check {directory}/ceremony.toml -C {directory}",
        f"  birthmark ceremony run {directory}/ceremony.toml -C {directory}",
        f"  birthmark order create {order} -C {directory}",
    ]


def _planned(request: SetupRequest, plan: Plan) -> SetupRequest:
    """Return the request as the plan decides it."""
    from dataclasses import replace

    if plan.source in _NOT_YET or plan.ca_owner != "maker":
        raise Refused(
            "init.not_yet",
            f"this version cannot set up such a factory: source {plan.source}, CA of {plan.ca_owner}",
            hint="docs/status.md says what works; identities from an own CA, made online, on site or ahead, do.",
            source=plan.source,
            ca_owner=plan.ca_owner,
        )
    if plan.ca_key == "pkcs11" and request.token is None:
        raise Misconfigured(
            "init.token",
            "the plan keeps CA keys in a token, and no token was named",
            hint="Add --token LABEL and --module PATH of your HSM.",
        )
    return replace(
        request,
        preset=plan.profile,
        key_algorithm=plan.key_algorithm,
        device_days=plan.validity_days,
        issuing_days=plan.issuing_ca_days,
        root_days=plan.root_ca_days,
        sensitive=plan.sensitive,
        token=request.token if plan.ca_key == "pkcs11" else None,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise Misconfigured(
            "init.plan.missing",
            f"cannot read {path}: {problem.strerror}",
            hint="Make a plan with `birthmark plan --output plan.toml`.",
            path=str(path),
        ) from problem


def _values(pairs: list[str]) -> dict[str, str]:
    values = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found or not name.isidentifier():
            raise Misconfigured("init.value", f"{pair!r} is not NAME=VALUE", hint="For example --value vid=FFF1.")
        values[name] = text
    return values
