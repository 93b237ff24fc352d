"""``birthmark``: builds the application for the noun that was asked for, and turns errors into exits."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from birthmark import __version__
from birthmark.errors import BirthmarkError, Misconfigured, StationFault
from birthmark.shell.cli.following import GIVEN, named_workspace, typed_hint
from birthmark.shell.cli.nouns import NOUNS, first_screen

if TYPE_CHECKING:
    import typer

__all__ = ["build_app", "main"]

_INTERRUPTED = 130
_INTERNAL = 70
_USAGE = 2


def build_app(nouns: Sequence[str]) -> typer.Typer:
    """Return the application with the commands of ``nouns``."""
    import typer

    from birthmark.shell.cli.helptext import Commands

    app = typer.Typer(
        name="birthmark",
        help="Gives every IoT device its own X.509 identity on the production line, and proves it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def _root() -> None:
        """Give every IoT device its own X.509 identity on the production line, and prove it."""

    for noun in nouns:
        import_module(f"birthmark.shell.cli.{NOUNS[noun]}").register(app)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            group.typer_instance.info.cls = Commands
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (one meaning each, see ``birthmark.errors``)."""
    _keep_to_ourselves()
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if argv in (["--version"], ["-V"], ["version"]):
        print(f"birthmark {__version__}")
        return 0
    if argv in ([], ["--help"], ["-h"], ["help"]):
        print(first_screen())
        return 0 if argv else _USAGE
    if argv[0] == "help":
        argv = [*argv[1:], "--help"]
    GIVEN.set(named_workspace(argv))
    chosen = [argv[0]] if argv and argv[0] in NOUNS else list(NOUNS)
    try:
        outcome = build_app(chosen)(argv, standalone_mode=False)
    except BirthmarkError as problem:
        with suppress(OSError):  # the exit code tells it as well, where nobody can be told
            _tell(problem, argv)
        return problem.exit_code
    except OSError as problem:
        with suppress(OSError):
            _tell(_os_failure(problem), argv)
        return StationFault.exit_code
    except KeyboardInterrupt:
        outcome = _INTERRUPTED
    except UnicodeEncodeError as problem:
        if all(_is_text(argument) for argument in argv):
            return _tell_other(problem)
        refusal = _no_text()
        _tell(refusal, argv)
        return refusal.exit_code
    except Exception as problem:  # noqa: BLE001  the last stop: a defect must not look like a verdict
        return _tell_other(problem)
    if outcome == _INTERRUPTED:
        # Typer makes a result of KeyboardInterrupt, too; no command returns this number itself.
        print("interrupted; run the same command again to go on", file=sys.stderr)
    return outcome if isinstance(outcome, int) else 0


def _keep_to_ourselves() -> None:
    """Whatever the caller's settings are: nobody else writes our files, and no core file holds our keys."""
    os.umask(os.umask(0o077) | 0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _is_text(argument: str) -> bool:
    """Say whether an argument came as UTF-8; Python carries other octets as lone surrogates, which paths may hold."""
    return not any("\ud800" <= sign <= "\udfff" for sign in argument)


def _no_text() -> Misconfigured:
    return Misconfigured(
        "command.text",
        "one of the words of this command is not UTF-8, and should go on record as text",
        hint="Type it again, or let the terminal and the script that calls this program use UTF-8.",
    )


def _os_failure(problem: OSError) -> StationFault:
    """Name what the operating system refused outside every port: most often the terminal or pipe that is written to."""
    return StationFault(
        "station.os",
        f"the operating system failed: {problem.strerror or problem}",
        hint="Check disk and output; then run the same command again, it goes on where it stopped.",
    )


def _tell_other(problem: Exception) -> int:
    """Tell usage errors as such, anything else as a defect of the program."""
    import typer
    from typer._click.exceptions import ClickException  # typer carries its own click and exports no base class

    if isinstance(problem, typer.Exit):
        return int(problem.exit_code)
    if isinstance(problem, typer.Abort):
        return _INTERRUPTED
    if isinstance(problem, ClickException):
        problem.show()
        return int(problem.exit_code)
    import traceback

    traceback.print_exc()
    print("this is a defect of birthmark, not of your device; nothing was passed [internal]", file=sys.stderr)
    return _INTERNAL


def _tell(problem: BirthmarkError, argv: Sequence[str]) -> None:
    """Print an error: what happened, the facts, what to do next."""
    if "--json" in argv:
        print(json.dumps(problem.document(), sort_keys=True), flush=True)
        return
    from birthmark.shell.cli.screen import visible

    def told(text: str) -> str:
        # Who sent part of this text begins no line of ours with it: there a verdict would stand.
        return visible(text).replace("\n", "\n    ")

    red, bold, plain = ("\033[31m", "\033[1m", "\033[0m") if sys.stderr.isatty() else ("", "", "")
    print(
        f"{red}{bold}{type(problem).__name__}{plain} {told(problem.message)}  [{told(problem.code)}]", file=sys.stderr
    )
    for name, value in problem.facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        if shown not in (None, ""):
            print(f"  {name}: {told(str(shown))}", file=sys.stderr)
    print(f"  {bold}→{plain} {told(typed_hint(problem.hint, GIVEN.get()))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
