"""The page of a crew in Debian's Chromium, behind an edge that buffers and cuts at 15 s."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.programs import free_port
from tests.crewing import CREW, crew, finished, playing, start, until
from tests.doubles.edge import Edge
from tests.doubles.gateway import Gateway, told_to
from tests.doubles.serve import running
from tests.live import API_KEYS, APP_KEY, KEY, App, launched, wait_for_page, wait_until
from tests.test_page import HOSTILE, MISSED, Desk, new_page
from tests.test_page import browser as browser  # the fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.long, MISSED]
NAMED = KEY | {"CHAT_MODEL": "double"}
"""Else a model is looked for, which takes a call of its own."""
OTHERS_KEY = "tka_the-key-of-somebody-else"
TOPIC = "What do the heat pumps cost?"
DOCUMENT = "# Heat pumps\n\nA heat pump costs 9,000 pounds. A gas boiler costs 4,000 pounds."


@dataclass
class Page(Desk):
    said: list[str] = field(default_factory=list)
    """What the browser complains about."""

    @property
    def topic(self) -> Any:
        return self.page.get_by_role("textbox", name="Topic")

    def start(self, topic: str, *after: str, managed: bool = False) -> None:
        """Fill the form in, as a reader does."""
        self.topic.fill(topic)
        if managed:
            self.page.get_by_label("A manager delegates").check()
        for task in after:
            self.page.get_by_label(task, exact=True).check()
        self.press("Start")
        self.page.locator(".steps").wait_for()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def asked(self) -> None:
        """The crew asks a person."""
        self.page.get_by_role("button", name="Go on").wait_for()

    def state(self) -> str:
        return str(self.page.locator("[role=status].state").inner_text())

    def steps(self) -> list[str]:
        return [str(text) for text in self.page.locator(".steps h3 small").all_inner_texts()]

    def actions(self) -> int:
        return int(self.page.locator(".steps li li:not(.pending)").count())

    def result(self) -> str:
        return str(self.page.locator(".sheet .paper").last.inner_text())

    def clean(self) -> None:
        """Nothing was cut, streamed, fetched elsewhere or complained about."""
        assert (self.edge.cuts, self.streams, self.elsewhere) == (0, [], [])
        assert (self.owned, self.said) == ([], [])


@pytest.fixture(scope="module")
def working() -> Iterator[tuple[App, Gateway]]:
    gateway = Gateway(reply=playing, cost=0.002)
    with running(gateway.app) as url, crew(LITELLM_ENDPOINT=url, **NAMED) as app:
        yield app, gateway


@pytest.fixture
def with_model(working: tuple[App, Gateway]) -> Iterator[tuple[App, Gateway]]:
    """An app of several tests, and its model, which answers at once in each of them."""
    app, gateway = working
    with told_to(gateway, first_token_s=0):
        yield app, gateway


@pytest.fixture(scope="module")
def rehearsing() -> Iterator[App]:
    """An app of several tests, without a model; it knows a document."""
    with crew() as app:
        wait_for_page(app)
        files = [("files", ("heat-pumps.md", DOCUMENT.encode()))]
        app.http.post("/api/documents", files=files).raise_for_status()
        yield app


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens the page of an app, behind the edge."""
    with ExitStack() as stack:

        def opened(app: Any, key: str = "", **context: Any) -> Page:
            wait_for_page(app)
            edge = Edge(app.url)
            url = stack.enter_context(running(edge.app))
            if key:
                context["extra_http_headers"] = {"Authorization": f"Bearer {key}"}
            desk = Page(new_page(browser, **context), edge)
            desk.page.on("request", lambda request: _note(desk, url, request.url))
            desk.page.on("dialog", lambda dialog: desk.owned.append(dialog.message))
            desk.page.on("console", lambda line: _complain(desk, line.type, line.text))
            desk.page.on("pageerror", lambda error: desk.said.append(str(error)))
            desk.page.goto(url)
            desk.topic.wait_for()
            desk.page.wait_for_load_state("networkidle")  # the run that the browser kept is shown
            return desk

        yield opened


def _note(desk: Page, home: str, url: str) -> None:
    if not url.startswith((home, "data:", "blob:")):
        desk.elsewhere.append(url)
    if any(stream in url for stream in ("queue", "heartbeat")):
        desk.streams.append(url)


def _complain(desk: Page, kind: str, text: str) -> None:
    if kind == "error":
        desk.said.append(text)


