"""Qdrant's REST API, version 1.15.4, around the local mode of its own Python client.

    python -m tests.doubles.qdrant_server --port 6333

Speaks what a store needs: collections, aliases, points, queries with prefetch and fusion, facets.
What a newer server would understand is refused with 400: the real 1.15 ignores or misreads it, and
then a test would pass here that fails there. `fail`: 503, hang, or slow (a second a request).
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from qdrant_client import QdrantClient, models
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.doubles import serve
from tests.doubles.control import Double, hang

VERSION = "1.15.4"
NAME = "/collections/{name}"

# The difference between the models of qdrant-client 1.15 and 1.20, as far as requests show it.
NEWER_FIELDS = {
    "CreateCollection": {"metadata", "payload", "id_tracker"},
    "UpdateCollection": {"metadata"},
    "PointsList": {"update_filter", "update_mode"},
    "PointsBatch": {"update_filter", "update_mode"},
    "SearchParams": {"acorn", "idf"},
    "VectorParams": {"memory"},
    "SparseIndexParams": {"memory"},
    "HnswConfigDiff": {"memory", "inline_storage"},
    "OptimizersConfigDiff": {"prevent_unoptimized"},
    "WalConfigDiff": {"wal_retain_closed"},
}
NEWER_INDEX_FIELDS = {"enable_hnsw", "memory", "nested", "prefix", "ascii_folding", "scoring"}
NEWER_CLASSES = {
    "RrfQuery", "RelevanceFeedbackQuery", "TextQuery", "MatchTextAny", "MatchPrefix",
    "MatchSubstring", "SliceCondition", "ShardKeyWithFallback", "TurboQuantization",
    "DisabledStemmerParams", "AcoshExpression", "MaxExpression", "MinExpression",
}  # fmt: skip
INFERENCE = {"Document", "Image", "InferenceObject"}


class Refused(Exception):
    """Ends a request with `status` and Qdrant's error body."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Qdrant(Double):
    """The server. `client` is its storage; `requests` holds (method, path, body) of what came;
    `indexes` the payload indexes: {collection: {field: type}}."""

    failures = ("503", "hang", "slow")
    counters = ("requests",)

    def __init__(self, fail: str | None = None) -> None:
        super().__init__(fail)
        self.client = QdrantClient(":memory:")
        self.requests: list[tuple[str, str, Any]] = []
        self.indexes: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()  # local mode loses points when two threads write
        routes = [self.control(), *self._service(), *self._collections()]
        self.app = Starlette(debug=True, routes=routes)  # a 500 shows its traceback

    def _service(self) -> list[Route]:
        about = {"title": "qdrant - vector search engine", "version": VERSION, "commit": "double"}
        checks = {
            "/healthz": "healthz check passed",
            "/livez": "livez check passed",
            "/readyz": "all shards are ready",
        }
        answers = {path: PlainTextResponse(text) for path, text in checks.items()}
        return [
            self._route("GET", path, lambda *_, answer=answer: answer)
            for path, answer in {"/": JSONResponse(about), **answers}.items()
        ]

    def _collections(self) -> list[Route]:
        selector, insert = models.PointsSelector, models.PointInsertOperations
        return [
            self._call("GET", "/collections", None, self._list),
            self._call("GET", "/aliases", None, self._all_aliases),
            self._call("POST", "/collections/aliases", models.ChangeAliasesOperation, self._alias),
            self._call("GET", f"{NAME}/exists", None, self._exists),
            self._call("GET", f"{NAME}/aliases", None, self._aliases),
            self._call("PUT", NAME, models.CreateCollection, self._create),
            self._call("PATCH", NAME, models.UpdateCollection, self._update),
            self._call("DELETE", NAME, None, self._drop),
            self._call("GET", NAME, None, self._info),
            self._call("PUT", f"{NAME}/index", models.CreateFieldIndex, self._index),
            self._call("PUT", f"{NAME}/points", insert, self._upsert),
            self._call("POST", f"{NAME}/points", models.PointRequest, self._retrieve),
            self._call("POST", f"{NAME}/points/delete", selector, self._delete),
            self._call("POST", f"{NAME}/points/payload", models.SetPayload, self._set_payload),
            self._call("POST", f"{NAME}/points/scroll", models.ScrollRequest, self._scroll),
            self._call("POST", f"{NAME}/points/count", models.CountRequest, self._count),
            self._call("POST", f"{NAME}/facet", models.FacetRequest, self._facet),
            self._call("POST", f"{NAME}/points/query", models.QueryRequest, self._query),
            self._call("POST", f"{NAME}/points/query/batch", models.QueryRequestBatch, self._batch),
        ]

    def _call(
        self, method: str, path: str, body_type: Any, action: Callable[[str, Any], Any]
    ) -> Route:
        """A route whose `action(collection, body)` gives the result in Qdrant's envelope."""
        adapter = None if body_type is None else TypeAdapter(body_type)

        def answer(received: tuple[str, bytes]) -> Response:
            start = time.perf_counter()
            body = _parsed(adapter, received[1]) if adapter else None
            with self._lock, warnings.catch_warnings(action="ignore"):
                result = action(received[0], body)
                envelope = {"result": result, "status": "ok", "time": time.perf_counter() - start}
                text = to_json(envelope, exclude_none=True)
            return Response(text, media_type="application/json")

        return self._route(method, path, answer)

    def _route(
        self, method: str, path: str, answer: Callable[[tuple[str, bytes]], Response]
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            self.requests.append((method, request.url.path, _json(raw)))
            try:
                if failure := await self._failure(request):
                    return failure
                name = request.path_params.get("name", "")
                return await run_in_threadpool(answer, (name, raw))
            except Refused as error:
                body = {"status": {"error": str(error)}, "time": 0.0}
                return JSONResponse(body, error.status)
            except ValueError as error:  # how local mode says that a request is wrong
                return JSONResponse({"status": {"error": f"Wrong input: {error}"}, "time": 0}, 400)

        return Route(path, endpoint, methods=[method])

    async def _failure(self, request: Request) -> Response | None:
        if self.fail == "hang":
            return await hang(request)
        if self.fail == "slow":
            await asyncio.sleep(1)
        if self.fail == "503":
            raise Refused(503, "Service unavailable: the node is not ready")
        return None

    def _list(self, _: str, __: None) -> Any:
        return self.client.get_collections()

    def _all_aliases(self, _: str, __: None) -> Any:
        return self.client.get_aliases()

    def _alias(self, _: str, body: Any) -> Any:
        for action in body.actions:
            if isinstance(action, models.CreateAliasOperation):
                self._known(action.create_alias.collection_name)
        return self.client.update_collection_aliases(body.actions)

    def _exists(self, name: str, _: None) -> Any:
        return {"exists": self.client.collection_exists(name)}

    def _aliases(self, name: str, _: None) -> Any:
        return self.client.get_collection_aliases(self._known(name))

    def _create(self, name: str, body: Any) -> Any:
        if self.client.collection_exists(name):
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        return self.client.create_collection(
            name, body.vectors, sparse_vectors_config=body.sparse_vectors
        )

    def _update(self, name: str, body: Any) -> Any:
        self._known(name)
        if body.sparse_vectors:
            self.client.update_collection(name, sparse_vectors_config=body.sparse_vectors)
        return True

    def _drop(self, name: str, _: None) -> Any:
        self.indexes.pop(name, None)
        return self.client.delete_collection(name)

    def _info(self, name: str, _: None) -> Any:
        info = self.client.get_collection(self._known(name))
        points = info.points_count or 0
        schema = {
            field: models.PayloadIndexInfo(data_type=models.PayloadSchemaType(kind), points=points)
            for field, kind in self.indexes.get(self._real(name), {}).items()
        }
        return info.model_copy(update={"payload_schema": schema})

    def _index(self, name: str, body: Any) -> Any:
        self._known(name)
        schema = body.field_schema
        kind = str(getattr(schema, "type", schema))
        self.indexes.setdefault(self._real(name), {})[body.field_name] = kind
        return self.client.create_payload_index(name, body.field_name, schema)

    def _upsert(self, name: str, body: Any) -> Any:
        points = body.batch if isinstance(body, models.PointsBatch) else body.points
        return self.client.upsert(self._known(name), points)

    def _retrieve(self, name: str, body: Any) -> Any:
        return self.client.retrieve(self._known(name), body.ids, **_shown(body))

    def _delete(self, name: str, body: Any) -> Any:
        return self.client.delete(self._known(name), body)

    def _set_payload(self, name: str, body: Any) -> Any:
        selector = body.points if body.points is not None else body.filter
        return self.client.set_payload(self._known(name), body.payload, selector, key=body.key)

    def _scroll(self, name: str, body: Any) -> Any:
        points, following = self.client.scroll(
            self._known(name),
            body.filter,
            limit=10 if body.limit is None else body.limit,
            offset=body.offset,
            order_by=body.order_by,
            **_shown(body),
        )
        return {"points": points, "next_page_offset": following}

    def _count(self, name: str, body: Any) -> Any:
        return self.client.count(self._known(name), body.filter)

    def _facet(self, name: str, body: Any) -> Any:
        self._known(name)
        if body.key not in self.indexes.get(self._real(name), {}):
            reason = f"No appropriate index for faceting: `{body.key}`"
            raise Refused(400, f"Bad request: {reason}. Please create an index for this field.")
        limit = 10 if body.limit is None else body.limit
        return self.client.facet(name, body.key, body.filter, limit)

    def _query(self, name: str, body: Any) -> Any:
        return self.client.query_points(
            self._known(name),
            body.query,
            using=body.using,
            prefetch=body.prefetch,
            query_filter=body.filter,
            search_params=body.params,
            limit=10 if body.limit is None else body.limit,
            offset=body.offset,
            score_threshold=body.score_threshold,
            lookup_from=body.lookup_from,
            **_shown(body, with_payload=False),
        )

    def _batch(self, name: str, body: Any) -> Any:
        return [self._query(name, search) for search in body.searches]

    def _known(self, name: str) -> str:
        if not self.client.collection_exists(name):
            raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
        return name

    def _real(self, name: str) -> str:
        """The collection that an alias stands for."""
        aliases = self.client.get_aliases().aliases
        return next((a.collection_name for a in aliases if a.alias_name == name), name)


def _shown(body: Any, with_payload: bool = True) -> dict[str, Any]:
    """What to give back of a point; a query gives no payload unless asked, the others do."""
    asked = body.with_payload
    return {
        "with_payload": with_payload if asked is None else asked,
        "with_vectors": False if body.with_vector is None else body.with_vector,
    }


def _parsed(adapter: TypeAdapter[Any], raw: bytes) -> Any:
    try:
        body = adapter.validate_json(raw)
    except ValidationError as error:
        reason = re.sub(r"\s+", " ", str(error.errors(include_url=False)[0]["msg"]))
        raise Refused(400, f"Format error in JSON body: {reason}") from error
    for part in _parts(body):
        kind = type(part).__name__
        newer = NEWER_INDEX_FIELDS if kind.endswith("IndexParams") else set()
        newer = newer | NEWER_FIELDS.get(kind, set())
        if kind in NEWER_CLASSES or (newer := newer & part.model_fields_set):
            what = f"fields {sorted(newer)} of {kind}" if newer else kind
            raise Refused(400, f"Format error in JSON body: Qdrant {VERSION} has no {what}")
        if kind in INFERENCE:
            raise Refused(400, "Bad request: this double infers nothing; send vectors")
    return body


def _parts(value: Any) -> Iterator[BaseModel]:
    """All models in `value`."""
    if isinstance(value, BaseModel):
        yield value
        value = dict(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            if isinstance(item, BaseModel | dict | list):
                yield from _parts(item)


def _json(raw: bytes) -> Any:
    try:
        return from_json(raw) if raw else None
    except ValueError:
        return raw


if __name__ == "__main__":
    serve.by_hand(Qdrant().app, serve.arguments(__doc__, 6333).parse_args().port)
