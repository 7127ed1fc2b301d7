"""The models behind an OpenAI-compatible gateway, and every way in which one fails."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from world import FakeGateway, sse

from agent import gateway as module
from agent.errors import Unavailable
from agent.gateway import ChatModel, EmbeddingModel, Gateway, Usage

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.gateway.PAUSE_BEFORE_RETRY_S", 0)


HI = [{"role": "user", "content": "Hi"}]


def chat(gateway: FakeGateway, wanted: str = "chat") -> ChatModel:
    return ChatModel(Gateway(gateway.http), wanted, 64)


def content(text: str) -> bytes:
    return sse({"choices": [{"delta": {"content": text}}]})


async def test_tokens_pass_through_and_usage_is_counted(gateway: FakeGateway) -> None:
    gateway.enqueue(["A", " b", "ç"])
    usage = Usage()

    tokens = [text async for text in chat(gateway).stream(HI, usage)]

    assert tokens == ["A", " b", "ç"]
    assert usage == Usage(7, 3)
    (sent,) = gateway.chats()
    assert (sent["model"], sent["max_tokens"], sent["messages"]) == ("chat", 64, HI)


async def test_roles_comments_and_other_fields_of_a_stream_are_passed_over(
    gateway: FakeGateway,
) -> None:
    gateway.enqueue(
        b": comment\n\nevent: x\n"
        + sse({"choices": [{"delta": {"role": "assistant"}}], "usage": None})
        + sse({"choices": [{"delta": {"content": None}}]})
        + sse({"choices": None})
        + sse({"choices": [{"delta": None}]})
        + content("Yes")
        + sse({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        + b"data:[DONE]\n\n"
    )

    assert await chat(gateway).complete(HI) == "Yes"


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"", "answered with nothing; check that it is loaded."),
        (b"data: [DONE]\n\n", "answered with nothing; check that it is loaded."),
        (content("Half an ans"), "broke off"),
        (content("A") + b"data: {not json\n\n", "no usable answer"),
        (b"data: 5\n\n", "no usable answer"),
        (content("A") + sse({"error": "overloaded"}), "failed in mid-answer (overloaded)"),
        (["A", httpx.ReadError("reset")], "no usable answer (reset)"),
        (httpx.ConnectError("refused"), "no usable answer (refused); check LITELLM_ENDPOINT"),
        (httpx.ReadTimeout(""), "(ReadTimeout)"),
        (httpx.Response(401, text="no"), "answers 401 (no); check LITELLM_MASTER_KEY."),
        (httpx.Response(404, text="no"), "answers 404 (no); check CHAT_MODEL"),
        (httpx.Response(429, text="no"), "answers 429 (no); wait, or raise its limit."),
        (httpx.Response(500, content=b"\xff\xfe"), "gateway at"),
        (httpx.Response(502, text="<html>\n" + "x" * 5000), "look into its log"),
    ],
)
async def test_every_failure_of_a_stream_is_one_sentence(
    reply: Any, sentence: str, gateway: FakeGateway
) -> None:
    gateway.enqueue(reply, reply)  # some are asked once more

    with pytest.raises(Unavailable) as failure:
        await chat(gateway).complete(HI)

    said = str(failure.value)
    assert sentence in said
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 400


async def test_a_token_may_hold_any_letter_and_be_cut_anywhere(gateway: FakeGateway) -> None:
    text = "a\u2028b\x85c\u00e4 \U0001f600"
    line = json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False)
    body = f"data: {line}\r\n\r\ndata: [DONE]".encode()

    async def bytewise() -> AsyncIterator[bytes]:
        for byte in body:
            yield bytes([byte])

    gateway.enqueue(httpx.Response(200, content=bytewise()))

    assert await chat(gateway).complete(HI) == text


async def test_a_model_that_says_nothing_any_more_is_picked_anew(gateway: FakeGateway) -> None:
    gateway.listed = gateway.chat_models = ["first", "second"]
    gateway.enqueue("Yes.", b"")
    model = chat(gateway, "auto")
    await model.complete(HI)
    with pytest.raises(Unavailable, match="The model first answered with nothing"):
        await model.complete(HI)

    gateway.chat_models = ["second"]

    assert await model.complete(HI) == "Yes [1]."
    assert model.used == "second"


async def test_auto_takes_the_first_model_that_answers_and_keeps_it(gateway: FakeGateway) -> None:
    gateway.listed = ["not-loaded", "embed", "second", "third"]
    gateway.chat_models = ["second", "third"]
    model = chat(gateway, "auto")

    assert await model.complete(HI) == "Yes [1]."
    assert model.used == "second"
    gateway.requests.clear()
    await model.complete(HI)

    assert [path for path, _ in gateway.requests] == ["chat/completions"]


async def test_auto_with_no_model_that_answers_says_so_and_tries_again(
    gateway: FakeGateway,
) -> None:
    gateway.chat_models = []
    model = chat(gateway, "auto")
    with pytest.raises(Unavailable, match="None of the gateway's models answers"):
        await model.complete(HI)

    gateway.chat_models = ["chat"]

    assert await model.complete(HI) == "Yes [1]."


async def test_a_list_of_models_that_is_none_is_one_sentence(gateway: FakeGateway) -> None:
    for listing in ([], {"data": None}, {"data": [{"name": "x"}]}, "busy"):

        def answer(_: httpx.Request, listing: Any = listing) -> httpx.Response:
            return httpx.Response(200, json=listing)

        http = httpx.AsyncClient(
            transport=httpx.MockTransport(answer), base_url="http://gateway.test/v1/"
        )
        with pytest.raises(Unavailable):
            await ChatModel(Gateway(http), "auto", 64).complete(HI)


async def test_check_names_the_model_or_says_that_it_is_not_listed(gateway: FakeGateway) -> None:
    assert await chat(gateway).check() == "chat"
    with pytest.raises(Unavailable, match="does not list gone; check CHAT_MODEL"):
        await chat(gateway, "gone").check()


async def test_auto_prefers_the_model_that_the_documents_were_indexed_with(
    gateway: FakeGateway,
) -> None:
    gateway.listed = ["chat", "first", "recorded"]
    gateway.embedding_models = {"first": 4, "recorded": 8}

    fresh = EmbeddingModel(Gateway(gateway.http), "auto")
    recorded = EmbeddingModel(Gateway(gateway.http), "auto")

    assert await fresh.resolve(None) == ("first", 4)
    assert await recorded.resolve("recorded") == ("recorded", 8)
    assert await EmbeddingModel(Gateway(gateway.http), "auto").resolve("lost") == ("first", 4)


async def test_texts_become_vectors_in_their_order(gateway: FakeGateway) -> None:
    model = EmbeddingModel(Gateway(gateway.http), "embed")
    await model.resolve(None)

    vectors = await model.embed(["rent", "dog", "rent"])

    assert vectors is not None
    assert [len(vector) for vector in vectors] == [8, 8, 8]
    assert vectors[0] == vectors[2] != vectors[1]


async def test_a_failed_embedding_service_is_left_alone_for_a_while_then_asked_again(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    model = EmbeddingModel(Gateway(gateway.http), "embed")
    assert await model.resolve(None) == ("embed", 8)
    gateway.away = {"embeddings"}
    assert await model.embed(["a"]) is None
    gateway.away = set()
    asked = len(gateway.requests)

    now += module.PAUSE_S - 1
    assert await model.embed(["a"]) is None
    assert len(gateway.requests) == asked
    assert "connection refused" in model.trouble

    now += 2
    assert await model.embed(["a"]) is not None
    assert model.trouble == ""


async def test_an_embedding_model_that_never_answered_is_unresolved_and_says_why(
    gateway: FakeGateway,
) -> None:
    gateway.embedding_models = {}
    model = EmbeddingModel(Gateway(gateway.http), "embed")

    assert await model.resolve(None) is None
    assert await model.embed(["a"]) is None
    with pytest.raises(Unavailable, match="answers 400"):
        await model.check()


async def test_what_nobody_took_is_sent_once_more_and_what_has_begun_is_not(
    gateway: FakeGateway,
) -> None:
    for refusal in (httpx.ConnectError("refused"), *map(httpx.Response, (429, 502, 503))):
        gateway.requests.clear()
        gateway.enqueue(refusal, "Yes.")
        assert await chat(gateway).complete(HI) == "Yes."
        assert len(gateway.chats()) == 2
    for begun in (["A", httpx.ReadError("reset")], b"", httpx.Response(500), httpx.ReadTimeout("")):
        gateway.requests.clear()
        gateway.enqueue(begun)
        with pytest.raises(Unavailable):
            await chat(gateway).complete(HI)
        assert len(gateway.chats()) == 1


async def test_a_wait_that_the_gateway_asks_for_is_kept_or_passed_on(gateway: FakeGateway) -> None:
    gateway.enqueue(httpx.Response(429, headers={"Retry-After": "0.2"}), "Yes.")
    begin = time.monotonic()
    assert await chat(gateway).complete(HI) == "Yes."
    assert time.monotonic() - begin >= 0.2

    gateway.enqueue(httpx.Response(429, headers={"Retry-After": "60"}))
    with pytest.raises(Unavailable, match="answers 429"):
        await chat(gateway).complete(HI)


@pytest.mark.parametrize("fault", [b"data: {not json\n\n", sse({"error": "overloaded"})])
async def test_what_came_before_a_fault_is_said_also_when_both_came_at_once(
    fault: bytes, gateway: FakeGateway
) -> None:
    gateway.enqueue(content("Half an ") + content("answer") + fault)
    said = ""
    with pytest.raises(Unavailable):
        async for text in chat(gateway).stream(HI, Usage()):
            said += text
    assert said == "Half an answer"
