"""Door: the API under `/api`, of which each route is one function.

An answer is a run: what takes long is followed, not waited for.
"""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from agent import schemas
from agent.errors import Refused, Unavailable
from agent.runs import STREAM_HEADERS, Run, segment
from doors import PROBLEMS, WAIT_S, CurrentUser, Services, run_of

router = APIRouter(prefix="/api", responses=PROBLEMS)


@router.post(
    "/chat",
    response_model=schemas.Answer,
    responses={202: {"model": schemas.Started}, 200: {"content": {"text/event-stream": {}}}},
)
async def chat(body: schemas.ChatRequest, here: Services, user: CurrentUser) -> Response:
    """Answer the last message, as JSON or (`stream`) as server-sent events of a resumable run."""
    from agent.chat import Talk, begin

    messages = [message.model_dump() for message in body.messages]
    talk = Talk(messages, body.model, body.temperature, body.max_tokens, user, "api")
    run = begin(here, talk)
    if body.stream:
        return _stream(run, 0)
    last = await run.wait(WAIT_S)
    if last is None:
        place = f"/api/runs/{run.id}"
        detail = f"The answer takes longer; ask for it at {place}."
        started = schemas.Started(run_id=run.id, detail=detail)
        return JSONResponse(started.model_dump(), 202, {"Location": place})
    if last.type == "error":
        raise (Refused if last.data.get("refused") else Unavailable)(last.data["detail"])
    return JSONResponse(last.data)


@router.get("/runs/{run_id}")
async def run_state(run_id: str, here: Services, user: CurrentUser) -> schemas.RunState:
    """How far a run is, and its result once it has one."""
    run = run_of(here, run_id, user)
    events = run.fresh()
    result = events[-1].data if run.ended else None
    state = events[-1].type if run.ended else "running"
    return schemas.RunState.model_validate(
        {"run_id": run.id, "state": state, "events": len(events), "result": result}
    )


@router.get(
    "/runs/{run_id}/events",
    response_class=StreamingResponse,
    responses={204: {"description": "The run has ended, and all of it was read."}},
)
async def run_events(
    run_id: str,
    here: Services,
    user: CurrentUser,
    last_event_id: Annotated[int, Header(ge=0)] = 0,
) -> Response:
    """The events after `Last-Event-ID`; 204 when the run has ended and none are left."""
    run = run_of(here, run_id, user)
    if run.ended and last_event_id >= len(run.events):
        return Response(status_code=204)
    return _stream(run, min(last_event_id, len(run.events)))


@router.delete("/runs/{run_id}")
async def cancel_run(run_id: str, here: Services, user: CurrentUser) -> schemas.RunState:
    """Stop a run; the engine stops computing it."""
    await here.runs.cancel(run_of(here, run_id, user))
    return await run_state(run_id, here, user)


@router.get("/model")
async def model(here: Services) -> schemas.Model:
    """What is served, how far its start is, and how busy it is."""
    engine, launch = here.engine, here.engine.launch
    cards, load = await asyncio.gather(asyncio.to_thread(engine.cards), here.load())
    return schemas.Model.model_validate(
        {
            "model": engine.name,
            "origin": launch.weights.origin if launch and launch.weights else "",
            "small": engine.small,
            "phase": engine.phase,
            "detail": engine.detail,
            "context": engine.context,
            "cache_tokens": engine.cache_tokens,
            "arithmetic": launch.fit.arithmetic if launch and launch.fit else "",
            "aliases": launch.names[1:] if launch else [],
            "adapters": here.adapters.loaded(),
            "cards": list(cards),
            "load": load,
        }
    )


@router.get("/adapters")
async def adapters(here: Services) -> list[schemas.Adapter]:
    """The LoRA adapters that are wanted, and whether they are loaded."""
    return [schemas.Adapter.model_validate(adapter) for adapter in here.adapters.listed()]


@router.post("/adapters", status_code=201)
async def add_adapter(
    body: schemas.AdapterRequest, here: Services, user: CurrentUser
) -> schemas.Adapter:
    """Load an adapter beside the model; it is kept until the app ends."""
    here.limits.request(user)
    return schemas.Adapter.model_validate(await here.adapters.add(body.name, body.source))


@router.delete("/adapters/{name}")
async def remove_adapter(name: str, here: Services, user: CurrentUser) -> schemas.Adapter:
    """Unload an adapter."""
    here.limits.request(user)
    return schemas.Adapter.model_validate(await here.adapters.remove(name))


@router.api_route(
    "/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
)
async def nothing(request: Request, path: str) -> None:
    """What is not here, or else the page would answer for it."""
    raise Refused(f"There is no {request.method} {path[:100]!r} under /api/; see /docs.", 404)


def _stream(run: Run, after: int) -> StreamingResponse:
    headers = STREAM_HEADERS | {"X-Run-Id": run.id}
    return StreamingResponse(segment(run, after), headers=headers, media_type="text/event-stream")
