"""The page of a model server in Debian's Chromium, behind an edge that buffers and cuts at 15 s."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.doubles.edge import Edge
from tests.doubles.keycloak import Keycloak
from tests.doubles.serve import running
from tests.live import VLLM, launched, wait_for_page, wait_until
from tests.serving import Served, adapter_folder, loading, served
from tests.test_page import HOSTILE, MISSED, Desk, new_page
from tests.test_page import browser as browser  # the fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.long, MISSED]


class Page(Desk):
    def say(self, text: str) -> None:
        self.page.get_by_label("Your message").fill(text)
        self.page.keyboard.press("Enter")

    def says(self, text: str) -> None:
        """The model does, and not the reader."""
        self.page.locator("[data-testid=bot]").get_by_text(text).first.wait_for()

    def card(self) -> str:
        return str(self.page.locator(".card").inner_text())


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens the page of an app, behind the edge."""
    with ExitStack() as stack:

        def opened(app: Any, **context: Any) -> Page:
            wait_for_page(app)
            edge = Edge(app.url)
            url = stack.enter_context(running(edge.app))
            desk = Page(new_page(browser, **context), edge)
            desk.page.on("request", lambda request: _note(desk, url, request.url))
            desk.page.on("dialog", lambda dialog: desk.owned.append(dialog.message))
            desk.page.goto(url)
            desk.page.get_by_label("Your message").wait_for()
            desk.page.wait_for_load_state("networkidle")  # the talk that the browser kept is shown
            return desk

        yield opened


def _note(desk: Page, home: str, url: str) -> None:
    if not url.startswith((home, "data:", "blob:")):
        desk.elsewhere.append(url)
    if any(stream in url for stream in ("queue", "heartbeat")):
        desk.streams.append(url)


def test_it_shows_how_far_the_model_is_and_then_answers(tmp_path: Path, visit: Any) -> None:
    with loading(tmp_path, {"step_s": 5}) as here:
        desk = visit(here.app)
        desk.see("Loading the weights")
        desk.see("Compiling for this card")
        desk.page.locator("progress").wait_for(state="detached")
        desk.see("8,192 tokens")
        assert "model" in desk.card()
        desk.say("one two three")
        desk.says("tokens a second")
        assert desk.answer().startswith("one two three")
        assert (desk.edge.cuts, desk.streams, desk.elsewhere) == (0, [], [])


def test_a_40_second_answer_grows_behind_the_edge_and_survives_a_reload(
    tmp_path: Path, visit: Any
) -> None:
    text = " ".join(f"w{n}" for n in range(80))
    with served(tmp_path, {"tokens_per_second": 2}) as here:
        desk = visit(here.app)
        begin = time.monotonic()
        desk.say(text)
        desk.says("w5")
        early = desk.answer()
        desk.says("w12")
        assert len(early) < len(desk.answer()) < len(text)
        desk.page.reload()
        desk.says("w70 w71 w72")
        desk.says("tokens a second")
        assert 35 < time.monotonic() - begin < 60
        assert (desk.edge.cuts, desk.streams, desk.elsewhere) == (0, [], [])


def test_stop_ends_the_work_in_the_engine(tmp_path: Path, visit: Any) -> None:
    with served(tmp_path, {"tokens_per_second": 5}) as here:
        desk = visit(here.app)
        desk.say("word " * 300)
        desk.says("word word")
        desk.page.get_by_role("button", name="Stop").click()
        desk.says("This was cancelled.")
        wait_until(lambda: here.double()["aborted"] == 1, 5)


def test_what_is_chosen_at_the_right_is_what_the_model_is_asked_with(
    tmp_path: Path, visit: Any
) -> None:
    folder = adapter_folder(tmp_path / "legal")
    with served(tmp_path, ADAPTERS=f"legal={folder}") as here:
        desk = visit(here.app)
        desk.see("loaded, rank 8")
        desk.page.get_by_label("Who answers").click()
        desk.page.get_by_role("option", name="legal").click()
        desk.page.get_by_label("System prompt").fill("Be brief.")
        desk.page.get_by_label("number input for Temperature").fill("0.2")
        desk.page.get_by_label("number input for Longest answer").fill("64")
        desk.say("What is a lease?")
        desk.says("[legal] What is a lease?")
        body = _asked(here)[-1]
        assert body["model"] == "legal"
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert (body["temperature"], body["max_tokens"]) == (0.2, 64)

        desk.say("And a licence?")
        desk.says("[legal] And a licence?")
        said = [m["content"] for m in _asked(here)[-1]["messages"]]
        assert said[1:] == ["What is a lease?", "[legal] What is a lease?", "And a licence?"]


def _asked(here: Served) -> list[dict[str, Any]]:
    found = httpx.get(f"http://127.0.0.1:{here.state['port']}/_double?requests=1").json()
    return [one["body"] for one in found if one["path"] == "/v1/chat/completions"]


def test_a_failed_model_says_why_and_a_killed_engine_too(tmp_path: Path, visit: Any) -> None:
    with served(tmp_path, {"tokens_per_second": 5}) as here:
        desk = visit(here.app)
        desk.say("word " * 300)
        desk.says("word word")
        os.kill(here.state["pid"], signal.SIGKILL)
        desk.says("The answer broke off.")
    (tmp_path / "again").mkdir()
    with loading(tmp_path / "again", {"fail": "oom"}, ENGINE_STARTS=1) as here:
        desk = visit(here.app)
        desk.see("The card ran out of memory while the model was loaded")
        desk.say("Are you there?")
        desk.says("The model cannot be served.")


def test_nothing_that_a_model_or_a_reader_says_becomes_active(tmp_path: Path, visit: Any) -> None:
    with served(tmp_path, {"reply": f"{HOSTILE}\nSo it says."}) as here:
        desk = visit(here.app)
        desk.say(f"The rent? {HOSTILE}")
        desk.says("So it says.")
        desk.page.wait_for_timeout(1000)
        assert desk.page.locator("img, iframe, .gradio-container script").count() == 0
        assert (desk.owned, desk.elsewhere) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(tmp_path: Path, visit: Any, scheme: str) -> None:
    name = "long" * 30
    folder = tmp_path / name
    folder.mkdir()
    with served(folder) as here:
        desk = visit(here.app, viewport={"width": 390, "height": 844}, color_scheme=scheme)
        assert desk.page.locator("body.dark").count() == (scheme == "dark")
        desk.say(f"a b c {name}")
        desk.says("tokens a second")
        assert desk.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_a_gpu_a_tiny_model_answers_and_the_page_says_so(visit: Any) -> None:
    with launched(template=VLLM) as app:
        wait_until(lambda: _listens(app))
        desk = visit(app)
        desk.see("There is no GPU here, so a tiny model stands in")
        desk.see("With a GPU this app serves Qwen/Qwen2.5-7B-Instruct")
        desk.say("Say hello.")
        desk.says("tokens")
        assert app.refused == []


def _listens(app: Any) -> bool:
    try:
        return bool(app.http.get("/health"))
    except httpx.TransportError:
        return False


def test_a_browser_signs_on_first(tmp_path: Path) -> None:
    keycloak = Keycloak()
    with running(keycloak.app) as realm:
        keycloak.url = realm
        token = keycloak.token("ann", "live")
        with served(tmp_path, KEYCLOAK_URL=realm, key=token) as here:
            wait_for_page(here.app)
            browser = httpx.Client(base_url=here.app.url, follow_redirects=True, timeout=30)
            page = browser.get("/", headers={"Accept": "text/html"})
            assert page.status_code == 200
            assert "gradio" in page.text
            assert "/auth/callback" in str([r.url for r in page.history])
