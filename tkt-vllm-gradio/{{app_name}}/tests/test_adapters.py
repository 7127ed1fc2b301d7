"""LoRA adapters, against an engine that takes them as vLLM does."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from world import serving

from agent.errors import Refused
from agent.services import Services

pytestmark = pytest.mark.anyio


class Loader:
    """What vLLM was asked to load and unload; `refusal` is what it answers instead."""

    def __init__(self, refusal: httpx.Response | None = None) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.refusal = refusal

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.url.path, json.loads(request.content)))
        return self.refusal or httpx.Response(200, text="Success: it was done.")


@pytest.fixture
def lora(tmp_path: Path) -> str:
    (tmp_path / "adapter_config.json").write_text('{"r": 16}')
    return str(tmp_path)


def troubles(here: Services) -> dict[str, str]:
    return {adapter.name: adapter.trouble for adapter in here.adapters.listed()}


async def test_those_that_are_wanted_are_loaded_once_into_each_engine(lora: str) -> None:
    loader = Loader()
    here = serving(loader, adapters=f"legal={lora}")
    assert troubles(here) == {"legal": "The model is not ready yet."}

    await here.adapters.tend()
    await here.adapters.tend()
    asked = [("/v1/load_lora_adapter", {"lora_name": "legal", "lora_path": lora})]
    assert loader.asked == asked
    assert troubles(here) == {"legal": ""}

    here.engine.lives += 1
    await here.adapters.tend()
    assert loader.asked == asked * 2


async def test_one_is_added_and_removed_while_the_engine_runs(lora: str) -> None:
    loader = Loader()
    here = serving(loader)

    added = await here.adapters.add("legal", lora)
    assert (added.rank, here.adapters.loaded()) == (16, ["legal"])
    await here.adapters.remove("legal")

    assert loader.asked[-1] == ("/v1/unload_lora_adapter", {"lora_name": "legal"})
    assert here.adapters.loaded() == []


@pytest.mark.parametrize(
    ("name", "sentence", "status"),
    [
        ("legal", "There is an adapter 'legal' already; unload it first.", 409),
        ("owner/model", "'owner/model' is the model's own name; choose another.", 409),
        ("alias", "'alias' is the model's own name; choose another.", 409),
    ],
)
async def test_a_name_that_is_taken_is_refused(
    name: str, sentence: str, status: int, lora: str
) -> None:
    here = serving(Loader(), adapters=f"legal={lora}")

    with pytest.raises(Refused) as refusal:
        await here.adapters.add(name, lora)

    assert (str(refusal.value), refusal.value.status) == (sentence, status)


async def test_without_room_for_adapters_the_sentence_says_what_to_set(lora: str) -> None:
    here = serving(Loader(), lora=False)

    with pytest.raises(Refused, match="without room for adapters; set MAX_LORA_RANK"):
        await here.adapters.add("legal", lora)


async def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(Refused, match="is no LoRA adapter"):
        await serving(Loader()).adapters.add("legal", str(tmp_path))


async def test_the_engines_refusal_is_told_and_nothing_has_changed(lora: str) -> None:
    said = "LoRA rank 64 is greater than max_lora_rank 16."
    body = {"error": {"message": said, "type": "BadRequestError", "code": 400}}
    here = serving(Loader(httpx.Response(400, json=body)))

    with pytest.raises(Refused, match=f"The engine does not take the adapter: {said}"):
        await here.adapters.add("legal", lora)
    assert here.adapters.listed() == []


async def test_one_that_cannot_be_loaded_says_why_and_keeps_no_other_from_it(lora: str) -> None:
    here = serving(Loader(), adapters=f"lost=/no/such/folder, legal={lora}")

    await here.adapters.tend()

    assert troubles(here)["lost"].startswith("There is no folder /no/such/folder")
    assert here.adapters.loaded() == ["legal"]


async def test_one_that_breaks_in_an_unforeseen_way_does_not_end_the_app(
    lora: str, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "adapter_config.json").write_text('{"r": "many"}')
    here = serving(Loader(), adapters=f"odd={odd}, legal={lora}")

    await here.adapters.tend()

    assert troubles(here)["odd"]
    assert here.adapters.loaded() == ["legal"]


async def test_one_that_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(Refused) as refusal:
        await serving(Loader()).adapters.remove("legal")

    assert refusal.value.status == 404
