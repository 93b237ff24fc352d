"""The hooks to the factory's own system, with programs that a factory would write: real processes, no shell of ours."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from birthmark.line import DeviceFault, Line, Refused, StationFault, open_line
from support.skinworld import TARGET, events, make_bench

Opening = Callable[..., AbstractContextManager[Line]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("mes"))


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "bench")
    monkeypatch.chdir(tmp_path / "bench")
    return tmp_path / "bench"


def program(place: Path, name: str, body: str) -> str:
    path = place / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@contextmanager
def with_hooks(place: Path, *, seconds: float = 5, **hooks: str) -> Iterator[Line]:
    """Open the line with ``route_check`` and ``result`` as named."""
    settings = place / "fab" / "birthmark.toml"
    text = settings.read_text().partition("[stations.line1.mes]")[0]
    lines = [f"{name} = [{json.dumps(path)}]" for name, path in hooks.items()]
    settings.write_text("\n".join([text, "[stations.line1.mes]", *lines, f"timeout_s = {seconds}", ""]))
    with open_line("fab") as line:
        yield line


def told(place: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (place / name).read_text().splitlines()]


def tags(place: Path, device_serial: str) -> list[str]:
    return [event.__struct_config__.tag for event in events(place, device_serial)]


def test_it_is_asked_before_and_told_after(place: Path) -> None:
    check = program(place, "check", f"cat >> {place}/asked")
    result = program(place, "result", f"cat >> {place}/told")
    with with_hooks(place, route_check=check, result=result) as line:
        outcome = line.provision("TH-0001", TARGET)
        with pytest.raises(DeviceFault):
            line.provision("TH-0002", "files:out/TH-0003")
        with pytest.raises(StationFault):
            line.provision("TH-0004", "files:nowhere/TH-0004")
    assert [each["device_serial"] for each in told(place, "asked")] == ["TH-0001", "TH-0002", "TH-0004"]
    passed, failed = told(place, "told")
    assert (passed["verdict"], passed["station"], passed["cert_sha256"]) == ("pass", "line1", outcome.cert_sha256)
    assert (failed["verdict"], failed["device_serial"], failed["error"]) == (
        "fail",
        "TH-0002",
        "device.identity.mismatch",
    )


def test_a_route_that_says_no_begins_nothing(place: Path) -> None:
    check = program(place, "check", "echo 'not tested yet\033[31m' >&2; exit 1")
    with with_hooks(place, route_check=check) as line, pytest.raises(Refused) as refused:
        line.provision("TH-0001", TARGET)
    assert (refused.value.code, "not tested yet?" in refused.value.message) == ("mes.route", True)
    assert list((place / "out/TH-0001").iterdir()) == []
    assert tags(place, "TH-0001") == ["issued", "rejected"]


@pytest.mark.parametrize("body", ["exit 2", "kill -9 $$", "sleep 30 & sleep 30"])
def test_no_answer_is_no_yes(place: Path, body: str) -> None:
    check = program(place, "check", body)
    began = time.monotonic()
    with with_hooks(place, seconds=0.5, route_check=check) as line, pytest.raises(StationFault, match=r"mes\.failed"):
        line.provision("TH-0001", TARGET)
    assert time.monotonic() - began < 10
    assert "drawn" not in tags(place, "TH-0001")


def test_a_program_that_is_not_there_is_no_yes(place: Path) -> None:
    with (
        with_hooks(place, route_check=str(place / "nothing")) as line,
        pytest.raises(StationFault, match=r"mes\.failed"),
    ):
        line.provision("TH-0001", TARGET)
    assert "drawn" not in tags(place, "TH-0001")


def test_a_result_that_cannot_be_told_does_not_pass_and_is_told_again(place: Path) -> None:
    result = program(place, "result", f"[ -e {place}/up ] && cat >> {place}/told")
    with with_hooks(place, result=result) as line:
        with pytest.raises(StationFault, match=r"mes\.failed"):
            line.provision("TH-0001", TARGET)
        (place / "up").touch()
        assert line.provision("TH-0001", TARGET).outcome == "already"
    (passed,) = told(place, "told")
    assert (passed["verdict"], passed["outcome"]) == ("pass", "already")
    assert tags(place, "TH-0001").count("verified") == 1


def test_a_hook_sees_no_secret_and_cannot_flood_us(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRTHMARK_PASSPHRASE", "a canary")
    check = program(place, "check", f"env > {place}/seen; head -c 50000000 /dev/zero | tr '\\0' x >&2; exit 1")
    with with_hooks(place, route_check=check) as line, pytest.raises((Refused, StationFault)) as refused:
        line.provision("TH-0001", TARGET)
    assert len(refused.value.message) < 500
    assert "canary" not in (place / "seen").read_text()
