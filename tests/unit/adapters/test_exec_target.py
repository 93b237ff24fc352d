"""A vendor's program that does not do what it should: each way is named, ends in bounded time, and loses nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from birthmark.adapters.targets.exec import ExecTarget, conversation, messages
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault, Unavailable
from birthmark.model.secret import Secret
from birthmark.workflow.line.fence import DeadlineFence
from support.fences import OPEN
from support.targets.device import SERIAL
from support.targets.exec import example_program

ROOT = Path(__file__).resolve().parents[3]
HELLO = 'say(type="hello", version=1, program="test")'
PROBED = 'say(type="probed", identity="SN-0001", makes_key=True, can_sign=True)'
PREAMBLE = """
import json, os, subprocess, sys, time
def say(**message): print(json.dumps(message), flush=True)
def hear(): return json.loads(sys.stdin.readline())
welcome = hear()
"""


def program(tmp_path: Path, body: str, **options: str) -> ExecTarget:
    path = tmp_path / "program.py"
    path.write_text(f"#!{sys.executable}\n{PREAMBLE}{body}\n")
    path.chmod(0o755)
    query = "&".join(f"{name}={quote(value)}" for name, value in options.items())
    return ExecTarget(
        f"exec:{path}" + (f"?{query}" if query else ""), secrets=lambda _: Secret(b"open-sesame"), base=tmp_path
    )


def test_messages_and_members_that_are_not_known_are_skipped(tmp_path: Path) -> None:
    body = """
say(type="hello", version=1, program="test", colour="red")
say(type="progress", share=0.5)
asked = hear()
say(type="note", text="fixture closed")
say(type="probed", identity="SN-0001", makes_key=False, can_sign=True, firmware="2.1", extra={"a": [1]})
"""
    probe = program(tmp_path, body).probe()
    assert (probe.identity, probe.makes_key, probe.certificate) == ("SN-0001", False, None)


@pytest.mark.parametrize(
    ("body", "family", "code"),
    [
        ("print('what?')", StationFault, "target.exec.protocol"),
        ("print(json.dumps([1]))", StationFault, "target.exec.protocol"),
        ("print('[' * 100000)", StationFault, "target.exec.protocol"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe\\n')", StationFault, "target.exec.protocol"),
        ("sys.stdout.write('x' * (3 << 20)); sys.stdout.flush(); time.sleep(20)", StationFault, "target.exec.protocol"),
        ("while True: say(type='note')", StationFault, "target.exec.protocol"),
        ("say(type='hello', version=2, program='new')", StationFault, "target.exec.protocol"),
        (f"{HELLO}; say(type='act', what='write')", StationFault, "target.exec.protocol"),
        (f"{HELLO}; say(type='probed', identity='', makes_key=True, can_sign=True)", StationFault,
         "target.exec.protocol"),
        (f"{HELLO}; say(type='key_made', csr='')", StationFault, "target.exec.protocol"),
        ("sys.exit(3)", StationFault, "target.exec.ended"),
        ("os.kill(os.getpid(), 9)", StationFault, "target.exec.ended"),
        ("time.sleep(60)", Unavailable, "target.exec.slow"),
        (f"{HELLO}; say(type='error', who='device', code='chip.dead', message='no answer')", DeviceFault,
         "target.exec.device"),
        (f"{HELLO}; say(type='error', who='station', code='fixture.open')", StationFault, "target.exec.station"),
        (f"{HELLO}; say(type='error', who='later', code='busy')", Unavailable, "target.exec.later"),
        (f"{HELLO}; say(type='error', who='request', code='wrong.product')", Refused, "target.exec.refused"),
        (f"{HELLO}; say(type='error', who='nobody', code='x')", StationFault, "target.exec.protocol"),
    ],
)  # fmt: skip
def test_whatever_a_program_does_is_named(tmp_path: Path, body: str, family: type, code: str) -> None:
    began = time.monotonic()
    with pytest.raises(BirthmarkError) as caught:
        program(tmp_path, body, timeout="1.5").probe()
    assert (type(caught.value), caught.value.code) == (family, code)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("uri", ["exec:", "exec:x?args=%22", "exec:x?timeout=0", "exec:x?timeout=no", "exec:x?other=1"])
def test_a_target_that_cannot_be_meant_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(Misconfigured):
        ExecTarget(uri, secrets=lambda _: Secret(b""), base=tmp_path)
    with pytest.raises(Misconfigured) as caught:
        ExecTarget("exec:not-there", secrets=lambda _: Secret(b""), base=tmp_path).probe()
    assert caught.value.code == "target.exec.program"


def test_at_the_deadline_the_program_and_all_that_it_started_are_gone(tmp_path: Path) -> None:
    mark = tmp_path / "burnt"
    child = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"
    body = f"""
{HELLO}
asked = hear()
if asked["do"] == "probe":
    {PROBED}
    sys.exit()
