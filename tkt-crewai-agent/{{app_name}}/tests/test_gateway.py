"""The model behind an OpenAI-compatible gateway, and every way in which it fails."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from world import FakeGateway

from agent.errors import FAILURES, Unavailable
from agent.gateway import COST, Adaptable, ChatModel, Said

pytestmark = pytest.mark.anyio
HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "calculate", "parameters": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "calculate", "arguments": "{}"}}


def chat(gateway: FakeGateway, wanted: str = "chat", **more: Any) -> ChatModel:
    model = ChatModel(gateway.http, wanted, 64, 10, **more)
    model.pauses_s = (0, 0, 0, 0)
    return model


async def failing(model: ChatModel, tools: Any = None) -> str:
    """The sentence that a call fails with, after a look at its form."""
    with pytest.raises(Unavailable) as failure:
        await model.complete(HI, tools)
    said = str(failure.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 500
    return said


async def test_an_answer_comes_with_what_it_has_cost(gateway: FakeGateway) -> None:
    gateway.headers = {COST: "0.0125"}
    gateway.enqueue("Good day.")

    said = await chat(gateway).complete(HI, [TOOL], ["Observation:"], {"traceparent": "00-1"})

    assert said == Said("Good day.", "chat", [], 7, 3, 0.0125)
    (sent,) = gateway.chats()
    assert sent == {
        "model": "chat", "messages": HI, "max_tokens": 64, "tools": [TOOL],
        "stop": ["Observation:"],
    }  # fmt: skip


async def test_what_is_not_wanted_is_not_sent(gateway: FakeGateway) -> None:
    await chat(gateway).complete(HI, [], [])

    assert set(gateway.chats()[0]) == {"model", "messages", "max_tokens"}


async def test_headers_are_passed_on(gateway: FakeGateway) -> None:
    had = []

    def answer(request: httpx.Request) -> httpx.Response:
        had.append(request.headers.get("traceparent"))
        return gateway.completion({"content": "Yes."})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://g.test/v1/")
    await ChatModel(http, "chat", 64, 10).complete(HI, headers={"traceparent": "00-1"})

    assert had == ["00-1"]


async def test_tools_that_are_wanted_come_as_they_are(gateway: FakeGateway) -> None:
    gateway.enqueue(gateway.completion({"content": None, "tool_calls": [CALL]}))

    said = await chat(gateway).complete(HI, [TOOL])

    assert (said.text, said.calls) == ("", [CALL])


@pytest.mark.parametrize(
    "calls",
    ["odd", ["odd"], [{"id": "1"}], [{"function": None}], [{"function": {"arguments": "{}"}}], {}],
    ids=str,
)
async def test_tools_that_are_wanted_in_no_known_form_are_no_usable_answer(
    calls: Any, gateway: FakeGateway
) -> None:
    gateway.enqueue(*[gateway.completion({"content": None, "tool_calls": calls})] * 9)

    assert "gives no usable answer" in await failing(chat(gateway), [TOOL])


FOR_GOOD = [
    (httpx.Response(401, text="no"), "answers 401 (no); check LITELLM_MASTER_KEY."),
    (httpx.Response(403, text="no"), "answers 403 (no); check what the key may use."),
    (httpx.Response(404, text="no"), "answers 404 (no); check CHAT_MODEL."),
    (httpx.Response(400, text="no"), "answers 400 (no); look into its log."),
    (httpx.Response(400, content=b"\xff\xfe"), "answers 400"),
    (httpx.Response(400, text="<html>\n" + "x" * 5000), "look into its log."),
    (httpx.Response(302, headers={"location": "/login"}, text="x"), "gives no usable answer"),
    (b"", "gives no usable answer"),
    (b"{not json", "gives no usable answer"),
    (b"5", "gives no usable answer"),
    (b"[]", "gives no usable answer"),
    (b"{}", "gives no usable answer"),
    (b'{"choices": []}', "gives no usable answer"),
    (b'{"choices": [{"message": null}]}', "gives no usable answer"),
    (b'{"choices": [{"message": {"content": " "}}]}', "(ValueError: it said nothing)"),
    (b'{"choices": [{"message": {"content": null, "tool_calls": []}}]}', "it said nothing"),
    (b'{"error": "overloaded"}', "gives no usable answer"),
    (b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "x"}}', "no usable"),
]


@pytest.mark.parametrize(("reply", "sentence"), FOR_GOOD, ids=lambda value: str(value)[:40])
async def test_what_fails_for_good_is_one_sentence_and_asked_once(
    reply: Any, sentence: str, gateway: FakeGateway
) -> None:
    gateway.enqueue(reply)

    assert sentence in await failing(chat(gateway))
    assert len(gateway.chats()) == 1


PASSES = [
    httpx.Response(429),
    httpx.Response(500),
    httpx.Response(502),
    httpx.Response(503),
    httpx.Response(504),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout(""),
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("odd"),
]


@pytest.mark.parametrize("failure", PASSES, ids=repr)
async def test_what_passes_is_asked_again(failure: Any, gateway: FakeGateway) -> None:
    gateway.enqueue(failure, failure, failure, "Yes.")

    assert (await chat(gateway).complete(HI)).text == "Yes."
    assert len(gateway.chats()) == 4


async def test_what_does_not_pass_is_told_after_five_tries(gateway: FakeGateway) -> None:
    before = FAILURES["model"]
    gateway.enqueue(*[httpx.Response(503, text="busy")] * 9)

    assert "answers 503 (busy); look into its log." in await failing(chat(gateway))
    assert len(gateway.chats()) == 5
    assert FAILURES["model"] > before


async def test_a_server_that_is_away_is_told_with_its_address(gateway: FakeGateway) -> None:
    gateway.enqueue(*[httpx.ConnectError("refused")] * 9)

    said = await failing(chat(gateway))

    assert "http://gateway.test/v1/ gives no usable answer (refused)" in said
    assert "check LITELLM_ENDPOINT" in said


async def test_pauses_are_kept_and_each_is_partly_chance(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    gateway.enqueue(httpx.Response(503), httpx.Response(503), "Yes.")
    model = chat(gateway)
    model.pauses_s = (0.1, 0.2)
    monkeypatch.setattr(asyncio, "sleep", sleep)

    await model.complete(HI)

    first, second = slept
    assert 0.1 <= first <= 0.15
    assert 0.2 <= second <= 0.3


async def test_a_wait_that_the_gateway_asks_for_is_kept(gateway: FakeGateway) -> None:
    gateway.enqueue(httpx.Response(429, headers={"Retry-After": "0.3"}), "Yes.")
    begin = time.monotonic()

    await chat(gateway).complete(HI)

    assert 0.3 <= time.monotonic() - begin < 1


@pytest.mark.parametrize("wait", ["61", "3600", "inf"])
async def test_a_wait_that_is_too_long_is_told_at_once(wait: str, gateway: FakeGateway) -> None:
    gateway.enqueue(httpx.Response(429, headers={"Retry-After": wait}, text="quota"))

    assert "answers 429 (quota); wait, or raise its limit." in await failing(chat(gateway))
    assert len(gateway.chats()) == 1


@pytest.mark.parametrize("wait", ["Wed, 21 Oct 2035 07:28:00 GMT", "soon", "", "-5", "nan"])
async def test_a_wait_that_is_no_number_is_passed_over(wait: str, gateway: FakeGateway) -> None:
    gateway.enqueue(httpx.Response(429, headers={"Retry-After": wait}), "Yes.")

    assert (await chat(gateway).complete(HI)).text == "Yes."


async def test_a_call_that_waits_for_its_next_try_can_be_cancelled(gateway: FakeGateway) -> None:
    gateway.enqueue(httpx.Response(429, headers={"Retry-After": "30"}))
    asking = asyncio.create_task(chat(gateway).complete(HI))
    await asyncio.sleep(0.1)

    asking.cancel()
    await asyncio.wait([asking], timeout=1)

    assert asking.cancelled()


# What it costs


@pytest.mark.parametrize(
    ("header", "usage", "prices", "dollars"),
    [
        ("", {}, (0, 0), None),
        ("", {}, (2, 10), (7 * 2 + 3 * 10) / 1e6),
        ("0.5", {}, (2, 10), 0.5),
        ("0", {}, (2, 10), 0.0),
        ("0.5", {"cost": 0.25}, (2, 10), 0.25),
        ("0.5", {"cost": None}, (0, 0), 0.5),
        ("1e-05", {}, (0, 0), 1e-05),
    ],
)
async def test_a_price_is_the_answers_own_else_the_headers_else_that_of_the_settings(
    header: str, usage: Any, prices: Any, dollars: float | None, gateway: FakeGateway
) -> None:
    gateway.usage |= usage
    if header:
        gateway.headers = {COST: header}

    said = await chat(gateway, prices=prices).complete(HI)

    assert said.dollars == (None if dollars is None else pytest.approx(dollars))


@pytest.mark.parametrize("header", ["None", "free", "nan", "inf", "-1", ""])
async def test_a_price_that_is_none_does_not_throw_the_answer_away(
    header: str, gateway: FakeGateway
) -> None:
    gateway.headers = {COST: header}

    said = await chat(gateway).complete(HI)

    assert (said.text, said.dollars) == ("Yes.", None)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}], ids=str)
async def test_a_gateway_that_does_not_count_tokens_is_taken(
    usage: Any, gateway: FakeGateway
) -> None:
    gateway.usage = usage

    said = await chat(gateway).complete(HI)

    assert (said.text, said.input, said.output) == ("Yes.", 0, 0)


# Ways around


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("This model's maximum context length is 8192 tokens", "maximum context length"),
        ("prompt is too long", "maximum context length"),
        ("this model does not support tools", "does not support tools"),
        ("`tool choice` requires --enable-auto-tool-choice", "does not support tools"),
    ],
)
async def test_what_crewai_knows_a_way_around_is_told_in_its_words(
    said: str, words: str, gateway: FakeGateway
) -> None:
    gateway.enqueue(httpx.Response(400, json={"error": {"message": said}}))

    with pytest.raises(Adaptable, match=words):
        await chat(gateway).complete(HI, [TOOL])
    assert len(gateway.chats()) == 1


async def test_without_tools_there_is_no_way_around_them(gateway: FakeGateway) -> None:
    gateway.enqueue(httpx.Response(400, text="this model does not support tools"))

    with pytest.raises(Unavailable) as failure:
        await chat(gateway).complete(HI)

    assert not isinstance(failure.value, Adaptable)
    assert failure.value.__cause__ is not failure.value


# Which model


async def test_auto_takes_the_first_model_that_answers_and_keeps_it(
    gateway: FakeGateway,
) -> None:
    gateway.listed, gateway.chat_models = ["not-loaded", "second", "third"], ["second", "third"]
    model = chat(gateway, "auto")

    assert (await model.complete(HI)).model == "second"
    gateway.requests.clear()
    await model.complete(HI)

    assert [path for path, _ in gateway.requests] == ["chat/completions"]


async def test_auto_with_no_model_that_answers_says_so_and_tries_again(
    gateway: FakeGateway,
) -> None:
    gateway.chat_models = []
    model = chat(gateway, "auto")
    assert "None of the gateway's models answers" in await failing(model)

    gateway.chat_models = ["chat"]

    assert (await model.complete(HI)).model == "chat"


async def test_a_model_that_says_nothing_any_more_is_picked_anew(gateway: FakeGateway) -> None:
    gateway.listed = gateway.chat_models = ["first", "second"]
    model = chat(gateway, "auto")
    gateway.enqueue("Yes.", b"")
    await model.complete(HI)
    await failing(model)
    gateway.chat_models = ["second"]

    assert (await model.complete(HI)).model == "second"


async def test_so_is_one_that_the_gateway_does_not_know_any_more(gateway: FakeGateway) -> None:
    gateway.listed = gateway.chat_models = ["first", "second"]
    model = chat(gateway, "auto")
    await model.complete(HI)
    gateway.listed = gateway.chat_models = ["second"]
    await failing(model)

    assert (await model.complete(HI)).model == "second"


@pytest.mark.parametrize("listed", [[], {"data": None}, {"data": [{"name": "x"}]}, "busy", 5])
async def test_a_list_of_models_that_is_none_is_one_sentence(
    listed: Any, gateway: FakeGateway
) -> None:
    gateway.listed = httpx.Response(200, content=json.dumps(listed).encode())

    await failing(chat(gateway, "auto"))


async def test_check_names_the_model_or_says_that_it_is_not_listed(gateway: FakeGateway) -> None:
    assert await chat(gateway).check() == "chat"
    with pytest.raises(Unavailable, match="does not list gone; check CHAT_MODEL"):
        await chat(gateway, "gone").check()
