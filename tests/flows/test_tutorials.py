"""Every tutorial runs as it stands: its ``sh`` blocks, in order, in one shell, in an empty directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_a_newcomer_can_type_the_tutorial(tutorial: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", tutorial.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks, "a tutorial has commands"
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-eu"],
        input="\n".join(blocks),
        cwd=tmp_path,
        env={"PATH": path, "HOME": str(tmp_path), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "a long passphrase" not in done.stdout + done.stderr
