"""The app is watched: figures, log lines and the doctor tell what goes on, and nothing private."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from parts.programs import free_port
from tests import live
from tests.doubles.gateway import Gateway
from tests.doubles.keycloak import Keycloak
from tests.doubles.langfuse import Langfuse
from tests.doubles.qdrant_server import Qdrant
from tests.doubles.serve import running
from tests.live import API_KEYS, APP_KEY, KEY, App, ask, load, started, wait_for_page, wait_until

LEASE = {"lease.txt": "The rent is 900 pounds a month."}
QUESTION = "How much is the rent?"
LANGFUSE_KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}


def figures(app: App) -> dict[str, float]:
    """{"agent_documents": 1.0, 'agent_tokens_total{direction="input"}': 140.0}"""
    lines = app.http.get("/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_figures_count_answers_tokens_times_files_and_failures() -> None:
    gateway = Gateway()
    models = {"CHAT_MODEL": "double", "EMBEDDING_MODEL": "none"}
    with running(gateway.app) as url, started(LITELLM_ENDPOINT=url, **models, **KEY) as app:
        load(app, LEASE | {"bad.pdf": b"no"})
        ask(app, QUESTION)
        gateway.fail = "500"
        ask(app, QUESTION)
        found = figures(app)
        answers = 'agent_answers_total{door="api",mode="%s",outcome="answered"}'
        assert (found[answers % "model"], found[answers % "extractive"]) == (1, 1)
        assert found['agent_tokens_total{direction="input"}'] > 50
        assert found['agent_tokens_total{direction="output"}'] > 3
        assert found['agent_first_token_seconds_count{mode="model"}'] == 1
        assert found['agent_answer_seconds_count{mode="extractive"}'] == 1
        assert found["agent_retrieval_seconds_count"] == 2
        assert found['agent_ingested_files_total{status="added"}'] == 1
        assert found['agent_ingested_files_total{status="failed"}'] == 1
        assert found['agent_service_errors_total{service="model"}'] >= 1
        assert found['agent_service_up{service="qdrant"}'] == 1
        assert found["agent_runs_running"] == 0
        assert 100e6 < found["process_resident_memory_bytes"] < 600e6


def lines(app: App) -> list[dict[str, Any]]:
    return [json.loads(line) for line in app.log.split("\n") if line.startswith("{")]


def test_log_lines_carry_ids_and_no_text() -> None:
    langfuse, gateway = Langfuse(), Gateway()
    with (
        running(langfuse.app) as traces,
        running(gateway.app) as url,
        started(
            LOG_FORMAT="json", LITELLM_ENDPOINT=url, LANGFUSE_HOST=traces, **LANGFUSE_KEYS, **KEY
        ) as app,
    ):
        load(app, {"zebra-lease.txt": "The rent is 900 pounds a month."})
        answer = app.http.post("/api/chat", json={"question": "What zebra rent is due?"})
        app.http.get("/api/search?q=zebra")
        found = lines(app)
        (ended,) = [line for line in found if line["message"] == "answer ended"]
        assert ended["request_id"] == answer.headers["x-request-id"]
        assert ended["trace_id"] == answer.json()["trace_id"]
        assert ended["run_id"] == answer.json()["run_id"]
        asked = [line for line in found if line.get("path") == "/api/chat"]
        assert [line["status"] for line in asked] == [200]
        assert {"time", "level", "logger"} <= set(ended)
        assert "zebra" not in app.log
        assert "900 pounds" not in app.log
        assert "sk-double" not in app.log
        assert "sk-lf-double" not in app.log


def test_a_line_of_the_log_cannot_be_made_up() -> None:
    for form in ("json", "text"):
        with started(LOG_FORMAT=form) as app:
            app.http.get("/api/x%0a10:00:00 INFO forged%0d%c2%85%e2%80%a8forged")
            assert not re.search(r"^\W*(10:00:00 INFO )?forged", app.log, re.M)
            assert "\x85" not in app.log


def test_with_all_at_its_default_nothing_leaves_for_elsewhere() -> None:
    """Page, tools and answers are there; nothing was switched off from outside."""
    with started() as app:
        load(app, LEASE)
        wait_for_page(app)
        wait_until(lambda: app.http.post("/mcp", json={}).status_code in (400, 406))
        ask(app, QUESTION)
        assert app.refused == []


def doctor(tmp_path: Path, **env: Any) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and by name whether it is well and what is said."""
    given = live._base(tmp_path, None) | {"DATA_DIR": tmp_path / "data"} | env
    done = subprocess.run(
        [live.bin_folder() / "python", "-m", "agent.doctor"],
        cwd=live.rendered(),
        env={name: str(value) for name, value in given.items()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.findall(r"^(ok|FAIL) +(\w+) +(.+)$", done.stdout, re.M)
    assert len(found) == 9, done.stdout + done.stderr
    return done.returncode, {name: (state, said) for state, name, said in found}


def test_the_doctor_finds_a_laptop_with_nothing_well(tmp_path: Path) -> None:
    code, found = doctor(tmp_path)
    assert code == 0
    assert {state for state, _ in found.values()} == {"ok"}
    assert "set LITELLM_ENDPOINT" in found["gateway"][1]


@pytest.fixture
def everything(tmp_path: Path) -> Any:
    """All services, as doubles, and the settings that name them."""
    gateway, qdrant, langfuse = Gateway(), Qdrant(), Langfuse()
    port = free_port()
    keycloak = Keycloak(f"http://127.0.0.1:{port}")
    with (
        running(gateway.app) as url,
        running(qdrant.app) as vectors,
        running(langfuse.app) as traces,
        running(keycloak.app, port) as realm,
    ):
        places = {"LITELLM_ENDPOINT": url, "QDRANT_URL": vectors, "LANGFUSE_HOST": traces}
        env = places | {"KEYCLOAK_URL": realm, "API_KEYS": API_KEYS} | LANGFUSE_KEYS | KEY
        with started(key=APP_KEY, **env) as app:
            load(app, LEASE)
        yield env, gateway, qdrant, langfuse, keycloak


def test_the_doctor_names_each_service_that_is_ill_and_what_to_do(
    everything: Any, tmp_path: Path
) -> None:
    env, gateway, qdrant, langfuse, keycloak = everything
    code, found = doctor(tmp_path, **env)
    assert (code, {state for state, _ in found.values()}) == (0, {"ok"}), found
    assert "Qdrant 1.15.4" in found["qdrant"][1]
    assert "1 documents, indexed by double-embed" in found["qdrant"][1]
    assert "double said" in found["model"][1]
    assert "256 dimensions, as the documents" in found["embedding"][1]
    assert "a test trace arrived" in found["langfuse"][1]
    assert "1 keys of" in found["keycloak"][1]

    gateway.fail, qdrant.fail, langfuse.fail, keycloak.fail = "401", "503", "401", "500"
    code, found = doctor(tmp_path, **env)
    assert code == 1
    ill = {name for name, (state, _) in found.items() if state == "FAIL"}
    assert ill == {"gateway", "model", "embedding", "qdrant", "langfuse", "keycloak"}
    advice = {
        "gateway": "check LITELLM_MASTER_KEY", "qdrant": "check QDRANT_URL",
        "langfuse": "check LANGFUSE_PUBLIC_KEY", "keycloak": "check KEYCLOAK_URL",
    }  # fmt: skip
    for name, what_to_do in advice.items():
        assert what_to_do in found[name][1]


def test_the_doctor_says_that_a_name_leads_nowhere(tmp_path: Path) -> None:
    code, found = doctor(tmp_path, LITELLM_ENDPOINT="http://litellm.nowhere", **KEY)
    assert (code, found["names"][0]) == (1, "FAIL")
    assert "litellm.nowhere leads nowhere" in found["names"][1]
