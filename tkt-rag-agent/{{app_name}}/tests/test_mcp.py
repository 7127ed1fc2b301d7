"""The agent as tools over MCP, asked by MCP's own client, in this process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from mcp import ClientSession
from mcp_client import session_with
from world import LEASE, take_in

from agent.access import User
from agent.services import Services
from mcp_tools import build_tools

pytestmark = pytest.mark.anyio


def client(services: Services) -> AbstractAsyncContextManager[ClientSession]:
    return session_with(build_tools(services), User("ana", "Ana"))


async def test_the_tools_say_what_they_do_and_what_they_want(services: Services) -> None:
    async with client(services) as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}

    assert set(tools) == {"ask", "search_documents", "list_documents", "add_document"}
    assert tools["ask"].inputSchema["required"] == ["question"]
    for tool in tools.values():
        assert tool.description
        for field in tool.inputSchema["properties"].values():
            assert field["description"]


async def test_documents_are_listed_and_an_empty_question_is_refused(
    services: Services, tmp_path: Path
) -> None:
    await take_in(services, tmp_path / "in", lease=LEASE)
    async with client(services) as session:
        listed = await session.call_tool("list_documents", {})
        assert not listed.isError
        documents = (listed.structuredContent or {})["result"]
        assert [entry["document"] for entry in documents] == ["lease.md"]
        refused = await session.call_tool("ask", {"question": " "})
        assert refused.isError
        assert "The question is empty." in getattr(refused.content[0], "text", "")
