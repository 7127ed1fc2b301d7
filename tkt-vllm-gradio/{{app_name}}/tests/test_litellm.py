"""The model in LiteLLM's list, against a LiteLLM that answers as 1.106 does."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any

import httpx
import pytest

from agent.errors import Unavailable
from agent.keys import PREFIX
from agent.litellm import Registration, key_for

pytestmark = pytest.mark.anyio

NO_DB = "No DB Connected. Here's how to do it - https://docs.litellm.ai/docs/proxy/virtual_keys"
NEEDS_DB = "DB not connected. This endpoint needs a database; set DATABASE_URL to a PostgreSQL"


class LiteLLM:
    """What it was told; `refusal` is what it answers instead, for paths that match `at`."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.refusal: httpx.Response | Exception | None = None
        self.at = ""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append((request.method, path))
        if self.refusal and self.at in path:
            if isinstance(self.refusal, Exception):
                raise self.refusal
            return self.refusal
        body = json.loads(request.content or b"{}")
        if path == "/model/info":
            return httpx.Response(200, json={"data": [shown(m) for m in self.models.values()]})
        if path == "/model/new":
            self.models[body["model_info"]["id"]] = body
        elif path == "/model/delete":
            if self.models.pop(body["id"], None) is None:
                return wrong(400, f"{{'error': 'Model with id={body['id']} not found in db'}}")
        elif found := re.fullmatch("/model/(.+)/update", path):
            assert request.method == "PATCH"
            for part, values in body.items():
                old = self.models[found[1]][part]
                self.models[found[1]][part] = old | values if isinstance(old, dict) else values
        return httpx.Response(200, json={})

    def changes(self) -> list[str]:
        """What was asked of it beside its list, since this was asked last."""
        changes = [path for _, path in self.asked if path != "/model/info"]
        self.asked.clear()
        return changes


def shown(model: dict[str, Any]) -> dict[str, Any]:
    """Its list shows no key, and something of its own."""
    params = {k: v for k, v in model["litellm_params"].items() if k != "api_key"}
    return model | {"litellm_params": params, "model_info": model["model_info"] | {"mode": None}}


def wrong(status: int, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "code": str(status)}})


