"""The laws of ``ports.Cloud``, run on every kind of cloud in ``support/clouds``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from birthmark.errors import BirthmarkError, Misconfigured, Refused, Unavailable
from birthmark.ports.cloud import Cloud, CloudRecord, Outcome, Registration
from support.clouds import CLOUDS, CloudWorld

MOST_PAGES = 100


@pytest.fixture(params=sorted(CLOUDS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CloudWorld]:
    with CLOUDS[request.param](tmp_path) as made, ExitStack() as opened:
        unclosed = made.open

        def open_and_close() -> Cloud:
            cloud = unclosed()
            opened.callback(cloud.close)
            return cloud

        made.open = open_and_close
        yield made
        made.heal()


@pytest.fixture
def cloud(world: CloudWorld) -> Cloud:
    """A cloud that knows our CA."""
    opened = world.open()
    opened.prepare([world.fleet.authority()], world.fleet.prove)
    return opened


def records(cloud: Cloud, each_page: Callable[[], None] = lambda: None) -> dict[str, CloudRecord]:
    found: dict[str, CloudRecord] = {}
    after: str | None = ""
    for _ in range(MOST_PAGES):
        assert after is not None
        page = cloud.page(after)
        assert page.calls > 0
        found |= {record.key: record for record in page.records}
        each_page()
        after = page.after
        if after is None:
            return found
    raise AssertionError("pages without end")


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.kind for outcome in outcomes]


def some(world: CloudWorld, cloud: Cloud, stem: str = "unit") -> list[Registration]:
    """Return as many devices as one ``tell`` takes, 12 at most, of every standing and number of certificates."""
    sorts = (("enabled", 1), ("blocked", 1), ("enabled", 2), ("blocked", 0), ("enabled", 1))
    wanted = min(12, cloud.limits.batch)
    return [
        world.fleet.registration(f"{stem}-{number:03d}", sorts[number % 5][0], certificates=sorts[number % 5][1])
        for number in range(wanted)
    ]


def assert_held(cloud: Cloud, told: Sequence[Registration]) -> None:
    """The records are those that were expected, and those that need none have none."""
    found = records(cloud)
    for registration in told:
        record = cloud.expected(registration)
        if record is not None:
            assert found.get(record.key) == record
        else:
            assert registration.device_serial.lower() not in {one.name.lower() for one in found.values()}


def test_constructor_expected_and_estimate_send_nothing_and_are_the_same_each_time(world: CloudWorld) -> None:
    first, second = world.open(), world.open()
    told = [*some(world, first), world.impossible]
    authorities = [world.fleet.authority()]
    before = world.calls()
    assert first.name == second.name
    assert first.limits == second.limits
    for registration in told[:-1]:
        assert first.expected(registration) == first.expected(registration) == second.expected(registration)
    for devices in (1, 1000, 1_000_000):
        assert first.estimate(devices, authorities) == second.estimate(devices, authorities)
    assert first.calls_of(told) >= 0
    assert world.calls() == before


def test_estimate_names_steps_with_their_calls_and_minutes(world: CloudWorld, cloud: Cloud) -> None:
    small, large = (cloud.estimate(devices, [world.fleet.authority()]) for devices in (10, 1_000_000))
    for estimate in (small, large):
        assert estimate.steps
        assert all(step.what and step.calls >= 0 and step.minutes >= 0 for step in estimate.steps)
    assert sum(step.calls for step in large.steps) >= sum(step.calls for step in small.steps)
    for step in large.steps:
        assert step.minutes >= 0.99 * step.calls / cloud.limits.calls_a_minute or step.calls <= 100


def test_what_is_expected_is_held_once_it_was_told(world: CloudWorld, cloud: Cloud) -> None:
    told = some(world, cloud)
    outcomes = cloud.tell(told)
    assert [outcome.device_serial for outcome in outcomes] == [one.device_serial for one in told]
    for registration, outcome in zip(told, outcomes, strict=True):
        covered = cloud.expected(registration) is None
        assert outcome.kind == ("covered" if covered else "done"), outcome
    assert_held(cloud, told)


def test_what_the_cloud_would_never_take_is_refused_by_name_and_never_sent(world: CloudWorld, cloud: Cloud) -> None:
    with pytest.raises(Refused) as caught:
        cloud.expected(world.impossible)
    assert caught.value.code.startswith("cloud.")
    before = world.calls()
    (alone,) = cloud.tell([world.impossible])
    assert (alone.kind, alone.code) == ("refused", caught.value.code)
    assert world.calls() == before
    good = some(world, cloud)[:3]
    told = [good[0], world.impossible, *good[1:]][: cloud.limits.batch]
    outcomes = cloud.tell(told)
    assert [outcome.kind == "refused" for outcome in outcomes] == [one is world.impossible for one in told]
    assert_held(cloud, [one for one in told if one is not world.impossible])


def test_one_that_the_cloud_refuses_does_not_stop_the_others(world: CloudWorld, cloud: Cloud) -> None:
    if world.refused is None:
        return
    good = some(world, cloud)[:2]
    told = [good[0], world.refused, *good[1:]][: cloud.limits.batch]
    outcomes = {one.device_serial: one for one in cloud.tell(told)}
    bad = outcomes[world.refused.device_serial]
    assert (bad.kind, bad.code.split(".")[0], bool(bad.detail)) == ("refused", "cloud", True)
    assert_held(cloud, [one for one in told if one is not world.refused])


def test_prepare_again_changes_nothing_and_says_so(world: CloudWorld) -> None:
    cloud = world.open()
    authorities = [world.fleet.authority(), world.fleet.authority("second")]
    assert cloud.prepare(authorities, world.fleet.prove)
    proofs, before = list(world.fleet.proofs), world.snapshot()
    for again in (cloud, world.open()):
        lines = again.prepare(authorities, world.fleet.prove)
        assert lines
        assert all(isinstance(line, str) and line and "\n" not in line for line in lines)
    assert world.snapshot() == before
    assert world.fleet.proofs == proofs


def test_a_renewed_certificate_of_a_ca_is_made_known_beside_the_first(world: CloudWorld, cloud: Cloud) -> None:
    if not world.knows_cas:
        return
    before = world.snapshot()
    cloud.prepare([world.fleet.authority(renewed=True)], world.fleet.prove)
    assert world.snapshot() != before
    before = world.snapshot()
    cloud.prepare([world.fleet.authority(renewed=True)], world.fleet.prove)
    assert world.snapshot() == before


def test_what_breaks_the_limits_is_refused_before_anything_is_sent(world: CloudWorld) -> None:
    if world.too_much is None:
        return
    cloud = world.open()
    before = world.calls()
    assert [one.code.split(".")[0] for one in cloud.estimate(1000, world.too_much).obstacles] == ["cloud"]
    with pytest.raises(Refused) as caught:
        cloud.prepare(world.too_much, world.fleet.prove)
    assert caught.value.code.startswith("cloud.")
    assert world.calls() == before


def test_told_twice_is_told_once(world: CloudWorld, cloud: Cloud) -> None:
    told = some(world, cloud)
    cloud.tell(told)
    before = world.snapshot()
    for again in (cloud, world.open()):
        outcomes = again.tell(told)
        assert set(kinds(outcomes)) <= {"same", "covered"}
    assert world.snapshot() == before


def test_what_is_held_differently_is_brought_to_what_was_told(world: CloudWorld, cloud: Cloud) -> None:
    told = [one for one in some(world, cloud) if cloud.expected(one) is not None and one.certificates]
    cloud.tell(told)
    world.change(told[0].device_serial)
    expected = cloud.expected(told[0])
    assert expected is not None
    assert records(cloud).get(expected.key) != expected
    assert kinds(cloud.tell(told)) == ["done"] + ["same"] * (len(told) - 1)
    assert_held(cloud, told)
    world.remove(told[-1].device_serial)
    assert kinds(world.open().tell(told))[-1] == "done"
    assert_held(cloud, told)


def test_standing_and_certificates_change_as_they_are_told(world: CloudWorld, cloud: Cloud) -> None:
    """Made, rolled with both certificates let in, rolled to the end, blocked, reworked, scrapped."""
    fleet, serial = world.fleet, "Unit-Changing"
    first, second, third = (fleet.certificate(serial) for _ in range(3))
    story = (
        Registration(serial, "enabled", (first,), fleet.chain()),
        Registration(serial, "enabled", (second, first), fleet.chain()),
        Registration(serial, "enabled", (second,), fleet.chain()),
        Registration(serial, "blocked", (second,), fleet.chain()),
        Registration(serial, "enabled", (third,), fleet.chain()),
        Registration(serial, "blocked", (), ()),
        Registration(serial, "enabled", (third,), fleet.chain()),
    )
    for number, told in enumerate(story):
        teller = cloud if number % 2 else world.open()
        assert "refused" not in kinds(teller.tell([told])), number
        assert_held(cloud, [told])
        assert set(kinds(teller.tell([told]))) <= {"same", "covered"}, number


def test_a_throttled_call_is_unavailable_and_may_be_told_again(world: CloudWorld, cloud: Cloud) -> None:
    if "throttled" not in world.faults:
        return
    told = some(world, cloud)
    world.faults["throttled"]()
    with pytest.raises(Unavailable) as caught:
        cloud.tell(told)
    if world.says_when:
        after = caught.value.facts["retry_after"]
        assert isinstance(after, int | float)
        assert 0 < after <= 3600
    world.heal()
    assert "refused" not in kinds(cloud.tell(told))
    assert_held(cloud, told)


def test_a_lost_answer_is_unavailable_and_told_again_it_is_told_once(world: CloudWorld, cloud: Cloud) -> None:
    if "lost" not in world.faults:
        return
    told = some(world, cloud)
    for again in (cloud, cloud, world.open()):
        world.faults["lost"]()
        with pytest.raises(Unavailable):
            again.tell(told)
        world.heal()
    assert "refused" not in kinds(cloud.tell(told))
    assert set(kinds(cloud.tell(told))) <= {"same", "covered"}
    assert_held(cloud, told)


@pytest.mark.parametrize(
    ("fault", "family", "code"),
    [
        ("shut", Misconfigured, "cloud."),
        ("refuses", Refused, "cloud.call.refused"),
        ("gone", Unavailable, "cloud."),
    ],
)
def test_each_failure_of_a_whole_call_is_in_its_family(
    world: CloudWorld, cloud: Cloud, fault: str, family: type[BirthmarkError], code: str
) -> None:
    if fault not in world.faults:
        return
    told = some(world, cloud)
    world.faults[fault]()
    with pytest.raises(family) as caught:
        cloud.tell(told)
    assert caught.value.code.startswith(code)
    with pytest.raises(BirthmarkError):
        cloud.page("")


def test_threads_tell_at_once(world: CloudWorld, cloud: Cloud) -> None:
    lanes = cloud.limits.lanes
    lots = [some(world, cloud, f"lane{lane}") for lane in range(min(lanes, 4))]
    with ThreadPoolExecutor(len(lots)) as threads:
        for outcomes in threads.map(cloud.tell, lots):
            assert set(kinds(outcomes)) <= {"done", "covered"}
    assert_held(cloud, [registration for lot in lots for registration in lot])


def test_every_record_that_is_there_all_the_while_is_returned(world: CloudWorld, cloud: Cloud) -> None:
    told = [one for one in some(world, cloud) if cloud.expected(one) is not None]
    cloud.tell(told)
    foreign = world.fleet.registration("foreign-1", ca="second")
    world.add(foreign)
    passing = [world.fleet.registration(f"passing-{number}", ca="second") for number in range(3)]

    def meanwhile() -> None:
        if passing:
            world.add(one := passing.pop())
            world.remove(one.device_serial)

    found = records(cloud, meanwhile)
    assert {one.key for one in map(cloud.expected, told) if one is not None} <= set(found)
    assert "foreign-1" in {record.name for record in found.values()}


def test_calls_of_is_never_less_than_what_a_tell_costs(world: CloudWorld, cloud: Cloud) -> None:
    told = some(world, cloud)
    needing = [one for one in told if cloud.expected(one) is not None and one.certificates]

    def costs(teller: Cloud, lot: Sequence[Registration]) -> None:
        most, before = teller.calls_of(lot), world.calls()
        teller.tell(lot)
        assert world.calls() - before <= most

    costs(world.open(), told)
    costs(cloud, told)
    for registration in needing:
        world.change(registration.device_serial)
    costs(cloud, told)
    costs(world.open(), told)
    for registration in needing[::2]:
        world.remove(registration.device_serial)
    for registration in needing[1::2]:
        world.change(registration.device_serial)
    costs(cloud, [*told[:-1], world.impossible])


def test_nothing_shows_a_secret(world: CloudWorld, cloud: Cloud) -> None:
    shown = [repr(cloud), cloud.name, repr(cloud.estimate(5, [world.fleet.authority()]))]
    shown.append(repr(cloud.tell([*some(world, cloud)[:2], world.impossible][: cloud.limits.batch])))
    shown.append(repr(records(cloud)))
    for begin in world.faults.values():
        begin()
        for act in (lambda: cloud.tell(some(world, cloud)), lambda: cloud.page("")):
            try:
                act()
            except BirthmarkError as problem:
                shown.append(f"{problem} {problem.document()} {problem.__cause__!r}")
        world.heal()
    for secret in world.secrets:
        assert secret
        assert secret.decode("latin-1") not in " ".join(shown)
