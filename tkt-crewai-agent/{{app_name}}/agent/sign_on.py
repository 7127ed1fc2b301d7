"""The gate in front of every route, and signing on and off by browser.

A browser signs on at Keycloak (authorization code with PKCE) and keeps a signed cookie with who it
is, and nothing else; programs send a token or a key with each request. What is not named in `OPEN`
is closed, so that a route that is added later is closed as well.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.access import Access, Stranger, User
from agent.errors import Unavailable
from agent.problems import problem

OPEN = {"/health", "/auth/login", "/auth/callback"}
SIGNED_ON_S = 8 * 3600
"""After this a browser asks Keycloak anew; whoever is still signed on there sees nothing of it."""
SAFE = {"GET", "HEAD", "OPTIONS"}
PROGRAMS = ("/api/", "/v1/", "/mcp", "/metrics", "/ready")
"""Paths that programs ask: they get 401, no page to sign on at."""

log = logging.getLogger(__name__)
router = APIRouter(prefix="/auth", include_in_schema=False)


def install(
    app: FastAPI,
    closed: bool,
    access: Callable[[], Awaitable[Access | None]],
    address: str,
    **cookie: Any,
) -> None:
    """Put the gate in front of `app`, `closed` or open to everybody. `access()` gives who decides;
    `address` is what browsers know the app by, "" for what they ask. `cookie`: `secret_key` and
    `session_cookie`."""
    app.include_router(router)
    app.state.access, app.state.address = access, address
    cookie["https_only"] = address.startswith("https:")
    app.add_middleware(Gate, access=access)
    if closed:
        from starlette.middleware.sessions import SessionMiddleware

        app.add_middleware(SessionMiddleware, max_age=SIGNED_ON_S, **cookie)


class Gate:
    """Finds out who asks, as `request.state.user`, and lets only those through that may."""

    def __init__(self, app: ASGIApp, access: Callable[[], Awaitable[Access | None]]) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":  # nothing here speaks it
            return await send({"type": "websocket.close", "code": 1008})
        request = Request(scope)
        refusal: Response | None = None
        if scope["path"] not in OPEN:
            try:
                request.state.user = await self._user(request)
            except Stranger as error:
                refusal = _refusal(request, str(error))
            except Unavailable as error:
                refusal = problem(request, 502, str(error))
        await (refusal or self._app)(scope, receive, send)

    async def _user(self, request: Request) -> User:
        access = await self._access()
        if access is None:
            return User()
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if credential:
            if scheme.lower() != "bearer":
                raise Stranger("Send the token or key as `Authorization: Bearer ...`.")
            return await access.user(credential.strip())
        session = request.session.get("user")
        if not session or session["until"] < time.time():
            raise Stranger("Sign on first: send a token of the realm or a key of this app.")
        if request.method not in SAFE and not _from_here(request):
            raise Stranger("This request comes from another site's page.")
        return User(session["id"], session["name"])


def _from_here(request: Request) -> bool:
    """Browsers send a cookie also for other sites' pages; then they name that site."""
    origin = request.headers.get("origin")
    known = {request.headers.get("host"), urlsplit(request.app.state.address).netloc}
    return origin is None or urlsplit(origin).netloc in known


def _refusal(request: Request, reason: str) -> Response:
    path = request.url.path
    wants_page = "text/html" in request.headers.get("accept", "")
    if request.method == "GET" and wants_page and not path.startswith(PROGRAMS):
        wanted = f"{path}?{request.url.query}" if request.url.query else path
        return RedirectResponse(f"/auth/login?next={quote(wanted)}")
    refusal = problem(request, 401, reason)
    refusal.headers["WWW-Authenticate"] = "Bearer"
    return refusal


@router.get("/login")
async def login(request: Request, next: str = "/") -> Response:
    """To Keycloak's page, and from there to `callback`."""
    access = await request.app.state.access()
    if access is None:
        return RedirectResponse("/")
    if not access.issuer:
        return _note(502, "This app has no page to sign on at: no KEYCLOAK_URL is set. Use a key.")
    request.session["next"] = _own_path(next)
    back = f"{_address(request)}/auth/callback"
    try:
        found: Response = await access.realm.authorize_redirect(request, back)
        return found
    except Exception as error:  # whatever goes wrong between here and there
        return _away(access, error)


@router.get("/callback")
async def callback(request: Request) -> Response:
    """Back from Keycloak: the code becomes a token, and that says who it is."""
    from authlib.integrations.starlette_client import OAuthError
    from joserfc.errors import JoseError

    access = await request.app.state.access()
    if access is None:
        return RedirectResponse("/")
    expected = {
        "iss": {"essential": True, "value": access.issuer},
        "aud": {"essential": True, "value": access.client_id},
        "exp": {"essential": True},
    }
    try:
        token = await access.realm.authorize_access_token(request, claims_options=expected)
        user = access.user_of(token["userinfo"])
    except (OAuthError, JoseError) as error:
        if "user" in request.session:  # a second tab came back, or an old address was opened
            return RedirectResponse("/", 303)
        return _note(400, f"Signing on did not work ({escape(str(error))}).")
    except Exception as error:  # whatever goes wrong between here and there
        return _away(access, error)
    wanted = _own_path(request.session.get("next", "/"))
    request.session.clear()
    until = time.time() + SIGNED_ON_S
    request.session["user"] = {"id": user.id, "name": user.name, "until": until}
    return RedirectResponse(wanted, 303)


@router.get("/logout")
async def logout(request: Request) -> Response:
    """Sign off here and at Keycloak."""
    access = await request.app.state.access()
    if access is None:  # nobody signs on, so there is no session
        return RedirectResponse("/")
    request.session.clear()
    if not access.issuer:
        return RedirectResponse("/")
    try:
        target = await access.realm.create_logout_url(
            post_logout_redirect_uri=f"{_address(request)}/", client_id=access.client_id
        )
        return RedirectResponse(target["url"])
    except Exception as error:  # whatever goes wrong between here and there
        return _away(access, error)


def _own_path(path: str) -> str:
    """`path` where it leads to this app, else the start page; browsers read `\\` as `/`."""
    plain = path.isprintable() and "\\" not in path
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"


def _address(request: Request) -> str:
    """How a browser reaches the app: as it was told, else as it was asked."""
    return str(request.app.state.address or request.base_url).rstrip("/")


def _away(access: Access, error: Exception) -> Response:
    said = escape(str(error) or type(error).__name__)
    log.warning("Keycloak at %s does not answer as it should (%s)", access.issuer, said)
    return _note(502, f"Keycloak at {escape(access.issuer)} does not answer as it should ({said}).")


def _note(status: int, text: str) -> Response:
    """A page of one sentence; what comes from elsewhere was escaped."""
    again = '<a href="/">Try again</a>'
    style = "font-family:system-ui;margin:3rem;max-width:40rem"
    page = f'<!doctype html><title>Sign on</title><p style="{style}">{text} {again}</p>'
    return HTMLResponse(page, status)
