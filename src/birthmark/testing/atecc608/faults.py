"""What goes wrong with an emulated ATECC608, by order of the test."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Faults"]


@dataclass(slots=True)
class Faults:
    """Set a field, and the chip behaves so from now on. Commands are counted by ``Atecc608.commands``.

    ``dies_before``: the power goes as the command with this number comes; ``dies_after``: when it is done and not yet
    answered. The chip is silent then until ``Atecc608.power_on``. ``corrupt``: so many answers get a wrong checksum.
    ``silent``: so many commands are neither done nor answered. ``loses_writes``: every write, lock and new key is
    acknowledged and not kept. ``signs_with_another_key``. ``shows``: slot → what reads of it return instead.
    ``answers``: opcode → status octet that is sent instead of doing it.
    """

    dies_before: int | None = None
    dies_after: int | None = None
    corrupt: int = 0
    silent: int = 0
    loses_writes: bool = False
    signs_with_another_key: bool = False
    shows: dict[int, bytes] = field(default_factory=dict)
    answers: dict[int, int] = field(default_factory=dict)
