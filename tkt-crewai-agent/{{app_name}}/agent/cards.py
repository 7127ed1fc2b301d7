"""What the page shows as HTML or Markdown. Every text is foreign, so none gets in unescaped."""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from typing import Any

from agent import prompts
from agent.journal import Brief
from agent.records import Record
from agent.runs import Event
from agent.services import Services
from agent.settings import Settings
from agent.tools import offered

_ACTIVE = re.compile(r"<(?=[a-z/!?])|!(?=\[)|mer(?=maid)", re.IGNORECASE)
_WANTS = re.compile(r"wants [\w, -]+")
"""What a step says that asks for tools; what comes of them is told by events of their own."""
_MARKUP = re.compile(r"[#*`|]+|-{2,}")
LATEST = 4
"""Actions of the current task that are shown; those before them are folded."""
TOOLS = {
    "search_documents": ("searches the documents for", "query", "q"),
    "read_document": ("reads", "name", "b"),
    "ask_documents": ("asks the agent of the documents", "question", "q"),
    "read_page": ("reads the page", "url", "b"),
    "calculate": ("calculates", "expression", "code"),
    "run_python": ("runs a program", "code", "code"),
}
"""Of each tool: what an agent does with it, which argument says to what, and how that is shown."""
PROCESSES = {"sequential": "One after the other", "hierarchical": "A manager delegates"}
MARKS = {
    "done": "done",
    "working": "working",
    "waiting": "waits for you",
    "todo": "to come",
    "failed": "failed",
    "cancelled": "stopped",
    "left": "not done",
}
"""Of a task."""
STATES = MARKS | {"queued": "in the queue", "running": "working"}
"""Of a run."""
REHEARSES = "No model is connected: runs are rehearsals with scripted words; tools and documents "
REHEARSED = "No model is connected: this was a rehearsal with scripted words; tools and documents "
REAL = "are real."


def inert(text: str) -> str:
    """Markdown in which no HTML tag, image or Mermaid drawing begins, by an invisible joiner."""
    return _ACTIVE.sub("\\g<0>\u2060", text)


def head(settings: Settings, user: str = "", rehearses: bool = False) -> str:
    """`user` is the name of who is signed on, "" where nobody signs on."""
    title, description = escape(settings.title), escape(settings.project_description)
    off = f'<p>{escape(user)} · <a href="/auth/logout">Sign off</a></p>' if user else ""
    said = f'<p class="banner">{REHEARSES}{REAL}</p>' if rehearses else ""
    head = f'<header class="head"><h1>{title}</h1><p>{description}</p>{off}</header>'
    return f"{head}{said}"


def mode(services: Services, found: dict[str, dict[str, Any]]) -> str:
    """Who answers and how runs are kept just now; `found` is what `health.probe` says."""
    rows = []
    if services.model.rehearses:
        rows.append(("Model", "none: a rehearsal, with scripted words"))
    else:
        rows.append(("Model", _told(found["model"])))
    shared = "other processes work on them too" if services.journal.shared else "by this app alone"
    rows.append(("Runs are kept", _told(found["runs"])))
    rows.append(("Worked on", f"{services.settings.runs_at_once} at once, {shared}"))
    rows.append(("Documents", _told(found["qdrant"])))
    known = {"rag": "Agent of the documents", "langfuse": "Traces", "keycloak": "Sign-on"}
    for name, title in known.items():
        if found[name]["detail"] != "not configured":
            rows.append((title, _told(found[name])))
    body = "".join(f"<dt>{title}</dt><dd>{said}</dd>" for title, said in rows)
    return f'<h2>How it works just now</h2><article class="card"><dl>{body}</dl></article>'


def _told(found: dict[str, Any]) -> str:
    said = escape(str(found["detail"]))
    return said if found["ok"] else f'<b class="bad">Out of reach just now: {said}</b>'


def crew(services: Services) -> str:
    """Who is in the crew, for readers who want to know before they start it."""
    there = offered(services.toolbox)
    cards = "".join(_member(role, there) for role in prompts.AGENTS.values())
    title = f"Who is in the crew ({len(prompts.AGENTS)})"
    return f"<details><summary>{title}</summary>{cards}</details>"


