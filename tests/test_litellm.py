"""The real LiteLLM proxy stands between the app and the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from parts import litellm
from tests import live
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running
from tests.live import App, ask, load, started, status

pytestmark = pytest.mark.slow
LEASE = {"lease.txt": "The rent is 900 pounds a month.\n\nNo dogs are allowed."}
QUESTION = "What is the rent a month?"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Gateway]]:
    """The proxy's URL and the double behind it."""
    gateway = Gateway()
    with (
        running(gateway.app) as url,
        litellm.proxy(tmp_path_factory.mktemp("litellm"), models(url)) as here,
    ):
        yield here.url, gateway


def models(url: str) -> dict[str, litellm.Model]:
    """{alias: model} of a gateway double at `url`."""
    return {
        "meaning": litellm.Model(f"{url}/v1", "sk-double", "double-embed"),
        "talk": litellm.Model(f"{url}/v1", "sk-double", "double"),
    }


@pytest.fixture(scope="module")
def app(proxy: tuple[str, Gateway]) -> Iterator[App]:
    with started(LITELLM_ENDPOINT=proxy[0], LITELLM_MASTER_KEY=litellm.KEY) as app:
        load(app, LEASE)
        yield app


def test_auto_finds_the_model_that_chats_and_the_one_that_embeds(app: App) -> None:
    ready = status(app, "/ready")
    assert ready["ready"] is True
    assert ready["services"]["model"]["detail"] == "talk"
    assert ready["services"]["embedding"]["detail"].startswith("meaning, 256 dimensions")
    assert [document["embedding"] for document in status(app, "/api/documents")] == ["meaning"]


def test_an_answer_is_streamed_through_it(
    app: App, proxy: tuple[str, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy[1], "tokens_per_second", 10)  # what comes at once is one piece
    body = {"question": QUESTION, "stream": True}
    with app.http.stream("POST", "/api/chat", json=body) as response:
        events = list(live.frames(response.iter_lines()))
    tokens = [data["text"] for _, kind, data in events if kind == "token"]
    assert len(tokens) > 3
    assert "".join(tokens) == "The rent is 900 pounds a month [1]."
    assert events[-1][2]["mode"] == "model"
    chats = [request.body for request in proxy[1].requests if "messages" in request.body]
    assert chats[-1]["stream"] is True


def test_a_wrong_key_gives_a_quotation_that_says_so(proxy: tuple[str, Gateway]) -> None:
    with started(LITELLM_ENDPOINT=proxy[0], LITELLM_MASTER_KEY="sk-wrong") as app:
        load(app, LEASE)
        answer = ask(app, QUESTION)
        assert answer["mode"] == "extractive"
        assert "900 pounds" in answer["answer"]
        # 400 from a LiteLLM without a database of keys, 401 from the platform's.
        assert "answers 400" in answer["answer"] or "answers 401" in answer["answer"]
