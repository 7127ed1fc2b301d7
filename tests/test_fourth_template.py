"""CONTRIBUTING's way to a fourth template: its own commands make one, which is then lived in.

The blocks of "Adding a template" are run in a clone, as somebody would who types them in. What they
make is held to all that the collection asks of a template, by the clone's own tests.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from parts import apps
from parts.programs import call, free_port
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running as serving
from tests.live import (
    GUARD,
    KEY,
    RAG,
    App,
    ask,
    bin_folder,
    running,
    settled,
    status,
    wait_for_page,
    wait_until,
)  # fmt: skip
from tests.rendering import ROOT, render
from tests.test_doors import call as call_tool
from tools.docs.pages import Block, Page
from tools.docs.run import Terminal, clone

pytestmark = pytest.mark.long

FOURTH = "tkt-summary-agent"
QUICK = ["contract", "answers", "twins", "python_is_python", "roads"]
SLOW = ["redeploy", "platform_command", *QUICK]
"""Test files that look at every template."""
OF_THE_COLLECTION = ["the_root_offers", "both_ask", "some_templates_ask", "copie"]
"""Tests in them without a template in their names, which a new one could break."""
TEXT = "The rent is 900 pounds. It is due on the first day. Dogs are allowed. Cats are not."


def section() -> list[Block]:
    """The blocks of the page's section, in order."""
    page = Page(ROOT / "CONTRIBUTING.md", "CONTRIBUTING.md")
    before, heading, rest = page.text.partition("\n## Adding a template\n")
    first = before.count("\n") + 2
    last = first + rest.partition("\n## ")[0].count("\n")
    assert heading, "CONTRIBUTING.md has no section of that name"
    return [block for block in page.blocks() if first < block.line <= last + 1]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone in which the section's commands were run, and `make fix` for the new folder."""
    scratch = tmp_path_factory.mktemp("fourth")
    folder = clone(scratch / "collection", bare=False)
    terminal = Terminal(folder, scratch)
    with ExitStack() as held:
        for block in filter(lambda block: block.runs, section()):
            terminal.run(block, held)
    for what in (["check", "--fix"], ["format"]):
        call([sys.executable, "-m", "ruff", *what, "--quiet", FOURTH], folder)
    return folder


