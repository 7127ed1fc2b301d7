"""A question that names a document is answered from it; one that fits many is asked back."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import FakeGateway, make_services, take_in

from agent.retriever import find
from agent.services import Services

pytestmark = pytest.mark.anyio

FILLER = "\n\n".join(f"{n}. The parties meet on day {n} and keep minutes of it." for n in range(90))


def contract(party: str, rent: int) -> str:
    return (
        f"# Agreement with {party}\n\nThis agreement is made between Holm Estates and {party}.\n\n"
        f"{FILLER}\n\n## Money\n\nThe yearly rent is {rent} pounds.\n\n"
        "## Law\n\nThis agreement is governed by the law of England."
    )


PARTIES = {"a": ("Alder Bakery", 1111), "b": ("Birch Books", 2222), "c": ("Cedar Cycles", 3333)}


@pytest.fixture
async def contracts(services: Services, tmp_path: Path) -> Services:
    await take_in(services, tmp_path / "in", **{n: contract(*p) for n, p in PARTIES.items()})
    return services


@pytest.mark.parametrize("name", PARTIES)
async def test_a_named_document_is_searched_alone(name: str, contracts: Services) -> None:
    party, rent = PARTIES[name]

    found = await find(contracts.store, f"What rent does {party} pay a year?", 4)

    assert found.document == f"{name}.md"
    assert {hit.document for hit in found.hits} == {f"{name}.md"}
    assert f"{rent} pounds" in found.hits[0].text
    assert found.which == []


async def test_a_question_that_fits_all_of_them_is_asked_back(contracts: Services) -> None:
    found = await find(contracts.store, "Which law governs this agreement?", 4)

    assert found.document is None
    assert sorted(found.which) == ["a.md", "b.md", "c.md"]


async def test_told_the_document_nothing_is_asked_back(contracts: Services) -> None:
    found = await find(contracts.store, "Which law governs this agreement?", 3, ["b.md"])

    assert (found.document, found.which) == ("b.md", [])
    assert "governed by the law" in found.hits[0].text


async def test_more_passages_than_the_document_has_are_filled_up_from_the_others(
    contracts: Services,
) -> None:
    found = await find(contracts.store, "What rent does Birch Books pay a year?", 60)

    documents = [hit.document for hit in found.hits]
    assert documents[0] == "b.md"
    assert len({(hit.document, hit.start) for hit in found.hits}) == len(found.hits)
    assert set(documents) == {"a.md", "b.md", "c.md"}


async def test_a_corpus_of_one_document_is_searched_as_it_is(
    services: Services, tmp_path: Path
) -> None:
    await take_in(services, tmp_path / "in", a=contract("Alder Bakery", 1111))

    found = await find(services.store, "What rent does Alder Bakery pay a year?", 3)

    assert "1111 pounds" in found.hits[0].text
    assert found.which == []


async def test_an_empty_store_finds_nothing(services: Services) -> None:
    found = await find(services.store, "Anything?", 3)

    assert (found.hits, found.document, found.which) == ([], None, [])


async def test_with_embeddings_both_sides_are_used(tmp_path: Path) -> None:
    services = make_services(tmp_path / "data", FakeGateway())
    await services.store.tend()
    await take_in(services, tmp_path / "in", **{n: contract(*p) for n, p in PARTIES.items()})

    found = await find(services.store, "What rent does Cedar Cycles pay a year?", 4)

    assert found.document == "c.md"
    assert any("3333 pounds" in hit.text for hit in found.hits)
    await services.close()
