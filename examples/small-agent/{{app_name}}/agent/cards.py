"""What the page shows as HTML or Markdown. Every text is foreign, so none gets in unescaped."""

import re
from collections.abc import Sequence
from html import escape

from agent.runs import Event
from agent.settings import Settings

_ACTIVE = re.compile(r"<(?=[a-z/!?])|!(?=\[)|mer(?=maid)", re.IGNORECASE)


def inert(text: str) -> str:
    """Markdown in which no HTML tag, image or Mermaid drawing begins, by an invisible joiner."""
    return _ACTIVE.sub("\\g<0>\u2060", text)


def said(events: Sequence[Event]) -> str:
    """The answer as far as it is there, with a word on why there is no more."""
    text = "".join(event.data["text"] for event in events if event.type == "token")
    if events and events[-1].type == "error":
        return f"{text}\n\n*{events[-1].data['detail']}*"
    return text or "*Reading.*"


def head(settings: Settings, user: str = "") -> str:
    """`user` is the name of who is signed on, "" where nobody signs on."""
    title, description = escape(settings.title), escape(settings.project_description)
    off = f'<p>{escape(user)} · <a href="/auth/logout">Sign off</a></p>' if user else ""
    return f'<header class="head"><h1>{title}</h1><p>{description}</p>{off}</header>'