def test_a_25_second_run_grows_step_by_step_and_survives_a_reload(
    visit: Any, with_model: tuple[App, Gateway]
) -> None:
    app, gateway = with_model
    gateway.first_token_s = 5
    desk = visit(app)
    desk.see("double")
    begin = time.monotonic()
    desk.start("topic-1")
    desk.see("Works on task 1 of 4, Research.")
    assert desk.steps() == ["working", "to come", "to come", "to come"]
    desk.see("searches the documents for")
    early = desk.actions()
    desk.see("Works on task 3 of 4, Draft.")
    assert desk.steps() == ["done", "done", "working", "to come"]
    assert desk.actions() > early
    desk.page.reload()
    desk.page.locator(".steps").wait_for()
    desk.see("topic-1")
    desk.see("Done in")
    assert time.monotonic() - begin > 20
    assert desk.steps() == ["done"] * 4
    assert desk.result() == "Editor on topic-1."
    assert "$0.0100" in desk.page.locator(".spent").inner_text()
    desk.page.get_by_role("button", name="Draft, by Writer").click()
    desk.page.locator(".paper").get_by_text("Writer on topic-1.").wait_for()
    desk.clean()


def test_without_a_model_it_is_a_rehearsal_and_says_so(visit: Any, rehearsing: App) -> None:
    desk = visit(rehearsing)
    desk.see("No model is connected: runs are rehearsals with scripted words")
    desk.start(TOPIC, managed=True)
    desk.see("Done in")
    desk.see("this was a rehearsal with scripted words; tools and documents are real.")
    assert "A heat pump costs 9,000 pounds." in desk.result()
    folded = desk.page.locator(".steps details").first
    folded.locator("summary").click()
    desk.see("asks Researcher to")
    desk.see("searches the documents for What do the heat pumps cost?")
    desk.clean()
    assert rehearsing.refused == []


def test_stop_ends_the_work_at_the_model(visit: Any, with_model: tuple[App, Gateway]) -> None:
    app, gateway = with_model
    gateway.first_token_s, before = 30, gateway.aborted
    desk = visit(app)
    desk.start("topic-2")
    desk.see("thinks")
    wait_until(lambda: gateway.active == 1)
    desk.press("Stop")
    desk.see("This was cancelled.")
    wait_until(lambda: gateway.aborted == before + 1, 5)
    assert desk.steps() == ["stopped", "not done", "not done", "not done"]
    desk.see("Stopped · just now")
    desk.clean()


def test_a_person_has_it_done_again_and_then_lets_it_go_on(
    visit: Any, with_model: tuple[App, Gateway]
) -> None:
    app, gateway = with_model
    desk = visit(app)
    desk.start("topic-3", "Draft")
    desk.asked()
    assert desk.state() == "Waits for you: read the draft, then say how to go on."
    assert desk.steps() == ["done", "done", "waits for you", "to come"]
    assert "Writer on topic-3." in desk.page.locator(".sheet").first.inner_text()
    desk.press("Do it again")
    desk.see("Say in a comment what should be done otherwise.")
    gateway.first_token_s = 5
    desk.page.get_by_label("Comment").fill("Put the price first.")
    desk.press("Do it again")
    desk.see("Works on task 3 of 4, Draft.")
    assert desk.page.get_by_label("Comment").count() == 0
    desk.see("Somebody wants it done again Put the price first.")
    desk.asked()
    assert desk.page.get_by_label("Comment").input_value() == ""
    desk.page.get_by_label("Comment").fill("Now it is short.")
    desk.page.wait_for_timeout(4000)  # news that comes meanwhile leaves the box alone
    assert desk.page.get_by_label("Comment").input_value() == "Now it is short."
    desk.press("Go on")
    desk.see("Done in")
    asked = [str(request.body) for request in gateway.requests]
    assert any("Put the price first." in body for body in asked)
    assert any("Now it is short." in body for body in asked)
    desk.clean()


def test_an_approval_outlives_the_app(tmp_path: Path, visit: Any) -> None:
    port = free_port()
    with launched(tmp_path, template=CREW, port=port) as app:
        wait_until(lambda: _listens(app))
        desk = visit(app)
        desk.start(TOPIC, "Research")
        desk.asked()
        assert app.stop() < 20
    with launched(tmp_path, template=CREW, port=port) as app:
        wait_until(lambda: _listens(app))
        wait_for_page(app)
        desk.page.reload()
        desk.asked()
        desk.press("Go on")
        desk.see("Done in")
        assert desk.steps() == ["done"] * 4


def _listens(app: Any) -> bool:
    try:
        return bool(app.http.get("/health"))
    except httpx.TransportError:
        return False


def test_earlier_runs_are_listed_and_opened_again(visit: Any) -> None:
    with crew() as app:
        wait_for_page(app)
        first, second = start(app, "The first topic"), start(app, "The second topic")
        for run_id in (first, second):
            finished(app, run_id)
        desk = visit(app)
        runs = desk.page.get_by_role("radio", name="topic")
        runs.nth(1).wait_for()  # the list comes after the form
        assert runs.count() == 2
        listed = desk.page.locator(".listed label").all_inner_texts()
        assert [text.split("\n")[0] for text in listed] == ["The second topic", "The first topic"]
        assert all("Done · just now" in text for text in listed)
        desk.page.get_by_label("The first topic").check()
        desk.page.get_by_role("heading", name="The first topic").first.wait_for()
        desk.see("Done in")
        desk.page.reload()
        desk.page.get_by_role("heading", name="The first topic").first.wait_for()
        desk.press("New run")
        desk.topic.wait_for()
        assert desk.topic.input_value() == ""
        desk.clean()


