"""Door: the API, and the page at `/`. Start it with `uvicorn --factory app:create_app`.

The port is open before anything slow is imported: the platform kills a pod that stays silent.
"""

import asyncio
import gc
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agent import problems, schemas
from agent.errors import Refused, Unavailable
from agent.health import probe
from agent.runs import STREAM_HEADERS, Run, segment
from agent.settings import Settings, read

JSON_WAIT_S = 10
"""An answer that takes longer is fetched later: the edge cuts every response at 15 s."""
TEND_S = 30
"""How often the store looks whether the embedding service is back or another."""

log = logging.getLogger(__name__)
router = APIRouter(prefix="/api")


def create_app(services: Any = None) -> FastAPI:
    """The app; with `services` from a test or notebook, else those that the settings name."""
    settings = services.settings if services else read()
    app = FastAPI(
        title=settings.title,
        description=settings.project_description,
        lifespan=_lifespan,
        responses={"default": {"model": schemas.Problem}},
    )
    app.state.settings = settings
    app.state.services = services
    app.state.started = asyncio.Event()
    app.state.trouble = "still starting; try again in a few seconds"
    app.state.page = _Page()
    problems.install(app, settings.max_upload_mb * 2**20)
    app.get("/health")(health)
    app.get("/ready")(ready)
    app.include_router(router)
    app.mount("/", app.state.page)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    starting = asyncio.create_task(_start(app))
    starting.add_done_callback(lambda task: _report(app, task))
    try:
        yield
    finally:
        starting.cancel()
        with suppress(asyncio.CancelledError, Exception):  # reported when it happened
            await starting


def _report(app: FastAPI, starting: "asyncio.Task[None]") -> None:
    if not starting.cancelled() and (error := starting.exception()):
        app.state.trouble = f"not able to start ({error}); its log says more"
        log.critical("The app is %s.", app.state.trouble, exc_info=error)


async def _start(app: FastAPI) -> None:
    """Import and connect behind the open port, bring up the page, then tend the store for good."""
    async with AsyncExitStack() as stack:
        await asyncio.sleep(0.1)  # lets the first /health through before imports take the CPU
        if app.state.services is None:
            app.state.services = await asyncio.to_thread(_connect, app.state.settings)
            stack.push_async_callback(app.state.services.close)
        app.state.started.set()
        page = await asyncio.to_thread(_build_page, app.state.services)
        await stack.enter_async_context(page.router.lifespan_context(page))
        app.state.page.shown = page
        while True:
            try:
                await app.state.services.tend()
            except Unavailable as error:
                log.warning("%s", error)
            await asyncio.sleep(TEND_S)


def _connect(settings: Settings) -> Any:
    from agent.services import connect

    return connect(settings)


def _build_page(services: Any) -> FastAPI:
    gc.disable()  # finds nothing while modules load, and took a quarter of the start
    try:
        from ui import build_ui

        return build_ui(services)
    finally:
        gc.enable()


class _Page:
    """What stands at `/`: the page, and until it is imported a note that loads itself again."""

    shown: ASGIApp = HTMLResponse(
        '<!doctype html><meta http-equiv="refresh" content="1"><title>Starting</title>'
        '<p style="font-family:system-ui;margin:3rem">Starting: the page is here in a moment.</p>'
    )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.shown(scope, receive, send)


async def services(request: Request) -> Any:
    """The services, also for a request that comes while they are being connected."""
    try:
        await asyncio.wait_for(request.app.state.started.wait(), JSON_WAIT_S)
    except TimeoutError:
        raise Unavailable(f"The app is {request.app.state.trouble}.") from None
    return request.app.state.services


Services = Annotated[Any, Depends(services)]


async def health(request: Request) -> schemas.Health:
    """Whether the process is alive. Asks no other service."""
    return schemas.Health(service=request.app.state.settings.app_name)


async def ready(request: Request) -> schemas.Ready:
    """Which services answer. Always 200: an edge on the way would replace the body of a 503."""
    here = request.app.state.services
    if not request.app.state.started.is_set():
        starting = {"app": schemas.Service(ok=False, detail=request.app.state.trouble)}
        return schemas.Ready(ready=False, mode="extractive", services=starting)
    found = await probe(
        {
            "qdrant": here.store.database.check,
            "model": here.model and here.model.check,
            "embedding": here.embedding and here.embedding.check,
            "langfuse": here.tracing.check if here.tracing.on else None,
        }
    )
    mode = "model" if here.model and found["model"]["ok"] else "extractive"
    all_well = all(service["ok"] for service in found.values())
    return schemas.Ready.model_validate({"ready": all_well, "mode": mode, "services": found})


@router.post("/search")
async def search(body: schemas.SearchRequest, here: Services) -> list[schemas.Passage]:
    """The passages that match best, best first, without an answer."""
    from agent.retriever import find

    _check_length(body.query, here.settings)
    found = await find(here.store, body.query, body.k, body.filter.documents)
    return [schemas.Passage.model_validate(hit) for hit in found.hits]


