"""Wrong secrets, files, serials and clocks, full and read-only disks: one code each, and nothing is lost.

Everything goes through the real command line; after each refusal the cause is removed, the same command works, and the
audit finds nothing.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace

BIRTHMARK = str(Path(sys.executable).parent / "birthmark")
MAKE = ("order", "make", "lot", "--processes", "1")
NOBODY = 65534
Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose issuing CA lives 30 days, with an open order and one whose keys are born in devices."""
    root = tmp_path_factory.mktemp("bad") / "fab"
    make_workspace(root, issuing_days=30, device_days=10)
    options = ["--product", "device", "-C", str(root), "--json"]
    assert main(["order", "create", "lot", "--quantity", "6", "--first", "TH-0001", *options]) == 0
    born = ["--quantity", "2", "--first", "EL-0001", "--key-origin", "device"]
    assert main(["order", "create", "born", *born, *options]) == 0
    return root


def copied(source: Path, place: Path) -> Path:
    """Copy the workspace to ``place/fab``, its passphrase included, with directories for its devices."""
    root = place / "fab"
    shutil.copytree(source, root)
    settings = root / "birthmark.toml"
    settings.write_text(settings.read_text().replace(str(source / "secrets"), str(root / "secrets")))
    for name in ("TH-0001", "TH-0002", "EL-0001", "EL-0002"):
        (place / "out" / name).mkdir(parents=True)
    return root


