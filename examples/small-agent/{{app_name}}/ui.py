"""Door: the page.

The platform's edge cuts every response after 15 seconds and may hold streams back. So nothing here
streams or waits: every event is a plain POST (`queue=False`), an answer is a run in this
process (`agent/runs.py`), and a timer in the browser asks for news of it. What must survive a
lost connection or a reload is kept in the browser; a `gr.State` would open a stream.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from agent import cards
from agent.access import User
from agent.chain import Question, begin
from agent.errors import Refused
from agent.runs import Event
from agent.services import Services
from agent.theme import CSS, theme

HERE = Path(__file__).resolve().parent
TICK_S = 0.4
"""How often the browser asks for news while something goes on."""
REMEMBERED = 50
"""Messages of the conversation that the browser keeps."""
SESSIONS = 200
"""Open pages whose last shown values Gradio keeps in memory; further ones work all the same."""
KEPT = "in this browser"
"""Gradio scrambles what the browser keeps with this; a random key would not outlive the process."""
SIGN_ON_AGAIN = """<script>
  const ask = window.fetch;  // once the sign-on has ended, a page that is open leads to it again
  window.fetch = async (...given) => {
    const answer = await ask(...given);
    if (answer.status === 401) location.reload();
    return answer;
  };
</script>"""
LOST = Event("error", {"detail": "This answer was lost: the app was started anew. Ask again."})
NEW_TALK: dict[str, Any] = {"messages": [], "run": None, "seen": 0, "open": False}


def build_ui(services: Services) -> FastAPI:
    """The page as an app of its own, to be mounted at `/`; its lifespan must be entered."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(services.settings.data_dir / "page")
    with gr.Blocks(
        title=services.settings.title, analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        _head(services, page)
        _Chat(services, page)
    page.state_session_capacity = SESSIONS
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        theme=theme(),
        css_paths=CSS,
        favicon_path=str(HERE / "agent" / "icon.png"),
        footer_links=[],
        head=SIGN_ON_AGAIN if services.access else None,
        run_history=False,
        max_file_size=services.settings.max_upload_mb * 2**20,
        show_error=False,
    )
    return app


def _on(listen: Callable[..., Any], do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Every event of this page: one short POST, no queue, no entry in Gradio's own API."""
    plain = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    return listen(do, *args, **plain, **kwargs)


def _head(services: Services, page: gr.Blocks) -> None:
    head = gr.HTML(cards.head(services.settings))

    async def look(request: gr.Request) -> str:
        return cards.head(services.settings, who(request).name)

    _on(page.load, look, None, head)


class _Chat:
    """Texts and their summaries."""

    def __init__(self, services: Services, page: gr.Blocks) -> None:
        self._services = services
        self.talk = gr.BrowserState(NEW_TALK, storage_key="talk", secret=KEPT)
        self.timer = gr.Timer(TICK_S, active=False)
        self.view = gr.Chatbot(
            label="Conversation",
            show_label=False,
            height="calc(100dvh - 400px)",
            min_height=300,
            elem_classes="talk",
            buttons=["copy"],
            latex_delimiters=[],
            allow_tags=False,
        )
        self.box = gr.Textbox(
            label="Your text",
            placeholder="Paste a text",
            submit_btn="Ask",
            max_lines=12,
            max_length=services.settings.max_question_chars,
            autofocus=True,
            elem_classes="ask",
        )
        self.clear = gr.Button("New conversation", size="sm", elem_classes="small")
        shown = [self.talk, self.view, self.timer, self.box, self.clear]
        _on(page.load, self._show, self.talk, shown)
        _on(self.timer.tick, self._follow, self.talk, shown)
        _on(self.box.submit, self._ask, [self.talk, self.box], shown)
        _on(self.box.stop, self._stop, self.talk, None)
        _on(self.clear.click, self._start_anew, None, shown)

    async def _ask(self, talk: dict[str, Any], text: str, request: gr.Request) -> Any:
        user, text = who(request), text.strip()[: self._services.settings.max_question_chars]
        talk = _own(talk, user)
        if talk["open"] or not text:
            return gr.skip()
        asked = Question(text, talk["messages"], user, "page")
        try:
            run = begin(self._services, asked)
        except Refused as error:  # its text stays in the box
            shown = await self._show(talk, request)
            said = {"role": "assistant", "content": cards.inert(f"*{error}*")}
            return shown | {self.view: [*shown[self.view], said]}
        messages = [*talk["messages"], {"role": "user", "content": text}]
        now = {"messages": messages, "run": run.id, "seen": 0, "open": True}
        shown = await self._show(talk | now, request)
        return shown | {self.box: shown[self.box] | {"value": ""}}

    async def _stop(self, talk: dict[str, Any], request: gr.Request) -> None:
        if run := self._services.runs.get(talk["run"], who(request).id):
            await self._services.runs.cancel(run)

    async def _start_anew(self, request: gr.Request) -> Any:
        return await self._show(NEW_TALK, request)

    async def _follow(self, talk: dict[str, Any], request: gr.Request) -> Any:
        """What is new since the last tick."""
        if len(self._events(talk, who(request))) == talk["seen"]:
            return gr.skip()
        return await self._show(talk, request)

    async def _show(self, talk: dict[str, Any], request: gr.Request) -> dict[Any, Any]:
        """The conversation with all that its run has said; also after a reload of the page."""
        talk = _own(talk, who(request))
        events = self._events(talk, who(request))
        messages, going_on = talk["messages"], talk["open"]
        if going_on:
            going_on = not events or not events[-1].last
            said = {"role": "assistant", "content": cards.said(events)}
            messages = [*messages, said]
        talk = talk | {"seen": len(events), "open": going_on}
        if not going_on:
            talk["messages"] = messages[-REMEMBERED:]
        buttons: dict[str, Any] = {
            "submit_btn": not going_on and "Ask",
            "stop_btn": going_on and "Stop",
        }
        return {
            self.talk: talk,
            self.view: [
                {"role": m["role"], "content": cards.inert(m["content"])} for m in messages
            ],
            self.timer: gr.Timer(active=going_on),
            self.box: gr.update(**buttons),
            self.clear: gr.Button(interactive=not going_on),
        }

    def _events(self, talk: dict[str, Any], user: User) -> list[Event]:
        run = self._services.runs.get(talk["run"], user.id)
        return run.fresh() if run else [LOST] if talk["open"] else []


def who(request: gr.Request) -> User:
    """Who uses the page, as the gate found out."""
    assert request.request, "only HTTP leads here"
    user: User = request.request.state.user
    return user


def _own(talk: dict[str, Any], user: User) -> dict[str, Any]:
    """The talk that the browser kept, unless somebody else had it."""
    return talk if talk.get("user", "") == user.id else NEW_TALK | {"user": user.id}
