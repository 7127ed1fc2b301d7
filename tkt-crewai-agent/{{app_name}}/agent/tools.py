"""What agents can do. A tool is a function, and one entry in TOOLS at the end.

Its name is the tool's name, its docstring what the agents read about it, its parameters after the
first what they fill in. It gives text. What it raises as `Refused` or `Unavailable` the agent reads
as a sentence, so that it can try something else. Tools run on the app's event loop: what takes CPU
belongs in a thread or a process.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from agent.calculator import calculate as calculated
from agent.documents import Documents
from agent.harmless import as_material
from agent.mcp_client import RagAgent
from agent.sandbox import run_python as run_in_sandbox
from agent.web import Pages

Do = Callable[..., Awaitable[str]]


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    do: Do
    """Called with the toolbox and the arguments."""


@dataclass(frozen=True)
class Toolbox:
    """What the tools work with; None is not configured."""

    documents: Documents
    pages: Pages | None = None
    rag: RagAgent | None = None
    python: bool = False
    programs: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Programs of agents that run at the same time: each may take half of the pod's memory."""


def text(description: str) -> Any:
    return Field(description=description, max_length=20_000)


async def search_documents(
    box: Toolbox, query: Annotated[str, text("Words that the passage would hold.")]
) -> str:
    """Search the documents by words. Gives the best passages, each with its document's name."""
    found = await box.documents.search(query)
    if not found:
        names = ", ".join(d.name for d in await box.documents.listed()) or "none"
        return f"Nothing holds these words. Try others. The documents are: {names}."
    return "\n\n".join(f"From {p.document}:\n{as_material(p.text)}" for p in found)


async def read_document(
    box: Toolbox,
    name: Annotated[str, text("The document's name, as a search gives it.")],
    start: Annotated[int, Field(description="Character to read on from.", ge=0)] = 0,
) -> str:
    """Read a whole document, or the next part of a long one."""
    return as_material(await box.documents.read(name, start))


async def ask_documents(
    box: Toolbox, question: Annotated[str, text("A whole question, which needs no other.")]
) -> str:
    """Ask the agent that knows the organisation's documents; it answers and cites."""
    assert box.rag
    return as_material(await box.rag.ask(question))


async def read_page(box: Toolbox, url: Annotated[str, text("Address, from https:// on.")]) -> str:
    """Read a web page as text. Only some sites may be read; a refusal names them."""
    assert box.pages
    return as_material(await box.pages.read(url))


async def calculate(
    box: Toolbox, expression: Annotated[str, text("Such as (1200 - 950) / 950 * 100")]
) -> str:
    """Work out an arithmetic expression: + - * / // % ** and abs round min max sum sqrt log exp."""
    return calculated(expression)


async def run_python(
    box: Toolbox, code: Annotated[str, text("A program; what it prints is the result.")]
) -> str:
    """Run a small Python program: standard library, no network, a few seconds. Files only in its
    own folder, which is empty and goes when it ends."""
    async with box.programs:
        return await run_in_sandbox(code)


def tool(do: Do) -> Tool:
    """A function as a tool."""
    return Tool(do.__name__, inspect.getdoc(do) or "", do)


TOOLS: dict[str, tuple[Do, Callable[[Toolbox], bool]]] = {
    "search_documents": (search_documents, lambda box: True),
    "read_document": (read_document, lambda box: True),
    "ask_documents": (ask_documents, lambda box: box.rag is not None),
    "read_page": (read_page, lambda box: box.pages is not None),
    "calculate": (calculate, lambda box: True),
    "run_python": (run_python, lambda box: box.python),
}
"""Every tool, and when it is there to be used."""


def offered(box: Toolbox) -> dict[str, Tool]:
    """The tools that can be used with what is configured."""
    return {name: tool(do) for name, (do, there) in TOOLS.items() if there(box)}
