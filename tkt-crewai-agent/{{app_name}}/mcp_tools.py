"""Door: the crew as tools, over MCP at `/mcp`, for coding assistants and other agents.

Each request stands for itself (no session is kept), so any replica can answer it. The streams
cannot be resumed; a run can be asked for again by its id.
"""

from typing import Annotated, Any, Literal

from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from pydantic import Field
from starlette.requests import Request

from agent import schemas
from agent.access import User
from agent.errors import Refused, Unavailable
from agent.runs import HEARTBEAT_S
from agent.services import Services
from agent.work import Ask, begin, follow, record_of, told

Call = Context[Any, Any, Request]
Process = Literal["sequential", "hierarchical"]


def build_tools(services: Services) -> StreamableHTTPSessionManager:
    """What handles requests to `/mcp`; its `run()` must be entered first."""
    settings = services.settings
    server = FastMCP(settings.app_name, instructions=settings.project_description)
    tools = _Tools(services)
    for tool in (tools.run_crew, tools.get_run):
        server.tool()(tool)
    return StreamableHTTPSessionManager(server._mcp_server, stateless=True)


class _Tools:
    def __init__(self, services: Services) -> None:
        self._here = services

    async def run_crew(
        self,
        topic: Annotated[str, Field(description="What the crew shall find out or write about.")],
        call: Call,
        process: Annotated[
            Process, Field(description="One after the other, or a manager delegates.")
        ] = "sequential",
        wait: Annotated[
            bool, Field(description="Whether to wait for the report; else ask get_run for it.")
        ] = True,
    ) -> schemas.Run:
        """Let the crew research a topic and write a report. It takes minutes; a run goes on also
        when nobody waits for it any more."""
        user = _user(call)
        parent = _request(call).headers.get("traceparent", "")
        try:
            ask = Ask(topic, process, user=user, door="mcp", traceparent=parent)
            record = await begin(self._here, ask)
            run = await follow(self._here, record.id, user)
        except (Refused, Unavailable) as error:
            raise ToolError(str(error)) from error
        waited = 0
        while wait and not self._here.worker.draining and await run.wait(HEARTBEAT_S) is None:
            waited += HEARTBEAT_S
            latest = next((e for e in reversed(run.events) if e.type == "step"), None)
            said = f"{latest.data['agent']}: {latest.data['summary']}" if latest else "queued"
            await call.report_progress(waited, None, said)
        if wait and self._here.worker.draining:
            await self._here.worker.drain()  # or the run is said to be at work, and no worker is
        return await self._run(record.id, user)

    async def get_run(
        self, run_id: Annotated[str, Field(description="As run_crew gave it.")], call: Call
    ) -> schemas.Run:
        """How far a run is, and its report once it is done."""
        return await self._run(run_id, _user(call))

    async def _run(self, run_id: str, user: User) -> schemas.Run:
        try:
            return schemas.Run.model_validate(told(await record_of(self._here, run_id, user)))
        except (Refused, Unavailable) as error:
            raise ToolError(str(error)) from error


def _request(call: Call) -> Request:
    """The HTTP request that a call came with."""
    request = call.request_context.request
    assert request, "only HTTP leads here"
    return request


def _user(call: Call) -> User:
    user: User = _request(call).state.user
    return user
