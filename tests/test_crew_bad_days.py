"""Bad days of a crew in one process: its model, its tools' services, its disk, the process itself.

Each test is a drill; what to do on such a day stands in docs/guides/operating-an-agent.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.programs import free_port
from tests.crewing import (
    TASKS,
    calls,
    crew,
    events,
    finished,
    number,
    playing,
    run_of,
    start,
    until,
    warmed_up,
)
from tests.doubles.gateway import Gateway, told_to
from tests.doubles.langfuse import Langfuse
from tests.doubles.qdrant_server import Qdrant
from tests.doubles.serve import running
from tests.live import KEY, App, health_during, settled, status, wait_until
from tests.network import black_hole
from tests.test_bad_days import GRACE_S, detail, small_disk

pytestmark = [pytest.mark.slow, pytest.mark.long]
QUICK = {"MODEL_TIMEOUT_S": 3, "CHAT_MODEL": "double"}


@contextmanager
def with_model(gateway: Gateway, data: Path | None = None, **env: Any) -> Iterator[App]:
    gateway.reply = gateway.reply or playing
    with running(gateway.app) as url, crew(data, LITELLM_ENDPOINT=url, **KEY, **QUICK | env) as app:
        yield app


# The gateway


@pytest.fixture(scope="module")
def working() -> Iterator[tuple[App, Gateway]]:
    """One app and its model, which each of these drills leaves as well as it was."""
    gateway = Gateway()
    with with_model(gateway) as app:
        warmed_up(app)
        yield app, gateway


@pytest.mark.parametrize(
    ("failure", "said"),
    [("401", "check LITELLM_MASTER_KEY"), ("timeout", "answers 408"), ("garbage", "no usable")],
)
def test_the_crews_gateway_fails_for_good(
    failure: str, said: str, working: tuple[App, Gateway]
) -> None:
    app, gateway = working
    with told_to(gateway, fail=failure):
        end = finished(app, start(app, "topic-1"))
        assert (end["state"], end["outputs"]) == ("failed", [])
        assert said in end["error"]
        assert end["error"].endswith(".")
    assert finished(app, start(app, "topic-2"))["state"] == "done"


@pytest.mark.parametrize("failure", ["429", "500", "503"])
def test_the_crews_gateway_is_well_again_in_a_moment(
    failure: str, working: tuple[App, Gateway]
) -> None:
    app, gateway = working
    before = len(calls(gateway))
    with told_to(gateway, fail=failure):
        run_id = start(app, "topic-1")
        wait_until(lambda: len(calls(gateway)) >= before + 2)
        assert run_of(app, run_id)["state"] == "running"
    end = finished(app, run_id)
    assert end["state"] == "done"
    assert end["spent"]["steps"] == 5, "what failed was not counted as spent"


def test_the_crews_gateway_says_nothing(working: tuple[App, Gateway]) -> None:
    app, gateway = working
    budget = {"seconds": 6}
    settled(app)
    with told_to(gateway, fail="hang"):
        end, slowest = health_during(
            app, lambda: finished(app, start(app, "topic-1", budget=budget))
        )
        assert end["state"] == "failed"
        assert "6 seconds" in end["error"]
        assert slowest < 1
        wait_until(lambda: gateway.active == 0, 5)


# What the tools lean on


def test_the_crews_documents_are_away() -> None:
    gateway = Gateway()
    with with_model(gateway, QDRANT_URL=f"http://127.0.0.1:{free_port()}") as app:
        run_id = start(app, "topic-1")
        end = finished(app, run_id)
        assert end["state"] == "done", "an agent is told, and can go on"
        (told,) = [data for kind, data in events(app, run_id) if kind == "tool"]
        assert not told["ok"]
        assert "check QDRANT_URL" in told["result"]
        assert status(app, "/ready")["services"]["qdrant"]["ok"] is False
        assert "check QDRANT_URL" in detail(app.http.get("/api/documents"), 502)


def test_the_crews_documents_come_back() -> None:
    qdrant, gateway = Qdrant(), Gateway()
    with running(qdrant.app) as url, with_model(gateway, QDRANT_URL=url) as app:
        file = {"files": ("rent.md", "The rent of topic-1 is 900 pounds.")}
        app.http.post("/api/documents", files=file).raise_for_status()
        qdrant.fail = "503"
        assert "check QDRANT_URL" in detail(app.http.get("/api/documents"), 502)
        qdrant.fail = None
        run_id = start(app, "topic-1")
        assert finished(app, run_id)["state"] == "done"
        (told,) = [data for kind, data in events(app, run_id) if kind == "tool"]
        assert "900 pounds" in told["result"]


def test_the_agent_that_the_crew_asks_is_away() -> None:
    gateway = Gateway()
    script = [[{"name": "ask_documents", "arguments": {"question": "What is topic-1?"}}]]
    with with_model(gateway, RAG_MCP_URL=f"http://127.0.0.1:{free_port()}/mcp") as app:
        gateway.script = list(script)
        run_id = start(app, "topic-1")
        assert finished(app, run_id)["state"] == "done"
        told = [data for kind, data in events(app, run_id) if kind == "tool"]
        assert "check RAG_MCP_URL" in told[0]["result"]


def test_the_crews_langfuse_is_a_black_hole() -> None:
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}
    gateway = Gateway()
    with black_hole() as url, with_model(gateway, LANGFUSE_HOST=url, **keys) as app:
        warmed_up(app)
        begin = time.monotonic()
        assert finished(app, start(app, "topic-1"))["state"] == "done"
        assert time.monotonic() - begin < 10
        assert status(app, "/ready")["services"]["langfuse"]["ok"] is False
        assert app.stop() < 10


def test_the_crews_langfuse_comes_back() -> None:
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}
    langfuse, gateway = Langfuse(fail="500"), Gateway()
    with running(langfuse.app) as url, with_model(gateway, LANGFUSE_HOST=url, **keys) as app:
        finished(app, start(app, "topic-1"))
        wait_until(lambda: "answers go on untraced" in app.log)
        langfuse.fail = None
        trace = finished(app, start(app, "topic-2"))["trace_id"]
        wait_until(lambda: trace in {span["trace_id"] for span in langfuse.spans})


# The process and its machine


def test_the_crews_process_is_killed_in_a_run(tmp_path: Path) -> None:
    gateway = Gateway(first_token_s=3)  # long enough to be killed within the third task
    with with_model(gateway, tmp_path, MODEL_TIMEOUT_S=60) as app:
        run_id = start(app, "topic-1")
        wait_until(lambda: len(run_of(app, run_id)["outputs"]) == 2)
        app.process.kill()
    gateway.first_token_s = 0
    with with_model(gateway, tmp_path) as app:
        end = finished(app, run_id)
        assert (end["state"], end["attempt"]) == ("done", 2)
        told = events(app, run_id)
        done = [d["task"] for kind, d in told if kind == "task" and d["status"] == "finished"]
        assert done == TASKS, "what was finished is not done again"
        assert any("Taken up again after 2" in d["note"] for kind, d in told if kind == "state")


def test_the_crews_process_is_killed_while_a_person_is_asked(tmp_path: Path) -> None:
    gateway = Gateway()
    with with_model(gateway, tmp_path) as app:
        run_id = start(app, "topic-1", approve=["research"])
        asked = until(app, run_id, "waiting")["asked"]
        app.process.kill()
    with with_model(gateway, tmp_path) as app:
        assert run_of(app, run_id)["asked"] == asked
        before = len(calls(gateway))
        time.sleep(1)
        assert len(calls(gateway)) == before, "nobody works on it"
        body = {"decision": "approve", "comment": "Mind the budget of topic-1."}
        app.http.post(f"/api/runs/{run_id}/approval", json=body).raise_for_status()
        assert finished(app, run_id)["state"] == "done"
        prompts = [str(body["messages"]) for body in calls(gateway)[-3:]]
        assert all("Mind the budget" in prompt for prompt in prompts)


def test_a_run_that_always_kills_its_process_is_put_aside(tmp_path: Path) -> None:
    gateway = Gateway(first_token_s=30)
    with with_model(gateway, tmp_path) as app:
        run_id = start(app, "topic-1")
        until(app, run_id, "running")
        app.process.kill()
    for _ in range(2):
        with with_model(gateway, tmp_path) as app:
            wait_until(lambda: gateway.active > 0, 90)  # CrewAI is imported first
            app.process.kill()
        wait_until(lambda: gateway.active == 0)
    with with_model(gateway, tmp_path) as app:
        end = finished(app, run_id)
        assert end["state"] == "failed"
        assert "lost its worker 3 times" in end["error"]
        assert number(app, "agent_dead_letters_total") == 1


def test_sigterm_comes_with_crews_at_work(tmp_path: Path) -> None:
    gateway = Gateway(first_token_s=20)
    with with_model(gateway, tmp_path, MODEL_TIMEOUT_S=60) as app:
        ids = [start(app, f"topic-{n}") for n in range(10)]
        wait_until(lambda: gateway.active == 10, 90)  # CrewAI is imported first
        assert app.stop() < GRACE_S
        assert "Traceback" not in app.log
        wait_until(lambda: gateway.active == 0, 5)
    gateway.first_token_s = 0
    with with_model(gateway, tmp_path) as app:
        for run_id in ids:
            assert finished(app, run_id)["state"] == "done", "a restart loses no run"


def test_the_crews_disk_is_full(tmp_path: Path) -> None:
    gateway = Gateway()
    with small_disk(tmp_path / "disk", 200) as disk, with_model(gateway, disk / "data") as app:
        kept = finished(app, start(app, "topic-1"))
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:  # until it is full, whatever the app itself writes meanwhile
                file.write(b"0" * 4096)
        refused = app.http.post("/api/runs", json={"topic": "x" * 7000})
        assert "disk" in detail(refused, 502)
        assert app.http.get("/health").status_code == 200
        assert run_of(app, kept["run_id"])["result"] == kept["result"]
        filler.unlink()
        assert finished(app, start(app, "topic-2"))["state"] == "done"


def test_a_second_process_has_the_same_folder(tmp_path: Path) -> None:
    with with_model(Gateway(), tmp_path) as app:
        assert finished(app, start(app, "topic-1"))["state"] == "done"
        from tests import live
        from tests.crewing import CREW

        with live.launched(tmp_path, template=CREW) as second:
            wait_until(lambda: "Another process works on the runs" in second.log)
            assert httpx.get(f"{second.url}/health").status_code == 200
            ready = status(second, "/ready")
            assert "several processes need a NATS server" in ready["services"]["app"]["detail"]
            assert run_of(app, start(app, "topic-2"))["run_id"]
