"""Other programs talk to the agent as they are: OpenAI's client, LiteLLM, an MCP client."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from tests.doubles.gateway import Gateway
from tests.doubles.langfuse import Langfuse
from tests.doubles.serve import running
from tests.live import API_KEYS, APP_KEY, KEY, App, ask, load, quietly, started, wait_until

LEASE = {"lease.txt": "The rent is 900 pounds a month.\n\nNo dogs are allowed."}
QUESTION = "How much is the rent?"
ANSWER = "The rent is 900 pounds a month [1]."


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[App, Gateway]]:
    """An app with a model and a key of its own."""
    gateway = Gateway()
    with (
        running(gateway.app) as url,
        started(key=APP_KEY, LITELLM_ENDPOINT=url, AUTH="on", API_KEYS=API_KEYS, **KEY) as app,
    ):
        load(app, LEASE)
        wait_until(lambda: app.http.get("/mcp").status_code != 200)  # its note, until it is there
        yield app, gateway


@pytest.fixture
def client(world: tuple[App, Gateway]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{world[0].url}/v1", api_key=APP_KEY, max_retries=0)


def said(text: str = QUESTION) -> Any:
    return [{"role": "user", "content": text}]


def test_openais_client_finds_the_agent_among_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["live"]


def test_openais_client_gets_an_answer_with_its_sources(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="live", messages=said(), temperature=0)
    message = answer.choices[0].message
    assert message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    (source,) = message.to_dict()["annotations"]  # type: ignore[misc, attr-defined]
    cited = source["citation"]
    assert (cited["document"], cited["quote"]) == ("lease.txt", "The rent is 900 pounds a month.")
    place = source["url_citation"]
    assert message.content[place["start_index"] : place["end_index"]] == "[1]"


def test_openais_client_gets_a_stream_with_usage(
    client: openai.OpenAI, world: tuple[App, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world[1], "tokens_per_second", 10)  # what comes at once is one piece
    stream = client.chat.completions.create(
        model="live", messages=said(), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == ANSWER
    assert len(chunks) > 5
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].choices[0].delta.to_dict()["annotations"]


def test_the_talk_before_a_question_is_understood(
    client: openai.OpenAI, world: tuple[App, Gateway]
) -> None:
    talk = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": "And dogs?"},
    ]
    world[1].script.append("Are dogs allowed?")
    client.chat.completions.create(model="live", messages=talk)  # type: ignore[arg-type]
    rewriting, answering = [r.body["messages"] for r in world[1].requests if r.body.get("stream")][
        -2:
    ]
    assert QUESTION in rewriting[-1]["content"]
    assert "pirate" not in json.dumps([rewriting, answering])


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"model": "gpt-4", "messages": said()}, openai.NotFoundError),
        ({"model": "live", "messages": said(" ")}, openai.BadRequestError),
        ({"model": "live", "messages": []}, openai.UnprocessableEntityError),
        ({"model": "live", "messages": said("x" * 9000)}, openai.UnprocessableEntityError),
        (
            {"model": "live", "messages": [{"role": "assistant", "content": "Hi"}]},
            openai.BadRequestError,
        ),
    ],
)
def test_openais_client_understands_what_is_wrong(
    client: openai.OpenAI, body: Any, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**body)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"].endswith(".")


def test_openais_client_is_told_that_its_key_is_wrong(world: tuple[App, Gateway]) -> None:
    stranger = openai.OpenAI(base_url=f"{world[0].url}/v1", api_key="sk-no", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_stream_that_outlasts_the_edge_stays_whole_and_whoever_leaves_cancels_it() -> None:
    words = " ".join(f"word{n}" for n in range(40))
    gateway = Gateway(reply=f"{words} [1].", tokens_per_second=3)
    with running(gateway.app) as url, started(LITELLM_ENDPOINT=url, **KEY) as app:
        load(app, LEASE)
        client = openai.OpenAI(base_url=f"{app.url}/v1", api_key="-", max_retries=0)
        stream = client.chat.completions.create(model="live", messages=said(), stream=True)
        text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
        assert words in text
        left = client.chat.completions.create(model="live", messages=said(), stream=True)
        next(left)
        wait_until(lambda: gateway.active == 1)
        left.close()
        wait_until(lambda: (gateway.active, gateway.aborted) == (0, 1), 5)


@asynccontextmanager
async def session(app: App) -> AsyncIterator[ClientSession]:
    headers = {"Authorization": f"Bearer {app.key}"} if app.key else {}
    async with (
        httpx.AsyncClient(headers=headers, timeout=30) as http,
        streamable_http_client(f"{app.url}/mcp", http_client=http) as (read, write, _),
        ClientSession(read, write) as opened,
    ):
        await opened.initialize()
        yield opened


def over_mcp(app: App, do: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    """What `do` gives, in a loop of its own."""

    async def go() -> Any:
        async with session(app) as opened:
            return await do(opened)

    return asyncio.run(go())


def call(app: App, tool: str, **arguments: Any) -> Any:
    """What a tool gives: its structured result; its text where it failed."""

    async def go(opened: ClientSession) -> Any:
        result = await opened.call_tool(tool, arguments)
        text = "".join(getattr(part, "text", "") for part in result.content)
        return text if result.isError else result.structuredContent

    return over_mcp(app, go)


def test_an_mcp_client_sees_the_tools_and_what_they_want(world: tuple[App, Gateway]) -> None:
    tools = over_mcp(world[0], lambda opened: opened.list_tools()).tools
    assert {tool.name for tool in tools} == {
        "ask", "search_documents", "list_documents", "add_document",
    }  # fmt: skip
    for tool in tools:
        assert tool.description
        assert "call" not in tool.inputSchema["properties"]
        for described in tool.inputSchema["properties"].values():
            assert described


def test_an_mcp_client_asks_searches_lists_and_adds(world: tuple[App, Gateway]) -> None:
    app = world[0]
    answer = call(app, "ask", question=QUESTION)
    assert answer["answer"] == ANSWER
    assert answer["citations"][0]["document"] == "lease.txt"
    added = call(app, "add_document", name="pets.md", content="Cats may stay in the house.")
    assert added["status"] == "added"
    coded = base64.b64encode(b"Parrots may stay as well.").decode()
    assert call(app, "add_document", name="birds.txt", content=coded, base64=True)["id"]
    found = call(app, "search_documents", query="Parrots", passages_wanted=1)["result"]
    assert found[0]["document"] == "birds.txt"
    documents = {d["document"] for d in call(app, "list_documents")["result"]}
    assert {"lease.txt", "pets.md", "birds.txt"} <= documents


def test_an_mcp_client_is_told_what_is_wrong(world: tuple[App, Gateway]) -> None:
    app = world[0]
    assert "The question has 9000 characters" in call(app, "ask", question="x" * 9000)
    assert "is empty" in call(app, "ask", question="  ")
    assert "cannot be read" in call(app, "add_document", name="a.exe", content="x")
    assert "no base64" in call(app, "add_document", name="a.md", content="?", base64=True)
    assert "looks like something else" in call(app, "add_document", name="a.pdf", content="x")


def test_an_mcp_client_is_told_that_a_long_answer_goes_on() -> None:
    gateway = Gateway(first_token_s=9)
    heard: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        heard.append(done)

    async def go(opened: ClientSession) -> Any:
        return await opened.call_tool("ask", {"question": QUESTION}, progress_callback=progress)

    with (
        running(gateway.app) as url,
        started(LITELLM_ENDPOINT=url, CHAT_MODEL="double", EMBEDDING_MODEL="none", **KEY) as app,
    ):
        load(app, LEASE)
        wait_until(lambda: app.http.get("/mcp").status_code != 200)
        assert over_mcp(app, go).structuredContent["answer"] == ANSWER
    assert len(heard) >= 2


def test_feedback_is_a_score_of_the_answers_trace_and_may_change() -> None:
    gateway, langfuse = Gateway(), Langfuse()
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}
    with (
        running(gateway.app) as url,
        running(langfuse.app) as host,
        started(LITELLM_ENDPOINT=url, LANGFUSE_HOST=host, **keys, **KEY) as app,
    ):
        load(app, LEASE)
        trace = ask(app, QUESTION)["trace_id"]
        for right in (True, False):
            body = {"trace_id": trace, "right": right, "comment": "as I know it"}
            assert app.http.post("/api/feedback", json=body).status_code == 200
        first, second = langfuse.scores
        assert (first["traceId"], first["value"], second["value"]) == (trace, 1, 0)
        assert first["id"] == second["id"]
        wrong = app.http.post("/api/feedback", json={"trace_id": "x", "right": True})
        assert wrong.status_code == 422
        langfuse.fail = "500"
        refused = app.http.post("/api/feedback", json=body)
        assert refused.status_code == 502
        assert "was not kept" in refused.json()["detail"]


def test_limits_hold_for_each_user_and_say_when_to_come_again() -> None:
    gateway = Gateway(first_token_s=30)
    other = "tka_another"
    keys = f"{API_KEYS} other:{hashlib.sha256(other.encode()).hexdigest()}"
    limits = {"REQUESTS_PER_MINUTE": 7, "CONCURRENT_RUNS": 2, "UPLOAD_MB_PER_HOUR": 1}
    models = {"CHAT_MODEL": "double", "EMBEDDING_MODEL": "none"}
    with (
        running(gateway.app) as url,
        started(
            key=APP_KEY, LITELLM_ENDPOINT=url, AUTH="on", API_KEYS=keys, **models, **limits, **KEY
        ) as app,
        app.client(other) as another,
    ):
        load(app, LEASE)
        large = "word " * 180_000
        load(app, {"a.txt": large})
        refused = app.http.post("/api/documents", files={"files": ("b.txt", large)})
        assert (refused.status_code, int(refused.headers["Retry-After"]) > 60) == (429, True)
        assert "1 MiB of uploads an hour" in refused.json()["detail"]
        asked = {"question": QUESTION, "stream": True}
        for _ in range(2):
            threading.Thread(
                target=quietly,
                args=(lambda: app.http.post("/api/chat", json=asked),),
                daemon=True,
            ).start()
        wait_until(lambda: gateway.active == 2)
        refused = app.http.post("/api/chat", json=asked)
        assert refused.status_code == 429
        assert "2 answers and uploads at once" in refused.json()["detail"]
        statuses = [app.http.post("/api/search", json={"query": "rent"}) for _ in range(3)]
        assert [answer.status_code for answer in statuses][-1] == 429
        assert 0 < int(statuses[-1].headers["Retry-After"]) <= 60
        assert another.post("/api/search", json={"query": "rent"}).status_code == 200
        limited = another.get("/metrics").text
        for kind in ("requests", "runs", "upload"):
            assert f'agent_limited_total{{limit="{kind}"}}' in limited
