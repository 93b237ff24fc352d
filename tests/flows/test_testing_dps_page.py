"""Every example of docs/testing-dps.md that stands alone runs as it stands there; so does the command."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing-dps.md"
ASK = """
import json
import ssl
from http.client import HTTPSConnection


def ask(dps, path="/enrollments/query", body={"query": "SELECT * FROM enrollments"}):
    trust = ssl.create_default_context(cadata=dps.root_pem)
    connection = HTTPSConnection(dps.host, dps.https_port, context=trust, timeout=10)
    try:
        connection.request("POST", path, json.dumps(body), {"Authorization": dps.sas_token()})
        answer = connection.getresponse()
        return answer.status, answer.getheader("retry-after"), json.loads(answer.read())
    finally:
        connection.close()
"""


def test_the_examples_run_as_they_stand(tmp_path: Path) -> None:
    blocks = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def " in block]
    assert len(blocks) == 7
    address = f"127.13.{os.getpid() % 250 + 1}.9"  # the page says an address of its own; the port is fixed
    text = "\n\n".join(blocks).replace("127.0.0.7", address)
    (tmp_path / "test_page.py").write_text(text + ASK)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_page.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


def test_the_command_says_how_to_go_on_and_shows_no_secret(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "from birthmark.shell.cli.main import main; main()"]
    command = [*program, "emulate", "dps", "--directory", "e", "--mqtt-port", "0", "--hub", "mine.azure-devices.net"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    lines = [running.stdout.readline() for _ in range(9)]
    running.send_signal(signal.SIGTERM)
    shown = "".join(lines) + running.communicate(timeout=20)[0]
    assert running.returncode == 0
    assert lines[0].startswith("https 127.0.0.1:")
    assert 'create_from_x509_certificate(\n      provisioning_host="127.0.0.1", id_scope="0ne00000000"' in shown
    secret = tmp_path / "e" / "connection.txt"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    string, token, hub = secret.read_text().splitlines()
    assert string.startswith("HostName=127.0.0.1:")
    assert hub.startswith("hub:mine.azure-devices.net=HostName=127.0.0.1:")
    shares = [one.partition("SharedAccessKey=")[2] for one in (string, hub)]
    assert len({*shares, ""}) == 3
    for part in (*shares, token.partition("=")[2]):
        assert part not in shown
