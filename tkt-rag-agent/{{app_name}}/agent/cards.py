"""What the page shows as HTML or Markdown. Every text is foreign, so none gets in unescaped."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from agent.extract import FORMATS
from agent.runs import Event
from agent.services import Services
from agent.settings import Settings
from agent.store import Entry

_ACTIVE = re.compile(r"<(?=[a-z/!?])|!(?=\[)|mer(?=maid)", re.IGNORECASE)
BEFORE = 200
"""Characters shown in front of a quote: few enough that it is seen without scrolling."""
OUTCOMES = {
    "added": "Added.",
    "replaced": "Took the place of the earlier version.",
    "unchanged": "Already here, unchanged.",
    "deleted": "Deleted.",
}


def inert(text: str) -> str:
    """Markdown in which no HTML tag, image or Mermaid drawing begins, by an invisible joiner."""
    return _ACTIVE.sub("\\g<0>\u2060", text)


def said(events: Sequence[Event]) -> str:
    """The answer as far as it is there, with a word on why there is no more."""
    text = "".join(event.data["text"] for event in events if event.type == "token")
    if events and events[-1].type == "error":
        return f"{text}\n\n*{events[-1].data['detail']}*"
    found = any(event.type == "passages" for event in events)
    return text or ("*Reading what was found.*" if found else "*Searching the documents.*")


def head(settings: Settings, mode: str = "&nbsp;", user: str = "") -> str:
    """`user` is the name of who is signed on, "" where nobody signs on."""
    title, description = escape(settings.title), escape(settings.project_description)
    off = f'<p>{escape(user)} · <a href="/auth/logout">Sign off</a></p>' if user else ""
    return f'<header class="head"><h1>{title}</h1><p>{description}</p><p>{mode}</p>{off}</header>'


def mode(services: Services, found: dict[str, dict[str, Any]]) -> str:
    """In which way the app works just now; `found` is what `health.probe` says."""
    model, embedding, documents = (found[name] for name in ("model", "embedding", "qdrant"))
    if services.model is None:
        answers = "No language model is connected: answers are quotations from your documents."
    elif model["ok"]:
        answers = f"Answers by {escape(model['detail'])}."
    else:
        answers = _trouble("Answers are quotations from your documents", model)
    if services.embedding is None:
        search = "Search by words."
    elif services.store.model and embedding["ok"]:
        search = f"Search by words and meaning ({escape(services.store.model)})."
    else:
        search = _trouble("Search by words alone", embedding)
    place = services.store.database.place
    if not documents["ok"]:
        kept = _trouble("The documents are out of reach", documents)
    elif "://" in place:
        kept = f"Documents are kept in {escape(documents['detail'])}."
    else:
        kept = "Documents are kept inside this app."
    return f"{answers} {search} {kept}"


def _trouble(what: str, found: dict[str, Any]) -> str:
    return f"<b>{what} just now: {escape(found['detail'].rstrip('.'))}.</b>"


def sources(events: Sequence[Event]) -> str:
    """The passages of an answer: those cited with the quote marked, the others folded."""
    data = {event.type: event.data for event in events}
    passages = data.get("passages", {}).get("passages", [])
    quotes = {c["n"]: c for c in data.get("citations", {}).get("citations", [])}
    cited = [_card(passages[n - 1], quotes[n]) for n in sorted(quotes)]
    others = [_card(p, None) for p in passages if p["n"] not in quotes]
    if not passages:
        cited = ['<p class="note">The passages that an answer quotes are shown here.</p>']
    title = "Also found" if cited else "Passages found"
    state = "" if cited else " open"
    folded = (
        f"<details{state}><summary>{title} ({len(others)})</summary>{''.join(others)}</details>"
    )
    return f"<h2>Sources</h2>{''.join(cited)}{folded if others else ''}"


def _card(passage: dict[str, Any], citation: dict[str, Any] | None) -> str:
    text = escape(passage["text"])
    if citation:
        start, end = (citation[at] - passage["start"] for at in ("start", "end"))
        far = max(0, start - BEFORE)
        cuts = (slice(far, start), slice(start, end), slice(end, None))
        before, quote, after = (escape(passage["text"][cut]) for cut in cuts)
        if far:
            before = f"… {before.partition(' ')[2]}"  # from a whole word on
        text = f"{before}<mark>{quote}</mark>{after}"
    page = f"Page {passage['page']}" if passage["page"] else ""
    place = " · ".join(filter(None, (page, escape(passage["heading"] or ""))))
    return (
        f'<article class="card"><h3>[{passage["n"]}] {escape(passage["document"])}</h3>'
        f'<p class="place">{place}</p><div class="text" tabindex="0">{text}</div></article>'
    )


def note(sentence: str) -> str:
    return f'<p class="note" role="status">{escape(sentence)}</p>'


def accepted(settings: Settings) -> str:
    formats = ", ".join(suffix.removeprefix(".").upper() for suffix in FORMATS)
    return f'<p class="note">{formats}; at most {settings.max_upload_mb} MB at a time.</p>'


def outcomes(events: Sequence[Event]) -> str:
    """How far an upload or a deletion is, and what became of each file, failures first."""
    names = events[0].data["documents"]
    files = [event.data for event in events if event.type == "file"]
    files.sort(key=lambda file: file["status"] != "failed")
    rows = "".join(map(_outcome, files))
    return f'<div role="status">{_progress(events, names, files)}</div><ul>{rows}</ul>'


def _progress(events: Sequence[Event], names: list[str], files: list[dict[str, Any]]) -> str:
    if events[-1].type == "error":
        return escape(events[-1].data["detail"])
    if events[-1].last:
        well = sum(file["status"] != "failed" for file in files)
        where = "deleted" if events[0].type == "deletion" else "in"
        return f"{_count(well, 'document')} {'is' if well == 1 else 'are'} {where}."
    count, done = len(names), len(files)
    bar = f'<progress max="{count}" value="{done}" aria-label="Progress"></progress>'
    if events[0].type == "deletion":
        return f"{bar}Deleting {count}"
    current = escape(names[min(done, count - 1)])
    return f"{bar}{min(done + 1, count)} of {count}, {current}"


def _outcome(file: dict[str, Any]) -> str:
    said = OUTCOMES.get(file["status"]) or f"Not added. {file['reason']}"
    name = escape(file["document"])
    return f'<li class="{file["status"]}"><strong>{name}</strong><br>{escape(said)}</li>'


def listed(entry: Entry) -> str:
    """A document in the list: its name, and below it what it holds and since when."""
    pages = f"{_count(entry.pages, 'page')}, " if entry.pages else ""
    day = entry.added_at[:10]
    return f"{entry.document}\n{pages}{_count(entry.passages, 'passage')}, added {day}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
