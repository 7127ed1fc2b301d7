"""The model of 05-crewai-agents.ipynb on a laptop: a script that plays it.

The small model that runs on a laptop cannot call tools, and a crew lives by them. So this decides
by rule what a model would decide by thought: which tool to call, whom to ask, what to quote. It
concludes nothing, and each of its answers begins with `NOTE`.

    play({"messages": [...], "tools": [...]})    # the body of a chat completion

gives text, or tool calls `[{"name": ..., "arguments": {...}}]`.
"""

from __future__ import annotations

import json
import re
from typing import Any

NOTE = "(A script plays the model.)"
Call = dict[str, Any]
COWORKERS = {
    "Analyst": ("add up", "work out", "compare"),
    "Editor": ("check the draft",),
    "Writer": ("write",),
}
"""Who gets a task that has these words; the Researcher gets the others."""


def play(body: dict[str, Any]) -> str | list[Call]:
    """The answer to a request: what has not been tried comes first, words come last."""
    messages = body["messages"]
    if schema := _schema(body):
        return json.dumps(_filled(schema, _text(messages[-1])))
    offered = {tool["function"]["name"] for tool in body.get("tools") or []}
    asked = _text([m for m in messages if m["role"] == "user"][-1])
    results = [_text(m) for m in messages if m["role"] == "tool"]
    role = re.match(r"You are (\w+)", _text(messages[0]))
    who = role[1] if role else ""
    if not results and (calls := _calls(who, asked, offered)):
        return calls
    if who == "Manager":
        return results[-1] if results else f"{NOTE}\n- There was nothing to hand on."
    return _words(who, asked, results)


def _calls(who: str, asked: str, offered: set[str]) -> list[Call]:
    """The first calls of tools in a task."""
    task, context = _task(asked), _context(asked)
    if who == "Manager" and "delegate_work_to_coworker" in offered:
        told = {"task": task, "context": context, "coworker": _coworker(task)}
        return [_call("delegate_work_to_coworker", **told)]
    if "ask_question_to_coworker" in offered:
        told = {"question": _question(task), "context": "For a letter.", "coworker": "Researcher"}
        return [_call("ask_question_to_coworker", **told)]
    if "read_option" in offered:
        letters = re.findall(r"\boption ([A-Z])\b", task) or "ABCD"  # it cannot know how many
        return [_call("read_option", letter=letter) for letter in letters]
    if "total_cost" in offered:
        return [_call("total_cost", **costs) for costs in _costs(context)]
    if "calculate" in offered:
        amounts = list(dict.fromkeys(re.findall(r"\d{1,3}(?:,\d{3})+", context)))[:2]
        sum_ = " - ".join(sorted((a.replace(",", "") for a in amounts), key=int, reverse=True))
        return [_call("calculate", expression=sum_)] if len(amounts) == 2 else []
    if "search_documents" in offered:
        return [_call("search_documents", query=_question(task))]
    return []


def _words(who: str, asked: str, results: list[str]) -> str:
    """What an agent says in the end: what it was shown, quoted."""
    shown = [re.sub(r"\(score=\S+\) ", "", line) for line in _lines(_context(asked))]
    quotes = [line for result in results for line in _quotes(result)]
    if who == "Analyst" and results:
        shown, quotes = [], _labelled(_options(_context(asked)), results)
    lines = list(dict.fromkeys([*shown, *quotes]))[:12] or [f"- It was asked: {_task(asked)}"]
    title = f"# {_question(_task(asked))}\n\n" if who in ("Writer", "Editor") else ""
    return f"{title}{NOTE}\n" + "\n".join(lines)


def _quotes(result: str) -> list[str]:
    """A few sentences of a tool's result; of a search, one of each passage."""
    if result.startswith("Error"):
        return []
    if found := re.findall(r"^From (\S+):\n(.+?)(?=^From |\Z)", result, re.M | re.S):
        texts = [(name, _sentences(text)) for name, text in found]
        return [f"- {_costly(lines)[0]} ({name})" for name, lines in texts if lines]
    head = result.split("\n")[0].split(":")[0]
    if lines := _lines(result):  # another agent's answer
        return lines
    return [f"- {head}: {sentence}" for sentence in _costly(_sentences(result))[:3]]


