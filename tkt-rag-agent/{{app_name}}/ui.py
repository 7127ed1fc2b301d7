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
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from agent import cards
from agent.access import User
from agent.chain import Question, begin
from agent.errors import Refused, Unavailable
from agent.feedback import score
from agent.health import probe
from agent.ingest import Source, allow, files_under, new_folder, start_delete, start_ingest
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
SIGN_ON_AGAIN = """<script>
  const ask = window.fetch;  // once the sign-on has ended, a page that is open leads to it again
  window.fetch = async (...given) => {
    const answer = await ask(...given);
    if (answer.status === 401) location.reload();
    return answer;
  };
</script>"""
NO_DOCUMENTS = "Add documents first, in the tab Documents."
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
        user = who(request)
        here = services.of(user)
        needed = ("qdrant", "model", "embedding")
        found = await probe({name: here.checks()[name] for name in needed})
        return cards.head(services.settings, cards.mode(here, found), user.name)

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
                    feedback_options=("Like", "Dislike") if services.tracing.on else None,
                )
                self.note = gr.HTML(visible=False, elem_classes="outcomes")
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
        if services.tracing.on:  # else there is nowhere to keep it
            _on(self.view.like, self._rate, self.talk, self.note)
        _on(page.load, self._show, self.talk, shown)
        _on(self.timer.tick, self._follow, self.talk, shown)
        _on(self.box.submit, self._ask, [self.talk, self.box], shown)
        _on(self.view.example_select, self._ask_example, self.talk, shown)
        _on(self.box.stop, self._stop, self.talk, None)
        _on(self.clear.click, self._start_anew, None, shown)

    async def _ask(self, talk: dict[str, Any], text: str, request: gr.Request) -> Any:
        user, text = who(request), text.strip()[: self._services.settings.max_question_chars]
        talk = _own(talk, user)
        if talk["open"] or not text:
            return gr.skip()
        session = talk.get("session") or uuid.uuid4().hex
        asked = Question(text, talk["messages"], session_id=session, user=user, door="page")
        try:
            run = begin(self._services.of(user), asked)
        except Refused as error:  # its text stays in the box
            shown = await self._show(talk, request)
            said = {"role": "assistant", "content": cards.inert(f"*{error}*")}
            return shown | {self.view: [*shown[self.view], said]}
        messages = [*talk["messages"], {"role": "user", "content": text}]
        now = {"messages": messages, "run": run.id, "seen": 0, "open": True, "session": session}
        shown = await self._show(talk | now, request)
        return shown | {self.box: shown[self.box] | {"value": ""}}

    async def _ask_example(
        self, talk: dict[str, Any], chosen: gr.SelectData, request: gr.Request
    ) -> Any:
        return await self._ask(talk, chosen.value["text"], request)

    async def _stop(self, talk: dict[str, Any], request: gr.Request) -> None:
        if run := self._services.runs.get(talk["run"], who(request).id):
            await self._services.runs.cancel(run)

    async def _start_anew(self, request: gr.Request) -> Any:
        return await self._show(NEW_TALK, request)

    async def _rate(self, talk: dict[str, Any], chosen: gr.LikeData, request: gr.Request) -> Any:
        """A thumb up or down, where the answer has a trace; says what became of it."""
        place: Any = chosen.index
        at = place if isinstance(place, int) else place[0]
        trace = talk["messages"][at].get("trace") if at < len(talk["messages"]) else None
        said = "Thank you, this is kept with the answer's trace."
        try:
            if not trace:
                raise Refused("This answer has no trace, so the thumb was not kept.")
            await score(self._services, who(request), trace, chosen.liked is True)
        except (Refused, Unavailable) as error:
            said = str(error)
        return gr.HTML(cards.note(said), visible=True)

    async def _follow(self, talk: dict[str, Any], request: gr.Request) -> Any:
        """What is new since the last tick; sources only when they changed: they may be unfolded."""
        seen, events = talk["seen"], self._events(talk, who(request))
        if len(events) == seen:
            return gr.skip()
        everything = await self._show(talk, request)
        if not everything[self.talk]["open"]:
            return everything
        kept = [self.talk, self.view]
        if any(event.type in ("passages", "citations") for event in events[seen:]):
            kept.append(self.sources)
        return {component: everything[component] for component in kept}

    async def _show(self, talk: dict[str, Any], request: gr.Request) -> dict[Any, Any]:
        """The conversation with all that its run has said; also after a reload of the page."""
        talk = _own(talk, who(request))
        events = self._events(talk, who(request))
        messages, going_on = talk["messages"], talk["open"]
        if going_on:
            going_on = not events or not events[-1].last
            trace = events[-1].data.get("trace_id") if events else None
            said = {"role": "assistant", "content": cards.said(events), "trace": trace}
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
            self.sources: cards.sources(events),
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

    async def _add(self, paths: Sequence[str], request: gr.Request) -> Any:
        """Gradio checked that the paths are its own; it deletes them later, so this copies them."""
        user = who(request)
        try:
            allow(self._services, user, sum(Path(path).stat().st_size for path in paths))
        except Refused as error:
            return {self.outcomes: cards.note(str(error)), self.upload: None}
        folder = new_folder(self._services)
        sources = [Source(Path(path).name, folder / str(n)) for n, path in enumerate(paths)]
        for path, source in zip(paths, sources, strict=True):
            await asyncio.to_thread(shutil.copyfile, path, source.path)
        here = self._services.of(user)
        return await self._begin(start_ingest(here, sources, folder, user.id), request)

    async def _add_sample(self, request: gr.Request) -> Any:
        user = who(request)
        run = start_ingest(self._services.of(user), files_under(SAMPLE), owner=user.id)
        return await self._begin(run, request)

    async def _choose(self, chosen: list[str]) -> Any:
        count = f"{len(chosen)} document{'' if len(chosen) == 1 else 's'}"
        hidden = gr.Button(visible=False)
        return gr.Button(f"Delete {count}", visible=bool(chosen)), hidden, hidden

    async def _ask_again(self) -> Any:
        return gr.Button(visible=False), gr.Button(visible=True), gr.Button(visible=True)

    async def _delete(self, chosen: list[str], request: gr.Request) -> Any:
        user = who(request)
        run = start_delete(self._services.of(user), chosen, user.id)
        return await self._begin(run, request)

    async def _begin(self, run: Run, request: gr.Request) -> Any:
        buttons = (self.sample, self.delete, self.really, self.keep)
        hidden = {button: gr.Button(visible=False) for button in buttons}
        followed = await self._follow(run.id, request)
        return hidden | followed | {self.job: run.id, self.upload: None}

    async def _follow(self, job: str, request: gr.Request) -> Any:
        user = who(request)
        run = self._services.runs.get(job, user.id)
        events = run.fresh() if run else []
        shown: dict[Any, Any] = {self.timer: gr.Timer(active=True)}
        if events:
            shown[self.outcomes] = cards.outcomes(events)
        going_on = events and not events[-1].last
        return shown if going_on else shown | await self._listing(self._services.of(user))

    async def _listing(self, here: Services) -> dict[Any, Any]:
        """The list and what depends on it; asked again by the timer while the store is opening."""
        asked = asyncio.ensure_future(here.store.documents())
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
