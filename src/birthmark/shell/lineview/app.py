"""The screen: a line for the scanner, one big word, the reason, what to do, and the numbers of the shift.

Whatever arrives ends with Enter, as from a scanner that is a keyboard. No mouse, no menu, no question.
"""

from __future__ import annotations

import time
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Digits, Input, Static

from birthmark.errors import BirthmarkError
from birthmark.shell.line.session import Line, LineRun, Outcome, Progress
from birthmark.shell.lineview.bigword import big
from birthmark.shell.lineview.shift import Shift, Unit, verdict_of
from birthmark.wire.label import parse_label

__all__ = ["LineView"]

_POLL_S = 0.1
_WORDS = ("READY", "BUSY", "PASS", "FAIL", "AGAIN", "MEND", "STOP")
_STEP_WORDS = {"ok": "✔", "failed": "✘", "start": "…"}


class LineView(App[int]):
    """``line``: an open station; ``target``: its URI with a placeholder. Returns the number of units that failed."""

    ENABLE_COMMAND_PALETTE = False
    TITLE = "birthmark"
    BINDINGS: ClassVar[list[BindingType]] = [("ctrl+q", "leave", "End of the shift")]
    CSS = """
    Screen { layout: vertical; background: $background; }
    #head { height: 1; padding: 0 1; background: $panel; }
    #scan { margin: 1 2 0 2; }
    #verdict { height: 13; margin: 1 2; align: center middle; background: $panel; }
    #word { width: 100%; height: 6; text-align: center; text-style: bold; }
    #serial { width: 100%; text-align: center; text-style: bold; }
    #reason, #todo { width: 100%; text-align: center; }
    #todo { text-style: bold; }
    #verdict.PASS { background: #0b6b2e; color: white; }
    #verdict.FAIL { background: #9b1c1c; color: white; }
    #verdict.STOP { background: #6b0f6b; color: white; }
    #verdict.AGAIN, #verdict.MEND { background: #8a5a00; color: white; }
    #verdict.BUSY { background: #1e3a5f; color: white; }
    #below { height: 1fr; margin: 0 2; }
    #steps { width: 28; height: 100%; padding: 0 1; }
    #units { width: 1fr; height: 100%; padding: 0 1; }
    #numbers { width: 38; height: 100%; }
    #numbers Digits { width: 22; text-align: right; }
    """

    def __init__(self, line: Line, target: str, *, handshake: bool = False) -> None:
        super().__init__()
        self._line = line
        self._target = target
        self._handshake = handshake
        self._run_now: LineRun | None = None
        self._serial = ""
        self._began = 0.0
        self._steps: list[Progress] = []
        self.shift = Shift(time.monotonic)

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Input(placeholder="Scan the serial of the next device", id="scan")
        with Vertical(id="verdict", classes="READY"):
            yield Static(id="word")
            yield Static(id="serial")
            yield Static(id="reason")
            yield Static(id="todo")
        with Horizontal(id="below"):
            yield Static(id="steps")
            yield Static(id="units")
            with Vertical(id="numbers"):
                yield Digits("0", id="passed")
                yield Static(id="counts")

    def on_mount(self) -> None:
        self._show("READY", "", "", "Scan a device.")
        self._numbers()
        self.query_one("#scan", Input).focus()
        self.set_interval(_POLL_S, self._look)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """A scan. While a device is under way it is not taken: a double scan of the trigger finger does no harm."""
        scanned = event.value.strip()
        event.input.value = ""
        if not scanned or self._run_now is not None:
            return
        try:
            self._serial = parse_label(scanned).device_serial if scanned.startswith("BM1:") else scanned
            self._steps, self._began = [], time.monotonic()
            self._run_now = self._line.begin(
                self._serial, self._target, handshake=self._handshake, progress=self._steps.append
            )
        except BirthmarkError as error:
            self._end(verdict_of(scanned[:64], 0.0, None, error))
            return
        self._show("BUSY", self._serial, "", "Leave it in the fixture.")

    def action_leave(self) -> None:
        """End the shift; a device that is under way is finished first."""
        if self._run_now is None:
            self.exit(self.shift.failed)

    def _look(self) -> None:
        """Show the steps of the device under way, and its end."""
        if not self.query("#head"):
            return  # the screen is being taken down
        run = self._run_now
        if run is None:
            self._numbers()
            return
        self._show_steps()
        if not run.wait(0):
            return
        outcome: Outcome | None = None
        error: BirthmarkError | None = None
        try:
            outcome = run.outcome()
        except BirthmarkError as problem:
            error = problem
        self._run_now = None
        self._end(verdict_of(self._serial, time.monotonic() - self._began, outcome, error))

    def _end(self, unit: Unit) -> None:
        self.shift.add(unit)
        reason, todo = unit.told
        code = "" if unit.code is None else f"  [{unit.code}]"
        self._show(unit.word, unit.device_serial, reason + code, todo)
        self._show_steps()
        self._numbers()
        if unit.word != "PASS":
            self.bell()

    def _show(self, word: str, serial: str, reason: str, todo: str) -> None:
        verdict = self.query_one("#verdict")
        for known in _WORDS:
            verdict.set_class(known == word, known)
        for name, text in (("word", big(word)), ("serial", serial), ("reason", reason), ("todo", f"→ {todo}")):
            # Text, never markup: a scanned serial or a device's message draws nothing on this screen.
            self.query_one(f"#{name}", Static).update(Text(text))

    def _show_steps(self) -> None:
        last: dict[str, Progress] = {each.step: each for each in list(self._steps)}
        lines = [
            f"{_STEP_WORDS[each.status]} {each.step:<10}{'' if each.ms is None else f'{each.ms:>9.0f} ms'}"
            for each in last.values()
        ]
        self.query_one("#steps", Static).update(Text("\n".join(lines)))

    def _numbers(self) -> None:
        shift = self.shift
        minutes = int(shift.elapsed_s() // 60)
        head = (
            f"birthmark  ·  station {self._line.station}  ·  shift {minutes // 60}:{minutes % 60:02}  ·  Ctrl+Q ends it"
        )
        self.query_one("#head", Static).update(Text(head))
        self.query_one("#passed", Digits).update(str(shift.passed))
        share = "–" if shift.share is None else f"{100 * shift.share:.1f} %"
        worst = [f"{count:>5}  {code}" for code, count in shift.codes.most_common(4)]
        rate = "–" if (found := shift.rate()) is None else f"{found:.0f}/h"
        counts = ["passed", "", f"failed {shift.failed:>15}", f"yield  {share:>15}", f"rate   {rate:>15}", "", *worst]
        self.query_one("#counts", Static).update(Text("\n".join(counts)))
        marks = [f"{unit.word:<6}{unit.device_serial:<18.18}{unit.seconds:>6.1f} s" for unit in shift.units]
        self.query_one("#units", Static).update(Text("\n".join(marks)))
