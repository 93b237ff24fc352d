"""A workspace with a stock of identities, and a device that answers late: what the tests of all skins need."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.adapters.targets.files import FilesTarget
from birthmark.model.events import decode_entry
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import utc_now

__all__ = ["TARGET", "LateDevice", "events", "late_device", "make_bench"]

TARGET = "files:out/{device_serial}"


def make_bench(place: Path) -> Path:
    """Make ``fab`` below ``place``, with 16 identities TH-0001… in stock, and directories that stand for devices."""
    make_workspace(place / "fab")
    options = ["-C", str(place / "fab"), "--json"]
    assert (
        main(["order", "create", "lot1", "--product", "device", "--quantity", "16", "--first", "TH-0001", *options])
        == 0
    )
    assert main(["order", "make", "lot1", "--processes", "1", *options]) == 0
    for number in range(1, 17):
        (place / "out" / f"TH-{number:04d}").mkdir(parents=True)
    return place


def events(place: Path, device_serial: str) -> list[Any]:
    """Return what the log says of one device, read beside the program that writes it."""
    ledger = SqliteLedger(place / "fab" / "ledger" / "ledger.db", clock=utc_now)
    try:
        told = [decode_entry(entry)[0] for _, entry in ledger.entries(0, ledger.head().size)]
    finally:
        ledger.close()
    return [event for event in told if getattr(event, "device", None) == device_serial]


class LateDevice:
    """A device whose link hangs before it takes anything: ``answer`` lets it go on, long after whoever waited left."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._go = threading.Event()
        self.over = threading.Event()
        self.error: BaseException | None = None

    def answer(self) -> None:
        """Let the link answer at last, and wait until the target is done with it."""
        self._go.set()
        assert self.over.wait(20)

    def hang(self) -> None:
        self.asked.set()
        assert self._go.wait(60)


@contextmanager
def late_device(device_serial: str) -> Iterator[LateDevice]:
    """Make the real target of one device hang in ``install``, before the fence is asked for its first act."""
    late, install = LateDevice(), FilesTarget.install

    def hanging(self: FilesTarget, credential: Any, fence: Any) -> None:
        if credential.device_serial != device_serial:
            return install(self, credential, fence)
        late.hang()
        try:
            return install(self, credential, fence)
        except BaseException as problem:
            late.error = problem
            raise
        finally:
            late.over.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FilesTarget, "install", hanging)
        yield late
