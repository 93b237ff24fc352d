"""``birthmark plan``: the decision guide on the screen, from a file, or as one JSON document."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from birthmark.errors import BirthmarkError, Misconfigured, Refused, StationFault
from birthmark.guide.answers import parse_answers
from birthmark.guide.plan import Outcome, Plan, decide, refusal, render_plan
from birthmark.guide.rule import Finding, Verdict
from birthmark.shell.cli.plan_questions import ask_answers, ask_output

__all__ = ["plan", "register"]

_MAX_OCTETS = 64 * 1024
_LOOK: dict[Verdict, tuple[str, str]] = {
    "refused": ("✗ REFUSED", "bold red"),
    "discouraged": ("! discouraged", "bold yellow"),
    "allowed": ("· allowed", "cyan"),
    "recommended": ("✓ recommended", "green"),
}
"""Verdict → mark and word (so that it reads without colour), style."""

_DERIVED: tuple[tuple[str, str], ...] = (
    ("when_to_generate", "When to generate"),
    ("when_to_install", "When to install"),
    ("source", "Where the station's credential comes from"),
    ("key_origin", "Where the device's key is made"),
    ("target", "What it is installed into"),
    ("profile", "Certificate profile"),
    ("key_algorithm", "Key algorithm"),
    ("validity_days", "Life of a certificate"),
    ("issuing_ca_days", "Life of the issuing CA"),
    ("root_ca_days", "Life of the root"),
    ("ca_owner", "Who holds the issuing CA"),
    ("ca_key", "Where its key lives"),
    ("sensitive", "Secure room, two persons"),
    ("clouds", "Registered with"),
)
_WORDS: dict[str, dict[str, str]] = {
    "when_to_generate": {
        "preloaded": "by the chip vendor, before delivery",
        "in_device": "in the device, on the line",
        "on_demand_online": "on demand, over the network",
        "on_demand_offline": "on demand, by the CA on site",
        "ahead_of_time": "ahead of time",
        "by_cloud": "by the cloud, when the device first connects",
    },
    "when_to_install": {
        "preloaded": "nothing to install: the chip arrives with it",
        "firmware_image": "with the firmware image",
        "line_tool": "by the line tool, in one touch",
        "by_cloud": "nothing on the line: the device fetches it",
    },
    "source": {
        "online": "the authority, over the network",
        "factory_ca": "the CA on site",
        "pool": "a sealed pool of ready-made identities",
        "csr_travel": "requests carried out, certificates carried back",
        "vendor": "the chip vendor's signed manifest",
        "cloud": "the cloud; the line collects device ids",
    },
    "key_origin": {"device": "in the device; it never leaves", "injected": "outside, sealed, injected by the station"},
    "ca_owner": {"maker": "you", "third_party": "the service", "cloud": "the cloud"},
    "ca_key": {"file": "encrypted file", "pkcs11": "PKCS#11 token", "none": "not with you"},
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("plan")(plan)


def plan(
    answers: Annotated[Path | None, typer.Option(help="TOML file with the answers; - reads standard input.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the plan here, for `birthmark init --plan`.")] = None,
    force: Annotated[bool, typer.Option(help="Replace the file of --output.")] = False,
) -> None:
    """Decide how devices get their identities: questions in, a plan or named refusals out."""
    console = Console(highlight=False)
    if output is not None:
        _check_output(output, force=force)
    if answers is not None:
        given = parse_answers(_read(answers))
    elif as_json or not sys.stdin.isatty():
        raise Misconfigured(
            "guide.answers.absent",
            "there are no answers and nobody to ask",
            hint="Name a file with --answers, or run `birthmark plan` in a terminal.",
        )
    else:
        given = ask_answers(console)
    outcome = decide(given)
    if as_json:
        _tell_json(outcome, output)
        return
    _show(console, outcome)
    if outcome.plan is None:
        raise refusal(outcome)
    if output is None and answers is None:
        output = ask_output(console)
        if output is not None:
            _check_output(output, force=force)
    if output is not None:
        _write(output, render_plan(outcome.plan).encode("utf-8"))
    _show_next(console, outcome.plan, answers, output)


def _tell_json(outcome: Outcome, output: Path | None) -> None:
    """Print the one document; a refusal is part of it, so it ends in the exit code alone."""
    error = refusal(outcome) if outcome.plan is None else None
    if outcome.plan is not None and output is not None:
        _write(output, render_plan(outcome.plan).encode("utf-8"))
    document: dict[str, Any] = {
        "outcome": "refused" if error else "plan",
        "findings": outcome.findings,
        "plan": outcome.plan,
        "written": str(output) if output is not None and error is None else None,
        "problem": error.document() if error else None,
    }
    print(msgspec.json.encode(document).decode("utf-8"), flush=True)
    if error is not None:
        raise typer.Exit(error.exit_code)


def _show(console: Console, outcome: Outcome) -> None:
    shown = outcome.findings
    if outcome.plan is None:
        shown = tuple(finding for finding in shown if finding.verdict in ("refused", "discouraged"))
    table = Table(title="What follows from your answers", title_justify="left", expand=True, show_lines=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("what it means", ratio=1)
    table.add_column("rule", no_wrap=True)
    for finding in shown:
        mark, style = _LOOK[finding.verdict]
        table.add_row(Text(mark, style=style), _explained(finding), Text(finding.rule))
    console.print(table)
    if len(shown) < len(outcome.findings):
        console.print(Text(f"{len(outcome.findings) - len(shown)} more findings stand in --json.", style="dim"))
    if outcome.plan is not None:
        console.print(_derived(outcome.plan))


def _explained(finding: Finding) -> Text:
    text = Text(finding.title, style="bold")
    text.append(f"\n{finding.reason}", style="not bold")
    if finding.advice:
        text.append(f"\n→ {finding.advice}", style="not bold italic")
    return text.append(f"\nSource: {finding.source}", style="not bold dim")


def _derived(plan: Plan) -> Table:
    table = Table(title="The plan", title_justify="left", expand=True)
    table.add_column("decision")
    table.add_column("result", ratio=1)
    for name, label in _DERIVED:
        table.add_row(label, Text(_worded(name, getattr(plan, name))))
    return table


def _worded(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,} days" if value else "no expiry"
    if isinstance(value, tuple):
        return ", ".join(value)
    return _WORDS.get(name, {}).get(str(value), str(value))


def _show_next(console: Console, plan: Plan, answers: Path | None, output: Path | None) -> None:
    commands = list(plan.next_commands)
    if output is None:
        source = f" --answers {shlex.quote(str(answers))}" if answers is not None else ""
        commands.insert(0, f"birthmark plan{source} --output plan.toml")
    else:
        commands = [command.replace("plan.toml", shlex.quote(str(output))) for command in commands]
        console.print(Text(f"The plan is in {output}."))
    console.print(Text("Run next:", style="bold"))
    for command in commands:  # one line each, unbroken, so that it can be copied
        console.print(Text(f"  {command}"), soft_wrap=True)


def _read(path: Path) -> bytes:
    """Return the octets of the answers file, at most one more than a file of answers may have."""
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(_MAX_OCTETS + 1)
        with path.open("rb") as file:
            return file.read(_MAX_OCTETS + 1)
    except OSError as problem:
        raise Misconfigured(
            "guide.answers.file",
            f"the answers cannot be read: {problem.strerror}",
            hint="Name a readable TOML file with --answers.",
            path=str(path),
        ) from None


def _check_output(path: Path, *, force: bool) -> None:
    """Refuse early what could not be written at the end."""
    if path.is_dir() or not path.parent.is_dir():
        raise Misconfigured(
            "guide.plan.path",
            "the plan cannot be written there: " + ("it is a directory" if path.is_dir() else "no such directory"),
            hint="Name a file in a directory that exists.",
            path=str(path),
        )
    if not force and os.path.lexists(path):
        raise Refused(
            "guide.plan.exists",
            "there is a file of that name already",
            hint="Choose another name, or replace it with --force.",
            path=str(path),
        )


def _write(path: Path, octets: bytes) -> None:
    """Write all or nothing: a temporary file beside it, synced, then renamed, then the directory synced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as problem:
        raise _not_written(path, problem) from None


def _not_written(path: Path, problem: OSError) -> BirthmarkError:
    return StationFault(
        "guide.plan.write",
        f"the plan cannot be written: {problem.strerror}",
        hint="Mend the disk or its permissions, or choose another directory.",
        path=str(path),
    )
