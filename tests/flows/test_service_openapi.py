"""The real server against its own description, by schemathesis: what it answers is what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.serviceworld import build_world

SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


def test_generated_requests_get_the_answers_that_are_described(tmp_path: Path) -> None:
    world = build_world(tmp_path / "world")
    with world.running() as running:
        done = subprocess.run(
            [
                SCHEMATHESIS, "run", f"{running.url}/openapi.json", "--checks", ",".join(CHECKS),
                "--tls-verify", str(world.pki / "access.pem"), "--request-cert", str(world.pki / "line1.pem"),
                "--request-cert-key", str(world.pki / "line1.key"), "--max-examples", "25", "--seed", "1",
                "--phases", "examples,coverage,fuzzing", "--no-color", "--generation-database", "none",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert running.process.poll() is None