def _member(role: prompts.Role, there: Container[str]) -> str:
    tools = [name.replace("_", " ") for name in role.tools if name in there]
    return (
        f'<article class="card"><h3>{escape(role.role)}</h3>'
        f'<p class="place">{escape(", ".join(tools)) or "no tools"}</p>'
        f'<div class="text">{escape(role.goal)}.</div></article>'
    )


def note(sentence: str) -> str:
    return f'<p class="banner bad" role="status">{escape(sentence)}</p>' if sentence else ""


@dataclass
class Shown:
    """A task as the timeline shows it."""

    name: str
    agent: str
    state: str = "todo"
    workers: dict[str, None] = field(default_factory=dict)
    """Who had a part in it, in this order."""
    actions: list[str] = field(default_factory=list)
    """As HTML."""
    pending: str = ""
    """What is being done just now, as HTML."""
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


def tasks(events: Sequence[Event]) -> list[Shown]:
    """The crew's tasks and what has been done for each, out of all that the run has said."""
    found = {step.name: Shown(step.name, _role(step.agent)) for step in prompts.TASKS}
    for event in events:
        if event.type == "done":
            _end(found, "done")
        elif event.last:
            _end(found, event.data.get("state", "failed"), "left")
        elif task := event.data.get("task"):
            shown = found.setdefault(task, Shown(task, event.data.get("agent", "")))
            _FOLLOWED[event.type](shown, event.data)
        elif event.type == "state" and event.data["state"] == "queued":
            _end(found, "todo")  # whoever takes it up begins this task again
    return list(found.values())


def _role(key: str) -> str:
    return prompts.AGENTS[key].role if key in prompts.AGENTS else key


def _end(found: dict[str, Shown], state: str, others: str = "todo") -> None:
    """What is being worked on becomes `state`, what is to come `others`."""
    for shown in found.values():
        shown.pending = ""
        if shown.state in ("working", "waiting"):
            shown.state = state
        elif shown.state == "todo":
            shown.state = others


def _task(shown: Shown, data: dict[str, Any]) -> None:
    if data["status"] == "finished":
        shown.state, shown.pending = "done", ""
        return
    if shown.actions:
        shown.actions.append('<li class="turn">Begins again</li>')
    shown.state, shown.agent, shown.pending = "working", data["agent"], _thinks(data)


def _step(shown: Shown, data: dict[str, Any]) -> None:
    shown.calls += 1
    shown.workers[data["agent"]] = None
    shown.seconds += data["seconds"]
    shown.tokens += data["tokens"]["input"] + data["tokens"]["output"]
    if not _WANTS.fullmatch(data["summary"]):
        shown.actions.append(f"<li>{_who(data)} writes <span>{_plain(data['summary'])}</span></li>")
        shown.pending = _thinks({"agent": shown.agent})
        return
    names = data["summary"].removeprefix("wants ").split(", ")
    doing = [_verb(name) for name in names]
    shown.pending = f"{_who(data)} {' and '.join(dict.fromkeys(doing))}"


def _verb(tool: str) -> str:
    if "coworker" in tool:
        return "hands work on"
    verb, argument, _ = TOOLS.get(tool, (f"uses {escape(tool)}", "", ""))
    return {"query": "searches the documents", "name": "reads a document"}.get(argument, verb)


def _tool(shown: Shown, data: dict[str, Any]) -> None:
    shown.seconds += data["seconds"]
    shown.pending = _thinks(data)
    verb, argument, mark = TOOLS.get(data["tool"], (f"uses {escape(data['tool'])}", "", ""))
    about = escape(str(data["arguments"].get(argument, "")))
    done = f"{_who(data)} {verb}" + (f" <{mark}>{about}</{mark}>" if about else "")
    if not data["ok"]:
        failure = f'<span class="bad">{escape(data["result"])}</span>'
        shown.actions.append(f'<li class="failed">{done} {failure}</li>')
    elif data["tool"] == "calculate":
        shown.actions.append(f"<li>{done} = <b>{escape(data['result'])}</b></li>")
    else:
        result = escape(data["result"]) if mark in ("code", "") else _plain(data["result"])
        shown.actions.append(f"<li>{done} <span>{result}</span></li>")


