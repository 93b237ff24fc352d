"""The audit shares no code with the writer, and every finding has its line in the documentation."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import birthmark
from birthmark.adapters.audit.findings import CATALOGUE, INVARIANTS, LISTED_PER_CODE, Findings

SOURCE = Path(birthmark.__file__).parent
ROOM = SOURCE / "adapters" / "audit"
DOCUMENT = SOURCE.parents[1] / "docs" / "audit.md"


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_the_audit_imports_nothing_of_the_writer() -> None:
    for path in ROOM.glob("*.py"):
        for name in _imports(path):
            if name.startswith("birthmark"):
                allowed = ("birthmark.adapters.audit.", "birthmark.errors.", "birthmark.__version__")
                assert name.startswith(allowed), (path.name, name)


def test_every_code_of_a_finding_is_in_the_catalogue_and_used() -> None:
    beside = SOURCE / "shell" / "evidence" / "witnessed.py"
    text = "".join(path.read_text() for path in [*ROOM.glob("*.py"), beside] if path.name != "findings.py")
    used = set(re.findall(r'"(audit\.[a-z0-9_.]+)"', text))
    assert set(CATALOGUE) <= used
    assert {invariant for invariant, _, _ in CATALOGUE.values()} == set(INVARIANTS)


def test_every_code_and_invariant_is_documented() -> None:
    text = DOCUMENT.read_text()
    for code, (invariant, severity, meaning) in CATALOGUE.items():
        assert f"| `{code}` | {invariant} | {severity} | {meaning} |" in text, code
    for invariant, law in INVARIANTS.items():
        assert f"| {invariant} | {law} |" in text


def test_a_flood_of_findings_is_counted_not_kept() -> None:
    one, other = Findings(), Findings()
    for at in range(3 * LISTED_PER_CODE):
        one.add("audit.tile.mismatch", f"hash {at}", "tile")
        other.add("audit.tile.mismatch", f"hash {at}", "tile")
    one.merge(other)
    assert len(one.kept) == LISTED_PER_CODE
    assert one.totals["audit.tile.mismatch"] == 6 * LISTED_PER_CODE
