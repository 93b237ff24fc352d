"""``birthmark witness``: watch the logs of others, so that none of them can tell two stories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from birthmark.errors import Misconfigured
from birthmark.shell.cli.options import JsonOption
from birthmark.shell.cli.screen import emit

__all__ = ["register"]

DirectoryArgument = Annotated[Path, typer.Argument(help="The directory of the witness.")]
_REFERENCE = "env:BIRTHMARK_PASSPHRASE"


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    witness = typer.Typer(help="Cosign the heads of other logs (C2SP witness).", no_args_is_help=True)
    witness.command("init")(init)
    witness.command("watch")(watch)
    witness.command("cosign")(cosign)
    witness.command("serve")(serve)
    witness.command("check")(check)
    app.add_typer(witness, name="witness")


def init(
    directory: DirectoryArgument,
    name: Annotated[str, typer.Option(help="Name of the witness, like witness.example/w1.")],
    secret: Annotated[
        str, typer.Option(help="Where the passphrase of its key is: env:, file:, fd: or prompt:.")
    ] = _REFERENCE,
    key: Annotated[str | None, typer.Option(help="Key URI, for a key in a token.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a witness: its key, and its memory of heads. Print its verifier key."""
    from birthmark.shell.evidence.witness import create_witness
    from birthmark.shell.workspace.secrets import SecretsResolver

    vkey = create_witness(directory, name, secret, key, SecretsResolver())
    lines = [vkey, f"Next: birthmark witness watch {directory} VKEY-OF-A-LOG (a workspace has it in log/vkey)"]
    emit({"witness": name, "vkey": vkey}, "\n".join(lines), as_json=as_json)


def watch(
    directory: DirectoryArgument,
    vkey: Annotated[str, typer.Argument(help="Verifier key of the log.")],
    as_json: JsonOption = False,
) -> None:
    """Let the witness cosign one more log."""
    from birthmark.shell.evidence.witness import watch_log

    key = watch_log(directory, vkey)
    emit({"origin": key.name}, f"{directory} watches {key.name} from now on.", as_json=as_json)


def cosign(
    directory: DirectoryArgument,
    source: Annotated[Path, typer.Argument(help="Directory of a published log, or one checkpoint.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the cosigned checkpoint goes.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Cosign a log that lies in files, after verifying that it extends the head that was cosigned last."""
    from birthmark.shell.evidence.witness import cosign_log, open_witness
    from birthmark.shell.workspace.secrets import SecretsResolver

    with open_witness(directory, SecretsResolver()) as witness:
        done = cosign_log(witness, source, output)
    told = f"{done.origin}: {done.size:,} entries, an extension of the {done.before:,} cosigned before."
    document = {"origin": done.origin, "size": done.size, "before": done.before, "cosignature": done.line}
    emit({**document, "file": str(done.path)}, f"{told}\nwrote {done.path}", as_json=as_json)


def serve(
    directory: DirectoryArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8461,
    as_json: JsonOption = False,
) -> None:
    """Answer add-checkpoint requests over plain HTTP; put a TLS proxy before it."""
    from birthmark.shell.evidence.witness import open_witness
    from birthmark.shell.workspace.secrets import SecretsResolver

    try:
        from birthmark.shell.api.witness import bind, serve_witness
    except ModuleNotFoundError as problem:
        raise Misconfigured(
            "extra.missing",
            "the witness service needs a web server, which is not installed",
            hint="Install it with: pip install 'birthmark[serve]'.",
        ) from problem
    with open_witness(directory, SecretsResolver()) as witness:
        bound = bind(host, port)
        url = f"http://{host}:{bound.getsockname()[1]}"
        emit({"url": url, "witness": witness.name}, f"{witness.name} answers at {url}/add-checkpoint", as_json=as_json)
        serve_witness(witness, bound)


def check(
    source: Annotated[Path, typer.Argument(help="Directory of a published log, or one cosigned checkpoint.")],
    policy: Annotated[Path, typer.Option(help="Policy file (c2sp.org/tlog-policy): logs, witnesses, quorum.")],
    as_json: JsonOption = False,
) -> None:
    """Check that a head was seen by enough witnesses, and that the log still holds what they saw."""
    from birthmark.shell.evidence.witnessed import check_log, read_policy

    found = check_log(source, read_policy(policy)).document()
    lines = [f"{found['origin']}: {found['size']:,} entries, accepted by {policy}."]
    lines += [f"  {name} saw them at {at}" for name, at in found["witnesses"].items()]
    emit(found, "\n".join(lines), as_json=as_json)
