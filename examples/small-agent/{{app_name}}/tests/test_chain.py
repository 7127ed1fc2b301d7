"""A text becomes a summary: by the model, and without one by its own first sentences."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest

from agent.chain import Question, answer, sentences
from agent.gateway import ChatModel, Gateway
from agent.runs import Event
from agent.services import Services, connect
from agent.settings import Settings

pytestmark = pytest.mark.anyio
TEXT = "The rent is 900 pounds. It is due on the first day. Dogs are allowed. Cats are not."


async def events(services: Services) -> list[Event]:
    return [event async for event in answer(services, Question(TEXT))]


def with_model(status: int, *tokens: str) -> Services:
    """Services whose gateway streams these tokens."""
    chunks = [json.dumps({"choices": [{"delta": {"content": token}}]}) for token in tokens]
    body = "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"])
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    gateway = Gateway(httpx.AsyncClient(transport=transport, base_url="http://gateway/v1/"))
    return replace(connect(Settings()), model=ChatModel(gateway, "double", 100))


async def test_the_models_words_are_the_answer() -> None:
    *said, done = await events(with_model(200, "Rent: ", "900 pounds."))
    assert "".join(event.data["text"] for event in said) == "Rent: 900 pounds."
    assert (done.data["answer"], done.data["mode"]) == ("Rent: 900 pounds.", "model")


async def test_a_model_that_fails_is_named_and_the_texts_first_sentences_are_shown() -> None:
    done = (await events(with_model(401)))[-1].data
    assert done["mode"] == "extractive"
    assert "401" in done["answer"]
    assert done["answer"].endswith("Dogs are allowed.")


async def test_without_a_model_the_texts_first_sentences_are_shown() -> None:
    done = (await events(connect(Settings())))[-1].data
    assert done["answer"].startswith("No model is connected")
    assert "Cats" not in done["answer"]


def test_sentences_end_where_they_end() -> None:
    assert sentences("It costs 1.50 pounds!\nReally?") == ["It costs 1.50 pounds!", "Really?"]
