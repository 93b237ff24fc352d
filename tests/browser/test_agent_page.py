"""The page of the heads in a real browser: headless Chromium, driven over its own protocol, and a picture of it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agentprocess import running_agent
from support.skinworld import make_bench

HEADS = ("left=files:out/{device_serial}", "middle=files:out/{device_serial}", "right=files:out/{device_serial}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("browser"))


class Browser:
    """Chromium, spoken to through the pipe of ``--remote-debugging-pipe`` (JSON messages that end with NUL)."""

    def __init__(self, profile: Path) -> None:
        import os

        chromium = shutil.which("chromium")
        assert chromium, "install the Debian package chromium: make system"
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()

        def pipes() -> None:
            # Chromium reads commands from descriptor 3 and answers at 4.
            spare_in, spare_out = os.dup2(to_child, 30), os.dup2(from_child, 31)
            os.dup2(spare_in, 3)
            os.dup2(spare_out, 4)

        self._process = subprocess.Popen(
            [
                chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}",
                "--window-size=1280,760", "about:blank",
            ],
            pass_fds=(3, 4), preexec_fn=pipes,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        self._number, self._rest, self._session = 0, b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.problems: list[str] = []
        self.call("Runtime.enable")
        self.call("Log.enable")
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        import os

        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                data = os.read(self._read, 1 << 20)
                assert data, "the browser is gone"
                self._rest += data
            raw, _, self._rest = self._rest.partition(b"\0")
            told = json.loads(raw)
            if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.problems.append(json.dumps(told["params"])[:400])
            if told.get("id") == self._number:
                assert "error" not in told, told
                result: dict[str, Any] = told["result"]
                return result

    def value(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.monotonic() + 20
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"), self.problems)
            time.sleep(0.05)

    def picture(self) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        import os

        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    try:
        yield opened
    finally:
        opened.close()


def test_an_operator_sees_what_to_do_at_each_head(made: Path, browser: Browser) -> None:
    with running_agent(made, heads=HEADS) as agent:
        browser.call("Page.navigate", url=agent.page)
        browser.until("document.querySelectorAll('article.empty').length === 3")
        assert browser.value("document.getElementById('left').textContent") == "16"
        assert browser.value("location.pathname + location.search") == "/"
        agent.post("key-00000001", "TH-0001", head="left")
        browser.until("document.querySelector('[data-head=left] .verdict').textContent === 'PASS'")
        (made / "out/TH-0002/device-id").write_text("TH-0003\n")
        agent.post("key-00000002", "TH-0002", head="middle")
        browser.until("document.querySelector('[data-head=middle] .verdict').textContent === 'FAIL'")
        told = browser.value("document.querySelector('[data-head=middle]').innerText")
        assert "→ " in told
        assert "device.identity.mismatch" in told
        agent.post("key-00000003", "TH-0003", head="right")
        shutil.rmtree(made / "out/TH-0004")
        agent.post("key-00000004", "TH-0004", head="right")
        browser.until("document.querySelector('[data-head=right] .verdict').textContent === 'REPEAT'")
        figures = [
            browser.value(f"document.getElementById('{name}').textContent") for name in ("passed", "failed", "yield")
        ]
        assert figures == ["2", "1", "66.7 %"]
        assert browser.value("document.getElementById('alarm').hidden") is True
        browser.until("document.getElementById('left').textContent === '14'")
        picture = browser.picture()
        (made / "heads.png").write_bytes(picture)
        assert colours(picture, where=lambda r, g, b: g > r + 25 and g > b + 15) > 0.05, "a green head"
        assert colours(picture, where=lambda r, g, b: r > g + 40 and r > b + 35) > 0.05, "a red head"
        assert browser.problems == [], "its own rules for scripts and styles let the page work"
        assert agent.stop() == 0
    browser.until("!document.getElementById('alarm').hidden && document.body.classList.contains('stale')")
    assert "NOT LIVE" in browser.value("document.getElementById('alarm').textContent")


def test_what_a_device_says_is_text_and_nothing_else(made: Path, browser: Browser) -> None:
    evil = "<img src=x onerror=document.title='gotten'>"
    (made / "out/TH-0005/device-id").write_text(f"{evil}\n")
    with running_agent(made, heads=HEADS, log="evil.log") as agent:
        browser.call("Page.navigate", url=agent.page)
        agent.post("key-00000005", "TH-0005", head="left")
        browser.until("document.querySelector('[data-head=left] .verdict').textContent === 'FAIL'")
        assert browser.value("document.querySelectorAll('main img').length") == 0
        assert browser.value("document.title") == "birthmark heads"


def colours(png: bytes, *, where: Callable[[int, int, int], bool]) -> float:
    """Return the share of pixels of an 8-bit RGB(A) picture (ISO 15948) that are so; every 7th of every 7th line."""
    width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    channels = {2: 3, 6: 4}[png[25]]
    at, packed = 8, b""
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + length]
        at += 12 + length
    data, stride = zlib.decompress(packed), width * channels
    before, hits, seen = bytearray(stride), 0, 0
    for line in range(height):
        start = line * (stride + 1)
        row = _unfiltered(data[start], bytearray(data[start + 1 : start + 1 + stride]), before, channels)
        if line % 7 == 0:
            for pixel in range(0, width, 7):
                red, green, blue = row[pixel * channels : pixel * channels + 3]
                hits, seen = hits + where(red, green, blue), seen + 1
        before = row
    return hits / seen


def _unfiltered(kind: int, row: bytearray, before: bytearray, size: int) -> bytearray:
    for at in range(len(row)):
        left = row[at - size] if at >= size else 0
        up, corner = before[at], before[at - size] if at >= size else 0
        if kind == 1:
            row[at] = row[at] + left & 255
        elif kind == 2:
            row[at] = row[at] + up & 255
        elif kind == 3:
            row[at] = row[at] + (left + up) // 2 & 255
        elif kind == 4:
            guess = left + up - corner
            nearest = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))
            row[at] = row[at] + nearest[2] & 255
    return row
