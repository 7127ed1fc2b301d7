"""Door: the page.

The platform's edge cuts every response after 15 seconds and may hold streams back. So nothing here
streams or waits: every event is a plain POST (`queue=False`), an answer or an upload is a run in
this process (`agent/runs.py`), and a timer in the browser asks for news of it. What must survive a
lost connection or a reload is kept in the browser; a `gr.State` would open a stream.
"""

import asyncio
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from agent import cards
from agent.chain import Question, answer
from agent.health import Check, probe
from agent.ingest import Source, files_under, start_delete, start_ingest
from agent.runs import Event, Run
from agent.services import Services
from agent.store import Entry
from agent.theme import CSS, theme

HERE = Path(__file__).resolve().parent
SAMPLE = HERE / "sample"
TICK_S = 0.4
"""How often the browser asks for news while something goes on."""
REMEMBERED = 50
"""Messages of the conversation that the browser keeps."""
SESSIONS = 200
"""Open pages whose last shown values Gradio keeps in memory; further ones work all the same."""
EXAMPLES = 3
"""Questions to begin with, where the sample documents are loaded."""
KEPT = "in this browser"
"""Gradio scrambles what the browser keeps with this; a random key would not outlive the process."""
NO_DOCUMENTS = "Add documents first, in the tab Documents."
LOST = Event("error", {"detail": "This answer was lost: the app was started anew. Ask again."})
NEW_TALK: dict[str, Any] = {"messages": [], "run": None, "seen": 0, "open": False}


