"""Door: the agent as a tool, over MCP at `/mcp`, for coding assistants and other agents.

Each request stands for itself (no session is kept), so any replica can answer it.
"""

from typing import Annotated, Any

from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from pydantic import Field
from starlette.requests import Request

from agent import schemas
from agent.chain import Question, begin
from agent.errors import Refused
from agent.runs import HEARTBEAT_S
from agent.services import Services

Call = Context[Any, Any, Request]


def build_tools(services: Services) -> StreamableHTTPSessionManager:
    """What handles requests to `/mcp`; its `run()` must be entered first."""
    settings = services.settings
    server = FastMCP(settings.app_name, instructions=settings.project_description)

    async def summarise(
        text: Annotated[str, Field(description="The text.", min_length=1)], call: Call
    ) -> schemas.Answer:
        """Summarise a text in a few sentences."""
        request = call.request_context.request
        assert request, "only HTTP leads here"
        try:
            run = begin(services, Question(text, user=request.state.user, door="mcp"))
        except Refused as error:
            raise ToolError(str(error)) from error
        try:
            while (last := await run.wait(HEARTBEAT_S)) is None:
                await call.report_progress(0, None, "still working")
        finally:
            await services.runs.cancel(run)
        if last.type == "error":
            raise ToolError(last.data["detail"])
        return schemas.Answer.model_validate(last.data)

    server.tool()(summarise)
    return StreamableHTTPSessionManager(server._mcp_server, stateless=True)
