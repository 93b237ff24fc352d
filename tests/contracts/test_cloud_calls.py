"""The law of ``ports.CountsCalls``, on every kind of cloud that counts what it sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from birthmark.errors import BirthmarkError
from birthmark.ports import CountsCalls
from support.clouds import CLOUDS


@pytest.mark.parametrize("kind", sorted(CLOUDS))
def test_what_a_cloud_counts_is_what_was_sent_answered_or_not(kind: str, tmp_path: Path) -> None:
    with CLOUDS[kind](tmp_path) as world:
        cloud = world.open()
        if not isinstance(cloud, CountsCalls):
            return
        assert cloud.calls == 0
        cloud.prepare([world.fleet.authority()], world.fleet.prove)
        told = [world.fleet.registration(f"unit-{number}") for number in range(3)]
        cloud.tell(told)
        world.change("unit-0") if cloud.expected(told[0]) is not None else None
        before, counted = world.calls(), cloud.calls
        cloud.tell(told)
        cloud.page("")
        for name, begin in world.faults.items():
            if name == "gone":  # nobody is there who could count
                continue
            begin()
            with pytest.raises(BirthmarkError):
                cloud.page("")
            world.heal()
        assert cloud.calls - counted == world.calls() - before > 0
        cloud.close()