@pytest.fixture(scope="module")
def app(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The new template, rendered."""
    folder = tmp_path_factory.mktemp("rendered")
    return render(collection / FOURTH, folder, project_name="fourth") / "fourth"


def by_pytest(collection: Path, *options: str) -> str:
    """What pytest says in the clone; the tests there find the new folder by themselves."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=collection, text=True, capture_output=True)
    return done.stdout + done.stderr


def test_the_section_has_commands_and_says_what_to_run_after_them() -> None:
    assert [block.runs for block in section()] == [True, True, True, True, False]
    assert "make test" in section()[-1].text


@pytest.mark.timeout(900)
def test_the_new_template_passes_what_every_template_must(collection: Path) -> None:
    """With the newest Copier alone; the next test is whole."""
    of_all = " or ".join(OF_THE_COLLECTION)
    passes(collection, QUICK, f"({FOURTH} and not 9.4.1) or {of_all}", at_least=80)


@pytest.mark.timeout(1800)
def test_it_passes_with_the_oldest_copier_too_and_outlives_a_redeploy(collection: Path) -> None:
    passes(collection, SLOW, FOURTH, at_least=120)
    passes(collection, SLOW, f"{FOURTH} and 9.4.1", at_least=9, marks="long")


def passes(
    collection: Path,
    names: list[str],
    which: str,
    at_least: int,
    marks: str = "not slow and not long",
) -> None:
    files = [f"tests/test_{name}.py" for name in names]
    said = by_pytest(collection, *files, "-k", which, "-m", marks)
    passed = re.search(r"^(\d+) passed", said.splitlines()[-1])
    assert passed, said[-6000:]
    assert int(passed[1]) >= at_least


def test_nothing_in_it_leads_to_a_file_that_was_taken_out(app: Path) -> None:
    modules = {f"agent.{path.stem}" for path in (app / "agent").glob("*.py")}
    for path in app.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agent."):
                assert node.module in modules, f"{path.name} imports {node.module}"
    for gone in ("QDRANT", "EMBEDDING", "ingest", "tkt-rag-agent", "agent.doctor"):
        read = [*app.rglob("*.py"), *app.parent.glob("*.md"), *app.parent.glob("*.yaml")]
        naming = [path.name for path in [*read, app / "app.env"] if gone in path.read_text()]
        assert naming == [], f"{naming} speak of {gone}"


def test_what_is_missing_in_the_docs_is_said_in_words_that_tell_what_to_add(
    collection: Path,
) -> None:
    """The section's tables are not filled here: `make docs` does that."""
    named = "each_route or every_variable or every_command"
    said = by_pytest(collection, "tests/test_docs_complete.py", "-k", named)
    assert re.search(r"2 failed, \d+ passed", said.splitlines()[-1]), said[-6000:]
    assert f"no row in the table `routes {FOURTH}`: add it, and make docs" in said
    assert re.search("'SENTENCES'.*read, and not in the reference; make docs", said)


@contextmanager
def living(app: Path, folder: Path, **env: str) -> Iterator[App]:
    """The app of the new template, in the environment of the one that it was copied from."""
    port = free_port()
    here = {"PATH": f"{bin_folder(RAG)}:/usr/bin:/bin", "PYTHONPATH": str(GUARD), "NAMES": "{}"}
    here |= {"REFUSED_LOG": str(folder / "refused"), "DATA_DIR": str(folder), "TMPDIR": str(folder)}
    with running(apps.command(app, port), port, folder, here | env, app) as started:
        wait_until(lambda: status(started, "/ready") and "app" not in ready(started)["services"])
        yield started


def ready(app: App) -> dict[str, object]:
    return dict(status(app, "/ready") or {"services": {"app": {}}})


def test_it_needs_no_other_packages_than_the_one_it_was_copied_from(app: Path) -> None:
    asked = ROOT / RAG / "{{app_name}}" / "requirements.txt"
    assert (app / "requirements.txt").read_text() == asked.read_text()


def test_it_starts_with_nothing_and_shows_the_texts_own_sentences(
    app: Path, tmp_path: Path
) -> None:
    with living(app, tmp_path) as here:
        assert status(here, "/health")["service"] == "fourth"
        assert status(here, "/ready")["ready"]
        assert "fourth" in wait_for_page(here).lower()
        answer = ask(here, TEXT)
        assert answer["answer"].endswith("Dogs are allowed.")
        assert answer["mode"] == "extractive"
        assert here.refused == []


def test_every_door_gives_the_models_summary(app: Path, tmp_path: Path) -> None:
    gateway = Gateway(reply="900 pounds, on the first day; dogs, but no cats.")
    with (
        serving(gateway.app) as url,
        living(app, tmp_path, LITELLM_ENDPOINT=url, CHAT_MODEL="double", **KEY) as here,
    ):
        assert ask(here, TEXT)["answer"] == gateway.reply
        client = openai.OpenAI(base_url=f"{here.url}/v1", api_key="-", max_retries=0)
        said = [{"role": "user", "content": TEXT}]
        whole = client.chat.completions.create(model="fourth", messages=said)  # type: ignore[call-overload]
        assert whole.choices[0].message.content == gateway.reply
        settled(here)
        assert call_tool(here, "summarise", text=TEXT)["answer"] == gateway.reply
        assert "agent_answers_total" in httpx.get(f"{here.url}/metrics").text
        assert gateway.requests[-1].body["messages"][-1]["content"] == TEXT


def test_its_own_tests_pass_and_its_types_hold(app: Path, collection: Path) -> None:
    python = bin_folder(RAG) / "python"
    call([python, "-m", "pytest", "-q", "-p", "no:cacheprovider"], app)
    mypy = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
    doors = ["agent", "app.py", "ui.py", "mcp_tools.py"]
    folder = collection / FOURTH / "{{app_name}}"
    call([*mypy, "--python-executable", python, *doors], folder)
    call([sys.executable, "-m", "ruff", "check", FOURTH], collection)
