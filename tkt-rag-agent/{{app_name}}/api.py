"""Door: the API under `/api`, of which each route is one function.

Answers, uploads and deletions are runs: what takes long is followed, not waited for.
"""

import asyncio
import shutil
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse

from agent import schemas
from agent.errors import Refused, Unavailable
from agent.runs import STREAM_HEADERS, Run, segment
from doors import PROBLEMS, WAIT_S, CurrentUser, Services, run_of

TraceParent = Annotated[str, Header(description="Makes the answer a part of the caller's trace.")]

router = APIRouter(prefix="/api", responses=PROBLEMS)


@router.post("/search")
async def search(
    body: schemas.SearchRequest, here: Services, user: CurrentUser
) -> list[schemas.Passage]:
    """The passages that match best, best first, without an answer."""
    from agent.chain import passages

    hits = await passages(here, user, body.query, body.k, body.filter.documents)
    return [schemas.Passage.model_validate(hit) for hit in hits]


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

    question = Question(
        body.question,
        [message.model_dump() for message in body.history],
        body.filter.documents,
        body.session_id,
        user,
        "api",
        traceparent,
    )
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


@router.post("/documents", status_code=202)
async def add_documents(files: list[UploadFile], here: Services, user: CurrentUser) -> schemas.Job:
    """Take documents in; the job says what became of each file."""
    from agent.ingest import Source, allow, new_folder, start_ingest, trouble_with_name

    names = [file.filename or "" for file in files]
    troubles = [trouble_with_name(name) for name in names]
    if all(troubles):
        raise Refused(f"{names[0][:100]!r}: {troubles[0]}")
    allow(here, user, sum(file.size or 0 for file in files))
    folder = new_folder(here)
    sources = [Source(name, folder / str(n)) for n, name in enumerate(names)]
    for file, source in zip(files, sources, strict=True):
        with source.path.open("wb") as copy:
            await asyncio.to_thread(shutil.copyfileobj, file.file, copy)
    return _job(start_ingest(here, sources, folder, user.id))


@router.get("/jobs/{job_id}")
async def job(job_id: str, here: Services, user: CurrentUser) -> schemas.Job:
    """How far an upload is, and what became of each file."""
    run = run_of(here, job_id, user)
    if run.events[:1] and run.events[0].type == "files":
        return _job(run)
    raise Refused(f"The run {job_id!r} is no upload; see /api/runs/{job_id}.", 404)


@router.get("/documents")
async def documents(here: Services) -> list[schemas.Document]:
    """What the answers are made of."""
    entries = await here.store.documents()
    return [schemas.Document.model_validate(entry) for entry in entries]


@router.delete("/documents/{document_id}")
async def delete_document(document_id: str, here: Services, user: CurrentUser) -> schemas.Document:
    """Remove a document and all its passages."""
    here.limits.request(user)
    known = {document.id for document in await here.store.documents()}
    entry = await here.store.delete(document_id) if document_id in known else None
    if entry is None:
        raise Refused(f"There is no document {document_id!r}; see /api/documents.", 404)
    return schemas.Document.model_validate(entry)


@router.post("/feedback", responses={409: PROBLEMS[404] | {"description": "Nothing is traced."}})
async def feedback(body: schemas.Feedback, here: Services, user: CurrentUser) -> schemas.Feedback:
    """Say whether an answer was right: a score of its trace, which replaces the user's last one."""
    from agent.feedback import score

    here.limits.request(user)
    await score(here, user, body.trace_id, body.right, body.comment)
    return body


@router.api_route(
    "/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
)
async def nothing(request: Request, path: str) -> None:
    """What is not here, or else the page would answer for it."""
    raise Refused(f"There is no {request.method} {path[:100]!r} under /api/; see /docs.", 404)


def _stream(run: Run, after: int) -> StreamingResponse:
    headers = STREAM_HEADERS | {"X-Run-Id": run.id}
    return StreamingResponse(segment(run, after), headers=headers, media_type="text/event-stream")


def _job(run: Run) -> schemas.Job:
    events = run.fresh()
    names = events[0].data["documents"]
    done = [schemas.File(**event.data) for event in events if event.type == "file"]
    waiting = [schemas.File(document=name, status="waiting") for name in names[len(done) :]]
    status = events[-1].type if run.ended else "running"
    return schemas.Job.model_validate(
        {"job_id": run.id, "status": status, "total": len(names), "done": len(done),
         "files": [*done, *waiting]}
    )  # fmt: skip
