"""What the page shows. All of it may be foreign: a model's name, an error, a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from world import serving, settings

from agent import cards
from agent.adapters import Adapter
from agent.engine import Launch
from agent.gpu import GIB, Card
from agent.runs import Event
from agent.services import Load
from agent.weights import Weights

EVIL = "<img src=x onerror=alert(1)>\"'&"


def nobody(_: Any) -> Any:
    pytest.fail("the engine was asked")


def done(text: str = "", **data: Any) -> list[Event]:
    told = {
        "usage": {"input": 9, "output": 1234}, "first_token_s": 0.213, "tokens_per_s": 61.6,
        "finish_reason": "stop",
    }  # fmt: skip
    said = [Event("token", {"text": text})] if text else []
    return [*said, Event("done", told | data)]


def test_nothing_foreign_gets_into_the_page_as_html() -> None:
    here = serving(nobody, app_title=EVIL, project_description=EVIL, model_id="a/b")
    engine = here.engine
    engine.launch = Launch([], [EVIL], Weights(EVIL, EVIL, {}, 0, Path("/m")), None)
    here.adapters._known[EVIL] = Adapter(EVIL, EVIL, EVIL)
    card = Card(EVIL, 24 * GIB, GIB)
    shown = [cards.head(here.settings, EVIL), cards.model(here, [card], None), cards.note(EVIL)]
    for engine.phase in ("download", "failed", "waiting"):
        engine.detail = EVIL
        shown.append(cards.status(engine))

    for html in shown:
        assert "<img" not in html
        assert "&lt;img" in html
        assert "\"'&" not in html


@pytest.mark.parametrize(
    "text",
    ["<img src=x>", "</p>", "<!-- -->", "<?php", "<SCRIPT>", "![x](http://spy)", "```mermaid\n",
     "```MerMaid\n"],
)  # fmt: skip
def test_markdown_of_a_model_begins_no_tag_no_image_and_no_drawing(text: str) -> None:
    inert = cards.inert(f"before {text} after")

    for active in ("<i", "</", "<!", "<?", "<S", "![", "mermaid", "MerMaid"):
        assert active not in inert
    assert inert.replace("\u2060", "") == f"before {text} after"


def test_markdown_that_does_nothing_stays_as_it_is() -> None:
    plain = "a < b, **bold**, [a link](https://example.org), `x != y`, hammer!\n\n```py\n1 <2\n```"

    assert cards.inert(plain) == plain


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "*Waiting for the model.*"),
        ([Event("thought", {"text": "hm"})], "*Thinking.*"),
        ([Event("token", {"text": "A "}), Event("token", {"text": "b"})], "A b"),
        (done("A b"), "A b\n\n*62 tokens a second · 1,234 tokens · the first after 0.21 s*"),
        (done(tokens_per_s=None, first_token_s=None, usage={"input": 1, "output": 0}),
         "*The model said nothing.*\n\n*0 tokens*"),
        ([Event("token", {"text": "Half"}), Event("error", {"detail": "It broke."})],
         "Half\n\n*It broke.*"),
    ],
)  # fmt: skip
def test_an_answer_says_how_far_and_how_fast_it_is(events: list[Event], said: str) -> None:
    assert cards.said(events) == said


def test_an_answer_that_was_cut_off_says_so() -> None:
    assert cards.pace(done(finish_reason="length")[-1]).endswith("cut off at the longest answer")


def test_a_model_on_its_way_shows_how_far_it_is() -> None:
    engine = serving(nobody).engine
    engine.phase, engine.detail = "weights", "75 %"

    shown = cards.status(engine)

    assert "Loading the weights (75 %) …" in shown
    assert '<progress max="6" value="3"' in shown


def test_a_model_that_failed_says_why_and_shows_no_progress() -> None:
    engine = serving(nobody).engine
    engine.phase, engine.detail = "failed", "It does not fit."

    shown = cards.status(engine)

    assert "<b>The model cannot be served.</b> It does not fit." in shown
    assert "<progress" not in shown


@pytest.mark.parametrize("phase", [*cards.PHASES])
def test_each_phase_has_something_to_show(phase: str) -> None:
    engine = serving(nobody).engine
    engine.phase = phase

    assert cards.PHASES[phase] in cards.status(engine)


def test_a_model_that_is_there_says_nothing_and_the_tiny_one_says_what_it_is() -> None:
    engine = serving(nobody, model_id="owner/wanted").engine
    assert cards.status(engine) == ""

    engine.small = True

    assert "a tiny model stands in" in cards.status(engine)
    assert "owner/wanted" in cards.status(engine)


def test_what_answers_is_shown_with_its_card_and_its_queue() -> None:
    here = serving(nobody, adapters="legal=a/b")
    here.engine.context, here.engine.cache_tokens = 32_768, 93_696

    shown = cards.model(here, [Card("RTX 4090", 24 * GIB, 3 * GIB)], Load(2, 1, 0.4))

    for row in (
        "<dt>Model</dt><dd>owner/model</dd>", "<dt>From</dt><dd>the hub</dd>",
        "<dt>Longest talk</dt><dd>32,768 tokens</dd>",
        "<dt>Room for talks</dt><dd>93,696 tokens</dd>",
        "<dt>RTX 4090</dt><dd>21.0 GiB of 24.0 GiB in use</dd>",
        "<dt>Answering</dt><dd>2 · 1 in the queue</dd>",
        "<dt>Adapter legal</dt><dd>The model is not ready yet.</dd>",
    ):  # fmt: skip
        assert row in shown


def test_the_head_offers_to_sign_off_only_where_somebody_is_signed_on() -> None:
    assert "Sign off" not in cards.head(settings())
    assert 'ann · <a href="/auth/logout">Sign off</a>' in cards.head(settings(), "ann")