def build_ui(services: Services) -> FastAPI:
    """The page as an app of its own, to be mounted at `/`; its lifespan must be entered."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with gr.Blocks(
        title=services.settings.title, analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        _head(services, page)
        with gr.Tabs():
            with gr.Tab("Ask"):
                chat = _Chat(services, page)
            with gr.Tab("Documents") as tab:
                documents = _Documents(services)
        documents.connect(page, tab, chat.view)
    page.state_session_capacity = SESSIONS
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        theme=theme(),
        css_paths=CSS,
        favicon_path=str(HERE / "agent" / "icon.png"),
        footer_links=[],
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

    async def look() -> str:
        checks: dict[str, Check | None] = {
            "model": services.model.check if services.model else None,
            "embedding": services.embedding.check if services.embedding else None,
            "documents": services.store.database.check,
        }
        return cards.head(services.settings, cards.mode(services, await probe(checks)))

    _on(page.load, look, None, head)


class _Chat:
    """Questions and answers at the left, their sources at the right."""

    def __init__(self, services: Services, page: gr.Blocks) -> None:
        self._services = services
        self.talk = gr.BrowserState(NEW_TALK, storage_key="talk", secret=KEPT)
        self.timer = gr.Timer(TICK_S, active=False)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self.view = gr.Chatbot(
                    label="Conversation",
                    show_label=False,
                    height="calc(100dvh - 400px)",
                    min_height=300,
                    elem_classes="talk",
                    buttons=["copy"],
                    latex_delimiters=[],
                    allow_tags=False,
                    feedback_options=None,
                )
                self.box = gr.Textbox(
                    label="Your question",
                    placeholder="Ask about your documents",
                    submit_btn="Ask",
                    max_lines=6,
                    max_length=services.settings.max_question_chars,
                    autofocus=True,
                    elem_classes="ask",
                )
                self.clear = gr.Button("New conversation", size="sm", elem_classes="small")
            with gr.Column(scale=2, min_width=320):
                self.sources = gr.HTML(cards.sources([]), elem_classes="side")
        shown = [self.talk, self.view, self.sources, self.timer, self.box, self.clear]
        _on(page.load, self._show, self.talk, shown)
        _on(self.timer.tick, self._follow, self.talk, shown)
        _on(self.box.submit, self._ask, [self.talk, self.box], shown)
        _on(self.view.example_select, self._ask_example, self.talk, shown)
        _on(self.box.stop, self._stop, self.talk, None)
        _on(self.clear.click, self._start_anew, None, shown)

    async def _ask(self, talk: dict[str, Any], text: str) -> Any:
        text = text.strip()[: self._services.settings.max_question_chars]
        if talk["open"] or not text:
            return gr.skip()
        session = talk.get("session") or uuid.uuid4().hex
        question = Question(text, talk["messages"], session_id=session)
        limit = self._services.settings.answer_timeout_s
        run = self._services.runs.start(lambda run: answer(self._services, question, run.id), limit)
        messages = [*talk["messages"], {"role": "user", "content": text}]
        talk = {"messages": messages, "run": run.id, "seen": 0, "open": True, "session": session}
        shown = await self._show(talk)
        return shown | {self.box: shown[self.box] | {"value": ""}}

    async def _ask_example(self, talk: dict[str, Any], chosen: gr.SelectData) -> Any:
        return await self._ask(talk, chosen.value["text"])

    async def _stop(self, talk: dict[str, Any]) -> None:
        if run := self._services.runs.get(talk["run"]):
            await self._services.runs.cancel(run)

    async def _start_anew(self) -> Any:
        return await self._show(NEW_TALK)

    async def _follow(self, talk: dict[str, Any]) -> Any:
        """What is new since the last tick; sources only when they changed: they may be unfolded."""
        seen, events = talk["seen"], self._events(talk)
        if len(events) == seen:
            return gr.skip()
        everything = await self._show(talk)
        if not everything[self.talk]["open"]:
            return everything
        kept = [self.talk, self.view]
        if any(event.type in ("passages", "citations") for event in events[seen:]):
            kept.append(self.sources)
        return {component: everything[component] for component in kept}

    async def _show(self, talk: dict[str, Any]) -> dict[Any, Any]:
        """The conversation with all that its run has said; also after a reload of the page."""
        events = self._events(talk)
        messages, going_on = talk["messages"], talk["open"]
        if going_on:
            going_on = not events or not events[-1].last
            messages = [*messages, {"role": "assistant", "content": cards.said(events)}]
        talk = talk | {"seen": len(events), "open": going_on}
        if not going_on:
            talk["messages"] = messages[-REMEMBERED:]
        buttons: dict[str, Any] = {
            "submit_btn": not going_on and "Ask",
            "stop_btn": going_on and "Stop",
        }
        return {
            self.talk: talk,
            self.view: [m | {"content": cards.inert(m["content"])} for m in messages],
            self.sources: cards.sources(events),
            self.timer: gr.Timer(active=going_on),
            self.box: gr.update(**buttons),
            self.clear: gr.Button(interactive=not going_on),
        }

    def _events(self, talk: dict[str, Any]) -> list[Event]:
        run = self._services.runs.get(talk["run"])
        return run.fresh() if run else [LOST] if talk["open"] else []


class _Documents:
    """Documents come in, are listed, and go."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.job = gr.BrowserState("", storage_key="job", secret=KEPT)
        self.timer = gr.Timer(TICK_S, active=False)
        self.upload = gr.File(label="Add documents", file_count="multiple", height=150)
        gr.HTML(cards.accepted(services.settings), elem_classes="outcomes")
        self.sample = gr.Button(
            "Load the sample documents", visible=False, elem_classes="small", variant="primary"
        )
        self.outcomes = gr.HTML("", elem_classes="outcomes")
        self.list = gr.CheckboxGroup([], label="Documents", elem_classes="listed")
        with gr.Row():
            small: dict[str, Any] = {"visible": False, "size": "sm", "elem_classes": "small"}
            self.delete = gr.Button(**small)
            self.really = gr.Button("Yes, delete them for good", variant="stop", **small)
            self.keep = gr.Button("No, keep them", **small)

    def connect(self, page: gr.Blocks, tab: gr.Tab, chat: gr.Chatbot) -> None:
        self._chat = chat
        buttons = [self.delete, self.really, self.keep]
        watched = [self.job, self.upload, self.outcomes, self.list, self.sample, chat, self.timer]
        watched += buttons
        _on(page.load, self._follow, self.job, watched)
        _on(tab.select, self._follow, self.job, watched)
        _on(self.timer.tick, self._follow, self.job, watched)
        _on(self.upload.upload, self._add, self.upload, watched)
        _on(self.sample.click, self._add_sample, None, watched)
        raw = {"preprocess": False}  # else Gradio checks against the choices of its own memory
        _on(self.list.input, self._choose, self.list, buttons, **raw)
        _on(self.delete.click, self._ask_again, None, buttons)
        _on(self.really.click, self._delete, self.list, watched, **raw)
        _on(self.keep.click, self._choose, self.list, buttons, **raw)

    async def _add(self, paths: Sequence[str]) -> Any:
        """Gradio checked that the paths are its own; it deletes them later, so this copies them."""
        folder = Path(tempfile.mkdtemp(prefix="upload-"))
        sources = [Source(Path(path).name, folder / str(n)) for n, path in enumerate(paths)]
        for path, source in zip(paths, sources, strict=True):
            await asyncio.to_thread(shutil.copyfile, path, source.path)
        return await self._begin(start_ingest(self._services, sources, folder))

    async def _add_sample(self) -> Any:
        return await self._begin(start_ingest(self._services, files_under(SAMPLE)))

    async def _choose(self, chosen: list[str]) -> Any:
        count = f"{len(chosen)} document{'' if len(chosen) == 1 else 's'}"
        hidden = gr.Button(visible=False)
        return gr.Button(f"Delete {count}", visible=bool(chosen)), hidden, hidden

    async def _ask_again(self) -> Any:
        return gr.Button(visible=False), gr.Button(visible=True), gr.Button(visible=True)

    async def _delete(self, chosen: list[str]) -> Any:
        return await self._begin(start_delete(self._services, chosen))

    async def _begin(self, run: Run) -> Any:
        buttons = (self.sample, self.delete, self.really, self.keep)
        hidden = {button: gr.Button(visible=False) for button in buttons}
        return hidden | await self._follow(run.id) | {self.job: run.id, self.upload: None}

    async def _follow(self, job: str) -> Any:
        run = self._services.runs.get(job)
        events = run.fresh() if run else []
        shown: dict[Any, Any] = {self.timer: gr.Timer(active=True)}
        if events:
            shown[self.outcomes] = cards.outcomes(events)
        return shown if events and not events[-1].last else shown | await self._listing()

    async def _listing(self) -> dict[Any, Any]:
        """The list and what depends on it; asked again by the timer while the store is opening."""
        asked = asyncio.ensure_future(self._services.store.documents())
        await asyncio.wait([asked], timeout=1)
        if not asked.done():
            return {self.list: gr.CheckboxGroup(label="The documents are being opened")}
        if error := asked.exception():
            return {
                self.list: gr.CheckboxGroup(label=str(error)),
                self.timer: gr.Timer(active=False),
            }
        entries = asked.result()
        choices = [(cards.listed(entry), entry.id) for entry in entries]
        todo = "Ask a question about your documents." if entries else NO_DOCUMENTS
        hidden = gr.Button(visible=False)
        return {
            self.list: gr.CheckboxGroup(choices, value=[], label=f"Documents ({len(entries)})"),
            self.sample: gr.Button(visible=not entries and SAMPLE.is_dir()),
            self._chat: gr.Chatbot(placeholder=todo, examples=_examples(entries)),
            self.timer: gr.Timer(active=False),
            self.delete: hidden,
            self.really: hidden,
            self.keep: hidden,
        }


def _examples(entries: Sequence[Entry]) -> list[Any]:
    """One question a sample document, of those that are loaded."""
    golden = HERE / "golden.jsonl"
    rows = map(json.loads, golden.read_text("utf-8").splitlines()) if golden.exists() else ()
    known = {entry.document for entry in entries}
    questions: dict[str, str] = {}
    for row in rows:
        if row["document"] in known:
            questions.setdefault(row["document"], row["question"])
    return [{"text": question} for question in list(questions.values())[:EXAMPLES]]
