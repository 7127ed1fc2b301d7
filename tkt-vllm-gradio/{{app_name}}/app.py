"""The app: its doors put together, and its life. Start it with `uvicorn --factory app:create_app`.

The port is open before anything slow begins: the platform kills a pod that stays silent, and a
model takes minutes to load. The doors are api.py, openai_api.py and ui.py; a gate stands in front.
"""

import asyncio
import gc
import logging
import secrets
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

import api
import openai_api
from agent import logs, problems, schemas, sign_on
from agent.access import Access
from agent.health import probe
from agent.runs import DRAIN_S
from agent.settings import Settings, read
from doors import PROBLEMS, Services, connected

TEND_S = 5
"""How often adapters and the entry in LiteLLM are looked after."""
LOOK_TURNS = 6
"""In every so many of these turns all services are asked whether they answer."""
STARTING = HTMLResponse(
    '<!doctype html><meta http-equiv="refresh" content="1"><title>Starting</title>'
    '<p style="font-family:system-ui;margin:3rem">Starting: the page is here in a moment.</p>'
)
STREAMS = (
    "Streams of `/api` end by themselves after 10 s and are read on with `Last-Event-ID`, since "
    "the platform's edge cuts every response after 15 s. Those of `/v1` cannot be resumed: ask "
    "them by the in-cluster address, or have `ops/long-streams.yaml` applied."
)

log = logging.getLogger(__name__)


def create_app(services: Any = None) -> FastAPI:
    """The app; with `services` from a test, else those that the settings name."""
    settings = services.settings if services else read()
    logs.install(settings.logs_as_json)
    app = FastAPI(title=settings.title, description=_description(settings), lifespan=_lifespan)
    app.state.settings = settings
    app.state.services = services
    app.state.started = asyncio.Event()
    app.state.trouble, app.state.failed = "still starting; try again in a few seconds", False
    app.state.page = _Later(STARTING)
    _close(app, settings)
    problems.install(app, settings.max_upload_mb * 2**20)
    app.get("/health")(health)
    app.get("/ready", responses=PROBLEMS)(ready)
    app.get("/metrics", response_class=PlainTextResponse, responses=PROBLEMS)(metrics)
    app.include_router(api.router)
    app.include_router(openai_api.router)
    app.mount("/", app.state.page)
    return app


def _description(settings: Settings) -> str:
    return f"{settings.project_description}\n\n{STREAMS}"


def _close(app: FastAPI, settings: Settings) -> None:
    """Let only those in that may, where the settings want it."""

    async def access() -> Access | None:
        return (await connected(app)).access if settings.signs_on else None

    secret = settings.session_secret.get_secret_value() or secrets.token_hex()
    cookie = {"secret_key": secret, "session_cookie": f"{settings.app_name}-session"}
    sign_on.install(app, settings.signs_on, access, settings.app_url, **cookie)
    if settings.api_keys and not settings.signs_on:
        log.warning("API_KEYS are set, but AUTH is off: everybody is let in. Set AUTH=on.")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    starting = asyncio.create_task(_start(app))
    starting.add_done_callback(lambda task: _report(app, task))
    stop_watching = _drain_at_sigterm(app)
    try:
        yield
    finally:
        stop_watching()
        starting.cancel()
        with suppress(asyncio.CancelledError, Exception):  # reported when it happened
            await starting


def _drain_at_sigterm(app: FastAPI) -> Callable[[], Any]:
    """The server stops listening at once and waits for open streams; now is when to end them.

    Gives what puts the server's own handler back.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    loop, server = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def drain(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(_begin_to_drain, app)
        if callable(server):
            server(number, frame)

    signal.signal(signal.SIGTERM, drain)
    return lambda: signal.signal(signal.SIGTERM, server)


def _begin_to_drain(app: FastAPI) -> None:
    if app.state.services and app.state.started.is_set():
        app.state.draining = asyncio.create_task(_drain(app.state.services))


async def _drain(here: Any) -> None:
    """Out of LiteLLM's list first; then what goes on gets the time that is left; then the engine
    ends, and whatever still waits for it is told so."""
    if here.registration:
        await here.registration.end()
    going_on = [here.runs.drain()]
    if here.passing:
        going_on.append(asyncio.wait(here.passing, timeout=DRAIN_S))
    await asyncio.gather(*going_on)
    await here.engine.stop()


def _report(app: FastAPI, starting: "asyncio.Task[None]") -> None:
    if not starting.cancelled() and (error := starting.exception()):
        app.state.trouble = f"not able to start ({error}); its log says more"
        app.state.failed = True
        log.critical("The app is %s.", app.state.trouble, exc_info=error)


async def _start(app: FastAPI) -> None:
    """Import and connect behind the open port, start the engine, bring up the page, then look
    after adapters and LiteLLM for good."""
    async with AsyncExitStack() as stack:
        await asyncio.sleep(0.1)  # lets the first /health through before imports take the CPU
        if app.state.services is None:
            app.state.services = await asyncio.to_thread(_connect, app.state.settings)
            stack.push_async_callback(app.state.services.close)
        here = app.state.services
        app.state.started.set()
        living = asyncio.create_task(here.engine.live())
        stack.push_async_callback(_ended, living)
        page = await asyncio.to_thread(_build_page, here)
        await stack.enter_async_context(page.router.lifespan_context(page))
        app.state.page.shown = page
        gc.collect()
        gc.freeze()  # looking through all modules for garbage stops every stream for 0.2 s
        for turn in count():
            try:
                await here.tend()
                if turn % LOOK_TURNS == 0:
                    here.measures.looked(await probe(here.checks()))
            except Exception:  # whatever it is, the model goes on answering
                log.exception("Adapters or LiteLLM could not be looked after.")
            await asyncio.sleep(TEND_S)


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


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


class _Later:
    """What stands at a path: an app, and until it is imported a note."""

    def __init__(self, note: ASGIApp) -> None:
        self.shown = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.shown(scope, receive, send)


async def health(request: Request) -> schemas.Health:
    """Whether the process is alive. Asks no other service, and not the engine either."""
    return schemas.Health(service=request.app.state.settings.app_name)


async def ready(request: Request) -> schemas.Ready:
    """How far the model is, and which services answer. Always 200: an edge on the way would
    replace the body of a 503."""
    if not request.app.state.started.is_set():
        trouble = request.app.state.trouble
        starting = {"app": schemas.Service(ok=False, detail=trouble)}
        return schemas.Ready(
            ready=False, state="loading", phase="looking", detail=trouble, services=starting
        )
    here = request.app.state.services
    engine = here.engine
    found = await probe(here.checks())
    here.measures.looked(found)
    if request.app.state.failed:  # it answers, but its page is not there
        found["page"] = {"ok": False, "detail": request.app.state.trouble}
    all_well = all(service["ok"] for service in found.values())
    state = engine.phase if engine.phase in ("ready", "failed") else "loading"
    told = {"state": state, "phase": engine.phase, "detail": engine.detail}
    return schemas.Ready.model_validate({"ready": all_well, **told, "services": found})


async def metrics(here: Services) -> Response:
    """Figures for Prometheus, the engine's as well; with sign-on they need a key."""
    page = here.measures.page(here.engine.phase, here.engine.lives, await here.engine_metrics())
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")