@pytest.fixture
def root(ordered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
    return copied(ordered, tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def called(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return called


def provision(device_serial: str, *, born: bool = False) -> tuple[str, ...]:
    target = "files:out/{device_serial}" + ("?key=born" if born else "")
    return ("station", "provision", "--device-serial", device_serial, "--target", target)


def refused(run: Run, *command: str, code: int, error: str) -> dict[str, Any]:
    """Expect this refusal with a hint of one sentence or one command; return the document."""
    got, document = run(*command)
    assert (got, document.get("error")) == (code, error), document
    assert document["hint"].endswith(".") or document["hint"].startswith("Run: ")
    assert "\n" not in document["hint"]
    return document


def works_and_is_clean(run: Run, root: Path, *commands: tuple[str, ...]) -> None:
    for command in commands:
        code, document = run(*command)
        assert code == 0, document
    report = verify_workspace(root, processes=1)
    assert [f"{found.code} {found.what}" for found in report.findings if found.severity == "error"] == []
    assert report.orders["lot"]["ordered"] == 6


def test_wrong_passphrase_makes_nothing_and_is_not_repeated(root: Path, run: Run) -> None:
    passphrase = root / "secrets" / "passphrase"
    right = passphrase.read_text()
    passphrase.write_text("wrong-5d1f-passphrase")
    for command in (MAKE, provision("EL-0001", born=True)):
        assert "wrong-5d1f" not in json.dumps(refused(run, *command, code=2, error="key.secret.wrong"))
    passphrase.unlink()
    refused(run, *MAKE, code=2, error="key.file.missing")
    passphrase.write_text(right)
    passphrase.chmod(0o644)
    refused(run, *MAKE, code=2, error="key.file.mode")
    passphrase.chmod(0o600)
    works_and_is_clean(run, root, MAKE, provision("EL-0001", born=True))


@pytest.mark.parametrize(
    ("file", "command", "error"),
    [
        ("birthmark.toml", MAKE, "settings.malformed"),
        ("profiles/tls-client.toml", MAKE, "profile.key.unknown"),
        ("profiles/tls-client.toml", ("profile", "lint", "fab/profiles/tls-client.toml"), "profile.key.unknown"),
        ("ceremony.toml", ("ceremony", "run", "fab/ceremony.toml"), "ceremony.malformed"),
    ],
)
@pytest.mark.parametrize("line", ["colour = 'red'", "colour = = red", "name = 7"])
def test_file_with_an_unknown_key_or_none_at_all_is_named(
    root: Path, run: Run, file: str, command: tuple[str, ...], error: str, line: str
) -> None:
    text = (root / file).read_text()
    (root / file).write_text(f"{line}\n{text}")
    document = run(*command)[1]
    family = error.partition(".")[0]
    assert (document["family"], document["error"].partition(".")[0]) == ("Misconfigured", family)
    if line == "colour = 'red'":
        document = refused(run, *command, code=2, error=error)
        assert "colour" in json.dumps(document)
    (root / file).write_text(text)
    works_and_is_clean(run, root, MAKE)


@pytest.mark.parametrize(
    ("lines", "error", "named"),
    [
        (["AA-1", "AA-2", "AA-1"], "order.serial.duplicate", "AA-1"),
        (["AA-1", "TH-0003"], "order.serial.duplicate", "TH-0003"),
        (["AA-1", "AA\x07-2"], "order.serial.malformed", "AA"),
        (["AA-1", "AA\x1b[2J"], "order.serial.malformed", "AA"),
        (["AA-1", "A" * 65], "order.serial.malformed", "A" * 20),
        (["AA-1", "AA\x002"], "order.serial.malformed", "AA"),
        (["AA-1", "AA 2"], "order.serial.malformed", "AA 2"),
        (["AA-1", "\u0410A-2"], "order.serial.malformed", "A-2"),
    ],
    ids=["twice", "of-another-order", "bell", "escape", "65", "nul", "blank", "lookalike"],
)
def test_serial_that_cannot_be_refuses_the_whole_order_and_is_named(
    root: Path, run: Run, lines: list[str], error: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    create = ("order", "create", "more", "--product", "device", "--devices", "list.txt")
    assert named in json.dumps(refused(run, *create, code=3, error=error), ensure_ascii=False)
    assert main(list(create)) == 3
    shown = capsys.readouterr().err
    assert not {letter for letter in shown if ord(letter) < 32 and letter != "\n"}
    assert set(run("order", "list")[1]["orders"]) == {"lot", "born"}
    Path("list.txt").write_text("AA-1\n" + "A" * 64 + "\n")
    works_and_is_clean(run, root, create, MAKE)


@pytest.mark.parametrize(
    ("moved", "error"),
    [(timedelta(days=-3), "issuer.not_yet_valid"), (timedelta(days=40), "issuer.expired")],
    ids=["before", "expired"],
)
def test_clock_outside_the_life_of_the_issuing_ca_signs_nothing(
    root: Path, run: Run, moved: timedelta, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as clock:
        clock.setattr("birthmark.shell.workspace.wiring.utc_now", lambda: datetime.now(UTC) + moved)
        refused(run, *MAKE, code=3, error=error)
        refused(run, *provision("EL-0001", born=True), code=3, error=error)
    report = verify_workspace(root, processes=1)
    assert report.errors == 0
    assert report.counts.get("certificates", 0) == 0
    works_and_is_clean(run, root, MAKE, provision("EL-0001", born=True))


def test_key_that_does_not_match_its_certificate_signs_nothing(root: Path, run: Run) -> None:
    key = root / "keys" / "issuing.pem"
    right = key.read_bytes()
    key.write_bytes((root / "keys" / "root.pem").read_bytes())
    for command in (MAKE, provision("EL-0001", born=True)):
        refused(run, *command, code=2, error="issuer.key.mismatch")
    key.write_bytes(right)
    works_and_is_clean(run, root, MAKE, provision("EL-0001", born=True))


def test_key_of_another_device_in_a_request_is_refused(root: Path, run: Run) -> None:
    """The second device asks with the key of the first: a cloned board."""
    assert run(*provision("EL-0001", born=True))[0] == 0
    clone = Path("out/EL-0002/device.key.new")
    clone.write_bytes(Path("out/EL-0001/device.key").read_bytes())
    clone.chmod(0o600)
    refused(run, *provision("EL-0002", born=True), code=3, error="key.reused")
    clone.unlink()
    works_and_is_clean(run, root, provision("EL-0002", born=True), MAKE)


@pytest.mark.parametrize("command", [MAKE, provision("TH-0001"), ("order", "list")])
def test_missing_workspace_is_named_and_not_made(
    tmp_path: Path, run: Run, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIRTHMARK_WORKSPACE", "nowhere")
    refused(run, *command, code=2, error="workspace.missing")
    refused(run, "audit", "verify", "nowhere", code=2, error="audit.workspace.missing")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def somebody_else(place: Path) -> Iterator[None]:
    """Give ``place`` to a user whom permissions bind and become that user, if this is root."""
    if os.geteuid() != 0:
        yield
        return
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("directory", "command", "errors"),
    [
        ("fab/ledger", MAKE, {"ledger.read_only", "storage.read_only"}),
        ("fab/ledger", provision("TH-0001"), {"ledger.read_only", "storage.read_only"}),
        ("fab/log", provision("TH-0001"), {"storage.read_only"}),
        ("fab/journal", provision("TH-0001"), {"storage.read_only"}),
        ("out/TH-0001", provision("TH-0001"), {"storage.read_only", "target.directory.read_only"}),
    ],
)
def test_read_only_directory_is_a_fault_of_the_station(
    ordered: Path, run: Run, directory: str, command: tuple[str, ...], errors: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(tempfile.mkdtemp(prefix="birthmark-"))
    try:
        root = copied(ordered, place)
        monkeypatch.chdir(place)
        monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
        if command != MAKE:
            assert run(*MAKE)[0] == 0
        tree = [place / directory, *(place / directory).rglob("*")]
        modes = {path: path.stat().st_mode & 0o7777 for path in tree}
        with somebody_else(place):
            for path in tree:
                path.chmod(modes[path] & 0o555)
            got, document = run(*command)
            for path, mode in modes.items():
                path.chmod(mode)
        assert (got, document["family"]) == (5, "StationFault"), document
        assert document["error"] in errors
        assert document["hint"].endswith(".")
        works_and_is_clean(run, root, MAKE, provision("TH-0001"))
    finally:
        shutil.rmtree(place)


@contextmanager
def small_disk(place: Path) -> Iterator[bool]:
    """Mount 24 MB of memory at ``place``; yields False where this user cannot mount."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True).returncode
    try:
        yield mounted == 0
    finally:
        if mounted == 0:
            subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    """Leave no octet on the disk of ``place``; return the file that is in the way."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def on_a_full_disk(place: Path, mounted: bool, *command: str) -> tuple[int, dict[str, Any]]:
    """Run the program where nothing more can be written: no space, or no file may grow."""
    ballast = fill(place) if mounted else None
    limit = None if mounted else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (4096, 4096))
    done = subprocess.run(
        [BIRTHMARK, *command, "--json"], cwd=place, capture_output=True, text=True, timeout=60, preexec_fn=limit
    )
    if ballast is not None:
        ballast.unlink()
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_full_disk_is_a_fault_of_the_station_and_nothing_is_lost(
    ordered: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk") as mounted:
        place = tmp_path / "disk"
        root = copied(ordered, place)
        monkeypatch.chdir(place)
        monkeypatch.setenv("BIRTHMARK_WORKSPACE", "fab")
        for command in (MAKE, provision("TH-0001"), provision("EL-0001", born=True)):
            code, document = on_a_full_disk(place, mounted, *command)
            assert (code, document["family"]) == (5, "StationFault"), (command, document)
            assert document["error"] in {
                "ledger.full",
                "ledger.io",
                "storage.full",
                "journal.not_durable",
                "station.os",
            }
            assert document["hint"].endswith(".")
            works_and_is_clean(run, root, command)
        monkeypatch.chdir(tmp_path)
