"""The API: every endpoint, and one clear sentence with the right status for every bad input."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from world import TASKS, FakeModel, api, make_services, until

import app
import doors
from agent import health, prompts, runs
from agent.access import Access
from agent.errors import Unavailable
from agent.keys import PREFIX, parse
from agent.services import Services
from agent.settings import Settings
from agent.tools import TOOLS
from doors import PROBLEMS

pytestmark = pytest.mark.anyio

NO_ID = "0" * 32
RUNS = "/api/runs"


def problem(answer: httpx.Response, status: int) -> str:
    """The sentence of a problem document, after a look at its form."""
    body = answer.json()
    assert answer.status_code == status, body
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"].endswith(".")
    assert "\n" not in body["detail"]
    assert len(body["detail"]) < 400
    return str(body["detail"])


def upload(**files: bytes | str) -> list[tuple[str, tuple[str, bytes]]]:
    """Files of a form, named by keyword with `_` for the dot."""
    texts = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    return [("files", (name.replace("_", "."), data)) for name, data in texts.items()]


async def started(client: httpx.AsyncClient, **body: Any) -> str:
    """The path of a new run."""
    answer = await client.post(RUNS, json={"topic": "Which heating?"} | body)
    assert answer.status_code == 202, answer.text
    return str(answer.headers["location"])


async def in_state(client: httpx.AsyncClient, path: str, state: str) -> dict[str, Any]:
    async def there() -> bool:
        return bool((await client.get(path)).json()["state"] == state)

    await until(there)
    found: dict[str, Any] = (await client.get(path)).json()
    return found


def events(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    found = []
    for frame in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line)
        if "id" in lines:
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


# While it starts


async def test_health_names_the_service_and_is_there_before_anything_is_connected() -> None:
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app.create_app()), base_url="http://app.test"
    )

    answer = await client.get("/health")

    name = Settings().app_name
    assert answer.json() == {"status": "healthy", "component": "app", "service": name}
    assert (await client.get("/ready")).json() == {
        "ready": False,
        "mode": "rehearsal",
        "services": {"app": {"ok": False, "detail": "still starting; try again in a few seconds"}},
    }
    page = await client.get("/")
    assert page.status_code == 200
    assert "Starting" in page.text


async def test_a_request_while_the_app_starts_waits_and_then_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doors, "WAIT_S", 0.05)
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app.create_app()), base_url="http://app.test"
    )

    assert "still starting" in problem(await client.get(RUNS), 502)


async def test_an_app_that_cannot_start_says_why_where_one_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(settings: object) -> None:
        raise PermissionError("/data may not be written")

    monkeypatch.setattr(doors, "WAIT_S", 0.05)
    monkeypatch.setattr(app, "_connect", refuse)
    built = app.create_app()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(built), base_url="http://app.test")
    async with built.router.lifespan_context(built):

        async def told() -> bool:
            return "/data may not be written" in (await client.get("/ready")).text

        await until(told)
        assert (await client.get("/health")).status_code == 200
        assert "not able to start" in problem(await client.get(RUNS), 502)


async def test_an_app_whose_nats_is_away_waits_for_it_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await make_services(folder)
    tries: list[int] = []

    async def connect(settings: Settings) -> Services:
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("NATS at nats://x does not do its part; check NATS_URL.")
        return services

    monkeypatch.setattr(doors, "WAIT_S", 0.05)
    monkeypatch.setattr(app, "AGAIN_S", 0.2)
    monkeypatch.setattr(app, "_import_connect", lambda: connect)
    async with app_of(monkeypatch) as client:
        await until(lambda: tries)
        assert "waiting for its runs (NATS at" in problem(await client.get(RUNS), 502)
        await until(lambda: len(tries) == 3)
        await asyncio.sleep(0.1)
        assert (await client.get(RUNS)).json() == []


def app_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The app without services, before it has connected."""
    from fastapi import FastAPI

    monkeypatch.setattr(app, "_build_page", lambda _: FastAPI())

    @asynccontextmanager
    async def opened() -> AsyncIterator[httpx.AsyncClient]:
        built = app.create_app()
        transport = httpx.ASGITransport(built, raise_app_exceptions=False)
        async with (
            built.router.lifespan_context(built),
            httpx.AsyncClient(transport=transport, base_url="http://app.test") as client,
        ):
            yield client

    return opened()


