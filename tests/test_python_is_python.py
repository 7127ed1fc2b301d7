"""Python is Python: each template's code parses as it lies, and holds no Jinja to branch on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.rendering import ROOT, TEMPLATES

SOURCES = [
    path
    for template in TEMPLATES
    for pattern in ("*.py", "*.py.jinja")
    for path in sorted((ROOT / template).rglob(pattern))
    if ".venv" not in path.parts
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_parses_as_it_lies(path: Path):
    source = path.read_text()
    ast.parse(source)
    assert "{%" not in source


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_house_never_imports_a_door(template):
    for path in (ROOT / template / "{{app_name}}" / "agent").glob("*.py"):
        imported = {
            name for node in ast.walk(ast.parse(path.read_text())) for name in _imported(node)
        }
        doors = {"app", "api", "doors", "openai_api", "mcp_tools", "ui"}
        assert not imported & doors, f"{path.name} imports a door"


@pytest.mark.parametrize("template", TEMPLATES)
def test_connections_are_opened_in_one_file(template):
    opened = {"AsyncClient", "Client", "AsyncQdrantClient", "create_connection"}
    for path in (ROOT / template / "{{app_name}}" / "agent").glob("*.py"):
        if path.name in (
            "services.py",
            "tracing.py",
        ):  # tracing is a twin, which imports no sibling
            continue
        calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
        assert not names & opened, f"{path.name} opens a connection"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module.split(".")[0]]
    return []
