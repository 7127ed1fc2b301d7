"""Langfuse 3 as its SDK 4 sees it: takes traces and scores and keeps them as plain dicts.

    python -m tests.doubles.langfuse --port 3000

Traces come as OTLP over HTTP, protobuf, plain or gzip; scores through the ingestion endpoint.
`fail`: 401, 500 or hang, for every path but the health check, which a wrong key does not close.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles import serve
from tests.doubles.control import Double, hang

VERSION = "3.113.0"
API = "/api/public"


class Langfuse(Double):
    """The receiver.

    spans: {name, trace_id, span_id, parent_id, attributes, start_ns, end_ns, scope}; ids are hex,
    `parent_id` is None for a root, `scope` the name of the instrumentation. scores, datasets, items
    and run_items: the bodies as they were sent. requests: (path, headers) of what came, headers in
    lower case.
    """

    failures = ("401", "500", "hang")
    counters = ("spans", "scores", "datasets", "items", "run_items", "requests")

    def __init__(
        self,
        *,
        public_key: str = "pk-lf-double",
        secret_key: str = "sk-lf-double",
        fail: str | None = None,
    ) -> None:
        super().__init__(fail)
        self._basic = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()
        self.spans: list[dict[str, Any]] = []
        self.scores: list[dict[str, Any]] = []
        self.datasets: list[dict[str, Any]] = []
        self.items: list[dict[str, Any]] = []
        self.run_items: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.app = Starlette(
            debug=True,  # a 500 shows its traceback
            routes=[
                self.control(),
                self._route("GET", "/health", self._health),
                self._route("GET", "/projects", self._projects),
                self._route("POST", "/otel/v1/traces", self._traces),
                self._route("POST", "/ingestion", self._ingestion),
                self._route("POST", "/scores", self._score),
                self._route("POST", "/v2/datasets", self._kept(self.datasets)),
                self._route("POST", "/dataset-items", self._kept(self.items)),
                self._route("POST", "/dataset-run-items", self._kept(self.run_items)),
                self._route("GET", "/traces/{trace_id}", self._trace),
            ],
        )

    def _route(
        self, method: str, path: str, handler: Callable[[Request], Awaitable[Response]]
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            self.requests.append((request.url.path, dict(request.headers)))
            if self.fail == "hang":
                return await hang(request)
            if self.fail == "500":
                return _error(500, "InternalServerError", "Internal Server Error")
            if path != "/health" and not self._allowed(request):
                return _error(401, "UnauthorizedError", "Invalid credentials.")
            return await handler(request)

        return Route(API + path, endpoint, methods=[method])

    def _allowed(self, request: Request) -> bool:
        given = request.headers.get("authorization")
        return self.fail != "401" and given == f"Basic {self._basic}"

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "OK", "version": VERSION})

    async def _projects(self, _: Request) -> Response:
        owner = {"id": "double", "name": "double"}
        project = {"id": "double", "name": "double", "organization": owner, "metadata": {}}
        return JSONResponse({"data": [project]})

    async def _traces(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += [_span(span, scope.scope.name) for span in scope.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        return Response(answer, media_type="application/x-protobuf")

    async def _ingestion(self, request: Request) -> Response:
        events = (await request.json())["batch"]
        self.scores += [event["body"] for event in events if event["type"] == "score-create"]
        done = [{"id": event["id"], "status": 201} for event in events]
        return JSONResponse({"successes": done, "errors": []}, 207)

    async def _score(self, request: Request) -> Response:
        self.scores.append(await request.json())
        return JSONResponse({"id": str(len(self.scores))})

    def _kept(
        self, place: list[dict[str, Any]]
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def keep(request: Request) -> Response:
            place.append(await request.json())
            return JSONResponse(place[-1])

        return keep

    async def _trace(self, request: Request) -> Response:
        trace = request.path_params["trace_id"]
        roots = [s for s in self.spans if s["trace_id"] == trace and not s["parent_id"]]
        if not roots:
            return _error(404, "LangfuseNotFoundError", "Trace not found")
        whole = {"id": trace, "name": roots[0]["name"], "input": _attribute(roots[0], "input")}
        seen = [_observation(s) for s in self.spans if s["trace_id"] == trace]
        return JSONResponse(whole | {"observations": seen})


def _observation(span: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": span["span_id"],
        "parentObservationId": span["parent_id"],
        "type": str(_attribute(span, "type") or "span").upper(),
        "name": span["name"],
        "input": _parsed(_attribute(span, "input")),
        "output": _parsed(_attribute(span, "output")),
        "model": _attribute(span, "model.name"),
    }


def _attribute(span: dict[str, Any], name: str) -> Any:
    return span["attributes"].get(f"langfuse.observation.{name}")


def _parsed(value: Any) -> Any:
    """Langfuse shows JSON as what it is, though it comes as text."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def _span(span: Any, scope: str) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_id": span.parent_span_id.hex() or None,
        "attributes": {pair.key: _value(pair.value) for pair in span.attributes},
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "scope": scope,
    }


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
    return getattr(value, kind) if kind else None


def _error(status: int, kind: str, message: str) -> Response:
    return JSONResponse({"message": message, "error": kind}, status)


if __name__ == "__main__":
    serve.by_hand(Langfuse().app, serve.arguments(__doc__, 3000).parse_args().port)
