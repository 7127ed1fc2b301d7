"""Door: the API under `/api`, of which each route is one function.

An answer is a run: what takes long is followed, not waited for.
"""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from agent import schemas
from agent.errors import Refused, Unavailable
from agent.runs import STREAM_HEADERS, Run, segment
from doors import PROBLEMS, WAIT_S, CurrentUser, Services, run_of

TraceParent = Annotated[str, Header(description="Makes the answer a part of the caller's trace.")]

router = APIRouter(prefix="/api", responses=PROBLEMS)


@router.post(
    "/chat",
    response_model=schemas.Answer,
    responses={202: {"model": schemas.Started}, 200: {"content": {"text/event-stream": {}}}},
)
async def chat(
    body: schemas.ChatRequest, here: Services, user: CurrentUser, traceparent: TraceParent = ""
) -> Response:
    """Answer a question, as JSON or (`stream`) as server-sent events of a resumable run."""
    from agent.chain import Question, begin

    history = [message.model_dump() for message in body.history]
    question = Question(body.question, history, user, "api", traceparent)
    run = begin(here, question)
    if body.stream:
        return _stream(run, 0)
    last = await run.wait(WAIT_S)
    if last is None:
        place = f"/api/runs/{run.id}"
        detail = f"The answer takes longer; ask for it at {place}."
        started = schemas.Started(run_id=run.id, detail=detail)
        return JSONResponse(started.model_dump(), 202, {"Location": place})
    if last.type == "error":
        raise Unavailable(last.data["detail"])
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
    """Stop a run and the model call it waits for."""
    await here.runs.cancel(run_of(here, run_id, user))
    return await run_state(run_id, here, user)


@router.api_route(
    "/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
)
async def nothing(request: Request, path: str) -> None:
    """What is not here, or else the page would answer for it."""
    raise Refused(f"There is no {request.method} {path[:100]!r} under /api/; see /docs.", 404)


def _stream(run: Run, after: int) -> StreamingResponse:
    headers = STREAM_HEADERS | {"X-Run-Id": run.id}
    return StreamingResponse(segment(run, after), headers=headers, media_type="text/event-stream")