say(type="act", what="write")
assert hear()["granted"]
subprocess.Popen([sys.executable, "-c", {child!r}])
time.sleep(30)
"""
    fence = DeadlineFence("once", seconds=0.8, monotonic=time.monotonic)
    with pytest.raises(Unavailable):
        program(tmp_path, body).make_key("p256", SERIAL, fence)
    time.sleep(2.2)
    assert not mark.exists(), "a step that was given up burns no more"


def test_an_act_after_the_right_was_taken_away_gets_no_leave(tmp_path: Path) -> None:
    body = f"""
{HELLO}
asked = hear()
if asked["do"] == "probe":
    {PROBED}
    sys.exit()
open("token", "w").write(asked["token"])
for number in range(2):
    say(type="act", what="write")
    open(f"leave-{{number}}", "w").write(str(hear()["granted"]))
"""

    class Once:
        token = "the token"
        acts = 0

        def hold(self) -> None:
            self.acts += 1
            if self.acts > 2:
                raise Unavailable("station.fenced", "gone", hint="Again.")

        def remaining(self) -> float:
            return 20.0

    with pytest.raises(Unavailable) as caught:
        program(tmp_path, body).make_key("p256", SERIAL, Once())
    assert caught.value.code == "station.fenced"
    deadline = time.monotonic() + 5
    assert (tmp_path / "leave-0").read_text() == "True"
    assert not (tmp_path / "leave-1").exists() or (tmp_path / "leave-1").read_text() in ("", "False")
    assert time.monotonic() < deadline
    assert (tmp_path / "token").read_text() == "the token"


def test_secrets_go_through_the_pipe_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_PASSPHRASE", "canary")
    body = f"""
import base64
assert base64.b64decode(welcome["secret"]) == b"open-sesame"
assert "CANARY_PASSPHRASE" not in os.environ and "canary" not in str(os.environ)
assert "open-sesame" not in open("/proc/self/cmdline").read()
sys.stderr.write("seen\\n")
{HELLO}
hear()
{PROBED}
"""
    target = program(tmp_path, body, secret="test:pin", log="program.log")
    assert target.probe().identity == SERIAL
    log = tmp_path / "program.log"
    assert log.read_text() == "seen\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_signature_that_is_none_and_a_request_that_is_none_are_faults_of_the_device(tmp_path: Path) -> None:
    body = f"""
{HELLO}
asked = hear()
if asked["do"] == "probe": {PROBED}
if asked["do"] == "make_key": say(type="key_made", csr="AAAA")
if asked["do"] == "prove": say(type="proved", certificate="AAAA")
"""
    target = program(tmp_path, body)
    with pytest.raises(DeviceFault) as caught:
        target.make_key("p256", SERIAL, OPEN)
    assert caught.value.code == "target.exec.csr"
    with pytest.raises(DeviceFault) as caught:
        target.prove(bytes(32))
    assert caught.value.code == "target.exec.evidence"


def test_the_page_names_every_message_and_member() -> None:
    page = (ROOT / "docs" / "formats" / "exec-target.md").read_text()
    for kind in (*messages.Known.__args__, messages.Welcome, messages.Asked, messages.Leave):
        assert f"`{kind.__struct_config__.tag}`" in page
        for name in kind.__struct_fields__:
            assert f"`{name}`" in page, (kind, name)
    assert f"{conversation._LINES:,}" in page


def test_the_example_can_be_talked_to_by_hand(tmp_path: Path) -> None:
    """As the page says: no station is needed to try a program."""
    lines = [messages.Welcome(station_software="by hand"), messages.Asked(do="probe", token="", remaining_s=5.0)]
    said = subprocess.run(
        [str(example_program()), str(tmp_path)],
        input=b"".join(msgspec.json.encode(line) + b"\n" for line in lines),
        capture_output=True,
        timeout=20,
        check=True,
    ).stdout.splitlines()
    found: list[Any] = [msgspec.json.decode(line) for line in said]
    assert [one["type"] for one in found] == ["hello", "note", "probed"]
    assert found[-1]["identity"] == os.path.basename(tmp_path)
