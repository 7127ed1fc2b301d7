"""The agent as tools over MCP, asked by MCP's own client, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from starlette.types import Receive, Scope, Send

from agent.access import User
from agent.services import Services
from mcp_tools import build_tools

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client(services: Services) -> AsyncIterator[ClientSession]:
    """A session with the tools, as somebody whom the gate would have let in."""
    manager = build_tools(services)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["user"] = User("ana", "Ana")
        await manager.handle_request(scope, receive, send)

    transport = httpx.ASGITransport(app)
    async with (
        manager.run(),
        httpx.AsyncClient(transport=transport, base_url="http://app.test") as http,
        streamable_http_client("http://app.test/mcp", http_client=http) as (reading, writing, _),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        yield session


async def test_the_tools_say_what_they_do_and_what_they_want(services: Services) -> None:
    async with client(services) as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}

    assert set(tools) == {"ask", "search_documents", "list_documents", "add_document"}
    assert tools["ask"].inputSchema["required"] == ["question"]
    for tool in tools.values():
        assert tool.description
        for field in tool.inputSchema["properties"].values():
            assert field["description"]


async def test_documents_are_listed_and_an_empty_question_is_refused(services: Services) -> None:
    async with client(services) as session:
        listed = await session.call_tool("list_documents", {})
        assert not listed.isError
        refused = await session.call_tool("ask", {"question": " "})
        assert refused.isError
        assert "The question is empty." in getattr(refused.content[0], "text", "")