@router.post(
    "/chat",
    response_model=schemas.Answer,
    responses={202: {"model": schemas.Started}, 200: {"content": {"text/event-stream": {}}}},
)
async def chat(body: schemas.ChatRequest, here: Services) -> Response:
    """Answer a question, as JSON or (`stream`) as server-sent events of a resumable run."""
    from agent.chain import Question, answer

    _check_length(body.question, here.settings)
    question = Question(
        body.question,
        [message.model_dump() for message in body.history],
        body.filter.documents,
        body.session_id,
    )
    limit = here.settings.answer_timeout_s
    run = here.runs.start(lambda run: answer(here, question, run.id), limit)
    if body.stream:
        return _stream(run, 0)
    last = await run.wait(JSON_WAIT_S)
    if last is None:
        place = f"/api/runs/{run.id}"
        detail = f"The answer takes longer; ask for it at {place}."
        started = schemas.Started(run_id=run.id, detail=detail)
        return JSONResponse(started.model_dump(), 202, {"Location": place})
    if last.type == "error":
        raise Unavailable(last.data["detail"])
    return JSONResponse(last.data)


@router.get("/runs/{run_id}")
async def run_state(run_id: str, here: Services) -> schemas.RunState:
    """How far a run is, and its result once it has one."""
    run = _run(here, run_id)
    events = run.fresh()
    result = events[-1].data if run.ended else None
    state = events[-1].type if run.ended else "running"
    return schemas.RunState.model_validate(
        {"run_id": run.id, "state": state, "events": len(events), "result": result}
    )


@router.get("/runs/{run_id}/events", response_class=StreamingResponse)
async def run_events(
    run_id: str, here: Services, last_event_id: Annotated[int, Header(ge=0)] = 0
) -> Response:
    """The events after `Last-Event-ID`; 204 when the run has ended and none are left."""
    run = _run(here, run_id)
    if run.ended and last_event_id >= len(run.events):
        return Response(status_code=204)
    return _stream(run, min(last_event_id, len(run.events)))


@router.delete("/runs/{run_id}")
async def cancel_run(run_id: str, here: Services) -> schemas.RunState:
    """Stop a run and the model call it waits for."""
    await here.runs.cancel(_run(here, run_id))
    return await run_state(run_id, here)


@router.post("/documents", status_code=202)
async def add_documents(files: list[UploadFile], here: Services) -> schemas.Job:
    """Take documents in; the job says what became of each file."""
    from agent.ingest import Source, start_ingest, trouble_with_name

    names = [file.filename or "" for file in files]
    troubles = [trouble_with_name(name) for name in names]
    if all(troubles):
        raise Refused(f"{names[0][:100]!r}: {troubles[0]}")
    folder = Path(tempfile.mkdtemp(prefix="upload-"))
    sources = [Source(name, folder / str(n)) for n, name in enumerate(names)]
    for file, source in zip(files, sources, strict=True):
        with source.path.open("wb") as copy:
            await asyncio.to_thread(shutil.copyfileobj, file.file, copy)
    return _job(start_ingest(here, sources, folder))


@router.get("/jobs/{job_id}")
async def job(job_id: str, here: Services) -> schemas.Job:
    """How far an upload is, and what became of each file."""
    run = _run(here, job_id)
    if run.events[:1] and run.events[0].type == "files":
        return _job(run)
    raise Refused(f"The run {job_id!r} is no upload; see /api/runs/{job_id}.", 404)


@router.get("/documents")
async def documents(here: Services) -> list[schemas.Document]:
    """What the answers are made of."""
    entries = await here.store.documents()
    return [schemas.Document.model_validate(entry) for entry in entries]


@router.delete("/documents/{document_id}")
async def delete_document(document_id: str, here: Services) -> schemas.Document:
    """Remove a document and all its passages."""
    known = {document.id for document in await here.store.documents()}
    entry = await here.store.delete(document_id) if document_id in known else None
    if entry is None:
        raise Refused(f"There is no document {document_id!r}; see /api/documents.", 404)
    return schemas.Document.model_validate(entry)


@router.api_route(
    "/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False
)
async def nothing(request: Request, path: str) -> None:
    """What is not here, or else the page would answer for it."""
    raise Refused(f"There is no {request.method} {path[:100]!r} under /api/; see /docs.", 404)


def _check_length(question: str, settings: Settings) -> None:
    limit = settings.max_question_chars
    if len(question) > limit:
        raise Refused(f"The question has {len(question)} characters; at most {limit} are taken.")


def _run(here: Any, run_id: str) -> Run:
    run: Run | None = here.runs.get(run_id)
    if run is None:
        raise Refused(f"There is no run {run_id!r}: it ended a while ago, or another process.", 404)
    return run


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
