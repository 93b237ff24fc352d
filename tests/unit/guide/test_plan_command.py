"""``birthmark plan`` as people and programs use it: screens, exit codes, files, a real terminal."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from birthmark.errors import BirthmarkError, Misconfigured, Refused, StationFault
from birthmark.guide.plan import parse_plan
from birthmark.shell.cli.plan import register

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
GOOD = EXAMPLES / "plan-offline-hsm.toml"
BAD = EXAMPLES / "plan-refused-rolled-without-ota.toml"


def application() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


def run(*arguments: str | Path, stdin: bytes = b"") -> Any:
    return CliRunner().invoke(
        application(), [str(argument) for argument in arguments], input=stdin, env={"COLUMNS": "100"}
    )


def failure(*arguments: str | Path, stdin: bytes = b"") -> BirthmarkError:
    result = run(*arguments, stdin=stdin)
    assert isinstance(result.exception, BirthmarkError), result.output
    return result.exception


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "birthmark.shell.cli.main", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)


def test_screen_shows_findings_plan_and_next_command_within_a_hundred_columns() -> None:
    result = run("--answers", GOOD)
    assert result.exit_code == 0
    for shown in (
        "G-STO-01",
        "✓ recommended",
        "the CA on site",
        "birthmark init factory --plan plan.toml",
        "1,095 days",
    ):
        assert shown in result.output
    assert max(len(line) for line in result.output.splitlines()) <= 100
    assert "\x1b" not in result.output


def test_refusal_is_named_on_the_screen_and_in_the_error() -> None:
    result = run("--answers", BAD)
    assert isinstance(result.exception, Refused)
    assert result.exception.code == "guide.plan.refused"
    assert result.exception.facts["rules"] == ["G-VAL-06"]
    assert "✗ REFUSED" in result.output
    assert "The plan" not in result.output


@pytest.mark.parametrize(("answers", "code"), [(GOOD, 0), (BAD, 3)])
def test_json_is_one_document_and_the_exit_code_says_the_same(answers: Path, code: int) -> None:
    done = program("--answers", answers, "--json")
    assert (done.returncode, done.stderr) == (code, "")
    document = json.loads(done.stdout)
    assert document["outcome"] == ("plan" if code == 0 else "refused")
    assert (document["plan"] is None) == (code == 3)
    refused = [finding["rule"] for finding in document["findings"] if finding["verdict"] == "refused"]
    assert refused == ([] if code == 0 else document["problem"]["facts"]["rules"])


def test_program_without_answers_and_without_a_terminal_does_not_wait() -> None:
    done = program()
    assert done.returncode == Misconfigured.exit_code
    assert "guide.answers.absent" in done.stderr


def test_answers_come_from_standard_input(tmp_path: Path) -> None:
    assert run("--answers", "-", stdin=GOOD.read_bytes()).exit_code == 0


def test_plan_is_written_and_reads_back(tmp_path: Path) -> None:
    target = tmp_path / "my plan.toml"
    result = run("--answers", GOOD, "--output", target)
    assert result.exit_code == 0
    plan = parse_plan(target.read_bytes())
    assert (plan.source, plan.sensitive) == ("factory_ca", True)
    assert tomllib.loads(target.read_text())["answers"]["storage"] == "hsm"
    assert "my plan.toml'" in result.output  # quoted in the next command
    assert [path.name for path in tmp_path.iterdir()] == ["my plan.toml"]


def test_plan_that_lies_there_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "plan.toml"
    target.write_text("precious")
    assert failure("--answers", GOOD, "--output", target).code == "guide.plan.exists"
    assert target.read_text() == "precious"
    assert run("--answers", GOOD, "--output", target, "--force").exit_code == 0
    assert target.read_text() != "precious"


def test_dangling_link_is_not_followed_or_replaced(tmp_path: Path) -> None:
    link = tmp_path / "plan.toml"
    link.symlink_to(tmp_path / "elsewhere")
    assert failure("--answers", GOOD, "--output", link).code == "guide.plan.exists"
    assert link.is_symlink()


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_refused_answers_write_no_plan(tmp_path: Path, extra: tuple[str, ...]) -> None:
    assert run("--answers", BAD, "--output", tmp_path / "plan.toml", *extra).exit_code != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [Path("."), Path("no/such/directory/plan.toml")])
def test_place_that_cannot_take_a_plan_is_refused_first(tmp_path: Path, target: Path) -> None:
    assert failure("--answers", GOOD, "--output", tmp_path / target).code == "guide.plan.path"


def test_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A file size limit of zero lets the first write fail, as a full disk does."""
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        "from birthmark.shell.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-B", "-c", script, "plan", "--json", "--answers", str(GOOD)]
    command += ["--output", str(tmp_path / "plan.toml")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == StationFault.exit_code
    assert json.loads(done.stdout)["error"] == "guide.plan.write"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_unreadable_answers_are_named(tmp_path: Path, name: str) -> None:
    problem = failure("--answers", tmp_path / name)
    assert (problem.code, problem.facts["path"]) == ("guide.answers.file", str(tmp_path / name))


def test_endless_answers_are_not_read_to_the_end() -> None:
    assert failure("--answers", "/dev/zero").code == "guide.answers.toml"


def test_written_plan_is_a_plain_readable_file(tmp_path: Path) -> None:
    target = tmp_path / "plan.toml"
    run("--answers", GOOD, "--output", target)
    mode = target.stat().st_mode
    assert stat.S_ISREG(mode)
    assert not mode & 0o111


def terminal(typed: str, directory: Path) -> tuple[int, str]:
    """Run the program in a real terminal of 100 columns, type ``typed``, return exit code and screen."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb"}
    command = [sys.executable, "-m", "birthmark.shell.cli.main", "plan"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=directory, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        screen = b""
        try:
            while piece := os.read(ours, 65_536):
                screen += piece
        except OSError:
            pass  # the terminal is closed by its last user: this is its end
        code = process.wait(timeout=60)
    os.close(ours)
    return code, screen.decode()


def test_person_answers_in_a_terminal_and_gets_a_plan(tmp_path: Path) -> None:
    typed = ["3", "9", "hsm", "1", "none", "1", "", "", "export"]  # 9 is mistyped and asked again
    code, screen = terminal("\n".join([*typed, "", ""]) + "\n", tmp_path)
    assert code == 0, screen
    assert "1/8  Root of trust" in screen
    assert "Use one of: hsm, tee, file_system, plugin." in " ".join(screen.split())
    plan = parse_plan((tmp_path / "plan.toml").read_bytes())
    assert (plan.answers.root, plan.answers.storage, plan.source) == ("self_managed", "hsm", "online")


def test_person_who_answers_the_facts_is_refused_by_them(tmp_path: Path) -> None:
    decisions = ["self_managed", "file_system", "online", "none", "rolled", "derive", "derive", "export", "y"]
    facts = ["no", "no", "linux", "no", "ten", "10,000"]  # update path: no; ten devices are asked again
    code, screen = terminal("\n".join(decisions + facts) + "\n" * 20, tmp_path)
    assert code == Refused.exit_code, screen
    assert "G-VAL-06" in screen
    assert list(tmp_path.iterdir()) == []


def test_person_who_ends_the_input_ends_the_command(tmp_path: Path) -> None:
    code, screen = terminal("3\n\x04", tmp_path)
    assert code == 130, screen
    assert list(tmp_path.iterdir()) == []
