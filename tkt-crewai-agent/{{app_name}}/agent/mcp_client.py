"""A tkt-rag-agent that the crew asks over MCP, as one of its tools."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx

from agent.errors import Unavailable

LIMIT_S = 120
"""An agent that has not answered by then is taken for hung."""


class RagAgent:
    """The agent at `url`, which ends in `/mcp`; `client` makes an HTTP client with its key."""

    def __init__(self, url: str, client: Callable[[], httpx.AsyncClient]) -> None:
        self.url, self._client = url, client

    async def ask(self, question: str) -> str:
        """Its answer, with the passages that it rests on."""
        answer = await self._call("ask", {"question": question})
        cited = [f"[{c['n']}] {c['document']}: {c['quote']}" for c in answer.get("citations") or []]
        return "\n".join([str(answer.get("answer", "")), *cited])

    async def check(self) -> str:
        tools = await self._session(lambda session: session.list_tools())
        if "ask" not in {tool.name for tool in tools.tools}:
            raise Unavailable(f"{self.url} offers no tool `ask`; check RAG_MCP_URL.")
        return f"tkt-rag-agent at {self.url}"

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        limit = timedelta(seconds=LIMIT_S)
        result = await self._session(lambda session: session.call_tool(tool, arguments, limit))
        if result.isError:
            said = " ".join(getattr(part, "text", "") for part in result.content)
            raise Unavailable(f"The agent at {self.url} says: {said[:300]}", "rag")
        return dict(result.structuredContent or {})

    async def _session(self, do: Any) -> Any:
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        try:
            async with (
                asyncio.timeout(LIMIT_S + 10),
                self._client() as http,
                streamable_http_client(self.url, http_client=http) as (reading, writing, _),
                ClientSession(reading, writing) as session,
            ):
                await session.initialize()
                return await do(session)
        except Unavailable:
            raise
        except Exception as error:
            reason = _first(error)
            raise Unavailable(
                f"The agent at {self.url} does not answer ({reason}); check RAG_MCP_URL and "
                "RAG_MCP_KEY.",
                "rag",
            ) from error


def _first(error: BaseException) -> str:
    """What is inside a group of errors, which is how the client tells them."""
    with contextlib.suppress(AttributeError, IndexError):
        return _first(error.exceptions[0])  # type: ignore[attr-defined]
    return f"{type(error).__name__}: {str(error)[:150]}".rstrip(": ")
