"""The reference holds what the code reads and offers, all of it, and nothing else."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import draw
from tests.rendering import ROOT, TEMPLATES
from tools.docs.diagrams import SOURCES, is_drawn
from tools.docs.pages import TABLE, Page, collection
from tools.docs.tables import commands_of, filled

VARIABLES = ROOT / "docs" / "reference" / "environment-variables.md"
NAME = re.compile(r"[A-Z][A-Z0-9_]+")
INTERNAL = {"sandbox_child", "extract", "guard", "hub", "small"}
"""Modules with a command line that only the app itself uses."""


@pytest.mark.long
@pytest.mark.parametrize(
    "page", [p for p in collection() if TABLE.search(p.text)], ids=lambda page: page.name
)
def test_tables_are_what_the_code_says(page: Page) -> None:
    assert page.text == filled(page.text), f"{page.name} is out of date: make docs"


@pytest.mark.parametrize("page", collection(), ids=lambda page: page.name)
def test_every_table_that_begins_ends_and_is_made(page: Page) -> None:
    """What is misspelt in the name of one would else be no table, and never out of date."""
    # A page may speak of them, and a command may write one.
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.text, flags=re.M | re.S)
    counts = (
        len(TABLE.findall(text)),
        text.count("<!-- table: "),
        text.count("<!-- end of table -->"),
    )
    assert len(set(counts)) == 1, f"{page.name}: tables, beginnings and ends are {counts}"


def test_the_benchmarks_are_what_was_measured() -> None:
    kept = [draw._kept(name) for name in ("rag-quality", "rag-retrieval", "rag-answers")]
    quality, retrieval, answers = kept
    page = draw.page(quality, retrieval["figures"], answers["figures"])
    assert draw.PAGE.read_text() == page, "out of date: python benchmarks/draw.py"
    picture = draw.picture(answers["figures"]["sample"])
    assert draw.PICTURE.read_text() == picture, "out of date: python benchmarks/draw.py"


@pytest.mark.parametrize("source", sorted(SOURCES.glob("*.dot")), ids=lambda source: source.stem)
def test_each_diagram_is_drawn_from_its_present_text(source: Path) -> None:
    assert is_drawn(source), f"{source.name} has changed since it was drawn: make docs"


def test_every_variable_that_is_read_is_in_the_reference_and_no_other() -> None:
    text = VARIABLES.read_text()
    rows = re.findall(r"^\| (`[A-Z][^|]*) \|", text, flags=re.M)
    named = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)}
    read = {name for file in _sources() for name in _read(file)} | set(_settings())
    assert read - named == set(), f"{read - named}: read, and not in the reference; make docs"
    assert named - read == set(), "in the reference, and not read"


def _settings() -> Iterator[str]:
    """Fields of each app's Settings."""
    for template in TEMPLATES:
        tree = ast.parse((ROOT / template / "{{app_name}}" / "agent" / "settings.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == "Settings":
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        yield field.target.id.upper()


def _sources() -> Iterator[str]:
    """Python that is run outside of tests, that of notebooks too."""
    for folder in ("tools", "parts", "notebooks", "examples", "benchmarks", "corpus", "tkt-*"):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            if not {"tests", "__pycache__"} & set(path.parts):
                yield path.read_text()
    for path in ROOT.glob("notebooks/**/*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        yield "\n".join(re.sub(r"^[%!].*", "", cell, flags=re.M) for cell in code)


def _read(source: str) -> Iterator[str]:
    """Variables that it asks for, by name or by a name from a list beside it or of its module."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    lists = _lists(tree)

    def named(key: ast.expr) -> Iterator[str]:
        if isinstance(key, ast.Constant):
            yield str(key.value)
        else:
            yield from _constants(_around(key, parents), lists)

    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=value, slice=key, ctx=ast.Load()) if _environ(value):
                yield from named(key)
            case ast.Call(func=ast.Attribute(value=value, attr=how), args=[key, *_]):
                if how == "getenv" or (_environ(value) and how == "get"):
                    yield from named(key)
                seen = not isinstance(parents[node], ast.Expr)
                if _environ(value) and how in ("pop", "setdefault") and seen:
                    yield from named(key)
            case ast.Call(func=ast.Attribute(value=value, attr="items")) if _environ(value):
                yield from _constants(_around(node, parents), lists)
            case ast.Compare(left=key, ops=[ast.In() | ast.NotIn()], comparators=[value]):
                if _environ(value):
                    yield from named(key)


def _environ(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


def _lists(tree: ast.Module) -> dict[str, ast.expr]:
    """What the module's names stand for."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id: node.value for t in targets if isinstance(t, ast.Name)}
    return found


def _around(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> ast.AST:
    """The comprehension or loop that the node stands in."""
    loops = (ast.DictComp, ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.For)
    while not isinstance(node, loops):
        assert node in parents, "a variable is asked for whose name cannot be told"
        node = parents[node]
    return node


def _constants(node: ast.AST, lists: dict[str, ast.expr]) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and NAME.fullmatch(str(part.value)):
            if not str(part.value).endswith("_"):  # what a name begins with is no name
                yield str(part.value)
        elif isinstance(part, ast.Name) and part.id in lists:
            others = {name: value for name, value in lists.items() if name != part.id}
            yield from _constants(lists[part.id], others)


def _hidden(source: str) -> Iterator[str]:
    """Where it takes the variables so that nobody can tell which of them it reads."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module="os", names=names):
                if {"environ", "getenv", "environb"} & {name.name for name in names}:
                    yield ast.unparse(node)
            case ast.Call(func=ast.Name(id="dict"), args=[value]) if _environ(value):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(value=value, attr="copy")) if _environ(value):
                yield ast.unparse(node)
            case ast.Assign(value=value) | ast.NamedExpr(value=value) if _environ(value):
                yield ast.unparse(node)
            case ast.For(iter=value) | ast.comprehension(iter=value) if _environ(value):
                yield ast.unparse(node)


def test_nobody_reads_variables_in_a_hidden_way() -> None:
    assert [line for source in _sources() for line in _hidden(source)] == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("os.environ['A1']; os.environ['B1'] = 'x'; os.environ.get('C1')", {"A1", "C1"}),
        ("os.getenv('a')", {"a"}),
        ("x = os.environ.pop('A1', ''); os.environ.pop('B1')", {"A1"}),
        ("os.environ.setdefault('A1', 'B1')", set()),
        ("print('A1' in os.environ, 'B1' not in os.environ)", {"A1", "B1"}),
        ("K: T = ('A1', 'B_')\nx = {n: v for n, v in os.environ.items() if n in K}", {"A1"}),
        ("P = ['A1']\nK = {'B1', *P}\nx = [os.environ[n] for n in K]", {"A1", "B1"}),
        ("for n in ('A1', 'B1'):\n    os.environ.get(n)", {"A1", "B1"}),
        ("run(env=os.environ | {'A1': 'x'})", set()),
    ],
)
def test_what_is_read_is_seen(source: str, names: set[str]) -> None:
    assert set(_read(source)) == names


@pytest.mark.parametrize(
    ("source", "hidden"),
    [
        ("from os import environ", True),
        ("from os import path, getenv as g", True),
        ("env = dict(os.environ)", True),
        ("env = os.environ.copy()", True),
        ("env = os.environ", True),
        ("print([name for name in os.environ])", True),
        ("env = os.environ | {'A1': 'x'}", False),
        ("run(env=os.environ)", False),
    ],
)
def test_what_is_read_in_a_hidden_way_is_refused(source: str, hidden: bool) -> None:
    assert any(_hidden(source)) == hidden


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_command_of_an_app_is_described(template: str) -> None:
    """What has a command line is one for its owner, or one that the app itself starts."""
    house = ROOT / template / "{{app_name}}" / "agent"
    found = {path.stem for path in house.glob("*.py") if "__main__" in path.read_text()}
    unnamed = found - INTERNAL - set(commands_of(template))
    assert unnamed == set(), 'they need prog="python -m agent.NAME", or a place in INTERNAL'
    assert set(commands_of(template)) <= found


def test_make_help_names_every_target_and_variable() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", text, flags=re.M)
    targets = set(" ".join(phony).replace("\\", " ").split()) - {"all", "help"}
    said = "\n".join(re.findall(r'^\t@echo "(.*)"$', text, flags=re.M))
    assert {t for t in targets if not re.search(rf"make {t}(?![\w-])", said)} == set()
    used = set(re.findall(r"\$\((?:value )?([A-Z]+)\)", text)) - {"BIN", "MAKECMDGOALS"}
    sheet = (ROOT / "docs" / "reference" / "cheat-sheet.md").read_text()
    assert {name for name in used if f"{name}=" not in said and f"`{name}" not in sheet} == set()


def test_each_route_is_on_the_page_once() -> None:
    """The table is made from the app's own description; this reads the code instead."""
    page = Page(Path(ROOT / "docs" / "reference" / "http-api.md"), "http-api")
    tables = dict(page.tables())
    for template in TEMPLATES:
        table = tables.get(f"routes {template}", "")
        shown = re.findall(r"^\| `([A-Z]+ [^`]+)` \|", table, flags=re.M)
        assert shown, (
            f"{page.name} has no row in the table `routes {template}`: add it, and make docs"
        )
        assert sorted(shown) == sorted(set(_routes(ROOT / template / "{{app_name}}")))


def _routes(app: Path) -> Iterator[str]:
    """`GET /path` of each decorated function of the doors, and of those in app.py."""
    for name, prefix in (("api.py", "/api"), ("openai_api.py", "/v1"), ("app.py", "")):
        tree = ast.parse((app / name).read_text())
        for node in ast.walk(tree):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and node.func.attr in ("get", "post", "put", "delete") and node.args:  # type: ignore[attr-defined]
                first = node.args[0]  # type: ignore[attr-defined]
                if isinstance(first, ast.Constant) and str(first.value).startswith("/"):
                    yield f"{node.func.attr.upper()} {prefix}{first.value}"  # type: ignore[attr-defined]
