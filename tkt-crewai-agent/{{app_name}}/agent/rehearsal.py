"""What stands in for a model where none is connected: scripted words, and real tools.

It lets a crew go through all its steps on a machine with nothing, so that one can see what happens
when and try tools, approvals and budgets. It quotes and never concludes; the page says so.
"""

import asyncio
import itertools
import json
import re
from typing import Any

from agent import prompts
from agent.gateway import Messages, Said

NAME = "rehearsal"
PACE_S = 0.4
"""Per call, so that one can watch."""
NOTE = "*A rehearsal: no model is connected, so these are quotations and scripted words.*"
NOTES = 6
"""Passages that are quoted."""

_numbers = itertools.count(1)


class Rehearsal:
    """Answers as `gateway.ChatModel` does, and asks nobody."""

    rehearses = True

    def __init__(self, pace_s: float = PACE_S) -> None:
        self._pace_s = pace_s

    async def complete(
        self,
        messages: Messages,
        tools: list[dict[str, Any]] | None = None,
        stop: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Said:
        await asyncio.sleep(self._pace_s)
        asked = "\n".join(_text(m) for m in messages if m["role"] == "user")
        results = [_text(m) for m in messages if m["role"] == "tool"]
        names = [tool["function"]["name"] for tool in tools or []]
        step, topic = _step_and_topic(asked)
        if "delegate_work_to_coworker" in names:
            return self._manage(step, topic, asked, results)
        if "search_documents" in names and "read_document" in names:
            return self._research(topic, results)
        if "calculate" in names and not results and (difference := _difference(asked)):
            return _call("calculate", expression=difference)
        findings = _findings(asked, results)
        return _say(findings if names else f"# {topic}\n\n{NOTE}\n\n{findings}")

    async def name(self) -> str:
        return NAME

    async def check(self) -> str:
        return "a rehearsal: no model is connected"

    def _manage(self, step: prompts.Step, topic: str, asked: str, results: list[str]) -> Said:
        if results:
            return _say(results[-1])
        role = prompts.AGENTS.get(step.agent) or next(iter(prompts.AGENTS.values()))
        told = step.description.replace("{topic}", topic)
        _, _, context = asked.partition("context you're working with")
        return _call("delegate_work_to_coworker", task=told, context=context, coworker=role.role)

    def _research(self, topic: str, results: list[str]) -> Said:
        if not results:
            return _call("search_documents", query=topic)
        if len(results) == 1 and (found := re.search(r"^From (.+):$", results[0], re.M)):
            return _call("read_document", name=found[1])
        return _say("\n".join(_quotes(results[0], topic)) or "Nothing was found in the documents.")


def _quotes(text: str, topic: str) -> list[str]:
    """The sentence of each passage of a search that shares most words with the topic."""
    _, *found = re.split(r"^From (.+):$", text, flags=re.M)
    pairs = zip(found[::2], found[1::2], strict=True)
    lines = [(name, _sentence(passage, topic)) for name, passage in pairs]
    return [f"- {sentence} ({name})" for name, sentence in lines[:NOTES] if sentence]


def _sentence(passage: str, topic: str) -> str:
    plain = " ".join(line for line in passage.splitlines() if not line.startswith(("#", "|")))
    words = set(re.findall(r"\w{4,}", topic.lower()))
    sentences = re.split(r"(?<=[.!?])\s+", plain.strip())
    return max(sentences, key=lambda one: len(words & set(re.findall(r"\w{4,}", one.lower()))))


def _difference(text: str) -> str:
    """Of the first two large numbers in the notes, to use the tool once."""
    notes = "\n".join(re.findall(r"^- .+$", text, re.M))
    numbers = dict.fromkeys(re.findall(r"\b\d{1,3}(?:,\d{3})+\b", notes))
    first = [number.replace(",", "") for number in numbers][:2]
    return " - ".join(first) if len(first) == 2 else ""


def _findings(asked: str, results: list[str]) -> str:
    """The notes that it was shown, and what was worked out from them."""
    notes = list(dict.fromkeys(re.findall(r"^- .+$", asked, re.M)))[: 2 * NOTES]
    worked = [f"- The difference of the first two amounts is {result}." for result in results]
    return "\n".join([*notes, *worked]) or "- Nothing was found."


def _step_and_topic(asked: str) -> tuple[prompts.Step, str]:
    """The task whose words these are, and what stands in it for the topic; the latest one."""
    found = []
    for step in prompts.TASKS:
        before, _, after = step.description.partition("{topic}")
        at = asked.rfind(before[-40:]) if before else -1
        if at >= 0:
            rest = asked[at + len(before[-40:]) :]
            end = rest.find(after[:40]) if after.strip() else -1
            topic = rest[:end] if end >= 0 else rest.split("\n", 1)[0]
            found.append((at, step, topic.strip()))
    if not found:
        return prompts.TASKS[0], "the topic"
    _, step, topic = max(found, key=lambda one: one[0])
    return step, topic


def _text(message: dict[str, Any]) -> str:
    return str(message.get("content") or "")


def _say(text: str) -> Said:
    return Said(text, NAME, dollars=0.0)


def _call(tool: str, /, **arguments: str) -> Said:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{next(_numbers)}", "type": "function", "function": function}
    return Said("", NAME, [call], dollars=0.0)