def _delegation(shown: Shown, data: dict[str, Any]) -> None:
    asked = f"asks <b>{escape(data['to'] or 'somebody')}</b> to <q>{escape(data['question'])}</q>"
    shown.actions.append(f"<li>{_who({'agent': data['from']})} {asked}</li>")
    shown.pending = _thinks({"agent": data["to"] or "The other"})


def _approval(shown: Shown, data: dict[str, Any]) -> None:
    if data["status"] == "asked":
        shown.state, shown.pending = "waiting", ""
        return
    by = escape(data["by"]) if data.get("by", "somebody") != "somebody" else "Somebody"
    said = f" <q>{escape(data['comment'])}</q>" if data.get("comment") else ""
    again = data["status"] == "redo"
    shown.state = "todo" if again else "done"
    decided = "wants it done again" if again else "lets the crew go on"
    shown.actions.append(f'<li class="turn"><b>{by}</b> {decided}{said}</li>')


_FOLLOWED = {
    "task": _task,
    "step": _step,
    "tool": _tool,
    "delegation": _delegation,
    "approval": _approval,
}


def _who(data: dict[str, Any]) -> str:
    return f"<b>{escape(data['agent'])}</b>"


def _plain(text: str) -> str:
    """The first words of Markdown, which is not shown as such here."""
    return escape(" ".join(_MARKUP.sub(" ", text).split()).removeprefix("- "))


def _thinks(data: dict[str, Any]) -> str:
    return f"{_who(data)} thinks"


def timeline(record: Record, events: Sequence[Event]) -> str:
    """The tasks as steps; what was done for the current one in words, the rest folded."""
    rows = "".join(_row(shown, record) for shown in tasks(events))
    return f'<ol class="steps" aria-label="Tasks">{rows}</ol>'


def _row(shown: Shown, record: Record) -> str:
    now = shown.state in ("working", "waiting")
    current = ' aria-current="step"' if now else ""
    who = escape(shown.agent)
    if record.process == "hierarchical":
        manager = f"{prompts.MANAGER.role} decides who does it"
        who = escape(", ".join(shown.workers) or manager)
    asks = shown.name in record.approve and shown.state in ("todo", "working")
    if asks:
        who += " · you are asked before it goes on"
    return (
        f'<li class="{shown.state}"{current}><h3>{escape(title(shown.name))} '
        f"<small>{MARKS.get(shown.state, 'failed')}</small></h3>"
        f'<p class="place">{who}{_effort(shown)}</p>{_actions(shown)}</li>'
    )


def _effort(shown: Shown) -> str:
    if not shown.calls or shown.state == "working":
        return ""
    took = f" · {shown.tokens:,} tokens" if shown.tokens else ""
    return f" · {_count(shown.calls, 'call')} of the model{took} · {duration(shown.seconds)}"


def _actions(shown: Shown) -> str:
    """Folded once the task is done; before, the latest ones are open to see."""
    open_to_see = LATEST if shown.state in ("working", "failed", "cancelled") else 0
    cut = max(0, len(shown.actions) - open_to_see)
    earlier, latest = shown.actions[:cut], shown.actions[cut:]
    word = "earlier action" if open_to_see else "action"
    folded = f"<summary>{_count(cut, word)}</summary><ul>{''.join(earlier)}</ul>"
    pending = f'<li class="pending">{shown.pending} …</li>' if shown.pending else ""
    shown_now = f"<ul>{''.join(latest)}{pending}</ul>" if latest or pending else ""
    return (f"<details>{folded}</details>" if cut else "") + shown_now


def topic(record: Record) -> str:
    """What was asked, and how."""
    asked = [PROCESSES.get(record.process, record.process)]
    if record.approve:
        asked.append(f"you are asked after {' and '.join(record.approve)}")
    asked.append(f"started {ago(record.created_at)}")
    return (
        f'<div class="run"><h2>{escape(record.topic)}</h2>'
        f'<p class="place">{escape(" · ".join(asked))}</p></div>'
    )


