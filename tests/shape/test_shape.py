"""The shape of the code is a promise: sizes, directions, doors."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "src" / "birthmark").rglob("*.py"))
CORE = ("model", "guide", "pki", "tlog", "wire", "workflow")
BANNED_WORDS = ("utils", "helpers", "manager", "misc", "common")


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT / "src"))


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_module_stays_within_its_budget(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno + 1 <= 60, f"{node.name} is too long"


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_module_has_a_docstring_a_door_and_a_dull_name(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it is"
    assert path.stem not in BANNED_WORDS
    if path.name == "__init__.py":
        return
    doors = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    assert len(doors) == 1, "a module says what it exports"
    exported = ast.literal_eval(doors[0].value)
    defined = {name for node in tree.body for name in _defined(node)}
    assert set(exported) <= defined, "what is exported exists"


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return []


def test_imports_point_one_way_and_never_in_a_circle() -> None:
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.relative_to(ROOT / "src" / "birthmark").parts[0] in CORE], ids=_id
)
def test_the_core_reads_no_clock_no_entropy_and_no_file(path: Path) -> None:
    """import-linter holds the imports; this holds the built-in ways around them."""
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "input", "print", "exec", "eval", "__import__"}
