"""The real agent process over a workspace directory, and a client that holds its token."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from support.serving import BIRTHMARK
from support.skinworld import TARGET

__all__ = ["RunningAgent", "running_agent"]


@dataclass
class RunningAgent:
    """An agent process. ``client`` sends the token."""

    process: subprocess.Popen[bytes]
    url: str
    page: str
    token: str
    client: httpx.Client

    def post(self, key: str, device_serial: str, *, wait: int = 30, **more: Any) -> httpx.Response:
        body = {"device_serial": device_serial, **more}
        return self.client.post("/v1/runs", params={"wait": wait}, json=body, headers={"Idempotency-Key": key})

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def running_agent(
    place: Path, *more: str, heads: tuple[str, ...] = (TARGET,), log: str = "agent.log"
) -> Iterator[RunningAgent]:
    """Run ``birthmark agent`` in ``place`` until the end of the block."""
    options = [part for head in heads for part in ("--head", head)]
    with (place / log).open("ab") as stderr:
        process = subprocess.Popen(
            [BIRTHMARK, "agent", "-C", "fab", "--port", "0", *options, *more],
            cwd=place, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "PYTHONWARNINGS": "error"},
        )  # fmt: skip
    assert process.stdout is not None
    told = [process.stdout.readline().decode().split() for _ in range(3)]
    assert [line[0] for line in told if line] == ["agent", "token", "page"], (place / log).read_text()[-3000:]
    token = Path(told[1][1]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(base_url=told[0][1], headers=headers, timeout=60) as client:
            yield RunningAgent(process, told[0][1], told[2][1], token, client)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        process.stdout.close()
