"""The page of messages: the product says each of them, and the test that is named sees it.

An entry of docs/reference/troubleshooting.md is a heading of the third level that is a message,
with `…` for what varies, and ends with the test. A few messages are asserted at the end of this
file, since no other test says them word for word.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.rendering import ROOT, TEMPLATES, render

PAGE = ROOT / "docs" / "reference" / "troubleshooting.md"
PLACES = (*TEMPLATES, "tools", "parts", "notebooks", "examples", "Makefile")
"""Where messages come from: all of one stands in one of these."""
FEWEST = 40
RUN = 5
"""Words in a row that the test must say; a shorter message it must say whole."""
PIECES = 5
"""A part of a message is put together from at most so many literals."""

_HEADING = re.compile(r"^### (.*)$", re.M)
_SEEN = re.compile(r"^Seen in `([^`]+)::(test_\w+)`\.$")
_VARIES = re.compile(r"\{[^{}]*\}|%s")


@dataclass(frozen=True)
class Entry:
    message: str
    advice: str
    """Cause and cure, without the line that names the test."""
    file: str
    test: str


def sections() -> list[tuple[str, str]]:
    """(heading, what stands below it) of each heading of the third level."""
    _, *found = _HEADING.split(PAGE.read_text())
    bodies = (re.split(r"^#{1,2} ", body, maxsplit=1, flags=re.M)[0] for body in found[1::2])
    return [(head.strip(), body.strip()) for head, body in zip(found[::2], bodies, strict=True)]


def entry(head: str, body: str) -> Entry | None:
    """None where it has not the form of an entry."""
    message = re.fullmatch(r"`([^`]+)`", head)
    *advice, last = body.splitlines() or [""]
    seen = _SEEN.match(last)
    if not (message and seen):
        return None
    return Entry(message[1], " ".join(advice).strip(), *seen.groups())


ENTRIES = [found for section in sections() if (found := entry(*section))]
each = pytest.mark.parametrize("one", ENTRIES, ids=lambda one: one.message[:50])


# What tests and the product say


def strings(tree: ast.AST) -> Iterator[str]:
    """Each literal but docstrings, adjacent ones and f-strings put together, with `{}` for what
    varies."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inside.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            inside.update(id(part) for part in ast.walk(node) if part is not node)
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@cache
def module(file: str) -> ast.Module | None:
    path = ROOT / file
    return ast.parse(path.read_text()) if path.is_file() else None


