"""Door: the API under `/api`, of which each route is one function.

A run is promised at once and followed: nothing here waits for the crew.
"""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response, UploadFile
from fastapi.responses import StreamingResponse

from agent import schemas
from agent.errors import Refused
from agent.runs import STREAM_HEADERS, segment
from doors import PROBLEMS, CurrentUser, Services

Key = Annotated[str, Header(max_length=200, description="The same key is the same run.")]
TraceParent = Annotated[str, Header(description="Makes the run a part of the caller's trace.")]

router = APIRouter(prefix="/api", responses=PROBLEMS)


@router.post("/runs", status_code=202)
async def start_run(
    body: schemas.RunRequest,
    here: Services,
    user: CurrentUser,
    response: Response,
    idempotency_key: Key = "",
    traceparent: TraceParent = "",
) -> schemas.Started:
    """Let the crew work on a topic; ask for the run at its `Location`."""
    from agent.work import Ask, begin

    told = (body.topic, body.process, tuple(body.approve))
    budget = body.budget.model_dump(exclude_none=True)
    run = await begin(here, Ask(*told, budget, user, "api", idempotency_key, traceparent))
    response.headers["Location"] = place = f"/api/runs/{run.id}"
    detail = f"Follow it at {place}/events, or ask for it at {place}."
    return schemas.Started(run_id=run.id, state=run.state, detail=detail)  # type: ignore[arg-type]


@router.get("/runs")
async def list_runs(here: Services, user: CurrentUser) -> list[schemas.Listed]:
    """Your runs, newest first."""
    from agent.work import listed

    return [schemas.Listed.model_validate(one) for one in await listed(here, user)]


@router.get("/runs/{run_id}")
async def run_state(run_id: str, here: Services, user: CurrentUser) -> schemas.Run:
    """How far a run is, what it has spent, and its result once it has one."""
    from agent.work import record_of, told

    return schemas.Run.model_validate(told(await record_of(here, run_id, user)))


@router.get(
    "/runs/{run_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The run has ended, and all of it was read."},
    },
)
async def run_events(
    run_id: str,
    here: Services,
    user: CurrentUser,
    last_event_id: Annotated[int, Header(ge=0)] = 0,
) -> Response:
    """The events after `Last-Event-ID`; 204 when the run has ended and none are left."""
    from agent.work import follow

    run = await follow(here, run_id, user)
    if run.ended and last_event_id >= len(run.events):
        return Response(status_code=204)
    headers = STREAM_HEADERS | {"X-Run-Id": run.id}
    events = segment(run, last_event_id)
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")


@router.delete("/runs/{run_id}")
async def cancel_run(run_id: str, here: Services, user: CurrentUser) -> schemas.Run:
    """Stop a run, wherever it is worked on, and the call of the model that it waits for."""
    from agent.work import cancel, told

    here.limits.request(user)
    return schemas.Run.model_validate(told(await cancel(here, run_id, user)))


@router.post("/runs/{run_id}/approval")
async def approve(
    run_id: str, body: schemas.Approval, here: Services, user: CurrentUser
) -> schemas.Run:
    """Answer a run that waits for a person."""
    from agent.work import decide, told

    here.limits.request(user)
    record = await decide(here, run_id, user, body.decision, body.comment)
    return schemas.Run.model_validate(told(record))


@router.get("/crew")
async def crew(here: Services) -> schemas.Crew:
    """Who is in the crew, what it does, and with which tools."""
    from agent import prompts
    from agent.tools import TOOLS, offered, tool

    there = offered(here.toolbox)
    agents = [
        vars(role) | {"key": key, "tools": [name for name in role.tools if name in there]}
        for key, role in prompts.AGENTS.items()
    ]
    tools = [vars(tool(do)) | {"offered": name in there} for name, (do, _) in TOOLS.items()]
    return schemas.Crew.model_validate({"agents": agents, "tasks": prompts.TASKS, "tools": tools})


@router.get("/documents")
async def documents(here: Services) -> list[schemas.Document]:
    """What the crew can search and read; everybody's runs can."""
    return [schemas.Document.model_validate(one) for one in await here.documents.listed()]


@router.post("/documents", status_code=201)
async def add_documents(
    files: list[UploadFile], here: Services, user: CurrentUser
) -> list[schemas.Document]:
    """Take Markdown and plain text in; a document of the same name is replaced."""
    from agent.documents import checked

    here.limits.request(user)
    here.limits.upload(user, sum(file.size or 0 for file in files))
    names = [checked(file.filename or "") for file in files]
    texts = [(await file.read()).decode("utf-8", "replace") for file in files]
    if empty := [name for name, text in zip(names, texts, strict=True) if not text.strip()]:
        raise Refused(f"{empty[0]!r} holds no text; nothing was taken in.")
    added = [await here.documents.add(*one) for one in zip(names, texts, strict=True)]
    return [schemas.Document.model_validate(one) for one in added]


@router.delete("/documents/{name}")
async def delete_document(name: str, here: Services, user: CurrentUser) -> schemas.Document:
    """Remove a document."""
    here.limits.request(user)
    return schemas.Document.model_validate(await here.documents.delete(name))


@router.api_route(
    "/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
)
async def nothing(request: Request, path: str) -> None:
    """What is not here, or else the page would answer for it."""
    raise Refused(f"There is no {request.method} {path[:100]!r} under /api/; see /docs.", 404)
