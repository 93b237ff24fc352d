"""Permits: one template on record at a time, none from a dead CA, none that is old, none that is foreign."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from birthmark.errors import Refused, Tampered
from birthmark.model import events as e
from birthmark.workflow.orders.permits import MAX_TEMPLATE_AGE
from support.stationworld import Factory, Line, build_factory, events_of


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return build_factory(tmp_path_factory.mktemp("permits") / "factory")


@pytest.fixture
def line(built: Factory, tmp_path: Path) -> Iterator[Line]:
    with built.copy(tmp_path / "factory").line() as opened:
        yield opened


def admitted(line: Line) -> int:
    return sum(isinstance(event, e.TemplateAdmitted) for event in events_of(line.ledger))


def at(line: Line, moved: timedelta) -> None:
    line.factory.clock = line.clock = lambda: datetime.now(UTC) + moved
    line.permits = line.make_permits(line.ledger)


def test_permit_is_kept_and_its_template_on_record_once(line: Line) -> None:
    order = line.records.order("born")
    permit = line.permits.for_order(order)
    assert line.permits.for_order(order) is permit
    assert line.make_permits(line.ledger).for_order(order).template.template_hash == permit.template.template_hash
    assert admitted(line) == 1
    assert line.records.template(permit.template.template_hash.hex()).body == permit.template.to_bytes()


@pytest.mark.parametrize("moved", [MAX_TEMPLATE_AGE + timedelta(minutes=1), timedelta(minutes=-5)], ids=["old", "back"])
def test_old_template_and_one_from_the_future_are_not_used(line: Line, moved: timedelta) -> None:
    at(line, moved)
    permit = line.permits.for_order(line.records.order("born"))
    assert admitted(line) == 2
    age = line.clock() - datetime.fromisoformat(permit.template.file.moment)
    assert timedelta() <= age < timedelta(minutes=1)


def test_running_program_renews_its_template(line: Line) -> None:
    order = line.records.order("born")
    first = line.permits.for_order(order)
    line.permits._clock = lambda: datetime.now(UTC) + MAX_TEMPLATE_AGE + timedelta(minutes=1)
    assert line.permits.for_order(order).template.template_hash != first.template.template_hash


@pytest.mark.parametrize(
    ("moved", "code"), [(timedelta(days=-2), "issuer.not_yet_valid"), (timedelta(days=8000), "issuer.expired")]
)
def test_running_program_notices_that_its_ca_is_not_valid(line: Line, moved: timedelta, code: str) -> None:
    order = line.records.order("born")
    permit = line.permits.for_order(order)
    line.permits._clock = lambda: datetime.now(UTC) + moved
    with pytest.raises(Refused) as caught:
        line.permits.for_order(order)
    assert caught.value.code == code
    with pytest.raises(Refused) as again:
        line.permits.for_template(permit.template.template_hash.hex(), "issuing")
    assert again.value.code == code


def test_template_that_is_not_on_record_signs_nothing(line: Line) -> None:
    with pytest.raises(Tampered) as caught:
        line.permits.for_template("00" * 32, "issuing")
    assert caught.value.code == "template.missing"


def test_changed_product_values_make_a_new_template(line: Line) -> None:
    line.permits._values = lambda product: {"pen": "99999"}
    line.permits.for_order(line.records.order("born"))
    assert admitted(line) == 2