@cache
def function(file: str, test: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    tree = module(file)
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == test:
            return node
    return None


@cache
def said(file: str, test: str) -> str:
    """The literals of a test, of its parameters, and of the names of its file that it uses, a line
    each; patterns without their backslashes."""
    node, tree = function(file, test), module(file)
    assert node
    assert tree
    used = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    beside = [n for n in tree.body if isinstance(n, ast.Assign) and used & _names(n)]
    texts = [text for part in (node, *beside) for text in strings(part)]
    return "\n".join(re.sub(r"\\(?=\W)", "", spaced(text)) for text in texts)


def _names(node: ast.Assign) -> set[str]:
    return {target.id for target in node.targets if isinstance(target, ast.Name)}


@cache
def pieces(place: str) -> tuple[str, ...]:
    """What stands literally in the messages of a place, between the parts that vary."""
    files = [path for path in sorted((ROOT / place).rglob("*")) if path.is_file()]
    found: set[str] = set()
    for path in files or [ROOT / place]:
        if path.suffix == ".py" and "tests" not in path.relative_to(ROOT).parts:
            tree = ast.parse(path.read_text())
            found |= {piece for text in strings(tree) for piece in _VARIES.split(text)}
        elif path.name in ("Makefile", "copier.yml"):
            found.add(path.read_text())
    return tuple(filter(None, map(spaced, found)))


def spelt(text: str, among: tuple[str, ...]) -> bool:
    """Whether it stands in one piece, or runs from one over whole ones into another."""
    if any(text in piece for piece in among):
        return True
    ends = (n for n in range(len(text) - 1, 0, -1) if any(p.endswith(text[:n]) for p in among))
    return any(_goes_on(text[n:], among, PIECES - 1) for n in ends)


def _goes_on(text: str, among: tuple[str, ...], left: int) -> bool:
    if any(piece.startswith(text) for piece in among):
        return True
    whole = [piece for piece in among if text.startswith(piece)] if left > 1 else []
    return any(_goes_on(text[len(piece) :], among, left - 1) for piece in whole)


def literal(message: str) -> list[str]:
    """Its parts between what varies."""
    return [part for part in spaced(message).split("…") if part.strip()]


def runs(message: str) -> Iterator[re.Pattern[str]]:
    """Each `RUN` words in a row, most of them whole, and `…` for anything in a line."""
    words = message.split()
    for at in range(max(1, len(words) - RUN + 1)):
        run = words[at : at + RUN]
        if sum("…" not in word for word in run) * 2 > len(run):
            text = " ".join(run).strip(".,;:…")
            yield re.compile(".{1,80}?".join(map(re.escape, text.split("…"))))


# The page


def test_the_page_has_entries_and_all_have_the_form_of_one() -> None:
    odd = [head for head, body in sections() if entry(head, body) is None]
    assert not odd, f"{odd[0]}: a message in backticks, advice, and `Seen in` are wanted."
    assert len(ENTRIES) >= FEWEST, f"{len(ENTRIES)} entries are there, and {FEWEST} are wanted."
    messages = [one.message for one in ENTRIES]
    twice = [message for message in messages if messages.count(message) > 1]
    assert not twice, f"{twice[0]!r} stands there twice: take one of them out."


@each
def test_an_entry_says_why_and_what_to_do(one: Entry) -> None:
    sentences = re.findall(r"[.!?](?=\s|$)", one.advice)
    assert len(sentences) >= 2, f"{one.message!r} wants a sentence on why and one on what to do."


@each
def test_the_test_that_is_named_exists(one: Entry) -> None:
    assert function(one.file, one.test), f"{one.message!r}: there is no {one.test} in {one.file}."


@each
def test_the_test_that_is_named_says_the_message(one: Entry) -> None:
    if function(one.file, one.test):  # else the test above fails
        text = said(one.file, one.test)
        seen = any(run.search(text) for run in runs(one.message))
        assert seen, f"{one.message!r}: {one.test} says no {RUN} words of it in a row."


@each
def test_the_product_says_the_message(one: Entry) -> None:
    parts = literal(one.message)
    missing = [[p for p in parts if not spelt(p, pieces(place))] for place in PLACES]
    fewest = min(missing, key=len)
    assert not fewest, f"{one.message!r}: {fewest[0]!r} stands in no message of the product."


# What would be wrong is found


def test_a_message_that_nobody_says_is_found_out() -> None:
    among = ("Port ", " is taken: stop ", "it", "; ", "look here", ".")
    assert spelt(" is taken", among)
    assert spelt("stop it; look here.", among)
    assert not spelt("stop that; look here.", among)
    assert not spelt("look there", among)
    text = "match=Port .* is taken: stop it"
    assert any(run.search(text) for run in runs("Port … is taken: stop it, or wait."))
    assert not any(run.search(text) for run in runs("Port … is taken: leave it, or wait."))
    assert entry("`Port … is taken`", "Why. What.\n\nSeen in `tests/test_x.py::test_y`.")
    assert entry("Port is taken", "Why. What.\n\nSeen in `tests/test_x.py::test_y`.") is None
    assert entry("`Port … is taken`", "Why. What.") is None


# Messages that no other test says word for word


@pytest.mark.parametrize(
    ("template", "name", "answer", "sentence"),
    [
        ("tkt-rag-agent", "project_name", "My_App",
         "project_name becomes a host name: use at most 59 small letters, digits and hyphens, "
         "begin with a letter, do not end with a hyphen, and do not call it k8s."),
        ("tkt-rag-agent", "project_description", "costs $5",
         "project_description may not hold double quotes, dollar signs, backticks, backslashes "
         "or line breaks: they would break the platform's manifests."),
        ("tkt-vllm-gradio", "model_id", "two words",
         "model_id must be given, without spaces, double quotes, dollar signs, backticks, "
         "backslashes or line breaks: they would break the platform's manifests."),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_is_refused_in_these_words(
    template: str, name: str, answer: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=re.escape(sentence)):
        render(ROOT / template, tmp_path / "app", **{name: answer})


def make(folder: Path, *words: str) -> str:
    """What a `make` that fails says."""
    done = subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode, "it was meant to fail"
    return done.stdout + done.stderr


def test_make_render_asks_where_to() -> None:
    words = "Say where: make render TEMPLATE=tkt-crewai-agent DEST=my-app"
    assert words in make(ROOT, "render", "TEMPLATE=tkt-crewai-agent")


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements-tools.txt"):
        shutil.copy(ROOT / name, tmp_path)
    words = "Python 3.11 or newer is needed: make PYTHON=python3.12 demo"
    assert words in make(tmp_path, "demo", "PYTHON=false")


def test_make_demo_says_that_its_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        command = [sys.executable, "tools/demo.py", "tkt-rag-agent", "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    words = f"Port {port} is taken: stop what serves there, or make demo PORT=7861\n"
    assert (done.returncode, done.stdout) == (2, words)


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.txt", b"caf\xe9", "is not valid UTF-8 from byte 3 on: save it as UTF-8"),
        ("a.pdf", b"no PDF", "ends in .pdf but looks like something else: rename it, or save it "
         "anew"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_in_these_words(
    name: str, data: bytes, sentence: str
) -> None:
    file = ROOT / "tkt-rag-agent" / "{{app_name}}" / "agent" / "extract.py"
    spec = importlib.util.spec_from_file_location("extract_of_an_app", file)
    assert spec
    assert spec.loader
    extract = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = extract  # its dataclasses look for it there
    spec.loader.exec_module(extract)
    with pytest.raises(extract.Unreadable) as refusal:
        extract.extract(name, data)
    assert str(refusal.value) == sentence
