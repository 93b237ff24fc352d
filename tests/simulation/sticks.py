"""USB sticks between the authority and its sites: lost, twice, late, cut short, damaged, at the wrong door."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

__all__ = ["Mail", "Stick"]


@dataclass(frozen=True, slots=True)
class Stick:
    """Files on their way to a machine. ``is_whole``: nothing happened to them."""

    kind: Literal["report", "bundle", "ack"]
    sender: str
    to: str
    order: str
    files: tuple[Path, ...]
    is_whole: bool = True


class Mail:
    """All sticks that are on their way, in no order."""

    def __init__(self, place: Path, random: Random) -> None:
        self._place = place
        self._random = random
        self._count = 0
        self.waiting: list[Stick] = []

    def place(self) -> Path:
        """Return an empty directory: a stick."""
        self._count += 1
        place = self._place / f"{self._count:04}"
        place.mkdir(parents=True)
        return place

    def post(self, stick: Stick) -> None:
        self.waiting.append(stick)

    def take(self, doors: list[str], *, trouble: float) -> tuple[Stick, str] | None:
        """Take any stick out and say what became of it; None if it is lost."""
        stick = self.waiting.pop(self._random.randrange(len(self.waiting)))
        if self._random.random() >= trouble:
            return stick, "whole"
        fate = self._random.choice(("lost", "twice", "cut", "flipped", "wrong door"))
        if fate == "lost":
            return None
        if fate == "twice":
            self.waiting.append(stick)
        elif fate == "wrong door":
            to = self._random.choice(doors)
            stick = Stick(stick.kind, stick.sender, to, stick.order, stick.files, stick.is_whole)
        elif fate in ("cut", "flipped"):
            stick = self._damaged(stick, fate)
        return stick, fate

    def _damaged(self, stick: Stick, fate: str) -> Stick:
        place = self.place()
        files = tuple(Path(shutil.copy(file, place)) for file in stick.files)
        victim, where = files[self._random.randrange(len(files))], self._random.random()
        data = bytearray(victim.read_bytes())
        if fate == "cut":
            del data[int(len(data) * where) :]
        elif data:
            data[int(len(data) * where)] ^= 1 << self._random.randrange(8)
        victim.write_bytes(data)
        return Stick(stick.kind, stick.sender, stick.to, stick.order, files, is_whole=False)
