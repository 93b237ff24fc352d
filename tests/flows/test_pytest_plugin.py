"""pytest as the line's test executive: the plug-in as pytest finds it, in a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from support.skinworld import TARGET, events, make_bench

PLUGIN = ("-p", "birthmark.integrations.pytest")
"""Named as in the entry point; the other plug-ins of this environment would cost each run two seconds."""
BODY = """
import os

def test_device(device_identity):
    assert device_identity.outcome in ("pass", "already")
    assert os.path.exists(f"out/{device_identity.device_serial}/device.crt")

def test_more(device_identity):
    assert device_identity.outcome == "already"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("pytest"))


def run(place: Path, *options: str, body: str = BODY, settings: str = "") -> tuple[int, str]:
    """Run pytest as a user does, in a process of its own, with the one plug-in."""
    (place / "test_station.py").write_text(body)
    (place / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{settings}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGIN, *options]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def named(device_serial: str) -> tuple[str, ...]:
    return "--birthmark-workspace", "fab", "--birthmark-target", TARGET, "--device-serial", device_serial


def test_the_device_has_its_identity_before_the_body_runs(place: Path) -> None:
    code, told = run(place, *named("TH-0001"), "--birthmark-handshake", "--junitxml", "seen.xml")
    assert (code, "2 passed" in told) == (0, True), told
    tags = [event.__struct_config__.tag for event in events(place, "TH-0001")]
    assert tags.count("verified") == 1
    assert re.search(r'name="cert_sha256" value="[0-9a-f]{64}"', (place / "seen.xml").read_text())


def test_pytest_finds_the_plugin_by_itself() -> None:
    (found,) = entry_points(group="pytest11", name="birthmark")
    assert found.value == PLUGIN[1]
    assert hasattr(found.load(), "device_identity")


def test_settings_in_a_file_and_a_serial_of_ones_own(place: Path) -> None:
    settings = f"birthmark_workspace = fab\nbirthmark_station = line1\nbirthmark_target = {TARGET}\n"
    scanned = "import pytest\n@pytest.fixture\ndef device_serial():\n    return 'TH-0002'\n"
    code, told = run(place, body=scanned + BODY, settings=settings)
    assert (code, "2 passed" in told) == (0, True), told


def test_a_device_that_gets_none_fails_with_what_to_do(place: Path) -> None:
    body = "def test_device(device_identity):\n    open('ran', 'w').close()\n"
    code, told = run(place, *named("TH-9999"), body=body)
    assert code == 1
    assert "Refused no order contains device TH-9999  [device.unknown]" in told
    assert "→ Check the scanned serial" in told
    assert "Traceback" not in told
    assert not (place / "ran").exists()


def test_a_fault_of_the_station_stops_the_session(place: Path) -> None:
    target = ("--birthmark-target", "files:nowhere/{device_serial}")
    code, told = run(place, *named("TH-0003"), *target)
    assert (code, "target.directory.missing" in told) == (2, True), told
    assert "birthmark stops the line" in told
    assert "1 error" in told


@pytest.mark.parametrize("left_out", ["--birthmark-workspace", "--birthmark-target", "--device-serial"])
def test_what_is_not_said_is_asked_for_by_name(place: Path, left_out: str) -> None:
    options = list(named("TH-0003"))
    at = options.index(left_out)
    code, told = run(place, *options[:at], *options[at + 2 :])
    assert (code, left_out in told) == (1, True), told


def test_whoever_does_not_use_it_pays_nothing(place: Path) -> None:
    body = (
        "import sys\n"
        "def test_inert():\n"
        "    loaded = sorted(name for name in sys.modules if name.partition('.')[0] == 'birthmark')\n"
        "    assert loaded == ['birthmark', 'birthmark.integrations', 'birthmark.integrations.pytest']\n"
        "    assert 'cryptography' not in sys.modules and 'typer' not in sys.modules\n"
    )
    code, told = run(place, body=body)
    assert (code, "1 passed" in told) == (0, True), told
