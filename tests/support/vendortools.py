"""The makers' own tools: each set in an environment of its own, made by `make tools`."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["run_tool", "tool"]

_ROOT = Path(__file__).resolve().parents[2] / ".tools"


def tool(name: str, program: str = "python") -> Path:
    """Return a program of the environment of ``tests/tools/NAME.in``; a missing one fails the test."""
    path = _ROOT / name / "bin" / program
    assert path.exists(), f"{path} is missing: run `make tools`"
    return path


def run_tool(name: str, program: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Run it; return what it printed. It has to succeed."""
    command = [str(tool(name, program)), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr
