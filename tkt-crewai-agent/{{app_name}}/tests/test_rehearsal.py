"""What stands in for a model: scripted words, real tools, and a note that says so."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from world import TASKS, ask, ended, happened

from agent import prompts
from agent.gateway import Said
from agent.rehearsal import NOTE, PACE_S, Rehearsal
from agent.services import Services

pytestmark = pytest.mark.anyio
HEATING = (
    "# Heating\n\nA heat pump costs 900 euros a year. It is quiet.\n\n"
    "Gas costs 700 euros a year. It is loud."
)


def tool(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "parameters": {}}} for name in names]


def task(name: str, topic: str, notes: str = "") -> dict[str, str]:
    step = next(step for step in prompts.TASKS if step.name == name)
    return {"role": "user", "content": f"{step.description.replace('{topic}', topic)}\n{notes}"}


def wanted(said: Said) -> tuple[str, dict[str, Any]]:
    (call,) = said.calls
    return call["function"]["name"], json.loads(call["function"]["arguments"])


async def test_the_researcher_searches_reads_and_quotes_with_sources() -> None:
    rehearsal, told = Rehearsal(0), [task("research", "Heat pumps")]
    tools = tool("search_documents", "read_document")

    first = await rehearsal.complete(told, tools)
    found = "From a.md:\nA heat pump costs 900 euros. More.\n\nFrom b.md:\n# Gas\nGas costs 700."
    told.append({"role": "tool", "content": found})
    second = await rehearsal.complete(told, tools)
    told.append({"role": "tool", "content": "All of a.md."})
    third = await rehearsal.complete(told, tools)

    assert wanted(first) == ("search_documents", {"query": "Heat pumps"})
    assert wanted(second) == ("read_document", {"name": "a.md"})
    assert third.text == "- A heat pump costs 900 euros. (a.md)\n- Gas costs 700. (b.md)"


async def test_the_analyst_works_out_a_difference_once() -> None:
    notes = "- A heat pump costs 1,900 euros. (a.md)\n- Gas costs 1,700 euros. (b.md)"
    told = [task("analysis", "Heat pumps", notes)]

    first = await Rehearsal(0).complete(told, tool("calculate"))
    told.append({"role": "tool", "content": "200"})
    second = await Rehearsal(0).complete(told, tool("calculate"))

    assert wanted(first) == ("calculate", {"expression": "1900 - 1700"})
    assert "- The difference of the first two amounts is 200." in second.text


async def test_without_two_amounts_nothing_is_calculated() -> None:
    for notes in ("", "- No number. (a.md)", "- One: 5,000. (a.md)", "- In 2025, page 7. (a.md)"):
        said = await Rehearsal(0).complete([task("analysis", "x", notes)], tool("calculate"))
        assert not said.calls
        assert said.text


@pytest.mark.parametrize("name", ["draft", "edit"])
async def test_a_report_says_that_it_is_a_rehearsal(name: str) -> None:
    said = await Rehearsal(0).complete([task(name, "Heat pumps?", "- A fact. (a.md)")])

    assert said.text == f"# Heat pumps?\n\n{NOTE}\n\n- A fact. (a.md)"


async def test_the_manager_delegates_each_task_and_passes_on_what_comes_back() -> None:
    told = [task("draft", "Heat pumps")]
    tools = tool("delegate_work_to_coworker", "ask_question_to_coworker")

    first = await Rehearsal(0).complete(told, tools)
    told.append({"role": "tool", "content": "# Draft"})
    second = await Rehearsal(0).complete(told, tools)

    name, arguments = wanted(first)
    assert (name, arguments["coworker"]) == ("delegate_work_to_coworker", "Writer")
    assert "Heat pumps" in arguments["task"]
    assert second.text == "# Draft"


async def test_it_costs_nothing_and_calls_itself_a_rehearsal() -> None:
    said = await Rehearsal(0).complete([task("draft", "x")])

    assert (said.model, said.dollars, said.input, said.output) == ("rehearsal", 0.0, 0, 0)
    assert Rehearsal.rehearses
    assert await Rehearsal().name() == "rehearsal"
    assert "no model is connected" in await Rehearsal().check()


async def test_it_takes_its_time_so_that_one_can_watch() -> None:
    begin = time.monotonic()

    await Rehearsal().complete([task("draft", "x")])

    assert time.monotonic() - begin >= PACE_S


@pytest.mark.parametrize(
    "topic",
    ["a", "{topic}", "From x:", "- 1\n- 2", "Write a report on this", "\\1 (?P<x>", "ü" * 8000],
    ids=lambda topic: topic[:12],
)
@pytest.mark.parametrize("process", ["sequential", "hierarchical"])
async def test_any_topic_comes_to_an_end(process: str, topic: str, services: Services) -> None:
    await services.documents.add("heating.md", HEATING)
    services.worker.start(services)

    done = await ended(services, await ask(services, topic, process=process))

    assert done.state == "done", done.error
    assert [output["task"] for output in done.outputs] == TASKS
    assert NOTE in done.result


async def test_a_rehearsed_crew_uses_the_tools_on_the_documents(services: Services) -> None:
    await services.documents.add("heating.md", HEATING)
    services.worker.start(services)
    record = await ask(services, "What does a heat pump cost?")
    done = await ended(services, record)

    events = await happened(services.journal, record.id, 8)

    used = [event.data["tool"] for event in events if event.type == "tool"]
    assert used == ["search_documents", "read_document"]
    assert "heating.md" in done.result
    assert done.spent.dollars == 0


async def test_no_message_is_too_odd() -> None:
    for told in ([], [{"role": "user", "content": None}], [{"role": "tool", "content": "x"}]):
        for names in ((), ("calculate",), ("search_documents", "read_document"),
                      ("delegate_work_to_coworker",)):  # fmt: skip
            said = await Rehearsal(0).complete(told, tool(*names))
            assert said.text or said.calls
