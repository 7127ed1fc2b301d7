"""An owner's evening: evaluate, calibrate, and turn a wrong answer into a golden question."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import live
from tests.doubles.langfuse import Langfuse
from tests.doubles.serve import running
from tests.live import wait_until

pytestmark = pytest.mark.long
KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the rendered app that holds its sample documents."""
    folder = tmp_path / "app"
    shutil.copytree(live.rendered(), folder)
    assert run(folder, "agent.ingest", "sample").returncode == 0
    return folder


def run(app: Path, module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [live.bin_folder() / "python", "-m", module, *arguments],
        cwd=app,
        env={"PYTHONPATH": str(live.GUARD), "EMBEDDING_MODEL": "none"} | env,
        capture_output=True,
        text=True,
    )


def golden(app: Path, *lines: dict[str, str]) -> None:
    (app / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


RENT = {
    "question": "What is the yearly rent of the bakery shop at 27 Mill Lane?",
    "answer": "",
    "document": "retail-lease-mill-lane.docx",
    "quote": "The Tenant may place up to 5 tables on the pavement in front of the shop",
}


def test_the_shipped_questions_are_asked_and_their_scores_reach_langfuse(app: Path) -> None:
    lines = (app / "golden.jsonl").read_text().splitlines(keepends=True)
    (app / "golden.jsonl").write_text("".join(lines[::25]))
    langfuse = Langfuse()
    with running(langfuse.app) as url:
        done = run(app, "agent.evaluate", LANGFUSE_HOST=url, EVALUATE_REQUIRE="hit5>=0", **KEYS)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "planted mistakes noticed" in done.stdout
        assert "are in Langfuse" in done.stdout
        assert len(langfuse.items) == len(langfuse.run_items) == len(lines[::25])
        assert {item["datasetName"] for item in langfuse.items} == {"golden"}
        assert {score["name"] for score in langfuse.scores} >= {"hit5", "answered"}
        wait_until(lambda: len(langfuse.spans) >= 2 * len(langfuse.items))
    assert "<svg" in (app / "evaluation" / "report.html").read_text()
    traced = {span["trace_id"] for span in langfuse.spans}
    assert {item["traceId"] for item in langfuse.run_items} <= traced

    again = run(app, "agent.evaluate", EVALUATE_REQUIRE="hit5>=1.1")
    assert again.returncode == 1
    assert "+0.000" in again.stdout
    assert "and hit5>=1.1 is required" in again.stdout


def test_calibrating_sets_the_threshold_in_app_env(app: Path) -> None:
    lines = (app / "golden.jsonl").read_text().splitlines(keepends=True)
    (app / "golden.jsonl").write_text("".join(lines[::12]))
    before = (app / "app.env").read_text()

    done = run(app, "agent.evaluate", "--calibrate", EVALUATE_REQUIRE="hit5>=0")

    assert done.returncode == 0, done.stdout + done.stderr
    assert (app / "app.env").read_text().startswith(before)
    assert 'ENOUGH_TO_QUOTE="' in (app / "app.env").read_text()


def test_a_wrong_answer_in_a_trace_becomes_a_golden_question(app: Path) -> None:
    langfuse = Langfuse()
    with running(langfuse.app) as url:
        env = {"LANGFUSE_HOST": url, **KEYS}
        assert run(app, "agent.ask", "Who paints the moon?", **env).returncode == 0
        wait_until(lambda: langfuse.spans)
        trace = langfuse.spans[0]["trace_id"]

        done = run(app, "agent.golden", "add", trace, **env)

    assert done.stdout == "Added to golden.jsonl: Who paints the moon?\n"
    last = json.loads((app / "golden.jsonl").read_text().splitlines()[-1])
    assert last["question"] == "Who paints the moon?"
    assert last["document"] is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (RENT | {"document": "gone.pdf"}, "There is no document 'gone.pdf'"),
        (RENT | {"quote": "never said anywhere"}, "does not say 'never said anywhere'"),
        ({"question": ""}, "line 1 has no question"),
    ],
)
def test_a_golden_file_that_cannot_be_ends_with_one_sentence(
    line: dict[str, str], complaint: str, app: Path
) -> None:
    golden(app, line)

    done = run(app, "agent.evaluate")

    assert done.returncode == 2
    assert complaint in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
