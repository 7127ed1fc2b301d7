"""Crews on a real NATS server: shared work, lost workers, and a server that comes and goes."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nats as client
import pytest

from parts.programs import free_port
from tests import live
from tests.crewing import (
    CREW,
    TASKS,
    Nats,
    calls,
    crew,
    events,
    finished,
    nats,
    number,
    playing,
    repeated,
    run_of,
    start,
    topics,
    until,
)
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running
from tests.live import API_KEYS, APP_KEY, KEY, App, status, wait_until
from tests.test_bad_days import GRACE_S, detail

pytestmark = [pytest.mark.slow, pytest.mark.long]
SOON = {"ACK_WAIT_S": 6, "CHAT_MODEL": "double"}
"""Soon enough for a test, and long enough for a busy machine."""


@contextmanager
def apps(server: Nats, gateway: Gateway, count: int = 1, **env: Any) -> Iterator[list[App]]:
    """Replicas of one app, on one NATS."""
    gateway.reply = gateway.reply or playing
    with ExitStack() as stack:
        url = stack.enter_context(running(gateway.app))
        given = {"LITELLM_ENDPOINT": url, "NATS_URL": server.url} | KEY | SOON | env
        replicas = [stack.enter_context(crew(**given)) for _ in range(count)]
        if count > 1:  # else the one that is there first may take all the work
            asyncio.run(asyncio.wait_for(all_ask_for_work(server, count), live.READY_S))
        yield replicas


async def all_ask_for_work(server: Nats, count: int) -> None:
    """Until this many replicas have asked for a run and were given none yet."""
    connection = await client.connect(server.url)
    stream = connection.jetstream()
    try:
        while (await stream.consumer_info("live-work", "workers")).num_waiting != count:
            await asyncio.sleep(0.2)
    finally:
        await connection.close()


def test_replicas_share_the_queue_and_each_knows_every_run(tmp_path: Path) -> None:
    gateway = Gateway(first_token_s=0.3)
    with nats(tmp_path) as server, apps(server, gateway, 2, RUNS_AT_ONCE=3) as (one, two):
        ids = [start(one, f"topic-{n}") for n in range(8)]
        ends = [finished(two, run_id) for run_id in ids]
        for n, end in enumerate(ends):
            assert end["state"] == "done"
            assert topics(end) == {f"topic-{n}"}
            assert end["attempt"] == 1
        assert number(one, "agent_runs_total") > 0
        assert number(two, "agent_runs_total") > 0
        assert events(one, ids[0]) == events(two, ids[0])
        listed = {run["id"] for run in two.http.get("/api/runs").json()}
        assert listed == set(ids)


def test_a_worker_is_killed_and_no_run_is_lost_and_no_task_repeated(tmp_path: Path) -> None:
    gateway = Gateway(first_token_s=0.4)
    with nats(tmp_path) as server, apps(server, gateway, 2, RUNS_AT_ONCE=5) as (one, two):
        ids = [start(one, f"topic-{n}") for n in range(8)]
        wait_until(lambda: sum(len(run_of(one, i)["outputs"]) for i in ids) >= 8)
        two.process.kill()
        ends = [finished(one, run_id) for run_id in ids]
        assert {end["state"] for end in ends} == {"done"}
        assert sum(end["attempt"] > 1 for end in ends) >= 1
        assert [repeated(events(one, run_id)) for run_id in ids] == [[]] * 8
        assert number(one, "agent_redelivered_total") >= 1


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[App], Gateway]]:
    """Two replicas with a run at once each, and their model, for tests that leave them well."""
    gateway = Gateway()
    folder = tmp_path_factory.mktemp("pair")
    with nats(folder) as server, apps(server, gateway, 2, RUNS_AT_ONCE=1) as replicas:
        yield replicas, gateway


def test_a_worker_that_was_frozen_finds_its_run_taken(pair: tuple[list[App], Gateway]) -> None:
    (one, two), gateway = pair
    gateway.first_token_s = 1
    ids = [start(one, "topic-1"), start(one, "topic-2")]
    wait_until(lambda: all(run_of(one, i)["state"] == "running" for i in ids))
    two.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: all(run_of(one, i)["state"] == "done" for i in ids))
    two.process.send_signal(signal.SIGCONT)
    time.sleep(3)
    for run_id in ids:
        assert repeated(events(one, run_id)) == []
        assert [kind for kind, _ in events(one, run_id)].count("done") == 1
    assert two.http.get("/health").status_code == 200


def test_a_run_is_stopped_from_another_replica(pair: tuple[list[App], Gateway]) -> None:
    (one, two), gateway = pair
    gateway.first_token_s = 20
    ids = [start(one, f"topic-{n}") for n in range(3)]
    wait_until(lambda: gateway.active == 2)
    for run_id in ids:  # two are worked on, by either; one is queued
        two.http.delete(f"/api/runs/{run_id}").raise_for_status()
    wait_until(lambda: gateway.active == 0, 2)
    assert {run_of(one, run_id)["state"] for run_id in ids} == {"cancelled"}
    asked = len(calls(gateway))
    time.sleep(2)
    assert len(calls(gateway)) == asked


def test_an_approval_outlives_all_workers(tmp_path: Path) -> None:
    gateway = Gateway()
    with nats(tmp_path) as server:
        with apps(server, gateway) as (app,):
            run_id = start(app, "topic-1", approve=["analysis"])
            until(app, run_id, "waiting")
            app.process.kill()
        server.stop()
        server.start()
        with apps(server, gateway) as (app,):
            asked = until(app, run_id, "waiting")["asked"]
            assert asked["task"] == "analysis"
            redo = {"decision": "redo", "comment": "Count again."}
            app.http.post(f"/api/runs/{run_id}/approval", json=redo).raise_for_status()
            wait_until(lambda: calls(gateway) and run_of(app, run_id)["attempt"] == 2)
            until(app, run_id, "waiting")
            app.http.post(f"/api/runs/{run_id}/approval", json={"decision": "approve"})
            end = finished(app, run_id)
            assert end["state"] == "done"
            assert [output["task"] for output in end["outputs"]] == TASKS
            assert "Count again." in str([r.body for r in gateway.requests])


def test_nats_goes_away_in_a_run_and_comes_back(tmp_path: Path) -> None:
    gateway = Gateway(first_token_s=0.5)
    with nats(tmp_path) as server, apps(server, gateway) as (app,):
        run_id = start(app, "topic-1")
        wait_until(lambda: len(run_of(app, run_id)["outputs"]) >= 1)
        server.stop()
        assert app.http.get("/health").status_code == 200
        time.sleep(3)
        server.start()
        end = finished(app, run_id)
        assert end["state"] == "done"
        assert repeated(events(app, run_id)) == []


def test_nats_is_away_at_the_start(tmp_path: Path) -> None:
    server = Nats(tmp_path, free_port())
    with live.launched(template=CREW, NATS_URL=server.url) as app:
        wait_until(lambda: "waiting for its runs" in app.log)
        assert status(app, "/health")["status"] == "healthy"
        assert "check NATS_URL" in status(app, "/ready")["services"]["app"]["detail"]
        assert "check NATS_URL" in detail(app.http.post("/api/runs", json={"topic": "a"}), 502)
        server.start()
        try:
            wait_until(lambda: "app" not in status(app, "/ready")["services"])
            assert finished(app, start(app, "topic-1"))["state"] == "done"
        finally:
            server.stop()


def test_without_jetstream_runs_are_kept_here_and_told_there(tmp_path: Path) -> None:
    async def listen(url: str, app: App) -> list[dict[str, Any]]:
        connection = await client.connect(url)
        heard = await connection.subscribe("agents.live.events.*")
        run_id = await asyncio.to_thread(start, app, "topic-1")
        told: list[dict[str, Any]] = []
        while not told or told[-1]["type"] not in ("done", "error"):
            told.append(json.loads((await heard.next_msg(20)).data))
        await connection.close()
        assert {one["run_id"] for one in told} == {run_id}
        return told

    gateway = Gateway()
    with nats(tmp_path, jetstream=False) as server, apps(server, gateway) as (app,):
        told = asyncio.run(listen(server.url, app))
        assert told[-1]["type"] == "done"
        assert {"state", "task", "step", "tool"} <= {one["type"] for one in told}
        said = status(app, "/ready")["services"]["runs"]["detail"]
        assert "JetStream is off" in said
        assert "SQLite" in said


def test_another_app_asks_for_a_run_on_nats_and_reads_its_result(tmp_path: Path) -> None:
    async def ask(url: str) -> tuple[dict[str, Any], ...]:
        connection = await client.connect(url)
        while True:  # it is the last door to open
            try:
                await connection.request("agents.live.run", b"{}", 10)
                break
            except client.errors.NoRespondersError:
                await asyncio.sleep(0.2)
        request = {"topic": "topic-7", "key": "once", "budget": {"steps": 30}}
        replies = [
            json.loads(
                (await connection.request("agents.live.run", json.dumps(body).encode(), 10)).data
            )
            for body in (
                request,
                request,
                request | {"topic": ""},
                request | {"budget": {"steps": -1}},
            )
        ]
        bucket = await connection.jetstream().key_value("live-runs")
        while True:
            record = json.loads((await bucket.get(f"run.{replies[0]['run_id']}")).value)
            if record["state"] == "done":
                break
            await asyncio.sleep(0.2)
        await connection.close()
        return (*replies, record)

    gateway = Gateway()
    with nats(tmp_path) as server, apps(server, gateway) as (_,):
        first, again, empty, wrong, record = asyncio.run(ask(server.url))
        assert first["state"] == "queued"
        assert again["run_id"] == first["run_id"]
        assert "topic" in empty["error"]
        assert "steps" in wrong["error"]
        assert "topic-7" in record["result"]


def test_the_door_on_nats_is_closed_where_strangers_are_kept_out(tmp_path: Path) -> None:
    async def ask(url: str) -> None:
        connection = await client.connect(url)
        with pytest.raises(client.errors.NoRespondersError):
            await connection.request("agents.live.run", b'{"topic": "topic-1"}', 2)
        await connection.close()

    closed = {"AUTH": "on", "API_KEYS": API_KEYS}
    with nats(tmp_path) as server, apps(server, Gateway(), key=APP_KEY, **closed) as (app,):
        asyncio.run(ask(server.url))
        assert finished(app, start(app, "topic-1"))["state"] == "done"


def test_sigterm_hands_runs_to_another_replica(tmp_path: Path) -> None:
    gateway = Gateway(first_token_s=2)
    with nats(tmp_path) as server, apps(server, gateway, 2, RUNS_AT_ONCE=5, ACK_WAIT_S=60) as both:
        one, two = both
        ids = [start(one, f"topic-{n}") for n in range(6)]
        wait_until(lambda: gateway.active == 6)
        assert two.stop() < GRACE_S
        assert "Traceback" not in two.log
        for run_id in ids:  # long before ACK_WAIT_S
            assert finished(one, run_id, 40)["state"] == "done"
            assert repeated(events(one, run_id)) == []
