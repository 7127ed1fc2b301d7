"""LiteLLM's proxy as an app sees it that registers a model: its model management, and chat.

    python -m tests.doubles.litellm --port 4000

It answers as LiteLLM 1.106 does with a database, which takes models while it runs. `fail`:

    401 500 503  that status on every path that wants the key
    hang         every path takes the request and says nothing
    no_database  a proxy that knows only its configuration: no model can be added, changed or
                 taken away; `models` are the configured ones, still listed and asked
"""

from __future__ import annotations

import json
import random
import secrets
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles import serve
from tests.doubles.control import Double, hang
from tests.doubles.gateway import ERRORS, Received, _error, _wrong_key
from tests.doubles.serve import Cut, Stream

Body = dict[str, Any]
Handler = Callable[[Request, Body], Awaitable[Response]]
DOCS = "https://docs.litellm.ai/docs/proxy/virtual_keys"
NO_DB = f"No DB Connected. Here's how to do it - {DOCS}"
NEEDS_DB = (
    "DB not connected. This endpoint needs a database; set DATABASE_URL to a PostgreSQL"
    f" connection string (postgresql://...) to enable it. See {DOCS}"
)
NOT_ADDED = "Failed to add model to db. Check your server logs for more details."


class LiteLLM(Double):
    """The proxy; all attributes can be changed while it runs.

    models: what is registered, each as /model/new took it, by its id; several may have one name.
    key: the one key that it knows. requests: what came, refused requests too.
    """

    failures = ("401", "500", "503", "hang", "no_database")
    settable = ("fail", "models", "key")
    counters = ("requests",)

    def __init__(self, key: str = "sk-double", fail: str | None = None) -> None:
        super().__init__(fail)
        self.key = key
        self.models: dict[str, Body] = {}
        self.requests: list[Received] = []
        self.app = Starlette(
            debug=True,  # a 500 shows its traceback
            routes=[
                self.control(),
                Route("/health/liveliness", self._alive),
                Route("/health/readiness", self._alive),
                self._route("POST", "/model/new", self._new, _no_database),
                self._route("POST", "/model/delete", self._delete, _no_database),
                self._route("POST", "/model/update", self._update, _no_database),
                self._route("PATCH", "/model/{id}/update", self._patch, _needs_database),
                self._route("GET", "/model/info", self._info),
                self._route("GET", "/v1/model/info", self._info),
                self._route("GET", "/v1/models", self._list),
                self._route("POST", "/v1/chat/completions", self._chat),
            ],
        )

    def restart(self) -> None:
        """As a proxy that keeps nothing: what was registered is gone."""
        self.models = {}

    async def _alive(self, request: Request) -> Response:
        if self.fail == "hang":
            return await hang(request)
        if request.url.path == "/health/liveliness":
            return JSONResponse("I'm alive!")
        state = "Not connected" if self.fail == "no_database" else "connected"
        return JSONResponse({"status": "healthy", "db": state})

    def _route(
        self,
        method: str,
        path: str,
        handler: Handler,
        no_database: Callable[[], Response] | None = None,
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            body = json.loads(await request.body() or b"{}")
            self.requests.append(Received(request.url.path, dict(request.headers), body))
            if self.fail == "hang":
                return await hang(request)
            if refused := self._refused(request):
                return refused
            if self.fail == "no_database" and no_database:
                return no_database()
            return await handler(request, body)

        return Route(path, endpoint, methods=[method])

    def _refused(self, request: Request) -> Response | None:
        if self.fail in ERRORS:
            return _error(*ERRORS[self.fail])
        key = request.headers.get("authorization", "").removeprefix("Bearer").strip()
        if key == self.key:
            return None
        if key and self.fail == "no_database":
            return _error(400, "no_db_connection", "No connected db.")
        return _wrong_key(key)

    async def _new(self, _: Request, body: Body) -> Response:
        if "model" not in body["litellm_params"]:
            return _missing("litellm_params", "model")
        info = body.get("model_info") or {}
        model_id = str(info.get("id") or uuid.uuid4())
        if model_id in self.models:
            return _detailed(500, NOT_ADDED)
        self.models[model_id] = {
            "model_name": body["model_name"],
            "litellm_params": body["litellm_params"],
            "model_info": info | {"id": model_id},
        }
        return self._row(model_id)

    async def _delete(self, _: Request, body: Body) -> Response:
        if "id" not in body:
            return _missing("id")
        if self.models.pop(body["id"], None) is None:
            return _detailed(400, f"Model with id={body['id']} not found in db")
        return JSONResponse({"message": f"Model: {body['id']} deleted successfully"})

    async def _update(self, _: Request, body: Body) -> Response:
        """The older way: it leaves the model's info as it is."""
        if not body.get("model_info"):
            return _auth_error(400, "Authentication Error, model_info not provided")
        model_id = body["model_info"].get("id")
        if model_id not in self.models:
            return _auth_error(400, "Authentication Error, model not found")
        if body.get("litellm_params") is None:
            return _auth_error(400, "Authentication Error, litellm_params not provided")
        return self._merged(model_id, body | {"model_info": {}})

    async def _patch(self, request: Request, body: Body) -> Response:
        model_id = request.path_params["id"]
        if model_id not in self.models:
            return _error(404, "not_found_error", f"Model {model_id} not found on proxy.")
        return self._merged(model_id, body)

    def _merged(self, model_id: str, body: Body) -> Response:
        old = self.models[model_id]
        self.models[model_id] = {
            "model_name": body.get("model_name") or old["model_name"],
            "litellm_params": old["litellm_params"] | _given(body.get("litellm_params")),
            "model_info": old["model_info"] | _given(body.get("model_info")),
        }
        return self._row(model_id)

    def _row(self, model_id: str) -> Response:
        """The model as the database has it, where each text among its parameters is encrypted."""
        model = self.models[model_id]
        params = model["litellm_params"]
        hidden = {k: secrets.token_urlsafe(64) for k, v in params.items() if isinstance(v, str)}
        stored: Body = {"model_id": model_id, "model_name": model["model_name"], "blocked": False}
        stored |= {"litellm_params": params | hidden}
        stored |= {"model_info": {"db_model": False} | model["model_info"]}
        for at, by in (("created_at", "created_by"), ("updated_at", "updated_by")):
            stored |= {at: datetime.now(UTC).isoformat(), by: "default_user_id"}
        return JSONResponse(stored)

    async def _info(self, request: Request, _: Body) -> Response:
        wanted = request.query_params.get("litellm_model_id")
        if wanted is None:
            return JSONResponse({"data": [self._shown(model) for model in self.models.values()]})
        if wanted not in self.models:
            detail = {"error": f"Model id = {wanted} not found on litellm proxy"}
            return JSONResponse({"detail": detail}, 400)
        return JSONResponse({"data": [self._shown(self.models[wanted])]})

    def _shown(self, model: Body) -> Body:
        params = {k: v for k, v in model["litellm_params"].items() if k != "api_key"}
        info = {"db_model": self.fail != "no_database"} | model["model_info"]
        info |= {"key": params["model"], "litellm_provider": params["model"].partition("/")[0]}
        return model | {"litellm_params": params, "model_info": info}

    async def _list(self, _: Request, __: Body) -> Response:
        names = dict.fromkeys(model["model_name"] for model in self.models.values())
        data = [
            {"id": name, "object": "model", "created": 1677610602, "owned_by": "openai"}
            for name in names
        ]
        return JSONResponse({"data": data, "object": "list"})

    async def _chat(self, _: Request, body: Body) -> Response:
        name = body.get("model")
        served = [model for model in self.models.values() if model["model_name"] == name]
        return _Forwarded(random.choice(served), body) if served else _unknown(name)


class _Forwarded(Stream):
    """The answer of the model that is registered, piece by piece."""

    def __init__(self, model: Body, body: Body) -> None:
        self._model, self._body = model, body
        super().__init__(self._relay())

    async def _relay(self) -> AsyncGenerator[bytes, None]:
        params = self._model["litellm_params"]
        provider, _, name = params["model"].partition("/")
        address = f"{params['api_base']}/chat/completions"
        key = {"Authorization": f"Bearer {params.get('api_key', 'fake-api-key')}"}
        try:
            async with (
                httpx.AsyncClient(timeout=None, trust_env=False) as client,
                client.stream(
                    "POST", address, json=self._body | {"model": name}, headers=key
                ) as answer,
            ):
                self.status_code = answer.status_code
                self.headers["Content-Type"] = answer.headers.get("content-type", "")
                self.headers["X-LiteLLM-Model-Id"] = self._model["model_info"]["id"]
                async for piece in answer.aiter_bytes():
                    yield piece
        except httpx.TransportError as error:
            if self.started:
                raise Cut from None
            kind = f"InternalServerError: {provider.capitalize()}Exception"
            refusal = _error(500, "internal_server_error", f"litellm.{kind} - {error}")
            self.status_code, self.raw_headers = 500, refusal.raw_headers
            yield bytes(refusal.body)


def _given(values: Body | None) -> Body:
    """Nothing is taken out by a null."""
    return {name: value for name, value in (values or {}).items() if value is not None}


def _auth_error(status: int, message: str) -> Response:
    """LiteLLM calls whatever goes wrong in its model management so."""
    return _error(status, "auth_error", message, "None")


def _detailed(status: int, message: str) -> Response:
    return _auth_error(status, str({"error": message}))


def _no_database() -> Response:
    return _detailed(500, NO_DB)


def _needs_database() -> Response:
    return JSONResponse({"detail": {"error": NEEDS_DB}}, 500)


def _missing(*field: str) -> Response:
    problem = {"type": "missing", "loc": ["body", *field], "msg": "Field required"}
    return JSONResponse({"detail": [problem]}, 422)


def _unknown(model: Any) -> Response:
    hint = "Call `/v1/models` to view available models for your key."
    message = f"/chat/completions: Invalid model name passed in model={model}. {hint}"
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "400"}
    return JSONResponse({"error": error | {"provider_specific_fields": {"error": message}}}, 400)


if __name__ == "__main__":
    by_hand_port = serve.arguments(__doc__, 4000).parse_args().port
    serve.by_hand(LiteLLM().app, by_hand_port)