def _labelled(options: list[str], results: list[str]) -> list[str]:
    """Sums, with the options that they are of."""
    if len(options) != len(results):
        return [f"- The first two amounts in the notes differ by {result}." for result in results]
    pairs = zip(options, results, strict=True)
    return [f"- Option {letter}, bought and maintained: {result}" for letter, result in pairs]


def _options(notes: str) -> list[str]:
    return sorted(set(re.findall(r"^- Option (\w):", notes, re.M)))


def _lines(text: str) -> list[str]:
    return re.findall(r"^- .+$", text, re.M)


def _costly(sentences: list[str]) -> list[str]:
    """Those that name euros, where any does."""
    return [s for s in sentences if re.search(r"\d euros", s)] or sentences


def _sentences(text: str) -> list[str]:
    lines = (line for line in text.splitlines() if not line.startswith(("#", "|", "Option ")))
    plain = " ".join(" ".join(lines).split())
    return [s for s in re.split(r"(?<=[.!?])\s+", plain) if s.endswith((".", "!", "?"))]


def _costs(notes: str) -> list[dict[str, float]]:
    """To buy and to maintain, for each option of which the notes say so."""
    found = []
    for letter in _options(notes):
        said = " ".join(re.findall(rf"^- Option {letter}: (.+)$", notes, re.M))
        bought = re.search(r"costs? ([\d,]+) euros for the", said)
        kept = re.search(r"aintenance (?:comes to )?([\d,]+) euros", said)
        if bought and kept:
            purchase, yearly = (float(m[1].replace(",", "")) for m in (bought, kept))
            found.append({"purchase_euros": purchase, "euros_a_year": yearly, "years": 20})
    return found


def _filled(schema: str, asked: str) -> dict[str, Any]:
    """What CrewAI's memory asks for as JSON: what to keep, where, and what to look for."""
    about = {"entities": [], "dates": [], "topics": ["heating"]}
    known: dict[str, dict[str, Any]] = {
        "ExtractedMemories": {"memories": [f"Somebody asked: {_question(asked)}"]},
        "MemoryAnalysis": {
            "suggested_scope": "/heating",
            "categories": ["heating"],
            "importance": 0.5,
            "extracted_metadata": about,
        },
        "QueryAnalysis": {"keywords": ["heating"], "recall_queries": ["heating of schools"]},
        "ConsolidationPlan": {"actions": [], "insert_new": True},
    }
    return known.get(schema, {})


def _coworker(task: str) -> str:
    words = task.lower()
    fits = (who for who, signs in COWORKERS.items() if any(sign in words for sign in signs))
    return next(fits, "Researcher")


def _schema(body: dict[str, Any]) -> str:
    """The name of the JSON schema that the answer must follow, "" without one."""
    return str(((body.get("response_format") or {}).get("json_schema") or {}).get("name", ""))


def _task(asked: str) -> str:
    """The task's own words, without what CrewAI adds to them."""
    task = re.search(r"Current Task: (.+?)(?=\n\nThis is the expected|\Z)", asked, re.S)
    return (task[1] if task else asked).strip()


def _context(asked: str) -> str:
    """What those before have said; all that was asked where CrewAI does not mark it."""
    _, mark, context = asked.partition("This is the context you're working with:")
    return context.strip() if mark else asked


def _question(task: str) -> str:
    found = re.search(r"[^\n:.]*\?", task)
    return (found[0] if found else task.split("\n")[0]).strip()


def _text(message: dict[str, Any]) -> str:
    return str(message.get("content") or "")


def _call(tool: str, /, **arguments: Any) -> Call:
    return {"name": tool, "arguments": arguments}
