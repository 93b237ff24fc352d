"""Write docs/target-laws.md: every kind of device beside every law of a target, from a run of the tests."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "contracts" / "test_targets.py"
PAGE = ROOT / "docs" / "target-laws.md"
HELD, FAILED = "✔", "✘ **broken**"
_HEAD = """# Which target keeps which law

<!-- made by scripts/make_matrix.py from a run of tests/contracts/test_targets.py; run it again, do not edit -->

Every kind of device below is real or an emulator that its page describes; every cell is a test that ran on it.
✔: the law held. *refused by name*: the device cannot do that, says so, and nothing changed. –: there is nothing of the
kind to try on it. *one place*: a station has but one. Under lies stands what the device was made to lie about, and was
caught.

"""


def laws() -> list[str]:
    """Return the names of the tests, each a sentence, in the order of the file."""
    tree = ast.parse(TESTS.read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def sentence(law: str) -> str:
    """Return the sentence that a test is named after."""
    words = law.removeprefix("test_").replace("_", " ")
    return words[0].upper() + words[1:]


def measure() -> dict[tuple[str, str], str]:
    """Run the tests; return (kind, law) → what came out."""
    found: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "auto",
            "-o",
            "junit_family=xunit1",
            f"--junitxml={report}",
            str(TESTS),
        ]
        subprocess.run(command, cwd=ROOT, check=False)
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  our own file
            law = str(case.get("name")).partition("[")[0]
            said = {each.get("name"): str(each.get("value")) for each in case.iter("property")}
            broken = case.find("failure") is not None or case.find("error") is not None
            cell = FAILED if broken else said.get("law", HELD)
            if found.get((said.get("kind", "?"), law)) != FAILED:
                found[said.get("kind", "?"), law] = cell
    return found


def page(found: dict[tuple[str, str], str]) -> str:
    """Return the page."""
    names = laws()
    lines = [f"{number}. {sentence(law)}" for number, law in enumerate(names, 1)]
    rows = ["| kind | " + " | ".join(map(str, range(1, len(names) + 1))) + " |", "|---|" + ":-:|" * len(names)]
    for kind in sorted({kind for kind, _ in found}):
        rows.append(f"| `{kind}` | " + " | ".join(found.get((kind, law), "?") for law in names) + " |")
    return _HEAD + "\n".join(lines) + "\n\n" + "\n".join(rows) + "\n"


def main() -> int:
    """Write the page; 1 if a law is broken."""
    found = measure()
    PAGE.write_text(page(found))
    print(f"wrote {PAGE.relative_to(ROOT)}: {len({kind for kind, _ in found})} kinds, {len(laws())} laws")
    return int(FAILED in found.values())


if __name__ == "__main__":
    sys.exit(main())
