"""Door: the page.

The platform's edge cuts every response after 15 seconds and may hold streams back. So nothing here
streams or waits: every event is a plain POST (`queue=False`), a run goes on in a worker, and a
timer in the browser asks for news of it. What must survive a lost connection or a reload is kept in
the browser, and that is no more than which run is open; a `gr.State` would open a stream.
"""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from agent import cards, prompts, work
from agent.access import User
from agent.errors import Refused, Unavailable
from agent.health import probe
from agent.records import Record
from agent.runs import Event
from agent.services import Services
from agent.theme import CSS, theme

HERE = Path(__file__).resolve().parent
RUN_CSS = HERE / "agent" / "run.css"
TICK_S = 0.5
"""How often the browser asks for news while a crew works."""
WAITING_S = 3.0
"""How often while the run waits for a person, which may take days."""
CLOCK_S = 1.0
"""How often the time so far is shown anew."""
LOOK_S = 10.0
"""How often the list of runs is, and how the services are."""
REPLAY_S = 0.3
"""What the events of an earlier run get to be there; the next tick shows those that are late."""
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
STAYS_UNFOLDED = """<script>
  const unfolded = new WeakSet();  // what a reader has unfolded stays so when news comes in
  addEventListener("click", ({target}) => {
    const part = target.closest("summary")?.parentElement;
    if (part) part.open ? unfolded.delete(part) : unfolded.add(part);
  }, true);
  new MutationObserver((changes) => {
    for (const {target} of changes) if (!target.open && unfolded.has(target)) target.open = true;
  }).observe(document, {subtree: true, attributeFilter: ["open"]});
</script>"""
NEW: dict[str, Any] = {"run": None, "seen": 0}
TURNS = ("task", "approval", "state", "done", "error")
"""Events that change more than the timeline."""


