"""What a question means after others, without a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_retriever import PARTIES, contract
from world import take_in

from agent.conversation import follow
from agent.retriever import find
from agent.services import Services

pytestmark = pytest.mark.anyio


@pytest.fixture
async def contracts(services: Services, tmp_path: Path) -> Services:
    await take_in(services, tmp_path / "in", **{n: contract(*p) for n, p in PARTIES.items()})
    return services


RENT = "What rent does Alder Bakery pay a year?"


@pytest.mark.parametrize(
    ("questions", "document", "holds"),
    [
        ([RENT], "a.md", "1111"),
        ([RENT, "And which law governs it?"], "a.md", "law of England"),
        ([RENT, "And Birch Books?"], "b.md", "2222"),
        ([RENT, "No, I meant Cedar Cycles."], "c.md", "3333"),
        ([RENT, "And Birch Books?", "and which law?"], "b.md", "law of England"),
        ([RENT, "Which law governs the agreement of Cedar Cycles?"], "c.md", "law of England"),
    ],
)
async def test_the_document_that_is_talked_about_is_meant_until_another_is_named(
    questions: list[str], document: str, holds: str, contracts: Services
) -> None:
    asked = await follow(contracts.store, questions)
    found = await find(contracts.store, asked.text, 3, asked.documents)

    assert found.hits[0].document == document
    assert any(holds in hit.text for hit in found.hits)


async def test_the_other_one_is_any_but_the_one_talked_about(contracts: Services) -> None:
    asked = await follow(contracts.store, [RENT, "And in the other agreement?"])

    assert asked.documents == ("b.md", "c.md")


async def test_a_talk_about_nothing_is_left_alone(services: Services) -> None:
    assert (await follow(services.store, ["Hello", "Who are you?"])).text == "Who are you?"