def test_nobody_sees_the_runs_of_others(visit: Any) -> None:
    others = f"other:{hashlib.sha256(OTHERS_KEY.encode()).hexdigest()}"
    closed = {"AUTH": "on", "API_KEYS": f"{API_KEYS},{others}"}
    with crew(key=APP_KEY, **closed) as app:
        wait_for_page(app)
        run_id = start(app, "My own topic", approve=["research"])
        until(app, run_id, "waiting")
        mine, theirs = visit(app, APP_KEY), visit(app, OTHERS_KEY)
        mine.page.get_by_label("My own topic").check()
        mine.asked()
        assert theirs.page.get_by_text("My own topic").count() == 0
        assert theirs.page.locator(".listed").count() == 0
        mine.page.context.set_extra_http_headers({"Authorization": f"Bearer {OTHERS_KEY}"})
        mine.page.reload()  # the same browser, another user
        mine.topic.wait_for()
        mine.page.wait_for_load_state("networkidle")
        assert mine.page.get_by_text("My own topic").count() == 0


def test_a_run_that_fails_says_why(visit: Any, rehearsing: App) -> None:
    desk = visit(rehearsing)
    desk.topic.fill(TOPIC)
    desk.page.get_by_text("The most it may use").click()
    desk.page.get_by_label("Model calls").fill("many")
    desk.press("Start")
    desk.see("Model calls: write a number above 0")
    assert desk.topic.input_value() == TOPIC
    desk.page.get_by_label("Model calls").fill("1")
    desk.press("Start")
    desk.see("This failed. The run has reached its budget of 1 calls of a model")
    assert desk.steps()[0] == "failed"
    desk.press("New run")
    desk.topic.wait_for()
    desk.press("Start")
    desk.see("A topic has 1 to")
    desk.clean()


def test_what_a_reader_unfolds_stays_so(visit: Any, with_model: tuple[App, Gateway]) -> None:
    app, gateway = with_model
    gateway.first_token_s = 5  # time to unfold before the next task
    desk = visit(app)
    desk.start("topic-4")
    desk.see("Works on task 2 of 4, Analysis.")
    folded = desk.page.locator(".steps details").first
    folded.locator("summary").focus()
    desk.page.keyboard.press("Enter")
    desk.see("Done in")
    assert folded.get_attribute("open") is not None
    assert desk.page.locator(".steps details[open]").count() == 1
    desk.clean()


def test_nothing_that_anybody_says_becomes_active(visit: Any) -> None:
    gateway = Gateway(reply=f"{HOSTILE}\nSo it says.")
    name = "<img src=http:__evil.test_10 onerror=alert(7)>.md"
    with running(gateway.app) as url, crew(LITELLM_ENDPOINT=url, **KEY) as app:
        wait_for_page(app)
        app.http.post("/api/documents", files=[("files", (name, f"# {HOSTILE}".encode()))])
        gateway.script = [
            [{"name": "search_documents", "arguments": {"query": HOSTILE}}],
            [{"name": "read_document", "arguments": {"name": HOSTILE}}],
        ]
        desk = visit(app)
        desk.start(f"The rent? {HOSTILE}", "Research")
        desk.asked()
        desk.page.locator(".steps summary").first.click()
        desk.see("<script>alert(1)</script>")
        desk.page.get_by_label("Comment").fill(HOSTILE)
        desk.press("Go on")
        desk.see("Done in")
        assert "So it says." in desk.result()
        for folded in desk.page.locator(".steps summary").all():
            folded.click()
        desk.page.get_by_role("button", name="Research, by").click()
        desk.page.wait_for_timeout(1000)
        assert desk.page.locator("img, iframe, .gradio-container script").count() == 0
        assert (desk.owned, desk.elsewhere) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(visit: Any, scheme: str, rehearsing: App) -> None:
    desk = visit(rehearsing, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert desk.page.locator("body.dark").count() == (scheme == "dark")
    assert _width(desk) <= 390
    desk.start(f"What do the {'long' * 50} cost?", "Research")
    assert _width(desk) <= 390
    desk.asked()
    assert _width(desk) <= 390
    desk.press("Go on")
    desk.see("Done in")
    for folded in desk.page.locator("summary").all():
        folded.click()
    assert _width(desk) <= 390
    desk.clean()


def _width(desk: Page) -> int:
    return int(desk.page.evaluate("document.documentElement.scrollWidth"))