def entering(litellm: LiteLLM, offered: dict[str, str], key: str = "tka_1") -> Registration:
    async def after_a_while(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # lets others in, as a network does
        return litellm(request)

    transport = httpx.MockTransport(after_a_while)
    http = httpx.AsyncClient(transport=transport, base_url="http://litellm.test")
    return Registration(http, "my-model", "http://my-model:7860", key, lambda: offered)


async def test_what_is_offered_is_entered_with_its_address_and_its_key() -> None:
    litellm = LiteLLM()
    registration = entering(litellm, {"legal-qa": "Qwen/Qwen2.5-7B-Instruct"})

    await registration.tend()

    (entry,) = litellm.models.values()
    assert entry["model_name"] == "legal-qa"
    assert entry["litellm_params"] == {
        "model": "hosted_vllm/Qwen/Qwen2.5-7B-Instruct",
        "api_base": "http://my-model:7860/v1",
        "api_key": "tka_1",
    }
    assert entry["model_info"]["id"] == "my-model:legal-qa"
    assert "tka_1" not in str(entry["model_info"])
    assert await registration.check() == "legal-qa at http://litellm.test"


async def test_what_is_entered_already_is_left_alone() -> None:
    litellm = LiteLLM()
    registration = entering(litellm, {"legal-qa": "a/b"})
    await registration.tend()
    litellm.changes()

    await registration.tend()
    await registration.tend()

    assert litellm.changes() == []


async def test_it_comes_back_after_litellm_has_forgotten_it() -> None:
    litellm = LiteLLM()
    registration = entering(litellm, {"legal-qa": "a/b"})
    await registration.tend()

    litellm.models.clear()
    await registration.tend()

    assert list(litellm.models) == ["my-model:legal-qa"]


async def test_an_alias_moves_from_the_model_to_an_adapter_without_being_taken_out() -> None:
    litellm, offered = LiteLLM(), {"legal-qa": "a/b"}
    registration = entering(litellm, offered)
    await registration.tend()
    litellm.changes()

    offered["legal-qa"] = "legal"
    await registration.tend()

    assert litellm.changes() == ["/model/my-model:legal-qa/update"]
    (entry,) = litellm.models.values()
    assert entry["litellm_params"]["model"] == "hosted_vllm/legal"


async def test_what_is_offered_no_more_is_taken_out_and_others_entries_stay() -> None:
    litellm, offered = LiteLLM(), {"one": "a/b", "two": "legal"}
    litellm.models["config-1"] = {
        "model_name": "gpt", "litellm_params": {"model": "openai/gpt"}, "model_info": {"id": "c"},
    }  # fmt: skip
    registration = entering(litellm, offered)
    await registration.tend()

    del offered["two"]
    await registration.tend()

    assert list(litellm.models) == ["config-1", "my-model:one"]


async def test_at_the_end_it_is_taken_out_and_not_entered_again() -> None:
    litellm = LiteLLM()
    registration = entering(litellm, {"legal-qa": "a/b"})
    await registration.tend()

    await registration.end()
    await registration.tend()  # answers that go on are waited for meanwhile

    assert litellm.models == {}


async def test_an_end_while_it_is_being_entered_takes_it_out_all_the_same() -> None:
    litellm = LiteLLM()
    registration = entering(litellm, {"legal-qa": "a/b"})

    await asyncio.gather(registration.tend(), registration.end())

    assert litellm.models == {}


async def test_at_the_end_it_stays_where_a_successor_has_taken_it_over() -> None:
    litellm = LiteLLM()
    old, new = (entering(litellm, {"legal-qa": "a/b"}) for _ in range(2))
    await old.tend()
    await new.tend()

    await old.end()

    assert list(litellm.models) == ["my-model:legal-qa"]
    await new.end()
    assert litellm.models == {}


async def test_two_replicas_do_not_take_it_from_each_other_again_and_again() -> None:
    litellm = LiteLLM()
    old, new = (entering(litellm, {"legal-qa": "a/b"}) for _ in range(2))
    await old.tend()
    await new.tend()
    litellm.changes()

    for _ in range(2):
        await old.tend()
        await new.tend()

    assert litellm.changes() == []


async def test_an_entry_that_is_asked_with_another_key_is_corrected() -> None:
    litellm = LiteLLM()
    first = entering(litellm, {"legal-qa": "a/b"})
    await first.tend()

    second = entering(litellm, {"legal-qa": "a/b"}, "tka_2")
    second._instance = first._instance
    await second.tend()

    assert litellm.models["my-model:legal-qa"]["litellm_params"]["api_key"] == "tka_2"


@pytest.mark.parametrize(
    ("at", "refusal", "sentence"),
    [
        ("/model/new", wrong(500, NO_DB),
         "keeps no models in a database; give it one, and set STORE_MODEL_IN_DB=True."),
        ("/update", httpx.Response(500, json={"detail": {"error": NEEDS_DB}}),
         "keeps no models in a database; give it one, and set STORE_MODEL_IN_DB=True."),
        ("/model/new", httpx.Response(500, json={"detail": {"error":
         "Set `'STORE_MODEL_IN_DB='True'` in your env to enable this feature."}}),
         "keeps no models in a database; give it one, and set STORE_MODEL_IN_DB=True."),
        ("", wrong(401, "Authentication Error, Invalid proxy server token passed."),
         "refuses the key; check LITELLM_MASTER_KEY."),
        ("", wrong(400, "No connected db."), "refuses the key; check LITELLM_MASTER_KEY."),
        ("", httpx.Response(500, text="oops"), "answers 500 to /model/info; its log says why."),
        ("", httpx.ConnectError("refused"),
         "does not answer (ConnectError); check LITELLM_ENDPOINT."),
        ("", httpx.ReadTimeout(""), "does not answer (ReadTimeout); check LITELLM_ENDPOINT."),
        ("", httpx.Response(200, text="<html>maintenance</html>"), "check LITELLM_ENDPOINT."),
        ("", httpx.Response(200, json=["odd"]), "check LITELLM_ENDPOINT."),
    ],
    ids=["no database", "no database, patched", "not stored", "wrong key", "wrong key, no database",
         "500", "away", "hangs", "a page", "a list"],
)  # fmt: skip
async def test_what_is_in_the_way_is_a_sentence_and_said_once(
    at: str,
    refusal: httpx.Response | Exception,
    sentence: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "agent.litellm")
    litellm, offered = LiteLLM(), {"legal-qa": "a/b"}
    registration = entering(litellm, offered)
    if at == "/update":
        await registration.tend()
        offered["legal-qa"] = "legal"
    litellm.refusal, litellm.at = refusal, at

    await registration.tend()
    await registration.tend()

    with pytest.raises(Unavailable) as trouble:
        await registration.check()
    said = str(trouble.value)
    assert said.startswith("The model is not in LiteLLM's list: LiteLLM at http://litellm.test ")
    assert said.endswith(sentence)
    assert [record.getMessage() for record in caplog.records] == [said]

    litellm.refusal = None
    await registration.tend()
    assert await registration.check() == "legal-qa at http://litellm.test"


async def test_an_end_without_litellm_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    litellm = LiteLLM()
    registration = entering(litellm, {"legal-qa": "a/b"})
    await registration.tend()
    litellm.refusal = httpx.ConnectError("refused")

    await registration.end()

    assert "The model stays in LiteLLM's list." in caplog.text


async def test_an_entry_that_somebody_else_took_out_is_no_error() -> None:
    litellm = LiteLLM()
    registration = entering(litellm, {"legal-qa": "a/b"})
    await registration.tend()
    listed = [shown(model) for model in litellm.models.values()]
    litellm.models.clear()
    litellm.refusal, litellm.at = httpx.Response(200, json={"data": listed}), "/model/info"

    await registration.end()

    assert litellm.asked[-1] == ("POST", "/model/delete")


async def test_before_the_first_look_nothing_is_said_to_be_registered() -> None:
    with pytest.raises(Unavailable, match="Nothing is registered yet"):
        await entering(LiteLLM(), {}).check()


def test_all_replicas_are_asked_with_the_same_key_which_tells_nothing_of_the_master_key() -> None:
    key = key_for("my-model", "sk-master")

    assert key == key_for("my-model", "sk-master")
    assert key.startswith(PREFIX)
    assert "sk-master" not in key
    assert len({key, key_for("other", "sk-master"), key_for("my-model", "sk-other")}) == 3
