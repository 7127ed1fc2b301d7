"""One answer is one trace: from the page through the app and LiteLLM to the model, and its score.

The page is driven by a real browser, LiteLLM is the real proxy and reports to the same Langfuse; a
receiver decodes what both send.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parts import litellm
from tests.doubles.gateway import Gateway
from tests.doubles.keycloak import Keycloak
from tests.doubles.langfuse import Langfuse
from tests.doubles.serve import running
from tests.live import API_KEYS, APP_KEY, App, load, started, wait_until
from tests.test_litellm import models
from tests.test_page import MISSED, new_page
from tests.test_page import browser as browser  # a fixture

pytestmark = [pytest.mark.long, pytest.mark.browser, MISSED]
LEASE = {"lease.txt": "The rent is 900 pounds a month.\n\nNo dogs are allowed."}
LANGFUSE_KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}
PRICE = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}


@dataclass
class World:
    app: App
    langfuse: Langfuse
    gateway: Gateway
    reports: bool


@pytest.fixture(scope="module", params=["litellm-silent", "litellm-reports"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    gateway, langfuse, keycloak = Gateway(), Langfuse(), Keycloak()
    reports = request.param == "litellm-reports"
    folder = tmp_path_factory.mktemp("litellm")
    with (
        running(gateway.app) as model,
        running(langfuse.app) as traces,
        running(keycloak.app) as realm,
        proxy(folder, model, traces, reports) as address,
    ):
        keycloak.url = realm
        asked = {"LITELLM_ENDPOINT": address, "LITELLM_MASTER_KEY": litellm.KEY}
        watched = {"LANGFUSE_HOST": traces, **LANGFUSE_KEYS}
        closed = {"KEYCLOAK_URL": realm, "API_KEYS": API_KEYS}
        with started(key=APP_KEY, GATEWAY_TRACES=reports, **asked, **watched, **closed) as app:
            load(app, LEASE)
            yield World(app, langfuse, gateway, reports)


@contextmanager
def proxy(folder: Path, model: str, traces: str, reports: bool) -> Iterator[str]:
    """The real LiteLLM, which prices the model and, where it is told to, reports to Langfuse."""
    config = litellm.configuration(models(model))
    for entry in config["model_list"]:
        entry["litellm_params"] |= PRICE
    config["litellm_settings"] |= {
        "include_cost_in_streaming_usage": True,
        "forward_traceparent_to_llm_provider": True,
    }
    if reports:
        config["litellm_settings"]["callbacks"] = ["langfuse_otel"]
    with litellm.serving(folder, config, LANGFUSE_HOST=traces, **LANGFUSE_KEYS) as url:
        yield url


def test_an_answer_is_followed_from_the_page_to_the_model(world: World, browser: Any) -> None:
    page = new_page(browser)
    page.goto(world.app.url)  # signs on
    page.get_by_text("Documents are kept inside this app").first.wait_for()  # it takes questions
    page.get_by_label("Your question").fill("What is the rent a month?")
    page.keyboard.press("Enter")
    page.get_by_text("900 pounds a month [1]").first.wait_for()
    page.get_by_role("button", name="Like", exact=True).click()
    wait_until(lambda: world.langfuse.scores)
    page.close()

    (score,) = world.langfuse.scores
    assert (score["name"], score["value"]) == ("user-feedback", 1)
    ours, theirs = wait_until(lambda: whole(world, score["traceId"]))
    root, retrieval = ours["chain"], ours["retriever"]
    answer = ours["span" if theirs else "generation"]
    assert root["parent_id"] is None
    assert retrieval["parent_id"] == answer["parent_id"] == root["span_id"]
    for span in ours.values():
        assert span["attributes"]["user.id"] == "ann"
        assert span["attributes"]["session.id"]
        assert span["attributes"]["langfuse.trace.tags"] == ["page"]
    chats = [request for request in world.gateway.requests if "messages" in request.body]
    asked = chats[-1].headers.get("traceparent", "")
    if theirs:
        request = theirs["litellm_request"]
        assert request["parent_id"] == answer["span_id"]
        assert float(request["attributes"]["llm.cost.total"]) > 0
        assert asked == f"00-{score['traceId']}-{answer['span_id']}-01"
        assert "langfuse.observation.cost_details" not in answer["attributes"]  # else it is twice
    else:
        cost = json.loads(answer["attributes"]["langfuse.observation.cost_details"])
        tokens = json.loads(answer["attributes"]["langfuse.observation.usage_details"])
        price = tokens["input"] * 0.001 + tokens["output"] * 0.002
        assert cost["total"] == pytest.approx(price)


Spans = dict[str, dict[str, Any]]


def whole(world: World, trace: str) -> tuple[Spans, Spans] | None:
    """The app's spans by kind and LiteLLM's by name, once all of them are there."""
    found = [span for span in world.langfuse.spans if span["trace_id"] == trace]
    ours = {
        span["attributes"]["langfuse.observation.type"]: span
        for span in found
        if span["scope"] == "langfuse-sdk"
    }
    theirs = {span["name"]: span for span in found if span["scope"] == "litellm"}
    wanted = {"litellm_request"} if world.reports else set[str]()
    return (ours, theirs) if len(ours) == 3 and wanted <= set(theirs) else None