def state(record: Record, events: Sequence[Event]) -> str:
    """One sentence on how the run is."""
    kind, said = _state(record, events)
    return f'<p class="state {kind}" role="status">{escape(said)}</p>'


def _state(record: Record, events: Sequence[Event]) -> tuple[str, str]:
    end = events[-1] if events and events[-1].last else None
    if end and end.type == "done":
        models = dict.fromkeys(e.data["model"] for e in events if e.type == "step")
        by = "" if end.data.get("rehearsal") else f", with {', '.join(models)}"
        return "done", f"Done in {duration(record.spent.seconds)}{by}."
    if end or record.final:
        failed = record.state != "cancelled"
        return ("failed", f"This failed. {record.error}") if failed else ("ended", record.error)
    if record.state == "waiting" and record.asked:
        return "waiting", f"Waits for you: read the {record.asked['task']}, then say how to go on."
    states = [event.data for event in events if event.type == "state"]
    told = states[-1].get("note", "") if states else ""
    if record.state == "queued":
        return "queued", f"Waits for a worker. {told}".strip()
    done = len(record.outputs)
    at = min(done, len(prompts.TASKS) - 1)
    name = title(prompts.TASKS[at].name)
    return "working", f"Works on task {at + 1} of {len(prompts.TASKS)}, {name}. {told}".strip()


def spent(record: Record) -> str:
    """What the run has used of its budget."""
    used, most = record.spent, record.budget
    seconds = used.seconds
    if record.state == "running":  # since it was last written
        since = datetime.now(UTC) - datetime.fromisoformat(record.updated_at)
        seconds += max(0.0, since.total_seconds())
    seconds = min(seconds, most.seconds)
    bars = (
        ("Model calls", f"{used.steps:,}", f"{most.steps:,}", used.steps / most.steps),
        ("Tokens", f"{used.tokens:,}", f"{most.tokens:,}", used.tokens / most.tokens),
        ("Money", money(used.dollars), money(most.dollars), (used.dollars or 0) / most.dollars),
        ("Time", duration(seconds), duration(most.seconds), seconds / most.seconds),
    )
    rows = "".join(
        f'<div><dt>{name}</dt><dd><b>{value}</b> <small>of {limit}</small><progress max="100" '
        f'value="{min(100, 100 * part):.1f}" aria-label="{name}: part of the budget"></progress>'
        "</dd></div>"
        for name, value, limit, part in bars
    )
    return f'<dl class="spent">{rows}</dl>'


def asked(record: Record) -> str:
    """What a person is asked."""
    name = title(record.asked["task"]) if record.asked else ""
    return f"<h2>{escape(name)}: may the crew go on with this?</h2>"


def rehearsed(events: Sequence[Event]) -> str:
    """A word on what a result is worth that no model wrote."""
    if not (events and events[-1].data.get("rehearsal")):
        return ""
    return f'<p class="banner">{REHEARSED}{REAL}</p>'


def listed(run: Brief) -> str:
    """A run in the list: its topic, and below it how it is."""
    line = " ".join(run.topic.split())
    short = line if len(line) <= 90 else f"{line[:89].rstrip()}…"
    price = f" · {money(run.dollars)}" if run.dollars else ""
    return (
        f"{short}\n{STATES.get(run.state, run.state).capitalize()} · {ago(run.created_at)}{price}"
    )


def title(task: str) -> str:
    """A task's name, as a heading or a choice."""
    return task.replace("_", " ").capitalize()


def money(dollars: float | None) -> str:
    if dollars is None:
        return "not told"
    return f"${dollars:,.4f}" if 0 < dollars < 0.1 else f"${dollars:,.2f}"


def amount(number: float) -> str:
    """With commas, and no decimals where there are none."""
    return f"{number:,}".removesuffix(".0")


def duration(seconds: float) -> str:
    """In words that are short."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (0 if hours else left, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


def ago(at: str) -> str:
    """How long ago, as the reader's clock and time zone are not known here; then the day."""
    minutes = (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds() / 60
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes:.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 24 * 60 else f"on {at[:10]}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
