"""Door: the agent as tools, over MCP at `/mcp`, for coding assistants and other agents.

Each request stands for itself (no session is kept), so any replica can answer it. The streams
cannot be resumed, as those of `/v1`.
"""

import binascii
from base64 import b64decode
from typing import Annotated, Any

from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from pydantic import Field
from starlette.requests import Request

from agent import schemas
from agent.access import User
from agent.chain import Question, begin, passages
from agent.errors import Refused, Unavailable
from agent.ingest import Source, allow, new_folder, start_ingest, trouble_with_name
from agent.runs import HEARTBEAT_S
from agent.services import Services

Call = Context[Any, Any, Request]
Documents = Annotated[list[str], Field(description="Only in these documents; all when empty.")]


def build_tools(services: Services) -> StreamableHTTPSessionManager:
    """What handles requests to `/mcp`; its `run()` must be entered first."""
    settings = services.settings
    server = FastMCP(settings.app_name, instructions=settings.project_description)
    tools = _Tools(services)
    for tool in (tools.ask, tools.search_documents, tools.list_documents, tools.add_document):
        server.tool()(tool)
    return StreamableHTTPSessionManager(server._mcp_server, stateless=True)


class _Tools:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def ask(
        self,
        question: Annotated[str, Field(description="A question about the documents.")],
        call: Call,
        documents: Documents = [],  # noqa: B006 # a default for the tool's schema
    ) -> schemas.Answer:
        """Answer a question from the documents, with the passages that each statement rests on."""
        user, here = self._caller(call)
        parent = _request(call).headers.get("traceparent", "")
        asked = Question(
            question.strip(), documents=documents, user=user, door="mcp", traceparent=parent
        )
        if not asked.text:
            raise ToolError("The question is empty.")
        run = _allowed(begin, here, asked)
        try:
            waited = 0
            while (last := await run.wait(HEARTBEAT_S)) is None:
                waited += HEARTBEAT_S
                await call.report_progress(waited, None, "still working")
        finally:
            await here.runs.cancel(run)
        if last.type == "error":
            raise ToolError(last.data["detail"])
        return schemas.Answer.model_validate(last.data)

    async def search_documents(
        self,
        query: Annotated[str, Field(description="What to look for.")],
        call: Call,
        passages_wanted: Annotated[
            int, Field(ge=1, le=50, description="How many passages at most.")
        ] = 5,
        documents: Documents = [],  # noqa: B006
    ) -> list[schemas.Passage]:
        """The passages that match best, without an answer."""
        user, here = self._caller(call)
        try:
            found = await passages(here, user, query, passages_wanted, documents)
        except (Refused, Unavailable) as error:
            raise ToolError(str(error)) from error
        return [schemas.Passage.model_validate(hit) for hit in found]

    async def list_documents(self, call: Call) -> list[schemas.Document]:
        """The documents that answers are made of."""
        _, here = self._caller(call)
        try:
            entries = await here.store.documents()
        except Unavailable as error:
            raise ToolError(str(error)) from error
        return [schemas.Document.model_validate(entry) for entry in entries]

    async def add_document(
        self,
        name: Annotated[str, Field(description="File name, such as lease.pdf or notes.md.")],
        content: Annotated[str, Field(description="Its text, or its bytes in base64.")],
        call: Call,
        base64: Annotated[bool, Field(description="Whether `content` is base64.")] = False,
    ) -> schemas.File:
        """Take one document in; one of the same name is replaced."""
        user, here = self._caller(call)
        if trouble := trouble_with_name(name):
            raise ToolError(trouble)
        data = _bytes(content, base64)
        _allowed(allow, here, user, len(data))
        folder = new_folder(here)
        source = Source(name, folder / "0")
        source.path.write_bytes(data)
        run = start_ingest(here, [source], folder, user.id)
        while await run.wait(HEARTBEAT_S) is None:
            await call.report_progress(0, None, "still working")
        outcome = next((event.data for event in run.events if event.type == "file"), None)
        if outcome is None or outcome["status"] == "failed":
            raise ToolError((outcome or run.events[-1].data | {"reason": "It failed."})["reason"])
        return schemas.File.model_validate(outcome)

    def _caller(self, call: Call) -> tuple[User, Services]:
        user: User = _request(call).state.user
        return user, self._services.of(user)


def _request(call: Call) -> Request:
    """The HTTP request that a call came with."""
    request = call.request_context.request
    assert request, "only HTTP leads here"
    return request


def _allowed(do: Any, *arguments: Any) -> Any:
    try:
        return do(*arguments)
    except Refused as error:
        raise ToolError(str(error)) from error


def _bytes(content: str, base64: bool) -> bytes:
    if not base64:
        return content.encode("utf-8", "replace")
    try:
        return b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ToolError("The content is no base64; send text with base64=false.") from error
