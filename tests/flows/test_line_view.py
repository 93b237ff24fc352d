"""The operator's view: a scanner that types and presses Enter, one big word, what to do, the numbers of the shift."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from birthmark.errors import DeviceFault, StationFault, Tampered, Unavailable
from birthmark.shell.cli.main import main
from birthmark.shell.line.session import open_line
from birthmark.shell.lineview.app import LineView
from birthmark.shell.lineview.bigword import big
from birthmark.shell.lineview.shift import Shift, verdict_of
from birthmark.shell.throwaway import make_workspace
from birthmark.wire.label import label_of

TARGET = "files:out/{device_serial}?key=born"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("view")
    make_workspace(place / "fab")
    order = ["--product", "device", "--quantity", "8", "--first", "TH-0001", "--key-origin", "device"]
    assert main(["order", "create", "lot", *order, "-C", str(place / "fab"), "--json"]) == 0
    for number in range(1, 8):
        (place / "out" / f"TH-{number:04d}").mkdir(parents=True)
    return place


@pytest.fixture
def place(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


async def scan(pilot: Pilot[int], text: str, *, times: int = 1) -> None:
    view = pilot.app
    assert isinstance(view, LineView)
    field = view.query_one("#scan", Input)
    for _ in range(times):
        field.value = text
        await field.action_submit()
    for _ in range(300):
        await pilot.pause(0.05)
        if view._run_now is None:
            return
    raise AssertionError("it does not end")


def shown(view: LineView, name: str) -> str:
    return str(view.query_one(f"#{name}", Static).content)


def watched(place: Path, story: Callable[[Pilot[int], LineView], object]) -> LineView:
    async def run() -> LineView:
        with open_line("fab") as line:
            view = LineView(line, TARGET)
            async with view.run_test(size=(110, 34)) as pilot:
                await story(pilot, view)  # type: ignore[misc]
            return view

    return asyncio.run(run())


def test_a_shift_from_scan_to_scan(place: Path) -> None:
    async def story(pilot: Pilot[int], view: LineView) -> None:
        assert (shown(view, "word"), shown(view, "todo")) == (big("READY"), "→ Scan a device.")
        await scan(pilot, "TH-0001", times=3)
        assert (shown(view, "word"), shown(view, "serial")) == (big("PASS"), "TH-0001")
        assert "record" in shown(view, "steps")
        assert view.shift.passed == 1, "a double scan is one device"
        (place / "out" / "TH-0002" / "device-id").write_text("TH-0009\n")
        await scan(pilot, "TH-0002")
        assert shown(view, "word") == big("FAIL")
        assert "device.identity.mismatch" in shown(view, "reason")
        assert "Put the right device into the fixture" in shown(view, "todo")
        (place / "out" / "TH-0002" / "device-id").unlink()
        await scan(pilot, "TH-0002")
        assert shown(view, "word") == big("PASS")
        assert (view.shift.passed, view.shift.failed, view.shift.share) == (2, 0, 1.0), "as it ended"
        await scan(pilot, "TH-0008")
        assert shown(view, "word") == big("MEND")
        assert "target.directory.missing" in shown(view, "reason")
        assert view.shift.failed == 0, "a fixture that is not there is no bad device"
        await scan(pilot, "TH-9999")
        assert (shown(view, "word"), view.shift.failed) == (big("FAIL"), 1)
        await pilot.press("ctrl+q")

    assert watched(place, story).return_value == 1


def test_a_label_is_a_scan_and_nothing_that_is_scanned_draws_on_the_screen(place: Path) -> None:
    async def story(pilot: Pilot[int], view: LineView) -> None:
        await scan(pilot, label_of("TH-0003", b"any").text)
        assert (shown(view, "word"), shown(view, "serial")) == (big("PASS"), "TH-0003")
        await scan(pilot, "[bold red]TH[/bold red]")
        assert shown(view, "word") == big("FAIL")
        assert "[bold red]TH[/bold red]" in shown(view, "serial") + shown(view, "reason")
        await scan(pilot, "   ")
        assert shown(view, "word") == big("FAIL"), "an empty scan changes nothing"

    watched(place, story)


def test_in_a_real_terminal(place: Path) -> None:
    program = Path(sys.executable).parent / "birthmark"
    environment = {**os.environ, "TERM": "xterm-256color"}
    with pexpect.spawn(
        str(program), ["line", "--target", TARGET, "-C", "fab"], dimensions=(34, 110), env=environment, timeout=60
    ) as terminal:
        terminal.expect("Scan a device")
        terminal.send("TH-0004\r")
        terminal.expect("signed our challenge")
        terminal.send("\x11")
        terminal.expect("1 passed, 0 failed: yield 100.0 %")
        terminal.expect(pexpect.EOF)
        terminal.wait()
        assert terminal.exitstatus == 0


@pytest.mark.parametrize(
    ("error", "word", "failed"),
    [
        (DeviceFault("a.b", "bad", hint="Rework."), "FAIL", 1),
        (Tampered("a.b", "differs", hint="Stop."), "STOP", 1),
        (StationFault("a.b", "open", hint="Mend."), "MEND", 0),
        (Unavailable("a.b", "busy", hint="Again."), "AGAIN", 0),
    ],
)
def test_every_family_has_its_word(error: DeviceFault, word: str, failed: int) -> None:
    shift = Shift(iter(range(100)).__next__)
    shift.add(verdict_of("SN-1", 1.0, None, error))
    assert (shift.units[0].word, shift.units[0].told, shift.failed) == (word, (error.message, error.hint), failed)
    assert len({len(row) for row in big(word).split("\n")}) == 1


def test_the_rate_is_that_of_the_last_quarter_of_an_hour() -> None:
    now = [0.0]
    shift = Shift(lambda: now[0])
    passed = verdict_of("SN", 1.0, None, DeviceFault("a.b", "x", hint="y"))
    for number in range(120):
        now[0] += 30
        unit = passed.__class__(f"SN-{number}", "PASS", ("", ""), None, 1.0)
        shift.add(unit)
        assert (shift.rate() is None) == (now[0] < 60)
    assert shift.rate() == pytest.approx(120, abs=5)
    now[0] += 2000
    assert shift.rate() == 0
