"""The page in Debian's Chromium, behind an edge that buffers and cuts every response at 15 s."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.doubles.edge import Edge
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running
from tests.live import KEY, READY_S, load, started, wait_for_page, wait_until

CHROMIUM = shutil.which("chromium")
LEASE = "The rent is 900 pounds a month. It is due on the first. Cats are welcome in the house."
REMARK = "The landlord may visit twice a year. "
MISSED = pytest.mark.skipif(not CHROMIUM and os.environ.get("CI") != "true", reason="no chromium")
pytestmark = [pytest.mark.browser, MISSED]


@dataclass
class Desk:
    """An open page, and what its browser asked for: URLs elsewhere, and streams."""

    page: Any
    edge: Edge
    elsewhere: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    owned: list[str] = field(default_factory=list)

    def ask(self, question: str) -> None:
        self.page.get_by_label("Your question").fill(question)
        self.page.keyboard.press("Enter")

    def upload(self, files: list[tuple[str, bytes]]) -> None:
        self.page.get_by_role("tab", name="Documents").click()
        wanted = [{"name": n, "mimeType": "text/plain", "buffer": data} for n, data in files]
        self.page.set_input_files("input[type=file]", wanted)

    def answer(self) -> str:
        return str(self.page.locator("[data-testid=bot]").last.inner_text())

    def see(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()


class World:
    """Apps, edges and browser contexts, which end with the test."""

    def __init__(self, browser: Any, stack: ExitStack) -> None:
        self._browser, self._stack = browser, stack

    def app(self, gateway: Gateway | None = None) -> Any:
        env = dict(KEY)
        if gateway:
            env["LITELLM_ENDPOINT"] = self._stack.enter_context(running(gateway.app))
        app = self._stack.enter_context(started(**env))
        wait_for_page(app)
        return app

    def open(self, app: Any, **context: Any) -> Desk:
        edge = Edge(app.url)
        url = self._stack.enter_context(running(edge.app))
        desk = Desk(new_page(self._browser, **context), edge)
        desk.page.on("request", lambda request: self._note(desk, url, request.url))
        desk.page.on("dialog", lambda dialog: desk.owned.append(dialog.message))
        desk.page.goto(url)
        desk.see("Documents are kept inside this app")
        return desk

    @staticmethod
    def _note(desk: Desk, home: str, url: str) -> None:
        if not url.startswith((home, "data:", "blob:")):
            desk.elsewhere.append(url)
        if any(stream in url for stream in ("queue", "heartbeat")):
            desk.streams.append(url)


def new_page(browser: Any, **context: Any) -> Any:
    """A page of its own, which is waited for as patiently as an app is."""
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(READY_S * 1000)
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM, "Chromium is not installed: apt-get install chromium"
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def world(browser: Any) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(browser, stack)


@pytest.mark.slow
def test_a_40_second_answer_grows_on_the_page_behind_an_edge_that_cuts_at_15_seconds(
    world: World,
) -> None:
    reply = "The rent is 900 pounds a month [1]. " + REMARK * 10 + "That was all."
    gateway = Gateway(reply=reply, tokens_per_second=len(reply.split()) / 40)
    desk = world.open(world.app(gateway))
    desk.see("Answers by double")

    desk.upload([("lease.txt", LEASE.encode()), ("scan.xyz", b"?")])
    desk.see("1 document is in.")
    desk.see("Files of type '.xyz' cannot be read")
    desk.see("1 passage, added")
    desk.page.get_by_role("tab", name="Ask").click()

    begin = time.monotonic()
    desk.ask("How much is the rent?")
    desk.see("900 pounds a month [1]")
    early = desk.answer()
    desk.page.wait_for_timeout(4000)
    later = desk.answer()
    assert early in later
    assert len(early) < len(later) < len(reply) - 50
    desk.see("That was all.")
    assert time.monotonic() - begin > 35
    desk.page.get_by_role("button", name="Ask").wait_for()
    assert desk.page.locator("mark").inner_text() == "The rent is 900 pounds a month."
    assert "lease.txt" in desk.page.locator(".card h3").first.inner_text()
    assert desk.page.get_by_text("Error").count() == 0
    assert (desk.edge.cuts, desk.streams, desk.elsewhere) == (0, [], [])


def test_an_answer_is_picked_up_after_the_page_was_loaded_again(world: World) -> None:
    reply = "It is 900 pounds [1]. " + REMARK * 5 + "That was all."
    app = world.app(Gateway(reply=reply, tokens_per_second=6))
    load(app, {"lease.txt": LEASE})
    desk = world.open(app)
    desk.ask("How much is the rent?")
    desk.see("900 pounds [1]")
    desk.page.reload()
    desk.see("900 pounds [1]")
    desk.see("That was all.")
    desk.page.locator("mark").wait_for()


def test_a_stopped_answer_says_so_and_the_model_is_left_alone(world: World) -> None:
    gateway = Gateway(reply="It is 900 pounds [1]. " + REMARK * 50, tokens_per_second=6)
    app = world.app(gateway)
    load(app, {"lease.txt": LEASE})
    desk = world.open(app)
    desk.ask("How much is the rent?")
    desk.see("900 pounds [1]")
    desk.page.get_by_role("button", name="Stop").click()
    desk.see("This was cancelled.")
    wait_until(lambda: gateway.aborted == 1, 10)
    desk.page.get_by_role("button", name="New conversation").click()
    desk.see("Ask a question about your documents.")


def test_without_a_model_the_page_says_so_and_quotes(world: World) -> None:
    app = world.app()
    load(app, {"lease.txt": LEASE})
    desk = world.open(app)
    desk.see("No language model is connected: answers are quotations from your documents.")
    desk.see("Search by words.")
    desk.ask("How much is the rent a month?")
    desk.see('"The rent is 900 pounds a month." [1]')
    desk.page.locator("mark").wait_for()
    assert app.refused == []


def test_documents_are_deleted_after_a_second_thought(world: World) -> None:
    app = world.app()
    load(app, {"lease.txt": LEASE, "other.txt": "Dogs are not welcome."})
    desk = world.open(app)
    desk.page.get_by_role("tab", name="Documents").click()
    desk.see("Documents (2)")
    desk.page.wait_for_load_state("networkidle")  # else the list, asked for anew, unchecks it
    wait_until(lambda: _is_picked(desk), 30)  # which a list that comes later still does
    desk.page.get_by_role("button", name="Delete 1 document").click()
    desk.page.get_by_role("button", name="No, keep them").click()
    wait_until(lambda: _is_picked(desk))
    desk.page.get_by_role("button", name="Delete 1 document").click()
    desk.page.get_by_role("button", name="Yes, delete").click()
    desk.see("1 document is deleted.")
    assert [d["document"] for d in app.http.get("/api/documents").json()] == ["other.txt"]
    desk.see("Documents (1)")


def _is_picked(desk: Desk) -> bool:
    """Whether lease.txt is checked, and the page offers to delete it."""
    desk.page.get_by_label("lease.txt").check()
    return bool(desk.page.get_by_role("button", name="Delete 1 document").is_visible())


HOSTILE = """The rent is <script>alert(1)</script><img src="http://evil.test/1" onerror="alert(2)">
![x](http://evil.test/2) ![y][r] <iframe src="http://evil.test/3"></iframe> [a](javascript:alert(4))
&lt;img src=http://evil.test/4&gt; \\`<img src=http://evil.test/5>` ${alert(5)} {{alert(6)}}
<style>@import "http://evil.test/6"; body {display: none}</style> $$\\includegraphics{evil.test/7}$$

```mermaid
graph TD; A@{ img: "http://evil.test/8", label: "x", w: 60, h: 60 }
```
[r]: http://evil.test/9
"""


def test_nothing_in_a_document_a_question_or_an_answer_becomes_active(world: World) -> None:
    app = world.app(Gateway(reply=f"{HOSTILE}\nSo it says [1]."))
    name = "<img src=http://evil.test/10 onerror=alert(7)> ${alert(8)}.md"
    load(app, {name.replace("/", "_"): f"# {HOSTILE}"})
    desk = world.open(app)
    desk.ask(f"The rent? {HOSTILE}")
    desk.see("So it says [1].")
    desk.page.locator(".card").first.wait_for()
    assert "<script>alert(1)</script>" in desk.page.locator(".card").first.inner_text()
    desk.page.get_by_role("tab", name="Documents").click()
    desk.page.get_by_label("onerror=alert(7)").wait_for()
    desk.page.wait_for_timeout(1000)
    assert desk.page.locator("img, iframe, .gradio-container script").count() == 0
    assert (desk.owned, desk.elsewhere) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(world: World, scheme: str) -> None:
    app = world.app()
    load(app, {f"{'long' * 50}.txt": LEASE})
    desk = world.open(app, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert desk.page.locator("body.dark").count() == (scheme == "dark")
    desk.ask("How much is the rent a month?")
    desk.page.locator("mark").wait_for()
    for tab in ("Ask", "Documents"):
        desk.page.get_by_role("tab", name=tab).click()
        assert desk.page.evaluate("document.documentElement.scrollWidth") <= 390