def build_ui(services: Services) -> FastAPI:
    """The page as an app of its own, to be mounted at `/`; its lifespan must be entered."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="page-")
    with gr.Blocks(
        title=services.settings.title, analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        _head(services, page)
        _Crew(services, page)
    page.state_session_capacity = SESSIONS
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        theme=theme(),
        css_paths=[CSS, RUN_CSS],
        favicon_path=str(HERE / "agent" / "icon.png"),
        footer_links=[],
        head=STAYS_UNFOLDED + (SIGN_ON_AGAIN if services.access else ""),
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
    rehearses = services.model.rehearses

    async def look(request: gr.Request) -> str:
        return cards.head(services.settings, who(request).name, rehearses)

    head = cards.head(services.settings, "", rehearses)
    _on(page.load, look, None, gr.HTML(head))


class _Crew:
    """At the left a form, or the run that is open; at the right the runs, and how all this is."""

    def __init__(self, services: Services, page: gr.Blocks) -> None:
        self._services = services
        self.kept = gr.BrowserState(NEW, storage_key="run", secret=KEPT)
        self.timer = gr.Timer(TICK_S, active=False)
        self.clock = gr.Timer(CLOCK_S, active=False)
        self.look = gr.Timer(LOOK_S)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self.note = _note()
                with gr.Column(min_width=320) as self.form:
                    self._build_form()
                with gr.Column(min_width=320, visible=False) as self.run:
                    self._build_run()
            with gr.Column(scale=2, min_width=320):
                self.runs = gr.Radio([], label="Your runs", visible=False, elem_classes="listed")
                self.mode = gr.HTML("", elem_classes="side")
                gr.HTML(cards.crew(services), elem_classes="side")
        self._connect(page)

    def _build_form(self) -> None:
        self.topic = gr.Textbox(
            label="Topic",
            placeholder="What should the crew find out?",
            lines=3,
            max_lines=10,
            max_length=self._services.settings.max_topic_chars,
            autofocus=True,
            elem_classes="framed",
        )
        with gr.Row(elem_classes="topics"):
            self.examples = [
                gr.Button(text, size="sm", elem_classes="small") for text in prompts.EXAMPLES
            ]
        ways = [(said, name) for name, said in cards.PROCESSES.items()]
        self.process = gr.Radio(ways, value=ways[0][1], label="How they work together")
        self.approve = gr.CheckboxGroup(
            [(cards.title(step.name), step.name) for step in prompts.TASKS[:-1]],
            label="Ask me before going on after",
        )
        most = vars(self._services.settings.budget)
        with gr.Accordion("The most it may use", open=False), gr.Row():
            self.budget = [
                gr.Textbox(  # a gr.Number shows nothing as 0
                    label=label,
                    placeholder=f"{cards.amount(most[name])} at most",
                    max_lines=1,
                    max_length=20,
                    min_width=130,
                    elem_classes="framed",
                )
                for label, name in BUDGET.items()
            ]
        self.form_note = _note()
        self.start = gr.Button("Start", variant="primary", elem_classes="small")

    def _build_run(self) -> None:
        small: dict[str, Any] = {"size": "sm", "elem_classes": "small", "min_width": 90}
        self.about = gr.HTML("")
        self.state = gr.HTML("")
        self.spent = gr.HTML("", elem_classes="outcomes")
        with gr.Row():
            self.stop = gr.Button("Stop", variant="stop", **small)
            self.again = gr.Button("New run", **small)
        with gr.Column(visible=False, elem_classes="sheet") as self.question:
            self._build_question(small)
        with gr.Column(visible=False, elem_classes="sheet") as self.end:
            self.rehearsed = gr.HTML("", visible=False)
            self.result = _markdown("Result")
        self.timeline = gr.HTML("")
        self.outputs = []
        for _ in prompts.TASKS:
            with gr.Accordion("", open=False, visible=False) as part:
                self.outputs.append((part, _markdown("Output of a task")))

    def _build_question(self, small: dict[str, Any]) -> None:
        self.asked = gr.HTML("", elem_classes="side")
        self.output = _markdown("To be approved")
        self.comment = gr.Textbox(
            label="Comment",
            info="For the tasks that come after it, or what to do otherwise.",
            lines=2,
            max_lines=8,
            max_length=work.LONGEST_COMMENT,
            elem_classes="framed",
        )
        self.question_note = _note()
        with gr.Row():
            self.go_on = gr.Button("Go on", variant="primary", **small)
            self.redo = gr.Button("Do it again", **small)

    def _connect(self, page: gr.Blocks) -> None:
        parts = [component for pair in self.outputs for component in pair]
        texts = [self.about, self.state, self.spent, self.asked, self.output, self.rehearsed]
        blocks = [self.form, self.run, self.question, self.end, self.stop, *self._notes()]
        inputs = [self.topic, self.comment, self.runs, self.timer, self.clock]
        shown = [self.kept, self.result, self.timeline, *parts, *texts, *blocks, *inputs]
        form = [self.topic, self.process, self.approve, *self.budget]
        said = [self.kept, self.comment]
        _on(page.load, self._begin, self.kept, shown)
        for listen in (page.load, self.look.tick):
            _on(listen, self._mode, None, self.mode)
        _on(self.timer.tick, self._follow, self.kept, shown)
        _on(self.clock.tick, self._time, self.kept, self.spent)
        _on(self.look.tick, self._list, self.kept, self.runs)
        for listen in (self.start.click, self.topic.submit):
            _on(listen, self._start, form, shown, preprocess=False)
        for button in self.examples:
            _on(button.click, str, button, self.topic)
        _on(self.stop.click, self._stop, self.kept, shown)
        _on(self.again.click, self._start_anew, None, shown)
        _on(self.go_on.click, self._approve, said, shown)
        _on(self.redo.click, self._redo, said, shown)
        raw = {"preprocess": False}  # else Gradio checks against the choices of its own memory
        _on(self.runs.input, self._open, self.runs, shown, **raw)

    async def _mode(self) -> str:
        return cards.mode(self._services, await probe(self._services.checks()))

    async def _begin(self, kept: dict[str, Any], request: gr.Request) -> Any:
        """The run that was open. Where none was, the form is left alone: somebody may have
        written in it before this answer was there."""
        if not _own(kept, who(request))["run"]:
            return {self.runs: await self._list(kept, request)}
        return await self._show(kept, request)

    async def _start(
        self,
        topic: str,
        process: str,
        approve: list[str],
        steps: str,
        tokens: str,
        dollars: str,
        seconds: str,
        request: gr.Request,
    ) -> Any:
        try:
            budget = _budget(steps, tokens, dollars, seconds)
            ask = work.Ask(topic or "", process, tuple(approve), budget, who(request), "page")
            record = await work.begin(self._services, ask)
        except (Refused, Unavailable) as error:  # what was written stays in the form
            return _noted(self.form_note, error)
        return await self._show(_kept(record.id, who(request)), request) | {self.topic: ""}

    async def _open(self, run_id: str, request: gr.Request) -> Any:
        return await self._show(_kept(run_id, who(request)), request)

    async def _start_anew(self, request: gr.Request) -> Any:
        return await self._show(_kept(None, who(request)), request)

    async def _stop(self, kept: dict[str, Any], request: gr.Request) -> Any:
        try:
            await work.cancel(self._services, str(kept["run"]), who(request))
        except (Refused, Unavailable) as error:
            return _noted(self.note, error)
        return await self._show(kept, request)

    async def _approve(self, kept: dict[str, Any], comment: str, request: gr.Request) -> Any:
        return await self._decide(kept, "approve", comment, request)

    async def _redo(self, kept: dict[str, Any], comment: str, request: gr.Request) -> Any:
        return await self._decide(kept, "redo", comment, request)

    async def _decide(
        self, kept: dict[str, Any], decision: str, comment: str, request: gr.Request
    ) -> Any:
        run = str(kept["run"])
        try:
            await work.decide(self._services, run, who(request), decision, comment or "")
        except (Refused, Unavailable) as error:  # the comment stays in its box
            return _noted(self.question_note, error)
        return await self._show(kept, request) | {self.comment: ""}

    async def _follow(self, kept: dict[str, Any], request: gr.Request) -> Any:
        """What is new since the last tick. Texts that can be long, and boxes that somebody may be
        writing in, are sent again only when something has changed for them."""
        user, seen = who(request), kept["seen"]
        try:
            run = await work.follow(self._services, str(kept["run"]), user)
        except Refused:
            return await self._show(kept, request)
        except Unavailable as error:
            return _noted(self.note, error)
        events = run.fresh()
        if len(events) <= seen:
            return gr.skip()
        everything = await self._show(kept, request)
        if self.timeline not in everything or any(e.type in TURNS for e in events[seen:]):
            return everything
        few = (self.kept, self.timeline, self.spent, self.note)
        return {component: everything[component] for component in few}

    async def _time(self, kept: dict[str, Any], request: gr.Request) -> Any:
        """What is spent, as time goes by also while nothing happens."""
        try:
            record = await work.record_of(self._services, str(kept["run"]), who(request))
        except (Refused, Unavailable):  # the other timer says so
            return gr.skip()
        return cards.spent(record)

    async def _list(self, kept: dict[str, Any], request: gr.Request) -> Any:
        try:
            found = await work.listed(self._services, who(request))
        except Unavailable:
            return gr.skip()
        choices = [(cards.listed(run), run.id) for run in found]
        opened = kept["run"] if any(run.id == kept["run"] for run in found) else None
        return gr.Radio(choices, value=opened, visible=bool(choices))

    async def _show(self, kept: dict[str, Any], request: gr.Request) -> dict[Any, Any]:
        """The form, or the open run with all that it has said; also after a reload of the page."""
        user = who(request)
        kept = _own(kept, user)
        try:
            opened = await self._opened(kept["run"], user) if kept["run"] else None
        except Unavailable as error:  # it is shown whole as soon as it can be
            again = {self.kept: kept | {"seen": 0}, self.timer: gr.Timer(WAITING_S, active=True)}
            return again | _noted(self.note, error)
        except Refused as error:
            return await self._show(_kept(None, user), request) | _noted(self.note, error)
        if opened:
            kept = kept | {"seen": len(opened[1])}
        shown: dict[Any, Any] = {
            self.kept: kept,
            self.form: gr.Column(visible=not opened),
            self.run: gr.Column(visible=bool(opened)),
            **dict.fromkeys(self._notes(), gr.HTML("", visible=False)),
            self.runs: await self._list(kept, request),
            self.timer: gr.Timer(active=False),
            self.clock: gr.Timer(active=False),
        }
        return shown | (self._run_shown(*opened) if opened else {})

    async def _opened(self, run_id: str, user: User) -> tuple[Record, list[Event]]:
        """The record, and the events so far. It is read after them, so it is never behind them;
        the last event comes a moment after it."""
        run = await work.follow(self._services, run_id, user)
        if not run.events:
            await run.wait(REPLAY_S)
        events = run.fresh()
        record = await work.record_of(self._services, run_id, user)
        if record.final:
            await run.wait(REPLAY_S)
            events = run.fresh()
        return record, events

    def _run_shown(self, record: Record, events: list[Event]) -> dict[Any, Any]:
        waits, ended = record.state == "waiting" and record.asked, bool(events and events[-1].last)
        rehearsed = cards.rehearsed(events)
        return {
            self.about: cards.topic(record),
            self.state: cards.state(record, events),
            self.spent: cards.spent(record),
            self.stop: gr.Button(visible=not record.final),
            self.timeline: cards.timeline(record, events),
            self.timer: gr.Timer(WAITING_S if waits else TICK_S, active=not ended),
            self.clock: gr.Timer(active=record.state == "running"),
            self.question: gr.Column(visible=bool(waits)),
            self.asked: cards.asked(record),
            self.output: cards.inert(record.asked["text"]) if record.asked else "",
            self.end: gr.Column(visible=bool(record.result)),
            self.result: cards.inert(record.result),
            self.rehearsed: gr.HTML(rehearsed, visible=bool(rehearsed)),
        } | self._outputs_shown(record)

    def _outputs_shown(self, record: Record) -> dict[Any, Any]:
        """What each finished task gave, but for the one that is shown whole already."""
        hidden = 1 if record.result or record.asked else 0
        outputs = record.outputs[: len(record.outputs) - hidden]
        shown: dict[Any, Any] = {}
        for n, (part, text) in enumerate(self.outputs):
            there = n < len(outputs)
            shown[part] = gr.Accordion(visible=there)
            if there:
                label = f"{cards.title(outputs[n]['task'])}, by {outputs[n]['agent']}"
                shown[part] = gr.Accordion(label, visible=True)
                shown[text] = cards.inert(outputs[n]["text"])
        return shown

    def _notes(self) -> list[gr.HTML]:
        return [self.note, self.form_note, self.question_note]


BUDGET = {"Model calls": "steps", "Tokens": "tokens", "Dollars": "dollars", "Seconds": "seconds"}
"""Of one run: how the page calls it, and what it is called elsewhere."""


def _budget(*amounts: str) -> dict[str, float]:
    """What was written as the most that a run may use; `Refused` where that is no amount."""
    budget = {}
    for (label, name), text in zip(BUDGET.items(), amounts, strict=True):
        plain = (text or "").replace(",", "").strip()
        if not plain:
            continue
        whole = name in ("steps", "tokens")
        if not re.fullmatch(r"\d{1,12}" if whole else r"\d{1,12}(\.\d+)?", plain) or not float(
            plain
        ):
            raise Refused(f"{label}: write a number above 0, or nothing for the most there is.")
        budget[name] = int(plain) if whole else float(plain)
    return budget


def _note() -> gr.HTML:
    """A place for a sentence on what cannot be done."""
    return gr.HTML("", visible=False)


def _noted(place: gr.HTML, error: Exception) -> dict[Any, Any]:
    return {place: gr.HTML(cards.note(str(error)), visible=True)}


def _markdown(label: str) -> gr.Markdown:
    """For what a crew wrote: no tags, no formulas, no images; `cards.inert` sees to the last."""
    inactive: dict[str, Any] = {"latex_delimiters": [], "header_links": False}
    return gr.Markdown(label=label, buttons=["copy"], elem_classes="paper", **inactive)


def who(request: gr.Request) -> User:
    """Who uses the page, as the gate found out."""
    assert request.request, "only HTTP leads here"
    user: User = request.request.state.user
    return user


def _kept(run_id: str | None, user: User) -> dict[str, Any]:
    """What the browser keeps."""
    return NEW | {"run": run_id, "user": user.id}


def _own(kept: dict[str, Any], user: User) -> dict[str, Any]:
    """What the browser kept, unless somebody else had it."""
    return kept if kept.get("user", "") == user.id else _kept(None, user)
