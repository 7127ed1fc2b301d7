"""The crew as a model, for what speaks OpenAI's chat API."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from world import FakeModel, api, kept, until

import openai_api
from agent.access import User
from agent.errors import Unavailable
from agent.runs import Event
from agent.services import Services
from agent.work import listed
from openai_api import in_words

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
NOBODY = User()


def body(content: Any = "Which heating?", **more: Any) -> dict[str, Any]:
    return {"model": "crew", "messages": [{"role": "user", "content": content}]} | more


def chunks(text: str) -> list[dict[str, Any]]:
    frames = [frame for frame in text.split("\n\n") if frame.startswith("data: ")]
    return [json.loads(frame[6:]) for frame in frames if frame != "data: [DONE]"]


def deltas(text: str, name: str) -> str:
    found = [choice["delta"] for one in chunks(text) for choice in one.get("choices", [])]
    return "".join(delta.get(name) or "" for delta in found)


async def test_the_crew_is_the_one_model(services: Services) -> None:
    async with api(services) as client:
        listed = (await client.get("/v1/models")).json()

    assert [model["id"] for model in listed["data"]] == ["crew"]


async def test_a_question_is_answered_with_the_report(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue("The notes.", "Findings.", "Draft.", "# The report")
    async with api(with_model) as client:
        answer = (await client.post(CHAT, json=body())).json()

    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "# The report"}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60,
    }  # fmt: skip
    (one,) = await listed(with_model, NOBODY)
    assert answer["id"] == f"chatcmpl-{one.id}"
    assert (await kept(with_model.journal, one.id)).door == "v1"


async def test_a_stream_shows_what_the_crew_does_and_then_the_report(
    with_model: Services, model: FakeModel
) -> None:
    model.enqueue("The notes.", "Findings.", "Draft.", "# The report")
    async with api(with_model) as client:
        usage = {"stream_options": {"include_usage": True}}
        stream = await client.post(CHAT, json=body(stream=True) | usage)

    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.text.endswith("data: [DONE]\n\n")
    assert deltas(stream.text, "content") == "# The report"
    thought = deltas(stream.text, "reasoning_content").splitlines()
    assert thought[0] == "Researcher begins with research."
    assert "Analyst: Findings." in thought
    told = chunks(stream.text)
    assert len({one["id"] for one in told}) == 1
    assert told[0]["choices"][0]["delta"]["role"] == "assistant"
    assert told[-2]["choices"][0]["finish_reason"] == "stop"
    assert told[-1]["usage"]["total_tokens"] == 60


async def test_the_last_message_is_the_topic_in_parts_as_well(
    with_model: Services, model: FakeModel
) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Before"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [
            {"type": "text", "text": "Which"}, {"type": "image_url"},
            {"type": "text", "text": "heating?"},
        ]},
    ]  # fmt: skip
    async with api(with_model) as client:
        await client.post(CHAT, json=body(messages=messages, temperature=0, user="x"))

    assert "answer this: Which\nheating?" in model.asked[0].text


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        (body(model="gpt-5"), 404, "There is no model 'gpt-5' here; 'crew' is the one."),
        (body(messages=[]), 422, "body.messages"),
        (body(""), 400, "The last message must be the user's"),
        (body([{"type": "image_url"}]), 400, "The last message must be the user's"),
        (body(messages=[{"role": "assistant", "content": "a"}]), 400, "must be the user's"),
        (body("x" * 8001), 422, "1 to 8,000 characters"),
        ({"model": "crew"}, 422, "body.messages: Field required"),
    ],
)
async def test_what_cannot_be_answered_is_told_as_openai_would(
    sent: Any, status: int, sentence: str, services: Services
) -> None:
    async with api(services) as client:
        answer = await client.post(CHAT, json=sent)

    assert answer.status_code == status
    assert sentence in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_that_fails_is_told_as_openai_would(
    stream: bool, with_model: Services, model: FakeModel
) -> None:
    model.enqueue(Unavailable("The gateway is away; check it.", "model"))
    async with api(with_model) as client:
        answer = await client.post(CHAT, json=body(stream=stream))

    error = chunks(answer.text)[-1]["error"] if stream else answer.json()["error"]
    assert answer.status_code == (200 if stream else 502)
    assert error["message"] == "The gateway is away; check it."
    assert error["type"] == "api_error"
    assert "[DONE]" not in answer.text


async def asking(
    services: Services, sent: dict[str, Any]
) -> tuple[asyncio.Event, asyncio.Task[Any]]:
    """A request straight to the app, whose client leaves when the event is set."""
    import app

    leaves, first = asyncio.Event(), True
    built = app.create_app(services)
    built.state.started.set()
    content = json.dumps(sent).encode()

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": content, "more_body": False}
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "headers": [
            (b"content-type", b"application/json"), (b"host", b"app.test"),
        ],
        "query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "",
        "server": ("app.test", 80), "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
    }  # fmt: skip
    return leaves, asyncio.create_task(built(scope, receive, send))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_the_run(
    stream: bool, with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_api, "HEARTBEAT_S", 0.1)
    model.enqueue(asyncio.Event())
    with_model.worker.start(with_model)
    leaves, request = await asking(with_model, body(stream=stream))
    await until(lambda: model.now)

    leaves.set()
    try:
        await until(lambda: model.stopped == 1, 3)
    finally:
        request.cancel()
        await asyncio.wait([request], timeout=3)

    (one,) = await listed(with_model, NOBODY)

    async def cancelled() -> bool:
        return (await kept(with_model.journal, one.id)).state == "cancelled"

    await until(cancelled, 2)


async def test_a_run_goes_on_when_the_app_is_being_restarted(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_api, "HEARTBEAT_S", 0.05)
    model.enqueue(asyncio.Event(), asyncio.Event())
    async with api(with_model) as client:
        waiting = [
            asyncio.create_task(client.post(CHAT, json=body(stream=stream)))
            for stream in (False, True)
        ]
        await until(lambda: model.now == 2)
        await with_model.worker.drain()
        whole, stream = await asyncio.gather(*waiting)

    assert whole.status_code == 502
    assert "The run goes on: ask for it at /api/runs/" in whole.json()["error"]["message"]
    assert "The run goes on" in chunks(stream.text)[-1]["error"]["message"]
    assert {one.state for one in await listed(with_model, NOBODY)} == {"queued"}


async def test_silence_is_broken_by_a_comment(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_api, "HEARTBEAT_S", 0.05)
    go_on = asyncio.Event()
    model.enqueue(go_on)
    async with api(with_model) as client:
        request = asyncio.create_task(client.post(CHAT, json=body(stream=True)))
        await until(lambda: model.now)
        await asyncio.sleep(0.2)
        go_on.set()
        stream = await request

    assert ": still working\n\n" in stream.text
    assert stream.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (Event("task", {"status": "started", "agent": "Writer", "task": "draft"}), "begins"),
        (Event("task", {"status": "finished", "agent": "Writer", "task": "draft"}), ""),
        (Event("step", {"agent": "Writer", "summary": "wants calculate"}), "wants calculate"),
        (Event("tool", {"agent": "Analyst", "tool": "calculate", "result": "42"}), "42"),
        (Event("state", {"state": "running", "note": ""}), ""),
        (Event("approval", {"status": "asked"}), ""),
        (Event("delegation", {"from": "Manager", "to": "Writer", "question": "?"}), ""),
    ],
)
def test_what_happens_is_said_on_one_line(event: Event, words: str) -> None:
    said = in_words(event)

    assert words in said
    assert bool(words) == bool(said)
    assert "\n" not in said
