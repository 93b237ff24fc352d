"""Events: one spelling, which the format page describes word for word."""

from __future__ import annotations

import json
import re
import types
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from birthmark.errors import Tampered
from birthmark.model import events as e
from birthmark.model.device import TRANSITIONS, DeviceState

PAGE = (Path(__file__).parents[3] / "docs/formats/events.md").read_text(encoding="utf-8")
AT = "2026-11-24T02:10:11.123Z"
KINDS = e.event_types()
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is types.UnionType:
        return st.one_of(*map(values_of, get_args(hint)))
    if get_origin(hint) is list:
        return st.lists(_text, max_size=3)
    return {
        str: _text, int: st.integers(-(2**53), 2**53), bool: st.booleans(), types.NoneType: st.none(),
    }[hint]  # fmt: skip


def hints_of(kind: type) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(kind).items() if not name.startswith("_")}


events = st.sampled_from(list(KINDS.values())).flatmap(
    lambda kind: st.builds(kind, **{name: values_of(hint) for name, hint in hints_of(kind).items()})
)


@given(events, st.binary(max_size=60))
def test_what_is_written_is_read(event: Any, attachment: bytes):
    entry = e.encode_entry(event, attachment)
    assert e.decode_entry(entry) == (event, attachment)


@given(events)
def test_it_is_what_another_writer_of_canonical_json_writes(event: Any):
    head = e.encode_entry(event).removesuffix(b"\n")
    plain = {name: getattr(event, name) for name in event.__struct_fields__}
    defaults = dict(zip(reversed(event.__struct_fields__), reversed(event.__struct_defaults__), strict=False))
    kept = {name: value for name, value in plain.items() if name not in defaults or not _is_default(value, name, event)}
    kept["type"] = event.__struct_config__.tag
    ours = json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert head.decode() == ours


def _is_default(value: Any, name: str, event: Any) -> bool:
    field = next(field for field in msgspec.structs.fields(event) if field.name == name)
    if field.default_factory is not msgspec.NODEFAULT:
        return bool(value == field.default_factory())
    return bool(value == field.default)


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (b"", "malformed"),
        (b"\n", "malformed"),
        (b"{}\n", "malformed"),
        (b"null\n", "malformed"),
        (b'{"at":"x","device":"d","intent":1,"type":"issued"}', "malformed"),
        (b'{"at":"x","device":"d","intent":1,"type":"unheard"}\n', "malformed"),
        (b'{"at":"x","device":"d","intent":"1","type":"issued"}\n', "malformed"),
        (b'{"at":"x","device":"d","intent":1.0,"type":"issued"}\n', "malformed"),
        (b'{"at":"x","device":"d","type":"issued"}\n', "malformed"),
        (b'{"at":"x","device":"d","intent":1,"more":1,"type":"issued"}\n', "malformed"),
        (b'{"at":"x","device":"\\ud800","intent":1,"type":"issued"}\n', "malformed"),
        (b'{"at":"x","device":"\xff","intent":1,"type":"issued"}\n', "malformed"),
        (b'{"at":"x","device":"d","intent":1,"type":"issued"}x\n', "malformed"),
        (b'{"at":"x","device":"d","intent":1,"type":"issued"} \n', "not_canonical"),
        (b'{"at": "x","device":"d","intent":1,"type":"issued"}\n', "not_canonical"),
        (b'{"type":"issued","at":"x","device":"d","intent":1}\n', "not_canonical"),
        (b'{"at":"x","device":"\\u0064","intent":1,"type":"issued"}\n', "not_canonical"),
        (b'{"at":"x","device":"d","device":"d","intent":1,"type":"issued"}\n', "not_canonical"),
        (b'{"at":"x","code":"c","device":null,"station":"s","type":"rejected"}\n', "not_canonical"),
    ],
)
def test_another_spelling_is_no_entry(entry: bytes, code: str):
    with pytest.raises(Tampered, check=lambda problem: problem.code == f"log.entry.{code}"):
        e.decode_entry(entry)


@given(st.binary(max_size=80))
def test_noise_is_refused_by_name(noise: bytes):
    with pytest.raises(Tampered):
        e.decode_entry(b"{" + noise)


def test_the_deepest_noise_is_refused_by_name():
    with pytest.raises(Tampered):
        e.decode_entry(b'{"at":' + b"[" * 60_000 + b"\n")


def test_moments_are_utc_with_three_decimals():
    moment = datetime(2026, 11, 24, 4, 10, 11, 123_999, timezone(timedelta(hours=2)))
    assert e.utc_text(moment) == AT
    assert e.utc_text(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"


class TestPage:
    @staticmethod
    def table() -> dict[str, str]:
        part = PAGE.partition("## The events")[2].partition("\n## ")[0]
        rows = [line.split("|") for line in part.splitlines() if line.startswith("| `")]
        return {row[1].strip().strip("`"): row[2].strip() for row in rows}

    def test_every_type_stands_on_it_in_its_order(self):
        assert list(self.table()) == list(KINDS)
        meanings = PAGE.partition("## What they mean")[2]
        assert [tag for tag in KINDS if f"* `{tag}`" in meanings] == list(KINDS)

    @pytest.mark.parametrize("tag", list(KINDS))
    def test_every_member_stands_on_it(self, tag: str):
        said = []
        for field in msgspec.structs.fields(KINDS[tag]):
            if field.name == "at":
                continue
            written = f"`{field.name}` {_written(field.type)}"
            if field.default is not msgspec.NODEFAULT:
                written += f" = {json.dumps(field.default)}"
            elif field.default_factory is not msgspec.NODEFAULT:
                written += f" = {json.dumps(field.default_factory())}"
            said.append(written)
        assert self.table()[tag] == ", ".join(said)

    def test_its_examples_are_ours(self):
        first, hex1, second, hex2 = re.findall(r"```\n(.*?)```", PAGE.partition("## Example")[2], re.DOTALL)
        changed = e.SoftwareChanged(at=AT, by='ada "A" lô\n', software="0.1.0")
        issued = e.Issued(at=AT, device="SN-1", intent=7)
        assert e.encode_entry(changed).decode() == first
        assert e.encode_entry(changed) == bytes.fromhex(hex1)
        assert e.encode_entry(issued).decode() == second
        assert e.encode_entry(issued, b"\x30\x00") == bytes.fromhex(hex2)

    def test_its_changes_are_the_table_of_lawful_changes(self):
        part = PAGE.partition("| event | a device that is")[2].partition("\n\n")[0]
        said: set[tuple[str, str, str]] = set()
        for line in part.splitlines():
            if not line.startswith("| `"):
                continue
            event, before, after = (cell.strip() for cell in line.split("|")[1:4])
            states = [s for s in DeviceState if s != "scrapped"] if before == "all but scrapped" else before.split(", ")
            for target in re.sub(r"\([^)]*\)", "", after).split(" or "):
                name = "pooled" if target.strip() == "pooled" else event.strip("`")
                said |= {(str(state), name, target.strip()) for state in states}
        assert said == {(str(before), event, str(after)) for (before, event), after in TRANSITIONS.items()}


def _written(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(hint))
    if get_origin(hint) is types.UnionType:
        return _written(get_args(hint)[0])
    return "list" if get_origin(hint) is list else {str: "text", int: "number", bool: "yes/no"}[hint]
