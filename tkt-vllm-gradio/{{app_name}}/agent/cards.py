"""What the page shows as HTML or Markdown. Every text is foreign, so none gets in unescaped."""

import re
from collections.abc import Sequence
from html import escape

from agent.engine import Engine
from agent.fit import gib
from agent.gpu import Card
from agent.runs import Event
from agent.services import Load, Services
from agent.settings import Settings

_ACTIVE = re.compile(r"<(?=[a-z/!?])|!(?=\[)|mer(?=maid)", re.IGNORECASE)
PHASES = {
    "looking": "Looking the model up",
    "download": "Downloading the model",
    "starting": "Starting the engine",
    "weights": "Loading the weights",
    "compile": "Compiling for this card",
    "graphs": "Warming up",
    "waiting": "Starting again",
    "failed": "The model cannot be served",
    "ended": "The engine has ended",
}
ON_THE_WAY = ("looking", "download", "starting", "weights", "compile", "graphs")


def inert(text: str) -> str:
    """Markdown in which no HTML tag, image or Mermaid drawing begins, by an invisible joiner."""
    return _ACTIVE.sub("\\g<0>\u2060", text)


def said(events: Sequence[Event]) -> str:
    """The answer as far as it is there, how fast it came, or a word on why there is no more."""
    text = "".join(event.data["text"] for event in events if event.type == "token")
    if not events:
        return "*Waiting for the model.*"
    end = events[-1]
    if end.type == "error":
        return f"{text}\n\n*{end.data['detail']}*"
    if end.type == "done":
        return f"{text or '*The model said nothing.*'}\n\n*{pace(end)}*"
    return text or "*Thinking.*"


def pace(done: Event) -> str:
    """Tokens a second, their number, and the wait for the first one."""
    data = done.data
    parts = [f"{data['tokens_per_s']:.0f} tokens a second"] if data["tokens_per_s"] else []
    written = data["usage"]["output"]
    parts.append(f"{written:,} token{'' if written == 1 else 's'}")
    if data["first_token_s"] is not None:
        parts.append(f"the first after {data['first_token_s']:.2f} s")
    if data["finish_reason"] == "length":
        parts.append("cut off at the longest answer")
    return " · ".join(parts)


def head(settings: Settings, user: str = "") -> str:
    """`user` is the name of who is signed on, "" where nobody signs on."""
    title, description = escape(settings.title), escape(settings.project_description)
    off = f'<p>{escape(user)} · <a href="/auth/logout">Sign off</a></p>' if user else ""
    return f'<header class="head"><h1>{title}</h1><p>{description}</p>{off}</header>'


def status(engine: Engine) -> str:
    """Where the model is on its way; once it is there, only what a reader must know."""
    if engine.ready and not engine.small:
        return ""
    if engine.ready:
        return _note(
            "There is no GPU here, so a tiny model stands in to try page and API: its answers are "
            f"fluent and mostly wrong. With a GPU this app serves {engine.model_id}."
        )
    title = escape(PHASES[engine.phase])
    if engine.phase not in ON_THE_WAY:
        return f'<div class="outcomes" role="status"><b>{title}.</b> {escape(engine.detail)}</div>'
    step = ON_THE_WAY.index(engine.phase)
    bar = f'<progress max="{len(ON_THE_WAY)}" value="{step}" aria-label="{title}"></progress>'
    far = f" ({escape(engine.detail)})" if engine.detail else ""
    return f'<div class="outcomes" role="status">{bar}{title}{far} …</div>'


def model(services: Services, cards: Sequence[Card], load: Load | None) -> str:
    """What is served, on what, and how busy it is."""
    engine, launch = services.engine, services.engine.launch
    rows = [("Model", engine.name)]
    if launch and launch.weights:
        rows.append(("From", launch.weights.origin))
    if engine.context:
        rows.append(("Longest talk", f"{engine.context:,} tokens"))
    if engine.cache_tokens:
        rows.append(("Room for talks", f"{engine.cache_tokens:,} tokens"))
    for card in cards:
        used = f"{gib(card.total - card.free)} of {gib(card.total)} in use"
        rows.append((card.name, used))
    if load:
        rows.append(("Answering", f"{load.running:,} · {load.waiting:,} in the queue"))
    loaded = services.adapters.listed()
    rows += [(f"Adapter {a.name}", a.trouble or f"loaded, rank {a.rank}") for a in loaded]
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<h2>What answers</h2><article class="card"><dl>{body}</dl></article>'


def _note(sentence: str) -> str:
    return f'<p class="banner" role="status">{escape(sentence)}</p>'


def note(sentence: str) -> str:
    return f'<p class="note" role="status">{escape(sentence)}</p>'
