"""What the pictures of the apps' pages show: which app, and what a reader does on its page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

PATIENCE_S = 150
QUESTION = "What is the salary of Imogen Castellane at Marlowe?"
QUOTED = "The salary is £52,640 a year."
TOPIC = "What do the heat pumps need of the electricity grid, and what does that cost?"
AT_WORK = "Works on task 3 of 4, Draft."
MESSAGE = "What does a lighthouse keeper do?"
SHORT = "Answer in one sentence."


class Missed(Exception):
    """What the page should show was over before it did."""


@dataclass(frozen=True)
class Look:
    """`sample` is the program of the app that loads its sample documents, `drive` does what a
    reader does, until the page shows what there is to see."""

    template: str
    project: str
    description: str
    sample: str
    drive: Callable[[Any], None]


def _see(page: Any, text: str) -> None:
    page.get_by_text(text).first.wait_for()


def _ask(page: Any) -> None:
    _see(page, "Documents are kept inside this app")
    page.get_by_label("Your question").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator("[data-testid=bot]").get_by_text(QUOTED).first.wait_for()
    page.locator("mark").first.wait_for()
    page.get_by_role("button", name="Ask", exact=True).wait_for()


def _rehearse(page: Any) -> None:
    """A run at work, held in the middle: the first news of its third task is the last that the
    page gets, as when a reader's connection hangs. A rehearsed task is over so soon that the page
    may miss it; then there is another run."""
    begun = held = False

    def pass_on(route: Any) -> None:
        nonlocal held
        if begun and not held:
            _wait_for_third_task(page)
        news = None if held else route.fetch()
        if news and not held:
            held = AT_WORK in news.text()
            route.fulfill(response=news)

    page.get_by_role("textbox", name="Topic").fill(TOPIC)
    page.route("**/gradio_api/**", pass_on)
    page.get_by_role("button", name="Start", exact=True).click()
    _see(page, "Works on task")
    begun = True
    page.get_by_text(AT_WORK).or_(page.get_by_text("Done in")).first.wait_for()
    if not held:
        raise Missed


def _wait_for_third_task(page: Any) -> None:
    runs = f"{page.url.rstrip('/')}/api/runs"
    with urlopen(runs, timeout=30) as listed:
        run = f"{runs}/{json.load(listed)[0]['id']}"
    deadline = time.monotonic() + PATIENCE_S
    outputs = 0
    while outputs < 2:
        if time.monotonic() > deadline:
            raise RuntimeError(f"The run has no third task within {PATIENCE_S} s.")
        with urlopen(run, timeout=30) as state:
            outputs = len(json.load(state)["outputs"])


def _talk(page: Any) -> None:
    """The likeliest word each time, so that the answer is the same each time."""
    _see(page, "There is no GPU here, so a tiny model stands in")
    _see(page, "4,096 tokens")
    page.get_by_label("System prompt").fill(SHORT)
    page.get_by_label("number input for Temperature").fill("0")
    page.get_by_label("Your message").fill(MESSAGE)
    page.keyboard.press("Enter")
    page.locator("[data-testid=bot]").get_by_text("tokens a second").first.wait_for()
    page.get_by_role("button", name="Send", exact=True).wait_for()


LOOKS = {
    "rag": Look(
        "tkt-rag-agent",
        "contract-desk",
        "Answers questions about our contracts",
        "agent.ingest",
        _ask,
    ),
    "crew": Look(
        "tkt-crewai-agent",
        "heating-crew",
        "Researches a topic in the town's documents and writes a report",
        "agent.documents",
        _rehearse,
    ),
    "model": Look("tkt-vllm-gradio", "house-model", "A model of your own", "", _talk),
}
