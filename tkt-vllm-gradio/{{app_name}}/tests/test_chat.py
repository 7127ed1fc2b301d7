"""How a message becomes an answer: the events of streams as vLLM sends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from world import serving

from agent import chat as module
from agent.access import User
from agent.chat import Talk, answer, begin
from agent.errors import Refused, Unavailable
from agent.runs import Event, Run
from agent.services import Services

pytestmark = pytest.mark.anyio

HI = [{"role": "user", "content": "Hi"}]
DONE = b"data: [DONE]\n\n"


def sse(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: str) -> bytes:
    choice = {"index": 0, "delta": fields, "logprobs": None, "finish_reason": finish}
    return sse({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]})


def usage(read: int, written: int) -> bytes:
    return sse({"choices": [], "usage": {"prompt_tokens": read, "completion_tokens": written}})


def error(message: str) -> bytes:
    return sse({"error": {"message": message, "type": "InternalServerError", "code": 500}})


class Pieces(httpx.AsyncByteStream):
    """A body that arrives in pieces; an exception among them breaks the connection."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await asyncio.sleep(0)
            if isinstance(piece, Exception):
                raise piece
            yield piece


class Model:
    """An engine that answers with `pieces`, and remembers what it was asked."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/chat/completions"
        self.asked.append(json.loads(request.content))
        return httpx.Response(200, stream=Pieces(*self._pieces))


async def events(here: Services, talk: Talk | None = None) -> list[Event]:
    return [event async for event in answer(here, talk or Talk(HI), Run())]


def texts(found: list[Event], kind: str = "token") -> list[str]:
    return [event.data["text"] for event in found if event.type == kind]


async def test_an_answer_is_tokens_and_then_a_summary() -> None:
    model = Model(
        delta(role="assistant", content=""), delta(content="A "), delta(content="lighthouse"),
        delta("stop", content="."), usage(9, 3), DONE,
    )  # fmt: skip

    found = await events(serving(model))

    assert texts(found) == ["A ", "lighthouse", "."]
    done = found[-1]
    assert done.type == "done"
    assert done.data["answer"] == "A lighthouse."
    assert (done.data["thought"], done.data["finish_reason"]) == ("", "stop")
    assert done.data["usage"] == {"input": 9, "output": 3}
    assert done.data["model"] == "owner/model"
    assert done.data["first_token_s"] >= 0
    assert done.data["tokens_per_s"] > 0
    assert done.data["run_id"]


async def test_the_engine_is_asked_for_what_the_talk_says_and_else_for_its_own_ways() -> None:
    model = Model(delta("stop", content="Yes"), DONE)
    here = serving(model, answer_tokens=77)

    await events(here)
    await events(here, Talk(HI, "legal", 0, 5))

    plain, chosen = model.asked
    assert plain == {
        "model": "owner/model", "messages": HI, "max_tokens": 77, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert (chosen["model"], chosen["temperature"], chosen["max_tokens"]) == ("legal", 0, 5)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_what_a_model_says_to_itself_is_no_part_of_its_answer(field: str) -> None:
    model = Model(
        delta(**{field: "Let me "}) + delta(**{field: "see."}), delta(content="42"), delta("stop"),
        usage(1, 5), DONE,
    )  # fmt: skip

    found = await events(serving(model))

    assert [event.type for event in found] == ["thought", "token", "done"]
    assert (found[-1].data["thought"], found[-1].data["answer"]) == ("Let me see.", "42")


async def test_letters_lines_and_pieces_need_not_end_together() -> None:
    whole = delta(content="Grüße ") + b": a comment\n\n" + delta("stop", content="日本") + DONE
    model = Model(*(whole[n : n + 1] for n in range(len(whole))))

    assert (await events(serving(model)))[-1].data["answer"] == "Grüße 日本"


async def test_what_arrives_together_is_one_event() -> None:
    model = Model(delta(content="A ") + delta(content="b") + delta("stop") + usage(1, 2) + DONE)

    found = await events(serving(model))

    assert texts(found) == ["A b"]
    assert found[-1].data["tokens_per_s"] is None, "there is nothing to measure between"


async def test_an_answer_that_was_cut_at_its_longest_says_so() -> None:
    found = await events(serving(Model(delta("length", content="Half an ans"), DONE)))

    assert found[-1].data["finish_reason"] == "length"


async def test_an_engine_that_does_not_count_has_no_speed() -> None:
    found = await events(serving(Model(delta(content="A "), delta("stop", content="b"), DONE)))

    assert found[-1].data["usage"] == {"input": 0, "output": 0}
    assert found[-1].data["tokens_per_s"] is None


async def test_a_refusal_is_told_in_the_engines_words() -> None:
    said = (
        "This model's maximum context length is 512 tokens. However, you requested 600 output "
        "tokens and your prompt contains 10 input tokens."
    )
    body = {"error": {"message": said, "type": "BadRequestError", "param": None, "code": 400}}

    (found,) = await events(serving(lambda _: httpx.Response(400, json=body)))

    assert found.type == "error"
    assert found.data["detail"] == f"The engine refuses this: {said}"


@pytest.mark.parametrize(
    ("answered", "detail"),
    [
        (httpx.Response(404, text="no such model"), "The engine refuses this: no such model."),
        (httpx.Response(500, text=""), "The engine refuses this: status 500."),
        (httpx.Response(400, json={"error": "odd"}), "The engine refuses this: odd."),
        (httpx.Response(400, json=["odd"]), 'The engine refuses this: ["odd"].'),
    ],
)
async def test_a_refusal_without_a_message_is_a_sentence_as_well(
    answered: httpx.Response, detail: str
) -> None:
    (found,) = await events(serving(lambda _: answered))

    assert found.data["detail"] == detail


@pytest.mark.parametrize("together", [False, True], ids=["apart", "at once"])
async def test_an_error_in_mid_answer_comes_after_what_was_said(together: bool) -> None:
    pieces = (delta(content="Half an "), delta(content="answer"), error("EngineCore died."), DONE)

    found = await events(serving(Model(b"".join(pieces)) if together else Model(*pieces)))

    assert "".join(texts(found)) == "Half an answer"
    assert found[-1].type == "error"
    assert found[-1].data["detail"] == "The engine failed: EngineCore died."


async def test_an_error_without_a_message_is_one_as_well() -> None:
    found = await events(serving(Model(sse({"error": "overloaded"}))))

    assert found[-1].data["detail"].startswith("The engine failed: overloaded")


@pytest.mark.parametrize(
    "cut",
    [
        [delta(content="Half")],
        [delta(content="Half"), httpx.RemoteProtocolError("peer closed connection")],
        [delta(content="Half"), httpx.ReadError("reset")],
        [delta(content="Half"), b"data: {not json\n\n"],
        [delta(content="Half") + b"data: {not json\n\n"],
    ],
    ids=["the stream just ends", "closed", "reset", "garbage", "garbage at once"],
)
async def test_a_stream_that_is_cut_is_an_error_after_what_was_said(
    cut: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = serving(Model(*cut))

    async def at_once() -> None:
        here.engine.phase, here.engine.detail = "waiting", "It is started again in 1 s."

    monkeypatch.setattr(here.engine, "lost", at_once)

    found = await events(here)

    assert texts(found) == ["Half"]
    assert found[-1].type == "error"
    assert found[-1].data["detail"] == (
        "The answer broke off. The model is started again. It is started again in 1 s."
    )


async def test_an_engine_that_breaks_off_and_lives_on_is_said_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.engine.asyncio.sleep", lambda _, sleep=asyncio.sleep: sleep(0))

    found = await events(serving(Model(delta(content="Half"))))

    assert found[-1].data["detail"] == "The model's engine broke off in mid-answer; ask again."


async def test_an_engine_that_is_silent_for_too_long_is_given_up() -> None:
    found = await events(serving(Model(delta(content="Half"), httpx.ReadTimeout(""))))

    assert texts(found) == ["Half"]
    assert found[-1].data["detail"] == "The engine was silent for 300 s; ask again."


async def test_a_model_that_says_nothing_is_no_error() -> None:
    (found,) = await events(serving(Model(delta("stop"), usage(5, 1), DONE)))

    assert (found.type, found.data["answer"]) == ("done", "")
    assert (found.data["first_token_s"], found.data["tokens_per_s"]) == (None, None)


async def test_an_answer_is_a_run_which_is_measured() -> None:
    here = serving(Model(delta("stop", content="Yes"), DONE))

    last = await begin(here, Talk(HI)).wait(5)

    assert last
    assert last.data["answer"] == "Yes"
    figures = here.measures.page("ready", 1, "").decode()
    assert 'agent_answers_total{door="api",outcome="answered"} 1.0' in figures


async def test_while_there_is_no_model_nothing_begins() -> None:
    here = serving(Model())
    here.engine.phase = "weights"

    with pytest.raises(Unavailable, match="is being loaded"):
        begin(here, Talk(HI))
    assert here.runs.running() == 0


async def test_an_engine_that_ends_before_it_was_asked_is_told_in_its_own_words() -> None:
    here = serving(Model())
    run = begin(here, Talk(HI))

    here.engine.phase, here.engine.detail = "failed", "It does not fit."
    last = await run.wait(5)

    assert last
    assert last.data["detail"].endswith("The model cannot be served. It does not fit.")


async def test_nobody_begins_more_answers_at_once_than_the_limit() -> None:
    here = serving(Model(), concurrent_runs=1)
    ann, bob = User("1", "ann"), User("2", "bob")
    begin(here, Talk(HI, user=ann))

    with pytest.raises(Refused, match="1 answers and uploads at once"):
        begin(here, Talk(HI, user=ann))
    begin(here, Talk(HI, user=bob))
    await here.runs.close()


def test_the_engine_is_waited_for_as_long_as_its_queue_may_take() -> None:
    assert module.SILENCE_S >= 60
