"""What all doors share: the services of a request, once they are there, and who asks.

async def route(here: Services, user: CurrentUser) -> ...
"""

import asyncio
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from agent import schemas
from agent.access import User
from agent.errors import Unavailable

WAIT_S = 10
"""The edge cuts every response at 15 s: what takes longer is promised and fetched later."""
_CODES = {
    400: "This cannot be understood.",
    401: "Sign on, or send a token or key.",
    404: "There is no such thing.",
    405: "There is no such method here.",
    409: "This does not fit what there is.",
    413: "This is too large.",
    422: "This cannot be used.",
    429: "Too much at once; `Retry-After` says when to come again.",
    502: "A service that is needed does not answer.",
    507: "The disk is full.",
}


def _described(media_type: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": schema}}
    return {code: {"description": said, "content": content} for code, said in _CODES.items()}


PROBLEMS = _described("application/problem+json", schemas.Problem.model_json_schema())
"""All that a route may answer beside what it promises."""
OPENAI_PROBLEMS = _described("application/json", {"type": "object", "required": ["error"]})
"""The same under /v1."""


async def connected(app: FastAPI) -> Any:
    """The services, also for a request that comes while they are being connected."""
    try:
        await asyncio.wait_for(app.state.started.wait(), WAIT_S)
    except TimeoutError:
        raise Unavailable(f"The app is {app.state.trouble}.") from None
    return app.state.services


def who(request: Request) -> User:
    """Who asks, as the gate found out."""
    user: User = request.state.user
    return user


async def services(request: Request) -> Any:
    """The services of this app."""
    return await connected(request.app)


Services = Annotated[Any, Depends(services)]
CurrentUser = Annotated[User, Depends(who)]
