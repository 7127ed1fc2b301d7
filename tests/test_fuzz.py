"""Whatever is sent: no 5xx, no status that the description lacks, and the documents stay."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.gateway import Gateway
from tests.doubles.hub import Hub
from tests.doubles.serve import running
from tests.live import KEY, App, load, search, started, status
from tests.serving import served

EXAMPLES = 2000
A_ROUND = 30
"""Examples of each call that a round makes."""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
LEASE = {"lease.txt": "The rent is 900 pounds a month.", "pets.md": "# Pets\n\nCats are welcome."}


@dataclass
class Fuzzed:
    examples: int
    report: str
    code: int
    """Schemathesis ends with 0 when it found nothing."""
    failed: int
    """How many answers were 5xx, as the app's own log has them."""
    requests: list[dict[str, Any]]
    lost: list[str] = field(default_factory=list)
    """Documents that changed or went without a call that succeeded in it."""


def fuzz(folder: Path, examples: int = EXAMPLES) -> Fuzzed:
    """Send at least so many requests, made from the app's description, in the order of chance."""
    gateway = Gateway()
    with (
        running(gateway.app) as url,
        started(LITELLM_ENDPOINT=url, LOG_FORMAT="json", ANSWER_TIMEOUT_S=5, **KEY) as app,
    ):
        load(app, LEASE)
        before = contents(app)
        found = thrown_at(app, folder, examples)
        after = contents(app)
        deleted = [r for r in found.requests if r["method"] == "DELETE" and r["status"] == 200]
        taken = [r for r in found.requests if r["path"] == "/api/documents" and r["status"] == 202]
        gone = [name for name in before if after.get(name) != before[name]]
        new = set(after) - set(before)
        found.lost = [*gone[len(deleted) + len(taken) :], *([] if taken else new)]
        return found


def thrown_at(app: App, folder: Path, examples: int) -> Fuzzed:
    """Gradio's page is no part of it; /mcp has a description of its own, in its own form.

    In rounds, since the more examples Hypothesis makes of one call the longer it takes for each."""
    command = [Path(sys.executable).parent / "schemathesis", "run", f"{app.url}/openapi.json"]
    options = ["--checks", CHECKS, "--no-shrink", "--max-examples", str(A_ROUND)]
    quiet = ["--continue-on-failure", "--suppress-health-check", "all", "--no-color"]
    report, code, requests = "", 0, list[dict[str, Any]]()
    for seed in count(4):
        how = ["--seed", str(seed), "--phases", "fuzzing" if requests else "coverage,fuzzing"]
        done = subprocess.run(
            [*command, *options, *how, *quiet], capture_output=True, text=True, cwd=folder
        )
        before, requests = len(requests), _requests(app)
        report, code = report + done.stdout + done.stderr, code or done.returncode
        if code or len(requests) >= examples or len(requests) == before:
            break
    failed = sum(r["status"] >= 500 and r["status"] != 502 for r in requests)
    return Fuzzed(len(requests), report, code, failed, requests)


def _requests(app: App) -> list[dict[str, Any]]:
    log = [json.loads(line) for line in app.log.split("\n") if line.startswith("{")]
    return [line for line in log if line["message"] == "request"]


def contents(app: App) -> dict[str, Any]:
    """What is found of each document, by name."""
    names = [entry["document"] for entry in status(app, "/api/documents")]
    return {n: [h["text"] for h in search(app, "a", 200, filter={"document": n})] for n in names}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_requests_made_from_the_description_break_nothing(tmp_path: Path) -> None:
    found = fuzz(tmp_path)
    assert found.examples >= EXAMPLES
    assert found.failed == 0
    assert found.lost == []
    assert found.code == 0, found.report[-6000:]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_they_break_nothing_in_a_model_server_either(tmp_path: Path) -> None:
    free = {"LOG_FORMAT": "json", "ANSWER_TIMEOUT_S": 5, "MAX_LORA_RANK": 8}
    with running(Hub({}).app) as url, served(tmp_path, HF_ENDPOINT=url, **free) as here:
        found = thrown_at(here.app, tmp_path, EXAMPLES)
        assert found.examples >= EXAMPLES
        assert found.failed == 0
        assert found.code == 0, found.report[-6000:]
        assert here.state["starts"] == 1
        assert here.say().status_code == 200
