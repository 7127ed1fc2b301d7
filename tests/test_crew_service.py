"""A crew's app from the outside: its doors, budgets, approvals, silence, and one trace a run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from tests import live, network
from tests.crewing import (
    CREW,
    TASKS,
    calls,
    crew,
    events,
    finished,
    playing,
    run_of,
    start,
    topics,
    until,
    warmed_up,
)
from tests.doubles.edge import Edge
from tests.doubles.gateway import Gateway, told_to
from tests.doubles.keycloak import Keycloak
from tests.doubles.langfuse import Langfuse
from tests.doubles.serve import running
from tests.live import API_KEYS, APP_KEY, KEY, App, launched, wait_until
from tests.test_fuzz import EXAMPLES, thrown_at

pytestmark = pytest.mark.slow
CANARIES = {
    "ADMIN_PASSWORD": "canary-admin",
    "MLFLOW_CLIENT_SECRET": "canary-mlflow",
    "ANSIBLE_BECOME_PASS": "canary-sudo",
    "NATS_TOKEN": "canary-nats",
    "SESSION_SECRET": "canary-session",
}


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[App, Gateway]]:
    """An app with a model and a key of its own."""
    gateway = Gateway(reply=playing, cost=0.002)
    closed = {"AUTH": "on", "API_KEYS": API_KEYS, "REQUESTS_PER_MINUTE": 0}
    with (
        running(gateway.app) as url,
        crew(key=APP_KEY, LITELLM_ENDPOINT=url, **KEY, **closed) as app,
    ):
        live.settled(app)
        warmed_up(app)
        yield app, gateway


@pytest.mark.long
@pytest.mark.timeout(900)
def test_its_own_tests_pass_with_its_own_requirements() -> None:
    command = [live.bin_folder(CREW) / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    env = {"PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"}
    # Without the guard of the other apps: it stands in for the names that test_web.py looks up.
    done = subprocess.run(command, cwd=live.rendered(CREW), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_with_an_empty_environment_it_is_healthy_within_two_cpu_seconds() -> None:
    # The budget is 1, measured by the benchmark on a quiet machine.
    assert live.cpu_s_until_healthy(CREW) < 2.0


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_at_its_defaults_nothing_leaves_the_machine() -> None:
    assert live.bin_folder(CREW).exists()  # installed before the network is gone
    with network.no_network(), launched(template=CREW, PYTHONPATH="") as app:
        wait_until(lambda: live.status(app, "/health"))
        live.wait_for_page(app)
        for process in ("sequential", "hierarchical"):
            end = finished(app, start(app, "What does the grid cost?", process=process))
            assert end["state"] == "done"
        assert app.stop() < 20
        assert network.packets_without_a_way() == 0


def test_a_run_is_promised_followed_and_kept(world: tuple[App, Gateway]) -> None:
    app, _ = world
    reply = app.http.post("/api/runs", json={"topic": "topic-1"})
    assert reply.status_code == 202
    place = reply.headers["Location"]
    told = events(app, reply.json()["run_id"])
    kinds = [kind for kind, _ in told]
    assert kinds[0] == "state"
    assert kinds[-1] == "done"
    assert [d["task"] for kind, d in told if kind == "task" and d["status"] == "finished"] == TASKS
    end = app.http.get(place).json()
    assert end["state"] == "done"
    assert end["result"] == "Editor on topic-1."
    assert [output["agent"] for output in end["outputs"]] == [
        "Researcher", "Analyst", "Writer", "Editor",
    ]  # fmt: skip
    steps = [data for kind, data in told if kind == "step"]
    assert end["spent"]["steps"] == len(steps) == 5
    assert end["spent"]["dollars"] == pytest.approx(0.01)
    assert end["spent"]["input"] == sum(step["tokens"]["input"] for step in steps)
    assert app.http.get("/api/runs").json()[0]["id"] == end["run_id"]
    assert (
        app.http.get(f"{place}/events", headers={"Last-Event-ID": str(len(told))}).status_code
        == 204
    )


def test_a_manager_delegates(world: tuple[App, Gateway]) -> None:
    app, _ = world
    told = events(app, start(app, "topic-2", process="hierarchical"))
    asked = [data for kind, data in told if kind == "delegation"]
    assert {(data["from"], data["to"]) for data in asked} == {("Manager", "Writer")}
    assert told[-1][0] == "done"
    assert "topic-2" in told[-1][1]["result"]


def test_the_same_key_is_the_same_run(world: tuple[App, Gateway]) -> None:
    app, _ = world
    first = start(app, "topic-3", key="order-3")
    assert start(app, "topic-3", key="order-3") == first
    other = app.http.post(
        "/api/runs", json={"topic": "topic-4"}, headers={"Idempotency-Key": "order-3"}
    )
    assert other.status_code == 409
    assert finished(app, first)["state"] == "done"


@pytest.mark.parametrize(
    ("budget", "count"), [({"steps": 2}, 2), ({"tokens": 1}, 1), ({"dollars": 0.005}, 3)]
)
def test_a_budget_is_overrun_by_one_call_at_most(
    world: tuple[App, Gateway], budget: dict[str, Any], count: int
) -> None:
    app, gateway = world
    before = len(calls(gateway))
    end = finished(app, start(app, "topic-5", budget=budget))
    assert end["state"] == "failed"
    assert "reached its budget" in end["error"]
    assert end["spent"]["steps"] == count == len(calls(gateway)) - before


def test_a_budget_of_seconds_ends_the_call_that_is_made(world: tuple[App, Gateway]) -> None:
    app, gateway = world
    with told_to(gateway, first_token_s=30):
        begin = time.monotonic()
        end = finished(app, start(app, "topic-6", budget={"seconds": 2}))
        assert time.monotonic() - begin < 5
        assert "2 seconds" in end["error"]
        wait_until(lambda: gateway.active == 0, 2)


def test_a_budget_cannot_be_more_than_the_settings_allow(world: tuple[App, Gateway]) -> None:
    app, _ = world
    for budget in ({"steps": 1000}, {"dollars": 50}, {"steps": 0}, {"euros": 1}):
        answer = app.http.post("/api/runs", json={"topic": "topic-7", "budget": budget})
        assert answer.status_code == 422, budget
        assert answer.json()["detail"].endswith(".")


def test_stopping_a_run_ends_its_call_of_the_model_within_two_seconds(
    world: tuple[App, Gateway],
) -> None:
    app, gateway = world
    with told_to(gateway, first_token_s=30):
        run_id = start(app, "topic-8")
        wait_until(lambda: gateway.active == 1)
        asked = len(calls(gateway))
        stopped = app.http.delete(f"/api/runs/{run_id}").json()
        assert stopped["state"] == "cancelled"
        wait_until(lambda: gateway.active == 0, 2)
    time.sleep(1)
    assert len(calls(gateway)) == asked
    kind, data = events(app, run_id)[-1]
    assert (kind, data["state"]) == ("error", "cancelled")
    assert app.http.delete(f"/api/runs/{run_id}").json()["state"] == "cancelled"


def test_a_person_is_asked_and_decides(world: tuple[App, Gateway]) -> None:
    app, gateway = world
    run_id = start(app, "topic-9", approve=["research", "analysis"])
    asked = until(app, run_id, "waiting")["asked"]
    assert (asked["task"], asked["text"]) == ("research", "Researcher on topic-9.")
    place = f"/api/runs/{run_id}/approval"
    assert app.http.post(place, json={"decision": "redo"}).status_code == 422
    app.http.post(place, json={"decision": "redo", "comment": "Look in the cellar."})
    wait_until(lambda: run_of(app, run_id)["attempt"] == 2)
    until(app, run_id, "waiting")
    assert "Look in the cellar." in json.dumps(calls(gateway)[-3:])
    app.http.post(place, json={"decision": "approve"}).raise_for_status()
    wait_until(lambda: (run_of(app, run_id)["asked"] or {}).get("task") == "analysis")
    app.http.post(place, json={"decision": "approve"}).raise_for_status()
    end = finished(app, run_id)
    assert end["state"] == "done"
    assert [comment["decision"] for comment in end["comments"]] == ["redo", "approve", "approve"]
    assert app.http.post(place, json={"decision": "approve"}).status_code == 409


def test_openais_client_takes_the_crew_for_a_model(world: tuple[App, Gateway]) -> None:
    client = openai.OpenAI(base_url=f"{world[0].url}/v1", api_key=APP_KEY, max_retries=0)
    assert [model.id for model in client.models.list()] == ["crew"]
    said: Any = [{"role": "user", "content": "topic-10"}]
    answer = client.chat.completions.create(model="crew", messages=said)
    assert answer.choices[0].message.content == "Editor on topic-10."
    assert answer.usage
    assert answer.usage.total_tokens > 0
    chunks = list(
        client.chat.completions.create(
            model="crew", messages=said, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    thoughts = [c.choices[0].delta.to_dict().get("reasoning_content") for c in chunks if c.choices]
    assert text == "Editor on topic-10."
    assert any("Researcher begins with research." in str(thought) for thought in thoughts)
    assert chunks[-1].usage
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=said)


def test_a_client_of_v1_that_leaves_stops_the_run(world: tuple[App, Gateway]) -> None:
    app, gateway = world
    body = {"model": "crew", "stream": True, "messages": [{"role": "user", "content": "topic-11"}]}
    with told_to(gateway, first_token_s=30):
        with app.http.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            wait_until(lambda: gateway.active == 1)
            stream.close()
        wait_until(lambda: gateway.active == 0, 5)
    assert app.http.get("/api/runs").json()[0]["state"] == "cancelled"


def test_an_assistant_uses_the_crew_as_a_tool(world: tuple[App, Gateway]) -> None:
    app, _ = world

    async def use() -> tuple[Any, ...]:
        headers = {"Authorization": f"Bearer {APP_KEY}"}
        async with (
            httpx.AsyncClient(headers=headers, timeout=60) as http,
            streamable_http_client(f"{app.url}/mcp", http_client=http) as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            names = {tool.name for tool in (await session.list_tools()).tools}
            whole = await session.call_tool("run_crew", {"topic": "topic-12"})
            begun = await session.call_tool("run_crew", {"topic": "topic-13", "wait": False})
            assert begun.structuredContent
            asked = {"run_id": begun.structuredContent["run_id"]}
            while True:
                later = await session.call_tool("get_run", asked)
                assert later.structuredContent
                if later.structuredContent["state"] == "done":
                    break
                await asyncio.sleep(0.2)
            wrong = await session.call_tool("get_run", {"run_id": "nothing"})
            return names, whole.structuredContent, later.structuredContent, wrong.isError

    names, whole, later, wrong = asyncio.run(use())
    assert names == {"run_crew", "get_run"}
    assert whole["result"] == "Editor on topic-12."
    assert later["result"] == "Editor on topic-13."
    assert wrong


def test_a_rag_agent_is_asked_over_mcp() -> None:
    """Of the other template, with documents of its own."""
    gateway = Gateway(reply=playing)
    question = {"question": "How much is the rent?"}
    with (
        running(gateway.app) as url,
        live.started(key=APP_KEY, AUTH="on", API_KEYS=API_KEYS) as rag,
        crew(LITELLM_ENDPOINT=url, RAG_MCP_URL=f"{rag.url}/mcp", RAG_MCP_KEY=APP_KEY, **KEY) as app,
    ):
        live.load(rag, {"lease.txt": "The rent is 900 pounds a month."})
        wait_until(lambda: rag.http.get("/mcp").status_code != 200)
        gateway.script = [[{"name": "ask_documents", "arguments": question}]]
        run_id = start(app, "topic-14")
        assert finished(app, run_id)["state"] == "done"
        (told,) = [data for kind, data in events(app, run_id) if kind == "tool"]
        assert told["ok"], told
        assert "900 pounds" in told["result"]
        assert "lease.txt" in told["result"]


def test_a_model_without_tools_of_its_own_uses_them_in_words() -> None:
    """As vLLM answers where no parser of tool calls is set; CrewAI then asks in plain text."""

    def plain(messages: list[dict[str, Any]]) -> str:
        told = json.dumps(messages)
        if "Nothing holds these words" not in told and "search_documents" in told:
            return 'Thought: look\nAction: search_documents\nAction Input: {"query": "topic-15"}'
        return "Thought: I know\nFinal Answer: Something on topic-15."

    gateway = Gateway(reply=plain)
    gateway.knows_tools = False
    with running(gateway.app) as url, crew(LITELLM_ENDPOINT=url, **KEY) as app:
        run_id = start(app, "topic-15")
        end = finished(app, run_id)
        assert end["state"] == "done", end["error"]
        assert [d["tool"] for kind, d in events(app, run_id) if kind == "tool"]
        assert end["result"] == "Something on topic-15."


def test_other_users_runs_are_not_to_be_told_from_none() -> None:
    keycloak, gateway = Keycloak(), Gateway(reply=playing)
    with (
        running(gateway.app) as url,
        running(keycloak.app) as realm,
    ):
        keycloak.url = realm
        closed = {"KEYCLOAK_URL": realm, "API_KEYS": API_KEYS}
        with crew(key=APP_KEY, LITELLM_ENDPOINT=url, **closed, **KEY) as app:
            ann = app.client(keycloak.token(sub="ann"))
            bob = app.client(keycloak.token(sub="bob"))
            run_id = ann.post("/api/runs", json={"topic": "topic-16"}).json()["run_id"]
            wait_until(lambda: ann.get(f"/api/runs/{run_id}").json()["state"] == "done")
            for answer in (
                bob.get(f"/api/runs/{run_id}"),
                bob.get(f"/api/runs/{run_id}/events"),
                bob.delete(f"/api/runs/{run_id}"),
                bob.post(f"/api/runs/{run_id}/approval", json={"decision": "approve"}),
            ):
                assert answer.status_code == 404
            assert bob.get("/api/runs").json() == []
            assert httpx.get(f"{app.url}/api/runs").status_code == 401
            assert httpx.get(f"{app.url}/metrics").status_code == 401
            assert httpx.post(f"{app.url}/mcp", json={}).status_code == 401
            key = {"Idempotency-Key": "same"}
            ids = [
                user.post("/api/runs", json={"topic": "topic-17"}, headers=key).json()["run_id"]
                for user in (ann, bob)
            ]
            assert len(set(ids)) == 2, "a key is its user's own"


def test_one_run_is_one_trace_whose_tokens_and_cost_add_up() -> None:
    langfuse, gateway = Langfuse(), Gateway(reply=playing, cost=0.002)
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}
    with (
        running(langfuse.app) as traces,
        running(gateway.app) as url,
        crew(LITELLM_ENDPOINT=url, LANGFUSE_HOST=traces, **keys, **KEY) as app,
    ):
        end = finished(app, start(app, "topic-18", process="hierarchical"))
        wait_until(lambda: _spans(langfuse, end["trace_id"], "crew"))
        found = [span for span in langfuse.spans if span["trace_id"] == end["trace_id"]]
        by_id = {span["span_id"]: span for span in found}

        def path(span: dict[str, Any]) -> list[str]:
            parent = by_id.get(span["parent_id"])
            return [*(path(parent) if parent else []), _kind(span)]

        calls = [span for span in found if _kind(span) == "generation"]
        assert len(calls) == end["spent"]["steps"]
        assert {tuple(path(call)) for call in calls} == {("chain", "chain", "agent", "generation")}
        tasks = [span["name"] for span in found if span["name"].startswith("task ")]
        assert tasks == [f"task {name}" for name in TASKS]
        usage = [json.loads(_has(call, "usage_details")) for call in calls]
        assert sum(one["input"] for one in usage) == end["spent"]["input"]
        assert sum(one["output"] for one in usage) == end["spent"]["output"]
        cost = sum(json.loads(_has(call, "cost_details"))["total"] for call in calls)
        assert cost == pytest.approx(end["spent"]["dollars"])
        end = finished(app, start(app, "topic-19"))
        wait_until(lambda: _spans(langfuse, end["trace_id"], "crew"))
        (tool,) = _spans(langfuse, end["trace_id"], "search_documents")
        assert _kind(tool) == "tool"


def _spans(langfuse: Langfuse, trace: str, name: str) -> list[dict[str, Any]]:
    return [s for s in langfuse.spans if s["trace_id"] == trace and s["name"] == name]


def _kind(span: dict[str, Any]) -> str:
    return _has(span, "type")


def _has(span: dict[str, Any], name: str) -> str:
    return str(span["attributes"][f"langfuse.observation.{name}"])


def test_no_secret_of_the_pod_is_told_to_anybody() -> None:
    code = "import os; print(dict(os.environ)); print(open('/proc/1/environ').read())"

    def curious(messages: list[dict[str, Any]]) -> Any:
        analyst = "You are Analyst" in str(messages[0]["content"])
        if analyst and not any(message["role"] == "tool" for message in messages):
            return [{"name": "run_python", "arguments": {"code": code}}]
        return playing(messages)

    gateway = Gateway(reply=curious)
    with (
        running(gateway.app) as url,
        crew(LITELLM_ENDPOINT=url, RUN_PYTHON="true", **KEY, **CANARIES) as app,
    ):
        live.wait_for_page(app)
        told = events(app, start(app, "topic-20"))
        assert "run_python" in [data["tool"] for kind, data in told if kind == "tool"]
        pages = [app.http.get(p).text for p in ("/", "/ready", "/metrics", "/api/crew", "/config")]
        seen = json.dumps([told, pages, app.log, [r.body for r in gateway.requests]])
        assert "canary" not in seen


def test_it_works_behind_the_platforms_edge(world: tuple[App, Gateway]) -> None:
    app, gateway = world
    edge = Edge(app.url, deadline_s=5)
    with told_to(gateway, first_token_s=2), running(edge.app) as url:
        headers = {"Authorization": f"Bearer {APP_KEY}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            run_id = http.post("/api/runs", json={"topic": "topic-21"}).json()["run_id"]
            seen, last = 0, ""
            for _ in range(20):
                resumed = {"Last-Event-ID": str(seen)}
                try:
                    with http.stream("GET", f"/api/runs/{run_id}/events", headers=resumed) as cut:
                        if cut.status_code == 204:
                            break
                        for frame in live.frames(cut.iter_lines()):
                            seen, last, _ = frame
                except httpx.RemoteProtocolError:
                    continue
            assert last == "done"
    assert seen == len(events(app, run_id))


def test_health_answers_while_runs_are_worked_on(world: tuple[App, Gateway]) -> None:
    app, _ = world
    slowest, ids = 0.0, [start(app, f"topic-{n}") for n in range(100, 115)]
    while any(run_of(app, run_id)["state"] != "done" for run_id in ids[-3:]):
        begin = time.monotonic()
        assert httpx.get(f"{app.url}/health").status_code == 200
        slowest = max(slowest, time.monotonic() - begin)
    assert slowest < 1
    for n, run_id in enumerate(ids, 100):
        end = finished(app, run_id)
        assert topics(end) == {f"topic-{n}"}


def test_its_figures_are_there_for_prometheus(world: tuple[App, Gateway]) -> None:
    app, _ = world
    page = app.http.get("/metrics").text
    for name in (
        "agent_runs_total", "agent_run_seconds_count", "agent_model_calls_total",
        "agent_tokens_total", "agent_dollars_total", "agent_tool_calls_total",
        "agent_runs_queued", "agent_runs_running", "agent_runs_waiting", "agent_service_up",
        "agent_redelivered_total", "agent_dead_letters_total",
    ):  # fmt: skip
        assert re.search(rf"^{name}(?:{{.*}})? \S+$", page, re.M), name


@pytest.mark.long
@pytest.mark.timeout(600)
def test_requests_made_from_its_description_break_nothing(tmp_path: Path) -> None:
    gateway = Gateway(reply=playing)
    free = {"LOG_FORMAT": "json", "RUN_STEPS": 3, "RUN_SECONDS": 5}
    with running(gateway.app) as url, crew(LITELLM_ENDPOINT=url, **KEY, **free) as app:
        found = thrown_at(app, tmp_path, EXAMPLES)
        assert found.examples >= EXAMPLES
        assert found.failed == 0
        assert found.code == 0, found.report[-6000:]
        assert finished(app, start(app, "topic-1", budget={"steps": 3}))["state"] == "failed"
