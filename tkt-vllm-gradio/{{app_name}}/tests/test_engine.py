"""The engine without its process: what it is started with, and what is said of it."""

from __future__ import annotations

import pytest
from world import no_cards, serving, settings

from agent.engine import ENDING, Engine, words
from agent.errors import Unavailable
from agent.gpu import Card
from agent.hub import Hub
from agent.services import engine_client
from agent.weights import Sources

pytestmark = pytest.mark.anyio


def test_flags_of_the_settings_win_over_those_that_were_worked_out() -> None:
    own = {"--model": "/m", "--max-model-len": "4096", "--gpu-memory-utilization": "0.90"}

    assert words(own, ["--max-model-len", "100", "--gpu_memory_utilization=0.5", "-tp", "2"]) == [
        "--model", "/m", "--max-model-len", "100", "--gpu_memory_utilization=0.5", "-tp", "2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "detail", "sentence"),
    [
        ("looking", "", "The model a/b is being looked up; ask again in a while."),
        ("download", "1.0 GiB of 2.0 GiB", "is being downloaded (1.0 GiB of 2.0 GiB); ask again"),
        ("weights", "75 %", "The model a/b is being loaded (75 %); ask again in a while."),
        ("waiting", "It broke.", "The model is started again. It broke."),
        ("failed", "It does not fit.", "The model cannot be served. It does not fit."),
    ],
)
def test_while_there_is_no_answer_a_sentence_says_why(
    phase: str, detail: str, sentence: str
) -> None:
    engine = Engine(settings(model_id="a/b"), Sources(Hub(""), None), engine_client, no_cards)
    engine.phase, engine.detail = phase, detail

    with pytest.raises(Unavailable) as refusal:
        engine.need()

    assert sentence in str(refusal.value)


async def test_an_engine_that_is_ended_takes_no_more_questions_and_says_so() -> None:
    engine = serving(lambda _: pytest.fail("it was asked")).engine

    await engine.stop()

    with pytest.raises(Unavailable, match=ENDING):
        engine.need()
    assert ENDING in engine.broken()


async def test_an_engine_that_was_ended_is_not_started_again() -> None:
    def looked() -> list[Card]:
        pytest.fail("it was started")

    engine = Engine(settings(), Sources(Hub(""), None), engine_client, looked)
    await engine.stop()

    await engine.live()

    assert engine.sentence() == ENDING


async def test_what_nobody_foresaw_ends_in_a_sentence_and_not_in_silence() -> None:
    def lost() -> list[Card]:
        raise RuntimeError("GPU is lost")

    chosen = settings(engine_starts=1)
    engine = Engine(chosen, Sources(Hub(""), None), engine_client, lost)

    await engine.live()

    assert engine.phase == "failed"
    assert "GPU is lost" in engine.sentence()


async def test_the_tiny_model_stands_in_where_there_is_no_card() -> None:
    engine = Engine(settings(), Sources(Hub(""), None), engine_client, no_cards)

    launch = await engine._prepare()

    assert engine.small
    assert launch.command[1:] == ["-m", "agent.small"]
    assert launch.names == ["SmolLM2-135M-Instruct", "model-server"]
