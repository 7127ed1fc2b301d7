"""MCP's own client, for tools that are served in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send


@asynccontextmanager
async def session_with(
    tools: StreamableHTTPSessionManager, user: Any
) -> AsyncIterator[ClientSession]:
    """A session with the tools, as `user`, whom the gate would have let in."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["user"] = user
        await tools.handle_request(scope, receive, send)

    transport = httpx.ASGITransport(app)
    async with (
        tools.run(),
        httpx.AsyncClient(transport=transport, base_url="http://app.test") as http,
        streamable_http_client("http://app.test/mcp", http_client=http) as (reading, writing, _),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        yield session