# Runs


async def test_a_run_is_promised_at_once_and_asked_for_later(services: Services) -> None:
    async with api(services) as client:
        promised = await client.post(RUNS, json={"topic": "Which heating?"})

        assert promised.status_code == 202
        body = promised.json()
        path = promised.headers["location"]
        assert path == f"/api/runs/{body['run_id']}"
        assert body["state"] == "queued"
        assert path in body["detail"]

        done = await in_state(client, path, "done")
        assert [output["task"] for output in done["outputs"]] == TASKS
        assert done["result"] == done["outputs"][-1]["text"]
        assert (done["error"], done["asked"], done["door"]) == ("", None, "api")
        assert done["spent"]["steps"] > 4
        assert done["budget"]["steps"] == 60
        (listed,) = (await client.get(RUNS)).json()
        assert (listed["id"], listed["state"]) == (body["run_id"], "done")
        assert set(listed) == {"id", "topic", "state", "dollars", "created_at", "updated_at"}


async def test_a_run_shows_nothing_that_is_the_workers_own(services: Services) -> None:
    async with api(services) as client:
        path = await started(client)
        shown = await in_state(client, path, "done")

    assert {"owner", "worker", "revision", "traceparent"}.isdisjoint(shown)


async def test_the_same_idempotency_key_is_the_same_run(services: Services) -> None:
    async with api(services) as client:
        body, key = {"topic": "Which heating?"}, {"Idempotency-Key": "k-1"}
        first = (await client.post(RUNS, json=body, headers=key)).json()
        again = (await client.post(RUNS, json=body, headers=key)).json()
        other = await client.post(RUNS, json={"topic": "Another"}, headers=key)
        long = await client.post(RUNS, json=body, headers={"Idempotency-Key": "k" * 201})

        assert first["run_id"] == again["run_id"]
        assert "This key was used before" in problem(other, 409)
        assert "idempotency-key" in problem(long, 422)
        assert len((await client.get(RUNS)).json()) == 1


