"""Write docs/reference/ from the code: commands, settings, events and error codes. ``--check`` only compares."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "birthmark"
REFERENCE = ROOT / "docs" / "reference"
FAMILIES = {
    "Misconfigured": (2, "whoever wrote the command or the file mends it"),
    "Refused": (3, "the request is wrong; repeating it changes nothing"),
    "DeviceFault": (4, "rework or scrap this device, take the next one"),
    "StationFault": (5, "call a technician; the device may be good"),
    "Unavailable": (6, "repeat the same request later"),
    "Tampered": (7, "stop the line"),
}
_CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
_MADE = "<!-- made by scripts/make_docs.py; edit the code instead -->\n"


def error_codes() -> dict[str, set[tuple[str, str]]]:
    """Return code → {(family, module)}, from every raise site and every table of codes."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        for family, code in _codes_in(ast.parse(path.read_text())):
            found.setdefault(code, set()).add((family, module))
    return found


def _codes_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in FAMILIES and node.args:
            family = _name(node.func)
            if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                yield family, node.args[0].value
            else:
                yield from ((family, code) for code in _table_codes(tree))
        if isinstance(node, ast.Tuple | ast.Call):
            members = node.elts if isinstance(node, ast.Tuple) else node.args
            families = [_name(member) for member in members if _name(member) in FAMILIES]
            codes = [m.value for m in members if isinstance(m, ast.Constant) and _is_code(m.value)]
            yield from ((family, code) for family in families for code in codes)


def _table_codes(tree: ast.Module) -> Iterator[str]:
    """Yield the codes a module chooses from when a raise site names none: those in tables and in calls of its own."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Tuple | ast.List):
            values = node.elts
        elif isinstance(node, ast.Dict):
            values = node.values
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("_"):
            values = node.args
        yield from (v.value for v in values if isinstance(v, ast.Constant) and _is_code(v.value))


def _is_code(value: object) -> bool:
    return (
        isinstance(value, str) and _CODE.fullmatch(value) is not None and not value.endswith((".toml", ".pem", ".txt"))
    )


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def errors_page() -> str:
    """Return the page of error codes."""
    lines = [_MADE, "# Error codes\n"]
    lines.append(
        "An error says who must act (its family, which is the exit code), what happened (its code, stable), the facts,"
    )
    lines.append("and one sentence about what to do next. `--json` prints it as one object.\n")
    lines += ["| family | exit | who must act |", "|---|---|---|"]
    lines += [f"| {family} | {code} | {who} |" for family, (code, who) in FAMILIES.items()]
    lines += ["", "| code | family | raised in |", "|---|---|---|"]
    for code, places in sorted(error_codes().items()):
        families = ", ".join(sorted({family for family, _ in places}))
        modules = ", ".join(f"`{module.removeprefix('birthmark.')}`" for module in sorted({m for _, m in places}))
        lines.append(f"| `{code}` | {families} | {modules} |")
    return "\n".join(lines) + "\n"


def events_page() -> str:
    """Return the page of event types."""
    from birthmark.model.events import event_types

    lines = [_MADE, "# Events\n", "Every change of state is one of these; the form of an entry is in "]
    lines[-1] += "[formats/events.md](../formats/events.md). Every event has `type` and `at`.\n"
    for tag, kind in event_types().items():
        lines += [f"## `{tag}`\n", " ".join((kind.__doc__ or "").split()) + "\n", "| field | type |", "|---|---|"]
        own = [name for name in kind.__struct_fields__ if name != "at"]
        hints = kind.__annotations__
        lines += [f"| `{name}` | `{hints.get(name, '')}` |" for name in own]
        lines.append("")
    return "\n".join(lines)


def settings_page() -> str:
    """Return the page of settings."""
    import msgspec

    from birthmark.shell.workspace import config

    tables: list[tuple[str, Any]] = [
        ("birthmark.toml", config.WorkspaceSettings),
        ("[log]", config.LogSettings),
        ("[vault]", config.VaultSettings),
        ("[site]", config.SiteSettings),
        ("[authority]", config.AuthoritySettings),
        ("[cas.NAME]", config.CaSettings),
        ("[stations.NAME]", config.StationSettings),
        ("[stations.NAME.mes]", config.MesSettings),
        ("[products.NAME]", config.ProductSettings),
        ("settings.d/*.toml", config.SettingsPart),
    ]
    lines = [_MADE, "# Settings\n", "`birthmark.toml` of a workspace; unknown keys are errors. A secret is a reference"]
    lines[-1] += " (`env:NAME`, `file:PATH`, `fd:N`, `prompt:LABEL`), never a value.\n"
    for title, kind in tables:
        lines += [f"## `{title}`\n", " ".join((kind.__doc__ or "").split()) + "\n", "| key | needed |", "|---|---|"]
        for field in msgspec.structs.fields(kind):
            lines.append(f"| `{field.encode_name}` | {'yes' if field.required else 'no'} |")
        lines.append("")
    return "\n".join(lines)


def commands_page() -> str:
    """Return the page of commands."""
    import typer.main

    from birthmark.shell.cli.main import build_app
    from birthmark.shell.cli.nouns import NOUNS

    root = typer.main.get_command(build_app(list(NOUNS)))
    lines = [_MADE, "# Commands\n"]
    for path, command in walk_commands("birthmark", root):
        lines += [
            f"## `{path}`\n",
            " ".join((command.help or "").split()) + "\n",
            "| parameter | meaning |",
            "|---|---|",
        ]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            names = ", ".join(f"`{name}`" for name in parameter.opts) if parameter.param_type_name == "option" else ""
            shown = names or f"`{parameter.name.upper()}`"
            lines.append(f"| {shown} | {getattr(parameter, 'help', '') or ''} |")
        lines.append("")
    return "\n".join(lines)


def walk_commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield (full name, command) for every command that does something."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from walk_commands(f"{path} {name}", child)
    else:
        yield path, command


PAGES = {"errors.md": errors_page, "events.md": events_page, "settings.md": settings_page, "commands.md": commands_page}


def main(arguments: list[str]) -> int:
    """Write or compare every page."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    stale = []
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in arguments:
            path.write_text(text)
            print(f"wrote docs/reference/{name}")
    if stale and "--check" in arguments:
        print(f"stale: {', '.join(stale)}; run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
