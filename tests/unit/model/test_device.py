"""The life of an identity: what the table allows, and that nothing else is allowed."""

from __future__ import annotations

import itertools

import pytest

from birthmark.errors import Refused
from birthmark.model.device import LIVE, TRANSITIONS, DeviceState, next_state

EVENTS = sorted({event for _, event in TRANSITIONS})


@pytest.mark.parametrize(("state", "event"), list(itertools.product(DeviceState, EVENTS)))
def test_each_change_is_in_the_table_or_refused(state: DeviceState, event: str):
    if (state, event) in TRANSITIONS:
        assert next_state("SN-1", state, event) is TRANSITIONS[state, event]
        return
    with pytest.raises(Refused) as caught:
        next_state("SN-1", state, event)
    assert caught.value.code == "device.state"
    assert caught.value.facts == {"device_serial": "SN-1", "state": str(state), "event": event}


def test_scrapped_is_the_end():
    assert not [event for state, event in TRANSITIONS if state is DeviceState.SCRAPPED]


def test_an_identity_ends_before_another_begins():
    """From a state with a live certificate only rework, failure and scrap leave, and a pooled one is drawn once."""
    for (state, event), after in TRANSITIONS.items():
        if state in LIVE and after not in LIVE:
            assert event in ("superseded", "failed", "scrapped")
        if after is DeviceState.DRAWN:
            assert (state, event) == (DeviceState.POOLED, "drawn")


def test_everything_can_be_reached():
    reached = {DeviceState.ORDERED}
    while more := {after for (state, _), after in TRANSITIONS.items() if state in reached} - reached:
        reached |= more
    assert reached == set(DeviceState)


def test_a_certificate_is_live_only_after_it_was_reserved():
    assert {state for (state, event) in TRANSITIONS if event in ("issued", "pooled")} == {DeviceState.RESERVED}