async def test_events_are_numbered_streamed_and_read_on_after_any_of_them(
    services: Services,
) -> None:
    async with api(services) as client:
        path = await started(client, process="hierarchical")
        stream = await client.get(f"{path}/events")

        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["x-accel-buffering"] == "no"
        assert path.endswith(stream.headers["x-run-id"])
        seen = events(stream.text)
        assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
        assert (seen[0][1], seen[-1][1]) == ("state", "done")
        assert seen[-1][2]["run_id"] == stream.headers["x-run-id"]
        for after in (1, len(seen) // 2, len(seen) - 1):
            rest = await client.get(f"{path}/events", headers={"Last-Event-ID": str(after)})
            assert events(rest.text) == seen[after:]
        for after in (len(seen), len(seen) + 5):
            rest = await client.get(f"{path}/events", headers={"Last-Event-ID": str(after)})
            assert rest.status_code == 204


async def test_a_stream_ends_in_time_and_goes_on_where_it_was(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SEGMENT_S", 1.5)
    go_on = asyncio.Event()
    model.enqueue(go_on)
    async with api(with_model) as client:
        path = await started(client)
        await until(lambda: model.now)
        first = events((await client.get(f"{path}/events")).text)
        assert [kind for _, kind, _ in first] == ["state", "state", "task"]

        go_on.set()
        monkeypatch.setattr(runs, "SEGMENT_S", 10)
        headers = {"Last-Event-ID": "3"}
        rest = events((await client.get(f"{path}/events", headers=headers)).text)
        assert rest[0][:2] == (4, "step")
        assert rest[-1][1] == "done"


async def test_a_cancelled_run_stops_the_model(with_model: Services, model: FakeModel) -> None:
    model.enqueue(asyncio.Event())
    async with api(with_model) as client:
        path = await started(client)
        await until(lambda: model.now)

        gone = (await client.delete(path)).json()

        assert (gone["state"], gone["error"]) == ("cancelled", "This was cancelled.")
        await until(lambda: model.stopped == 1, 2)
        assert (await client.delete(path)).json()["state"] == "cancelled"
        last = events((await client.get(f"{path}/events")).text)[-1]
        assert (last[1], last[2]["state"]) == ("error", "cancelled")


async def test_a_run_is_approved_or_done_again(with_model: Services, model: FakeModel) -> None:
    async with api(with_model) as client:
        path = await started(client, approve=["research"])
        waiting = await in_state(client, path, "waiting")
        assert waiting["asked"]["task"] == "research"

        redo = {"decision": "redo", "comment": "Ask for the price."}
        decided = await client.post(f"{path}/approval", json=redo)
        assert decided.json()["state"] == "queued"
        await until(lambda: len(model.asked) == 2)
        await in_state(client, path, "waiting")
        await client.post(f"{path}/approval", json={"decision": "approve"})

        done = await in_state(client, path, "done")
        assert [comment["decision"] for comment in done["comments"]] == ["redo", "approve"]
        late = await client.post(f"{path}/approval", json={"decision": "approve"})
        assert "waits for nobody: it is done" in problem(late, 409)


async def test_a_run_that_failed_says_why(with_model: Services, model: FakeModel) -> None:
    model.enqueue("The notes.", Unavailable("The gateway is away; check it.", "model"))
    async with api(with_model) as client:
        path = await started(client)
        failed = await in_state(client, path, "failed")

        assert failed["error"] == "The gateway is away; check it."
        assert [output["task"] for output in failed["outputs"]] == ["research"]
        assert (await client.get(RUNS)).json()[0]["state"] == "failed"


@asynccontextmanager
async def closed(folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An app that lets in Ana and Bo, by their keys."""
    entries = ",".join(f"{n}:{sha256(k.encode()).hexdigest()}" for n, k in KEYS.items())
    services = await make_services(folder, auth="on", api_keys=entries, **settings)
    services = replace(services, access=Access("", "crew", set(), parse(entries)))
    async with api(services) as client:
        yield client
    await services.close()


KEYS = {name: f"{PREFIX}{name}-key" for name in ("ana", "bo")}
ANA_S, BO_S = ({"Authorization": f"Bearer {key}"} for key in KEYS.values())


async def test_two_first_tokens_at_once_both_get_in() -> None:
    """The second one waits for the keys of the realm that the first one has asked for."""
    key, fetched = RSAKey.generate_key(2048, {"kid": "k"}), []

    class Realm:
        async def fetch_jwk_set(self, force: bool) -> Any:
            fetched.append(force)
            await asyncio.sleep(0.05)
            return {"keys": [key.as_dict(private=False)]}

    access = Access("https://auth.test/realms/r", "crew", set(), {})
    access.realm = Realm()
    claims = {"iss": access.issuer, "sub": "ana", "azp": "crew", "exp": int(time.time()) + 60}
    token = jwt.encode({"alg": "RS256", "kid": "k"}, claims, key)

    users = await asyncio.gather(access.user(token), access.user(token))

    assert [user.id for user in users] == ["ana", "ana"]
    assert len(fetched) == 1


async def test_runs_are_their_owners(folder: Path, anyio_backend: str) -> None:
    async with closed(folder) as client:
        assert (await client.post(RUNS, json={"topic": "a"})).status_code == 401
        answer = await client.post(RUNS, json={"topic": "Ana's"}, headers=ANA_S)
        path = answer.headers["location"]

        assert (await client.get(path, headers=ANA_S)).status_code == 200
        assert (await client.get(RUNS, headers=BO_S)).json() == []
        for method, place, body in (
            ("GET", path, None),
            ("DELETE", path, None),
            ("GET", f"{path}/events", None),
            ("POST", f"{path}/approval", {"decision": "approve"}),
        ):
            answer = await client.request(method, place, json=body, headers=BO_S)
            assert "There is no run" in problem(answer, 404)


async def test_one_request_too_many_is_429_and_says_when_to_come_again(
    folder: Path, anyio_backend: str
) -> None:
    async with closed(folder, requests_per_minute=2) as client:
        for status in (202, 202, 429):
            answer = await client.post(RUNS, json={"topic": "a"}, headers=ANA_S)
            assert answer.status_code == status
        assert "limit of 2 requests a minute" in problem(answer, 429)
        assert int(answer.headers["retry-after"]) > 0
        other = await client.post(RUNS, json={"topic": "a"}, headers=BO_S)
        assert other.status_code == 202


# Bad input

LONG = "x" * 8001
BAD_BODIES: dict[str, tuple[str, Any, str]] = {
    "a topic of 8,001 characters": (RUNS, {"topic": LONG}, "1 to 8,000 characters"),
    "no topic": (RUNS, {}, "body.topic: Field required"),
    "a blank topic": (RUNS, {"topic": " \n\t"}, "body.topic"),
    "half a surrogate": (RUNS, b'{"topic": "\\ud800"}', "body.topic"),
    "a topic that is a list": (RUNS, {"topic": ["a"]}, "body.topic"),
    "an unknown field": (RUNS, {"topic": "a", "mood": 3}, "body.mood"),
    "an unknown process": (RUNS, {"topic": "a", "process": "odd"}, "body.process"),
    "an unknown task": (RUNS, {"topic": "a", "approve": ["rest"]}, "No task to approve"),
    "the last task": (RUNS, {"topic": "a", "approve": ["edit"]}, "No task to approve"),
    "many tasks": (RUNS, {"topic": "a", "approve": ["research"] * 21}, "body.approve"),
    "a budget of no steps": (RUNS, {"topic": "a", "budget": {"steps": 0}}, "body.budget.steps"),
    "half a step": (RUNS, {"topic": "a", "budget": {"steps": 1.5}}, "body.budget.steps"),
    "no dollars": (RUNS, {"topic": "a", "budget": {"dollars": 0}}, "body.budget.dollars"),
    "too many dollars": (RUNS, {"topic": "a", "budget": {"dollars": 3}}, "budget of dollars"),
    "endless dollars": (RUNS, b'{"topic": "a", "budget": {"dollars": Infinity}}', "budget"),
    "dollars that are no number": (RUNS, b'{"topic": "a", "budget": {"dollars": NaN}}', "budget"),
    "an unknown budget": (RUNS, {"topic": "a", "budget": {"calls": 1}}, "body.budget.calls"),
    "an odd decision": (f"{RUNS}/{NO_ID}/approval", {"decision": "veto"}, "body.decision"),
    "a long comment": (
        f"{RUNS}/{NO_ID}/approval",
        {"decision": "redo", "comment": "x" * 4001},
        "body.comment",
    ),
    "no JSON": (RUNS, b"{topic", "JSON"),
    "a list": (RUNS, b"[]", "body"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_a_body_that_cannot_be_used_is_422_and_says_where(
    case: str, services: Services
) -> None:
    path, body, sentence = BAD_BODIES[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with api(services) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post(path, content=content, headers=headers)

        assert sentence in problem(answer, 422)
        assert (await client.get(RUNS)).json() == []


async def test_a_redo_without_a_comment_is_422(services: Services) -> None:
    async with api(services) as client:
        path = await started(client, approve=["research"])
        await in_state(client, path, "waiting")

        answer = await client.post(f"{path}/approval", json={"decision": "redo"})

        assert "Say in a comment" in problem(answer, 422)


async def test_invalid_utf_8_in_a_body_is_400(services: Services) -> None:
    async with api(services) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post(RUNS, content=b'{"topic": "\xff\xfe"}', headers=headers)

    assert "parsing the body" in problem(answer, 400)


UNKNOWN = [
    ("GET", f"{RUNS}/nonsense"),
    ("GET", f"{RUNS}/{NO_ID}"),
    ("GET", f"{RUNS}/{'a' * 5000}"),
    ("GET", f"{RUNS}/%00"),
    ("GET", f"{RUNS}/%C3%A9"),
    ("GET", f"{RUNS}/nonsense/events"),
    ("DELETE", f"{RUNS}/nonsense"),
    ("DELETE", "/api/documents/nonsense.md"),
    ("DELETE", "/api/documents/..%2f..%2fetc%2fpasswd"),
    ("GET", "/api/nothing-here"),
    ("PUT", "/api/documents"),
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN, ids=lambda value: value[:40])
async def test_an_unknown_id_is_404(method: str, path: str, services: Services) -> None:
    async with api(services) as client:
        problem(await client.request(method, path), 404)


async def test_an_unknown_run_cannot_be_approved(services: Services) -> None:
    async with api(services) as client:
        answer = await client.post(f"{RUNS}/{NO_ID}/approval", json={"decision": "approve"})

    assert "There is no run" in problem(answer, 404)


@pytest.mark.parametrize("number", ["-1", "x", "1.5"])
async def test_a_last_event_id_that_is_no_number_is_422(number: str, services: Services) -> None:
    async with api(services) as client:
        path = await started(client)
        answer = await client.get(f"{path}/events", headers={"Last-Event-ID": number})

    assert "last-event-id" in problem(answer, 422)


# Documents and the crew


async def test_documents_are_uploaded_listed_and_deleted(services: Services) -> None:
    async with api(services) as client:
        taken = await client.post("/api/documents", files=upload(b_md="# B", a_txt="A text."))
        assert taken.status_code == 201
        assert [one["name"] for one in taken.json()] == ["b.md", "a.txt"]

        listed = (await client.get("/api/documents")).json()
        assert [(one["name"], one["characters"]) for one in listed] == [("a.txt", 7), ("b.md", 3)]
        gone = await client.delete("/api/documents/a.txt")
        assert gone.json() == listed[0]
        assert [one["name"] for one in (await client.get("/api/documents")).json()] == ["b.md"]


@pytest.mark.parametrize(
    "files",
    [upload(a_md="Text.", b_md=" \n"), upload(a_md="Text.", b_pdf="%PDF"), upload(a_md=b"")],
    ids=["blank", "pdf", "empty"],
)
async def test_when_one_file_cannot_be_taken_none_is(files: Any, services: Services) -> None:
    async with api(services) as client:
        problem(await client.post("/api/documents", files=files), 422)
        assert (await client.get("/api/documents")).json() == []


async def test_an_upload_without_files_is_422(services: Services) -> None:
    async with api(services) as client:
        problem(await client.post("/api/documents"), 422)
        problem(await client.post("/api/documents", json={}), 422)
        wrong = await client.post("/api/documents", files={"other": ("a.md", b"x")})
        assert "body.files" in problem(wrong, 422)


async def test_an_upload_over_the_limit_is_413_declared_or_not(
    folder: Path, anyio_backend: str
) -> None:
    services = await make_services(folder, max_upload_mb=1)

    async def endless() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.md"\r\n\r\n'
        for _ in range(50):
            yield b"a" * 100_000

    async with api(services) as client:
        declared = await client.post("/api/documents", files=upload(a_md="a" * 1_100_000))
        assert "larger than 1 MiB" in problem(declared, 413)
        headers = {"content-type": "multipart/form-data; boundary=x"}
        chunked = await client.post("/api/documents", content=endless(), headers=headers)
        assert "larger than 1 MiB" in problem(chunked, 413)
    await services.close()


async def test_the_crew_tells_who_is_in_it_and_which_tools_it_has(services: Services) -> None:
    async with api(services) as client:
        crew = (await client.get("/api/crew")).json()

    assert [agent["key"] for agent in crew["agents"]] == list(prompts.AGENTS)
    assert crew["agents"][0]["tools"] == ["search_documents", "read_document"]
    assert [task["name"] for task in crew["tasks"]] == TASKS
    offered = {tool["name"]: tool["offered"] for tool in crew["tools"]}
    assert offered == {name: name in offered_here() for name in TOOLS}


def offered_here() -> set[str]:
    return {"search_documents", "read_document", "calculate"}


# How it is


async def test_ready_names_the_service_that_is_down(
    with_model: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(with_model) as client:
        well = (await client.get("/ready")).json()
        assert (well["ready"], well["mode"]) == (True, "model")
        assert set(well["services"]) >= {"runs", "model", "qdrant"}

        monkeypatch.setattr(health, "LIMIT_S", 0.05)
        monkeypatch.setattr(with_model.journal, "check", lambda: asyncio.sleep(9))
        ill = await client.get("/ready")
        assert ill.status_code == 200
        assert not ill.json()["ready"]
        assert ill.json()["services"]["runs"]["detail"] == "does not answer within 0.05 s"


async def test_ready_says_that_the_page_could_not_be_built(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Services) -> None:
        raise RuntimeError("no disk")

    async with api(services) as client:
        monkeypatch.setattr(app, "_build_page", broken)

        async def told() -> bool:
            return "page" in (await client.get("/ready")).json()["services"]

        await until(told)
        found = (await client.get("/ready")).json()

    assert not found["ready"]
    assert "no disk" in found["services"]["page"]["detail"]


async def test_metrics_tell_of_runs(services: Services) -> None:
    async with api(services) as client:
        path = await started(client)
        await in_state(client, path, "done")

        async def counted() -> bool:
            run = 'agent_runs_total{door="api",outcome="done",process="sequential"} 1.0'
            return run in (await client.get("/metrics")).text

        await until(counted)
        page = await client.get("/metrics")

    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", RUNS, None),
        ("POST", RUNS, {"topic": "a"}),
        ("GET", f"{RUNS}/{NO_ID}", None),
        ("GET", f"{RUNS}/{NO_ID}/events", None),
        ("DELETE", f"{RUNS}/{NO_ID}", None),
        ("POST", f"{RUNS}/{NO_ID}/approval", {"decision": "approve"}),
    ],
)
async def test_a_journal_that_is_away_is_502_and_named(
    method: str, path: str, body: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise Unavailable("NATS at nats://n does not do its part; check NATS_URL.")

    for name in ("create", "read", "listed"):
        monkeypatch.setattr(services.journal, name, away)
    async with api(services) as client:
        answer = await client.request(method, path, json=body)

    assert "check NATS_URL" in problem(answer, 502)


async def test_a_fault_of_the_app_is_500_and_its_log_has_the_requests_id(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    async def broken(*_: Any) -> None:
        raise RuntimeError("password=hunter2")

    async with api(services) as client:
        monkeypatch.setattr(services.journal, "listed", broken)
        answer = await client.get(RUNS)

    detail = problem(answer, 500)
    assert "hunter2" not in detail
    assert answer.json()["request_id"] in caplog.text


async def test_health_answers_at_once_while_the_journal_hangs(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("read", "listed", "check"):
        monkeypatch.setattr(services.journal, name, lambda *_: asyncio.sleep(60))
    async with api(services) as client:
        hanging = asyncio.create_task(client.get(RUNS))
        await asyncio.sleep(0.05)

        answer = await asyncio.wait_for(client.get("/health"), 0.5)

        assert answer.json()["status"] == "healthy"
        assert not hanging.done()
        hanging.cancel()
        await asyncio.wait([hanging])


async def test_the_api_describes_itself_with_every_error(services: Services) -> None:
    async with api(services) as client:
        described = (await client.get("/openapi.json")).json()

    operations = [
        (path, method) for path, methods in described["paths"].items() for method in methods
    ]
    assert set(operations) == {
        ("/health", "get"),
        ("/ready", "get"),
        ("/metrics", "get"),
        ("/v1/models", "get"),
        ("/v1/chat/completions", "post"),
        ("/api/runs", "post"),
        ("/api/runs", "get"),
        ("/api/runs/{run_id}", "get"),
        ("/api/runs/{run_id}", "delete"),
        ("/api/runs/{run_id}/events", "get"),
        ("/api/runs/{run_id}/approval", "post"),
        ("/api/crew", "get"),
        ("/api/documents", "post"),
        ("/api/documents", "get"),
        ("/api/documents/{name}", "delete"),
    }
    for path, method in operations:
        operation = described["paths"][path][method]
        assert operation["description"]
        errors = {code for code in operation["responses"] if int(code) >= 400}
        assert errors == ({str(code) for code in PROBLEMS} if path != "/health" else set())
