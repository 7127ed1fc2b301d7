"""The app: its doors put together, and its life. Start it with `uvicorn --factory app:create_app`.

The port is open before anything slow is imported: the platform kills a pod that stays silent. The
doors are api.py, openai_api.py, mcp_tools.py, nats_door.py and ui.py; a gate stands in front of
those on HTTP.
"""

import asyncio
import gc
import logging
import secrets
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import api
import openai_api
from agent import logs, problems, schemas, sign_on
from agent.access import Access
from agent.errors import Unavailable
from agent.health import probe
from agent.settings import Settings, read
from doors import PROBLEMS, Services, connected

TEND_S = 15
"""How often runs are counted and services asked how they are."""
AGAIN_S = 3
"""Before NATS is tried again that did not answer at the start."""
STARTING = HTMLResponse(
    '<!doctype html><meta http-equiv="refresh" content="1"><title>Starting</title>'
    '<p style="font-family:system-ui;margin:3rem">Starting: the page is here in a moment.</p>'
)
STREAMS = (
    "Streams of `/api` end by themselves after 10 s and are read on with `Last-Event-ID`, since "
    "the platform's edge cuts every response after 15 s. Those of `/v1` and `/mcp` cannot be "
    "resumed: ask them by the in-cluster address, or have `ops/long-streams.yaml` applied."
)

log = logging.getLogger(__name__)


def create_app(services: Any = None) -> FastAPI:
    """The app; with `services` from a test or notebook, else those that the settings name."""
    settings = services.settings if services else read()
    logs.install(settings.logs_as_json)
    app = FastAPI(title=settings.title, description=_description(settings), lifespan=_lifespan)
    app.state.settings = settings
    app.state.services = services
    app.state.started = asyncio.Event()
    app.state.trouble, app.state.failed = "still starting; try again in a few seconds", False
    app.state.page, app.state.mcp = _Later(STARTING), _Later(STARTING)
    _close(app, settings)
    problems.install(app, settings.max_upload_mb * 2**20)
    app.get("/health")(health)
    app.get("/ready", responses=PROBLEMS)(ready)
    app.get("/metrics", response_class=PlainTextResponse, responses=PROBLEMS)(metrics)
    app.include_router(api.router)
    app.include_router(openai_api.router)
    app.router.routes.append(Route("/mcp", app.state.mcp))
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
    starting.add_done_callback(lambda task: _look_at(app, task))
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
        app.state.draining = asyncio.create_task(app.state.services.worker.drain())


def _look_at(app: FastAPI, starting: "asyncio.Task[None]") -> None:
    if not starting.cancelled() and (error := starting.exception()):
        _report(app, error)


def _report(app: FastAPI, error: BaseException) -> None:
    app.state.trouble = f"not able to start ({error}); its log says more"
    app.state.failed = True
    log.critical("The app is %s.", app.state.trouble, exc_info=error)


async def _start(app: FastAPI) -> None:
    """Import and connect behind the open port, bring up the page, begin to work on runs, then
    look after the services for good."""
    async with AsyncExitStack() as stack:
        await asyncio.sleep(0.1)  # lets the first /health through before imports take the CPU
        if app.state.services is None:
            app.state.services = await _connect(app)
            stack.push_async_callback(app.state.services.close)
        here = app.state.services
        if here.toolbox.python:
            _hide_environment()
        app.state.started.set()
        try:
            await _bring_up(app, here, stack)
        except Exception as error:
            _report(app, error)
            await asyncio.Event().wait()  # what works goes on until the process ends
        while True:
            try:
                await here.tend()
            except Unavailable as error:
                log.warning("%s", error)
            here.measures.looked(await probe(here.checks()))
            await asyncio.sleep(TEND_S)


def _hide_environment() -> None:
    from agent.sandbox import hide_environment

    hide_environment()


async def _bring_up(app: FastAPI, here: Any, stack: AsyncExitStack) -> None:
    """The page, the tools for other agents, the crew, and last the work."""
    page = await asyncio.to_thread(_build_page, here)
    await stack.enter_async_context(page.router.lifespan_context(page))
    app.state.page.shown = page
    tools = await asyncio.to_thread(_build_tools, here)
    await stack.enter_async_context(tools.run())
    app.state.mcp.shown = tools.handle_request
    await asyncio.to_thread(_import_crew)
    gc.collect()
    gc.freeze()  # looking through all modules for garbage stops every stream for 0.2 s
    here.worker.start(here)
    await _open_nats_door(here)


async def _connect(app: FastAPI) -> Any:
    """The services; NATS, once it is configured, is waited for, as runs may be on it already."""
    connect = await asyncio.to_thread(_import_connect)
    while True:
        try:
            return await connect(app.state.settings)
        except Unavailable as error:
            trouble = f"waiting for its runs ({error})"
            if trouble != app.state.trouble:
                log.warning("The app is %s.", trouble)
            app.state.trouble = trouble
            await asyncio.sleep(AGAIN_S)


def _import_connect() -> Any:
    from agent.services import connect

    return connect


def _import_crew() -> None:
    """Now, or the first run would wait for it."""
    import agent.crew  # noqa: F401


async def _open_nats_door(here: Any) -> None:
    from nats_door import open_door

    await open_door(here)


def _build_page(services: Any) -> FastAPI:
    gc.disable()  # finds nothing while modules load, and took a quarter of the start
    try:
        from ui import build_ui

        return build_ui(services)
    finally:
        gc.enable()


def _build_tools(services: Any) -> Any:
    from mcp_tools import build_tools

    return build_tools(services)


class _Later:
    """What stands at a path: an app, and until it is imported a note."""

    def __init__(self, note: ASGIApp) -> None:
        self.shown = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.shown(scope, receive, send)


async def health(request: Request) -> schemas.Health:
    """Whether the process is alive. Asks no other service."""
    return schemas.Health(service=request.app.state.settings.app_name)


async def ready(request: Request) -> schemas.Ready:
    """Which services answer. Always 200: an edge on the way would replace the body of a 503."""
    here = request.app.state.services
    if not request.app.state.started.is_set():
        starting = {"app": schemas.Service(ok=False, detail=request.app.state.trouble)}
        return schemas.Ready(ready=False, mode="rehearsal", services=starting)
    found = await probe(here.checks())
    here.measures.looked(found)
    mode = "rehearsal" if here.model.rehearses else "model"
    if request.app.state.failed:  # it takes runs, but its page or its tools are not there
        found["page"] = {"ok": False, "detail": request.app.state.trouble}
    all_well = all(service["ok"] for service in found.values())
    return schemas.Ready.model_validate({"ready": all_well, "mode": mode, "services": found})


async def metrics(here: Services) -> Response:
    """Figures for Prometheus; with sign-on they need a key, as everything does."""
    return Response(here.measures.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
