"""The crew as tools over MCP, asked by MCP's own client, in this process."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from mcp import ClientSession
from mcp_client import session_with
from world import TASKS, FakeModel, kept, until

import mcp_tools
from agent.access import User
from agent.errors import Unavailable
from agent.services import Services
from agent.work import listed
from mcp_tools import build_tools

pytestmark = pytest.mark.anyio
ANA = User("ana", "Ana")


def client(services: Services, user: User = ANA) -> AbstractAsyncContextManager[ClientSession]:
    return session_with(build_tools(services), user)


async def called(session: ClientSession, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await session.call_tool(tool, arguments)
    assert not result.isError, result.content
    return dict(result.structuredContent or {})


async def refused(session: ClientSession, tool: str, **arguments: Any) -> str:
    result = await session.call_tool(tool, arguments)
    assert result.isError
    return str(getattr(result.content[0], "text", ""))


async def test_the_tools_say_what_they_do_and_what_they_want(services: Services) -> None:
    async with client(services) as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}

    assert set(tools) == {"run_crew", "get_run"}
    assert set(tools["run_crew"].inputSchema["properties"]) == {"topic", "process", "wait"}
    assert tools["run_crew"].inputSchema["required"] == ["topic"]
    for tool in tools.values():
        assert tool.description
        for field in tool.inputSchema["properties"].values():
            assert field["description"]


async def test_a_run_is_waited_for_and_asked_for_again(services: Services) -> None:
    services.worker.start(services)
    async with client(services) as session:
        done = await called(session, "run_crew", topic="Which heating?", process="hierarchical")

        assert (done["state"], done["door"], done["process"]) == ("done", "mcp", "hierarchical")
        assert [output["task"] for output in done["outputs"]] == TASKS
        assert done["result"]
        again = await called(session, "get_run", run_id=done["run_id"])
        assert again == done
    assert {"owner", "worker", "revision"}.isdisjoint(done)


async def test_one_need_not_wait(with_model: Services, model: FakeModel) -> None:
    go_on = asyncio.Event()
    model.enqueue(go_on)
    with_model.worker.start(with_model)
    async with client(with_model) as session:
        begun = await called(session, "run_crew", topic="Which heating?", wait=False)
        assert begun["state"] in ("queued", "running")

        go_on.set()

        async def done() -> bool:
            told = await called(session, "get_run", run_id=begun["run_id"])
            return bool(told["state"] == "done")

        await until(done)


async def test_who_waits_is_told_how_it_goes_on(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_tools, "HEARTBEAT_S", 0.1)
    go_on, heard = asyncio.Event(), []
    model.enqueue("The notes.", go_on)
    with_model.worker.start(with_model)

    async def progress(done: float, of: float | None, said: str | None) -> None:
        heard.append(said)

    report = mcp_tools.Context.report_progress

    async def reported(call: Any, done: float, of: float | None, said: str) -> None:
        await report(call, done, of, said)
        if "The notes." in said:  # seen here: this client hears all at the end of the response
            go_on.set()

    monkeypatch.setattr(mcp_tools.Context, "report_progress", reported)
    async with client(with_model) as session, asyncio.timeout(20):
        result = await session.call_tool(
            "run_crew", {"topic": "Which heating?"}, progress_callback=progress
        )

    assert not result.isError
    assert "Researcher: The notes." in heard


async def test_a_run_that_failed_says_why(with_model: Services, model: FakeModel) -> None:
    model.enqueue(Unavailable("The gateway is away; check it.", "model"))
    with_model.worker.start(with_model)
    async with client(with_model) as session:
        failed = await called(session, "run_crew", topic="Which heating?")

    assert (failed["state"], failed["error"]) == ("failed", "The gateway is away; check it.")


async def test_what_cannot_be_begun_is_told_in_the_apps_words(services: Services) -> None:
    async with client(services) as session:
        assert "1 to 8,000 characters" in await refused(session, "run_crew", topic=" ")
        assert "1 to 8,000 characters" in await refused(session, "run_crew", topic="x" * 8001)
        assert "process" in await refused(session, "run_crew", topic="a", process="odd")
        assert "There is no run 'nonsense'" in await refused(session, "get_run", run_id="nonsense")
        assert "no_such" in await refused(session, "no_such")
    assert await services.journal.counts() == {}


async def test_a_run_of_somebody_else_is_not_to_be_told_from_none(services: Services) -> None:
    async with client(services) as session:
        begun = await called(session, "run_crew", topic="Which heating?", wait=False)
    async with client(services, User("bo", "Bo")) as session:
        said = await refused(session, "get_run", run_id=begun["run_id"])

    assert f"There is no run '{begun['run_id']}'" in said
    assert [one.id for one in await listed(services, ANA)] == [begun["run_id"]]


async def test_a_journal_that_is_away_is_told(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise Unavailable("The runs cannot be kept; free some.")

    monkeypatch.setattr(services.journal, "create", away)
    async with client(services) as session:
        assert "The runs cannot be kept" in await refused(session, "run_crew", topic="a")


async def test_a_run_goes_on_when_nobody_waits_for_it_any_more(
    with_model: Services, model: FakeModel
) -> None:
    go_on = asyncio.Event()
    model.enqueue(go_on)
    with_model.worker.start(with_model)

    async def impatient() -> None:
        async with client(with_model) as session:
            await session.call_tool("run_crew", {"topic": "Which heating?"})

    asking = asyncio.create_task(impatient())
    await until(lambda: model.now)
    asking.cancel()
    await asyncio.wait([asking], timeout=5)
    go_on.set()

    (one,) = await listed(with_model, ANA)

    async def done() -> bool:
        return (await kept(with_model.journal, one.id)).state == "done"

    await until(done)
    assert model.stopped == 0


async def test_who_waits_is_told_when_the_app_is_being_restarted(
    with_model: Services, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_tools, "HEARTBEAT_S", 0.1)
    model.enqueue(asyncio.Event())
    with_model.worker.start(with_model)
    async with client(with_model) as session:
        waiting = asyncio.create_task(called(session, "run_crew", topic="Which heating?"))
        await until(lambda: model.now)
        await with_model.worker.drain()

        told = await asyncio.wait_for(waiting, 5)

    assert told["state"] == "queued"
