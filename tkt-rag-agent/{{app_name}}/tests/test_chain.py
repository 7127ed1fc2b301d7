"""How a question becomes an answer, with a model, without one, and with one that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from world import LEASE, FakeGateway, sse, take_in

from agent.chain import Question, answer
from agent.prompts import UNKNOWN
from agent.runs import Event
from agent.services import Services

pytestmark = pytest.mark.anyio


async def ask(services: Services, text: str, **more: Any) -> list[Event]:
    events = [event async for event in answer(services, Question(text, **more), "run-1")]
    tokens = [event.data["text"] for event in events if event.type == "token"]
    if events[-1].type == "done":
        assert events[-1].data["answer"] == "".join(tokens)
    return events


async def test_the_events_are_passages_tokens_citations_done(
    with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    gateway.enqueue("The rent is 1,250 pounds [1].")

    events = await ask(with_model, "What is the rent?", session_id="talk")

    types = [event.type for event in events]
    assert types == ["passages", *["token"] * (len(types) - 3), "citations", "done"]
    assert types.count("token") > 3
    assert events[0].data["passages"][0]["n"] == 1
    done = events[-1].data
    assert (done["mode"], done["answered"], done["run_id"]) == ("model", True, "run-1")
    assert done["answer"] == "The rent is 1,250 pounds [1]."
    assert done["session_id"] == "talk"
    assert done["citations"] == events[-2].data["citations"]
    (citation,) = done["citations"]
    assert "1,250 pounds" in citation["quote"]
    assert LEASE[citation["start"] : citation["end"]] == citation["quote"]


async def test_the_model_reads_the_passages_and_braces_in_them_are_harmless(
    with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", odd="The rent is {amount} and {{more}}.")

    events = await ask(with_model, "What is {the} rent?")

    (sent,) = gateway.chats()
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert "[1] odd.md\nThe rent is {amount} and {{more}}." in sent["messages"][1]["content"]
    assert "Question: What is {the} rent?" in sent["messages"][1]["content"]
    assert events[-1].data["mode"] == "model"


async def test_without_a_model_the_documents_are_quoted_and_the_answer_says_so(
    services: Services, tmp_path: Path
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)

    done = (await ask(services, "What is the monthly rent?"))[-1].data

    assert (done["mode"], done["answered"]) == ("extractive", True)
    assert done["answer"].startswith("No model is connected, so this is quoted")
    assert "1,250 pounds" in done["answer"]


async def test_brackets_in_a_quoted_document_are_text_and_no_citations(
    services: Services, tmp_path: Path
) -> None:
    text = "The monthly rent is set out in schedule [12] and in note [0]."
    await take_in(services, tmp_path / "in", lease=text)

    done = (await ask(services, "Where is the monthly rent set out?"))[-1].data

    assert text in done["answer"]
    assert [citation["n"] for citation in done["citations"]] == [1]


FAILURES: dict[str, Any] = {
    "refused connection": httpx.ConnectError("connection refused"),
    "silence": httpx.ReadTimeout("timed out"),
    "wrong key": httpx.Response(401, text="bad key"),
    "too many requests": httpx.Response(429, text="slow down"),
    "server error": httpx.Response(500, text="oops"),
    "empty stream": b"",
    "no answer in it": b"data: [DONE]\n\n",
    "garbage": b"data: {{{\n\n",
    "no object": b'data: [1, "x"]\n\n',
    "web page": b"<html>busy</html>",
    "error chunk": sse({"error": {"message": "out of memory"}}),
    "nulls": sse({"choices": None}) + sse({"choices": [{"delta": None}]}),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_model_that_fails_at_once_is_replaced_by_a_quotation_that_says_why(
    failure: str, with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    gateway.enqueue(FAILURES[failure], FAILURES[failure])  # some are asked once more

    done = (await ask(with_model, "What is the monthly rent?"))[-1].data

    assert (done["mode"], done["answered"]) == ("extractive", True)
    assert "so this is quoted from the documents" in done["answer"]
    assert done["answer"].startswith(("The gateway at", "The model"))
    assert "1,250 pounds" in done["citations"][0]["quote"]


@pytest.mark.parametrize(
    "end",
    [
        [httpx.ReadError("connection reset")],
        [httpx.RemoteProtocolError("peer closed connection")],
        None,
    ],
    ids=["reset", "closed", "cut without an end"],
)
async def test_a_model_that_fails_in_mid_answer_keeps_what_it_said_and_quotes(
    end: list[Exception] | None, with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    said = ["The ", "rent"]
    cut = b"".join(sse({"choices": [{"delta": {"content": text}}]}) for text in said)
    gateway.enqueue(cut if end is None else said + end)

    done = (await ask(with_model, "What is the monthly rent?"))[-1].data

    assert done["mode"] == "extractive"
    assert done["answer"].startswith("The rent\n\nThe ")
    assert "1,250 pounds" in done["answer"]


async def test_a_question_in_a_conversation_is_condensed_before_the_search(
    with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE, noise="The weather is fine.")
    gateway.enqueue("May the tenant keep a dog?", "One small dog [1].")
    history = [
        {"role": "user", "content": "Who lives at {Mill} Lane?"},
        {"role": "assistant", "content": "The tenant [1]."},
    ]

    events = await ask(with_model, "And an animal?", history=history)

    condense, final = gateway.chats()
    assert "user: Who lives at {Mill} Lane?" in condense["messages"][0]["content"]
    assert "Last question: And an animal?" in condense["messages"][0]["content"]
    roles = [message["role"] for message in final["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert "small dog" in events[0].data["passages"][0]["text"]
    assert events[-1].data["answer"] == "One small dog [1]."


async def test_when_condensing_fails_the_question_before_helps_the_search(
    with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE, noise="The notice board is green.")
    gateway.enqueue(httpx.Response(500, text="oops"), "1,250 [1].")
    history = [{"role": "user", "content": "What is the monthly rent?"}]

    events = await ask(with_model, "And the notice?", history=history)

    assert "monthly rent" in events[0].data["passages"][0]["text"]
    assert events[-1].data["mode"] == "model"


async def test_an_empty_store_is_asked_without_the_model_and_says_it_knows_nothing(
    with_model: Services, gateway: FakeGateway
) -> None:
    events = await ask(with_model, "What is the rent?")

    assert [event.type for event in events] == ["passages", "token", "citations", "done"]
    assert events[-1].data["answer"] == UNKNOWN
    assert not events[-1].data["answered"]
    assert gateway.chats() == []


async def test_a_model_that_abstains_is_not_counted_as_an_answer(
    with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    gateway.enqueue(UNKNOWN)

    done = (await ask(with_model, "Who won the cup?"))[-1].data

    assert (done["answer"], done["answered"], done["citations"]) == (UNKNOWN, False, [])
    assert done["mode"] == "model"


async def test_without_a_model_what_the_documents_do_not_say_is_not_answered(
    services: Services, tmp_path: Path
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)

    done = (await ask(services, "Which footballer scored in the final of the world cup?"))[-1].data

    assert not done["answered"]
    assert done["answer"] == f"No model is connected. {UNKNOWN}"


async def test_a_store_that_is_away_ends_the_answer_with_an_error_of_one_sentence(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.errors import Unavailable

    async def away(*_: Any) -> None:
        raise Unavailable("Qdrant is away; check QDRANT_URL.")

    monkeypatch.setattr(services.store.database, "query", away)

    (event,) = await ask(services, "What is the rent?")

    assert event == Event(
        "error", {"run_id": "run-1", "detail": "Qdrant is away; check QDRANT_URL."}
    )


async def test_a_cancelled_answer_stops_the_call_to_the_model(
    with_model: Services, gateway: FakeGateway, tmp_path: Path
) -> None:
    await take_in(with_model, tmp_path / "in", lease=LEASE)
    gateway.enqueue(["The ", asyncio.Event()])
    asking = asyncio.create_task(ask(with_model, "What is the rent?"))
    while not gateway.chats():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)

    asking.cancel()
    await asyncio.wait([asking])

    assert gateway.stopped == 1
