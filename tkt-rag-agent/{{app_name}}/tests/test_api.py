"""The API: every endpoint, and one clear sentence with the right status for every bad input."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from world import LEASE, FakeGateway, api, make_services, take_in

import api as api_routes
import app
import doors
from agent import health, runs
from agent.errors import Unavailable
from agent.services import Services
from agent.settings import Settings
from doors import PROBLEMS

pytestmark = pytest.mark.anyio

NO_ID = "00000000-0000-0000-0000-000000000000"


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


async def finished(client: httpx.AsyncClient, path: str, key: str) -> dict[str, Any]:
    while True:
        state: dict[str, Any] = (await client.get(path)).json()
        if state[key] != "running":
            return state
        await asyncio.sleep(0.02)


def events(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    found = []
    for frame in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line)
        if "id" in lines:
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


async def test_health_names_the_service_and_is_there_before_anything_is_connected() -> None:
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app.create_app()), base_url="http://app.test"
    )

    answer = await client.get("/health")

    name = Settings().app_name
    assert answer.json() == {"status": "healthy", "component": "app", "service": name}
    assert (await client.get("/ready")).json() == {
        "ready": False,
        "mode": "extractive",
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

    assert "still starting" in problem(await client.get("/api/documents"), 502)


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
        async with asyncio.timeout(8):
            while "/data may not be written" not in (await client.get("/ready")).text:
                await asyncio.sleep(0.01)

        assert (await client.get("/health")).status_code == 200
        assert "not able to start" in problem(await client.get("/api/documents"), 502)


async def test_documents_are_uploaded_listed_searched_and_deleted(services: Services) -> None:
    async with api(services) as client:
        started = await client.post("/api/documents", files=upload(lease_md=LEASE, note_txt="Hi."))
        assert started.status_code == 202
        assert (started.json()["total"], started.json()["status"]) == (2, "running")

        job = await finished(client, f"/api/jobs/{started.json()['job_id']}", "status")
        assert (job["status"], job["done"], job["total"]) == ("done", 2, 2)
        assert [(f["document"], f["status"]) for f in job["files"]] == [
            ("lease.md", "added"),
            ("note.txt", "added"),
        ]

        listed = (await client.get("/api/documents")).json()
        assert [(d["document"], d["id"]) for d in listed] == [
            (f["document"], f["id"]) for f in job["files"]
        ]

        (hit,) = (await client.post("/api/search", json={"query": "rent", "k": 1})).json()
        assert hit["document"] == "lease.md"
        assert LEASE[hit["start"] : hit["end"]] == hit["text"]
        assert set(hit) == {"document", "page", "heading", "start", "end", "text", "score"}

        gone = await client.delete(f"/api/documents/{listed[0]['id']}")
        assert gone.json() == listed[0]
        assert [d["document"] for d in (await client.get("/api/documents")).json()] == ["note.txt"]
        assert (await client.post("/api/search", json={"query": "rent"})).json() == []


async def test_the_same_upload_again_changes_nothing(services: Services) -> None:
    async with api(services) as client:
        for status in ("added", "unchanged"):
            job = (await client.post("/api/documents", files=upload(a_md=LEASE))).json()
            job = await finished(client, f"/api/jobs/{job['job_id']}", "status")
            assert job["files"][0]["status"] == status


async def test_a_search_can_be_filtered_by_document(services: Services, tmp_path: Path) -> None:
    await take_in(services, tmp_path / "in", a="The rent.", b="The rent.", c="The rent.")
    async with api(services) as client:
        for wanted in ("b.md", ["b.md"]):
            body = {"query": "rent", "filter": {"document": wanted}}
            found = (await client.post("/api/search", json=body)).json()
            assert [hit["document"] for hit in found] == ["b.md"]


async def test_chat_answers_with_citations(with_model: Services, tmp_path: Path) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    async with api(with_model) as client:
        body = {"question": "What is the rent?", "session_id": "s"}
        answer = (await client.post("/api/chat", json=body)).json()

    assert answer["answer"] == "Yes [1]."
    assert (answer["answered"], answer["mode"]) == (True, "model")
    assert (answer["trace_id"], answer["session_id"]) == (None, "s")
    (citation,) = answer["citations"]
    assert LEASE[citation["start"] : citation["end"]] == citation["quote"]


async def test_chat_streams_numbered_events_and_names_its_run_at_once(
    with_model: Services, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    async with api(with_model) as client:
        body = {"question": "What is the rent?", "stream": True}
        stream = await client.post("/api/chat", json=body)

        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["x-accel-buffering"] == "no"
        seen = events(stream.text)
        assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
        assert [type for _, type, _ in seen] == [
            "passages", "token", "token", "citations", "done",
        ]  # fmt: skip
        run_id = seen[0][2]["run_id"]
        assert stream.headers["x-run-id"] == run_id == seen[-1][2]["run_id"]

        for after in range(len(seen)):
            headers = {"Last-Event-ID": str(after)} if after else {}
            rest = await client.get(f"/api/runs/{run_id}/events", headers=headers)
            assert events(rest.text) == seen[after:]
        headers = {"Last-Event-ID": str(len(seen))}
        assert (await client.get(f"/api/runs/{run_id}/events", headers=headers)).status_code == 204


async def test_a_slow_answer_is_202_and_fetched_later(
    with_model: Services, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    go_on = asyncio.Event()
    gateway.enqueue(["It ", go_on, "is [1]."])
    async with api(with_model) as client:
        monkeypatch.setattr(api_routes, "WAIT_S", 1)
        slow = await client.post("/api/chat", json={"question": "What is the rent?"})

        assert slow.status_code == 202
        path = slow.headers["location"]
        assert path == f"/api/runs/{slow.json()['run_id']}"
        assert path in slow.json()["detail"]
        state = (await client.get(path)).json()
        assert (state["state"], state["events"], state["result"]) == ("running", 2, None)

        go_on.set()
        state = await finished(client, path, "state")
        assert (state["state"], state["result"]["answer"]) == ("done", "It is [1].")


async def test_a_stream_ends_in_time_and_goes_on_where_it_was(
    with_model: Services, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SEGMENT_S", 1.5)
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    go_on = asyncio.Event()
    gateway.enqueue(["It ", go_on, "is [1]."])
    async with api(with_model) as client:
        body = {"question": "What is the rent?", "stream": True}
        first = events((await client.post("/api/chat", json=body)).text)
        assert [type for _, type, _ in first] == ["passages", "token"]

        go_on.set()
        monkeypatch.setattr(runs, "SEGMENT_S", 10)
        path = f"/api/runs/{first[0][2]['run_id']}/events"
        rest = events((await client.get(path, headers={"Last-Event-ID": "2"})).text)
        assert [number for number, _, _ in rest] == [3, 4, 5]
        assert rest[-1][2]["answer"] == "It is [1]."


async def test_a_cancelled_run_stops_the_model(
    with_model: Services, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SEGMENT_S", 1)
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    gateway.enqueue(["It ", asyncio.Event()])
    async with api(with_model) as client:
        body = {"question": "What is the rent?", "stream": True}
        run_id = (await client.post("/api/chat", json=body)).headers["x-run-id"]

        state = (await client.delete(f"/api/runs/{run_id}")).json()

    assert (state["state"], state["result"]["detail"]) == ("error", "This was cancelled.")
    assert gateway.stopped == 1


async def test_ready_names_the_service_that_is_down(
    with_model: Services, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(with_model) as client:
        await with_model.tend()
        well = (await client.get("/ready")).json()
        assert (well["ready"], well["mode"]) == (True, "model")
        assert {n: s["ok"] for n, s in well["services"].items()} == {
            "qdrant": True, "model": True, "embedding": True, "langfuse": True, "keycloak": True,
        }  # fmt: skip
        assert well["services"]["embedding"]["detail"] == "embed, 8 dimensions"

        gateway.away = {"embeddings"}
        ill = await client.get("/ready")
        assert ill.status_code == 200
        assert not ill.json()["ready"]
        assert [n for n, s in ill.json()["services"].items() if not s["ok"]] == ["embedding"]
        assert "connection refused" in ill.json()["services"]["embedding"]["detail"]

        gateway.away = {"models"}
        monkeypatch.setattr(health, "LIMIT_S", 0.05)
        monkeypatch.setattr(with_model.store.database, "check", lambda: asyncio.sleep(9))
        worse = (await client.get("/ready")).json()
        assert worse["mode"] == "extractive"
        assert worse["services"]["qdrant"]["detail"] == "does not answer within 0.05 s"


async def test_ready_says_that_the_page_could_not_be_built(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Services) -> None:
        raise RuntimeError("no disk")

    async with api(services) as client:
        monkeypatch.setattr(app, "_build_page", broken)
        for _ in range(100):
            found = (await client.get("/ready")).json()
            if "page" in found["services"]:
                break
            await asyncio.sleep(0.01)

    assert not found["ready"]
    assert "no disk" in found["services"]["page"]["detail"]


async def test_without_a_model_ready_is_true_and_says_that_none_is_configured(
    services: Services,
) -> None:
    async with api(services) as client:
        found = (await client.get("/ready")).json()

    assert (found["ready"], found["mode"]) == (True, "extractive")
    assert found["services"]["model"] == {"ok": True, "detail": "not configured"}


async def test_health_answers_at_once_while_the_store_hangs(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("query", "fetch", "scroll", "check"):
        monkeypatch.setattr(services.store.database, name, lambda *_: asyncio.sleep(60))
    async with api(services) as client:
        hanging = asyncio.create_task(client.post("/api/search", json={"query": "rent"}))
        await asyncio.sleep(0.05)

        answer = await asyncio.wait_for(client.get("/health"), 0.5)

        assert answer.json()["status"] == "healthy"
        assert not hanging.done()
        hanging.cancel()


ENDPOINTS = [
    ("GET", "/api/documents", None),
    ("DELETE", f"/api/documents/{NO_ID}", None),
    ("POST", "/api/search", {"query": "rent"}),
    ("POST", "/api/chat", {"question": "What is the rent?"}),
]


@pytest.mark.parametrize(("method", "path", "body"), ENDPOINTS)
async def test_a_database_that_is_away_is_502_and_named(
    method: str, path: str, body: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise Unavailable("Qdrant at http://q:6333 does not answer; check QDRANT_URL.")

    for name in ("current", "query", "fetch", "scroll"):
        monkeypatch.setattr(services.store.database, name, away)
    async with api(services) as client:
        answer = await client.request(method, path, json=body)

    assert "check QDRANT_URL" in problem(answer, 502)


async def test_a_fault_of_the_app_is_500_and_its_log_has_the_requests_id(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    async def broken() -> None:
        raise RuntimeError("password=hunter2")

    async with api(services) as client:
        monkeypatch.setattr(services.store, "documents", broken)
        answer = await client.get("/api/documents")

    detail = problem(answer, 500)
    assert "hunter2" not in detail
    assert answer.json()["request_id"] in caplog.text


LONG = "x" * 100_000
CHAT, SEARCH = "/api/chat", "/api/search"
BAD_BODIES: dict[str, tuple[str, Any, str]] = {
    "a question of 100,000 characters": (CHAT, {"question": LONG}, "at most 8000"),
    "a query of 100,000 characters": (SEARCH, {"query": LONG}, "at most 8000"),
    "history of 100,000 characters": (
        CHAT,
        {"question": "a", "history": [{"role": "user", "content": LONG}]},
        "body.history.0.content",
    ),
    "no question": (CHAT, {}, "body.question: Field required"),
    "an empty question": (CHAT, {"question": ""}, "body.question"),
    "a blank question": (CHAT, {"question": " \n\t"}, "body.question"),
    "half a surrogate": (CHAT, b'{"question": "\\ud800"}', "body.question"),
    "half a surrogate to search": (SEARCH, b'{"query": "a \\udfff"}', "body.query"),
    "half a surrogate in the filter": (
        SEARCH,
        b'{"query": "a", "filter": {"document": "\\ud800"}}',
        "body.filter.document",
    ),
    "a question that is a list": (CHAT, {"question": ["a"]}, "body.question"),
    "an unknown field": (CHAT, {"question": "a", "top_k": 3}, "body.top_k"),
    "an unknown filter": (SEARCH, {"query": "a", "filter": {"page": 1}}, "body.filter.page"),
    "a system message": (
        CHAT,
        {"question": "a", "history": [{"role": "system", "content": "x"}]},
        "body.history.0.role",
    ),
    "k of none": (SEARCH, {"query": "a", "k": 0}, "body.k"),
    "k of very many": (SEARCH, {"query": "a", "k": 10**9}, "body.k"),
    "no JSON": (CHAT, b"{question", "JSON"),
    "a list": (CHAT, b"[]", "body"),
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


async def test_invalid_utf_8_in_a_body_is_400(services: Services) -> None:
    async with api(services) as client:
        headers = {"content-type": "application/json"}
        answer = await client.post(SEARCH, content=b'{"query": "\xff\xfe"}', headers=headers)

    assert "parsing the body" in problem(answer, 400)


UNKNOWN = [
    ("GET", "/api/jobs/nonsense"),
    ("GET", "/api/runs/nonsense"),
    ("GET", "/api/runs/nonsense/events"),
    ("DELETE", "/api/runs/nonsense"),
    ("DELETE", f"/api/documents/{NO_ID}"),
    ("DELETE", "/api/documents/nonsense"),
    ("DELETE", "/api/documents/..%2f..%2fetc%2fpasswd"),
    ("DELETE", "/api/documents/%00%ff"),
    ("GET", "/api/nothing-here"),
    ("PUT", "/api/documents"),
]


@pytest.mark.parametrize(("method", "path"), UNKNOWN)
async def test_an_unknown_id_is_404_and_nothing_is_lost(
    method: str, path: str, services: Services, tmp_path: Path
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)
    async with api(services) as client:
        answer = await client.request(method, path)
        problem(answer, 404)
        assert len((await client.get("/api/documents")).json()) == 1


async def test_a_run_that_is_no_upload_is_not_shown_as_a_job(services: Services) -> None:
    async with api(services) as client:
        run_id = (await client.post("/api/chat", json={"question": "Hi?"})).json()["run_id"]

        assert "is no upload" in problem(await client.get(f"/api/jobs/{run_id}"), 404)


@pytest.mark.parametrize("number", ["-1", "x", "1.5"])
async def test_a_last_event_id_that_is_no_number_is_422(number: str, services: Services) -> None:
    async with api(services) as client:
        run_id = (await client.post("/api/chat", json={"question": "Hi?"})).json()["run_id"]
        path, headers = f"/api/runs/{run_id}/events", {"Last-Event-ID": number}

        assert "last-event-id" in problem(await client.get(path, headers=headers), 422)


def zip_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", b"\0" * (210 << 20))
    return packed.getvalue()


async def test_bad_files_are_named_with_their_reasons_and_the_good_one_arrives(
    services: Services,
) -> None:
    bad: dict[str, bytes | str] = {
        "empty_txt": b"",
        "blank_md": " \n ",
        "truncated_pdf": b"%PDF-1.7\n1 0 obj\n<<",
        "wrong_docx": b"%PDF-1.7\nreally a PDF",
        "bomb_docx": zip_bomb(),
        "program_exe": b"MZ",
    }
    async with api(services) as client:
        started = await client.post("/api/documents", files=upload(**bad, good_md=LEASE))
        job = await finished(client, f"/api/jobs/{started.json()['job_id']}", "status")
        listed = (await client.get("/api/documents")).json()

    assert job["status"] == "done"
    assert [f["document"] for f in job["files"] if f["status"] == "added"] == ["good.md"]
    failed = [f for f in job["files"] if f["status"] == "failed"]
    assert len(failed) == len(bad)
    assert all(f["reason"].endswith(".") for f in failed)
    assert [d["document"] for d in listed] == ["good.md"]


@pytest.mark.parametrize(
    "name", ["../../etc/cron.md", "/etc/passwd.md", "..\\x.md", "program.exe", "noname"]
)
async def test_an_upload_of_nothing_but_tricks_is_422(name: str, services: Services) -> None:
    async with api(services) as client:
        form = {"files": (name, b"x")}
        problem(await client.post("/api/documents", files=form), 422)
        assert (await client.get("/api/documents")).json() == []


async def test_an_upload_without_files_is_422(services: Services) -> None:
    async with api(services) as client:
        problem(await client.post("/api/documents"), 422)
        problem(await client.post("/api/documents", data={"files": "text"}), 422)
        problem(await client.post("/api/documents", json={}), 422)
        wrong = await client.post("/api/documents", files={"other": ("a.md", b"x")})
        assert "body.files" in problem(wrong, 422)


async def test_two_files_of_one_name_are_both_counted(services: Services) -> None:
    async with api(services) as client:
        twice = [*upload(a_md="One."), *upload(a_md="Two.")]
        started = (await client.post("/api/documents", files=twice)).json()
        job = await finished(client, f"/api/jobs/{started['job_id']}", "status")

    assert job["total"] == job["done"] == len(job["files"])
    assert job["files"][-1]["status"] in ("added", "replaced")


async def test_an_upload_over_the_limit_is_413_declared_or_not(
    folder: Path, anyio_backend: str
) -> None:
    services = make_services(folder, max_upload_mb=1)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.md"\r\n\r\n'
        yield head
        for _ in range(50):
            sent += 1
            yield b"a" * 100_000

    async with api(services) as client:
        declared = await client.post("/api/documents", files=upload(a_md="a" * 1_100_000))
        assert "larger than 1 MiB; send less, or raise MAX_UPLOAD_MB" in problem(declared, 413)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        chunked = await client.post("/api/documents", content=endless(), headers=headers)
        assert "larger than 1 MiB" in problem(chunked, 413)
        assert sent < 20

        lying = {"content-type": "application/json", "content-length": "5"}
        body = json.dumps({"question": "a" * 1_100_000}).encode()
        problem(await client.post("/api/chat", content=body, headers=lying), 413)
        assert (await client.get("/api/documents")).json() == []
    await services.close()


async def test_every_answer_carries_an_id_and_no_two_the_same(services: Services) -> None:
    async with api(services) as client:
        ids = {(await client.get("/health")).headers["x-request-id"] for _ in range(3)}

    assert len(ids) == 3


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
        ("/api/feedback", "post"),
        ("/api/documents", "post"),
        ("/api/documents", "get"),
        ("/api/documents/{document_id}", "delete"),
        ("/api/jobs/{job_id}", "get"),
        ("/api/search", "post"),
        ("/api/chat", "post"),
        ("/api/runs/{run_id}", "get"),
        ("/api/runs/{run_id}", "delete"),
        ("/api/runs/{run_id}/events", "get"),
    }
    for path, method in operations:
        operation = described["paths"][path][method]
        assert operation["description"]
        errors = {code for code in operation["responses"] if int(code) >= 400}
        wanted = {str(code) for code in PROBLEMS} if path != "/health" else set()
        assert errors == wanted | ({"409"} if path == "/api/feedback" else set())
