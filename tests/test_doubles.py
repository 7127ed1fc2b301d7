"""The doubles, each spoken to by the client library that the real service is used with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.doubles.edge import Edge
from tests.doubles.gateway import Gateway
from tests.doubles.langfuse import Langfuse
from tests.doubles.qdrant_server import Qdrant
from tests.doubles.serve import running

openai = pytest.importorskip("openai")
models = pytest.importorskip("qdrant_client.models")
QUESTION = [
    {"role": "system", "content": "Answer from the passages."},
    {
        "role": "user",
        "content": "Passages:\n\n[1] lease.md, page 2\nThe rent is 900 a month. It is due on"
        " the first.\n\n[2] nda.md\nSecrets stay secret.\n\nQuestion: What is the rent?",
    },
]
ANSWER = "The rent is 900 a month [1]."


def eventually(condition: Any, limit_s: float = 2) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(condition())


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    return run


# The gateway


@pytest.fixture(scope="module")
def gateway_url() -> Iterator[tuple[Gateway, str]]:
    gateway = Gateway()
    with running(gateway.app) as url:
        yield gateway, url


@pytest.fixture(autouse=True)
def gateway(gateway_url: tuple[Gateway, str]) -> Gateway:
    """The running gateway, as new."""
    double = gateway_url[0]
    app = double.app
    double.__init__()  # type: ignore[misc]
    double.app = app
    return double


@pytest.fixture
def url(gateway_url: tuple[Gateway, str]) -> str:
    return gateway_url[1]


@pytest.fixture(scope="module")
def client(gateway_url: tuple[Gateway, str]) -> Any:
    url = gateway_url[1]
    return openai.OpenAI(base_url=f"{url}/v1", api_key="sk-double", max_retries=0, timeout=5)


def chat(client: Any, **more: Any) -> Any:
    given = {"model": "double", "messages": QUESTION} | more
    return client.chat.completions.create(**given)


def test_a_chat_answers_from_the_first_passage(client: Any, gateway: Gateway) -> None:
    answer = chat(client)
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 7
    assert gateway.requests[0].body["messages"] == QUESTION
    assert gateway.requests[0].headers["authorization"] == "Bearer sk-double"


def test_without_a_passage_the_last_line_comes_back(client: Any) -> None:
    said = "Rewrite the question.\n\nassistant: It is 900 [1].\n\nLast question: And in May?"
    answer = chat(client, messages=[{"role": "user", "content": said}])
    assert answer.choices[0].message.content == "And in May?"


def test_a_stream_says_the_same_and_ends_with_the_usage(client: Any) -> None:
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(said) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 7


def test_a_stream_keeps_its_pace(client: Any, gateway: Gateway) -> None:
    gateway.first_token_s, gateway.tokens_per_second = 0.2, 50
    began = time.monotonic()
    stream = chat(client, stream=True)
    next(stream)
    assert 0.2 <= time.monotonic() - began < 1
    list(stream)
    assert 0.3 <= time.monotonic() - began < 1.5


def test_an_answer_that_is_not_streamed_takes_as_long(client: Any, gateway: Gateway) -> None:
    gateway.first_token_s, gateway.tokens_per_second = 0.1, 50
    began = time.monotonic()
    assert chat(client).choices[0].message.content == ANSWER
    assert 0.2 <= time.monotonic() - began < 1.5


def test_max_tokens_cuts_an_answer_off(client: Any) -> None:
    choice = chat(client, max_tokens=2).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("The rent", "length")


def test_a_function_can_reply(client: Any, gateway: Gateway) -> None:
    gateway.reply = lambda messages: f"{len(messages)} messages"
    assert chat(client).choices[0].message.content == "2 messages"


TOOLS = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("streams", [True, False])
def test_a_script_calls_tools_of_the_request_that_has_them(
    client: Any, gateway: Gateway, streams: bool
) -> None:
    gateway.script = [[{"name": "search", "arguments": {"q": "rent"}}], "Found it."]
    assert chat(client).choices[0].message.content == ANSWER
    if streams:
        chunks = list(chat(client, tools=TOOLS, stream=True))
        parts = [c.choices[0].delta.tool_calls[0] for c in chunks[:-1]]
        name, arguments = parts[0].function.name, "".join(p.function.arguments for p in parts)
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
    else:
        call = chat(client, tools=TOOLS).choices[0].message.tool_calls[0]
        name, arguments = call.function.name, call.function.arguments
    assert (name, arguments) == ("search", '{"q": "rent"}')
    assert chat(client, tools=TOOLS).choices[0].message.content == "Found it."


def test_json_mode_answers_json(client: Any) -> None:
    answer = chat(client, response_format={"type": "json_object"})
    assert answer.choices[0].message.content == f'{{"answer": "{ANSWER}"}}'


def test_embeddings_of_texts_that_share_words_are_near(client: Any, gateway: Gateway) -> None:
    texts = ["the rent of the flat", "rent for a flat", "secrets stay secret"]
    data = client.embeddings.create(model="double-embed", input=texts).data
    rent, flat, secret = (item.embedding for item in data)
    near, far = (sum(a * b for a, b in zip(rent, other, strict=True)) for other in (flat, secret))
    assert near > 0.4 > 0.2 > far
    gateway.dim = 32
    assert len(client.embeddings.create(model="double-embed", input="a").data[0].embedding) == 32


def test_embeddings_come_as_base64_or_as_floats(client: Any) -> None:
    ask: dict[str, Any] = {"model": "double-embed", "input": "the rent"}
    packed = client.embeddings.with_raw_response.create(**ask, encoding_format="base64")
    assert '"embedding": "' in packed.text
    floats = client.embeddings.create(**ask, encoding_format="float").data[0].embedding
    assert client.embeddings.create(**ask).data[0].embedding == pytest.approx(floats)


def test_all_models_are_listed_and_each_does_only_its_work(client: Any, gateway: Gateway) -> None:
    gateway.deployable = ["mirrored"]
    listed = [model.id for model in client.models.list().data]
    assert listed == ["double", "double-embed", "mirrored"]
    with pytest.raises(openai.BadRequestError, match="Invalid model name"):
        chat(client, model="double-embed")
    with pytest.raises(openai.APIStatusError, match="not loaded"):
        chat(client, model="mirrored")
    assert list(chat(client, model="mirrored", stream=True)) == []


def test_a_wrong_key_is_refused_as_litellm_refuses_it(client: Any) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="sk-wrong").models.list()
    assert refused.value.body["type"] == "token_not_found_in_db"
    assert refused.value.body["code"] == "401"


def test_the_health_check_needs_no_key(url: str, gateway: Gateway) -> None:
    gateway.fail = "503"
    assert httpx.get(f"{url}/health/liveliness").json() == "I'm alive!"


@pytest.mark.parametrize(
    ("fail", "status"),
    [("401", 401), ("429", 429), ("500", 500), ("503", 503), ("timeout", 408)],
)
def test_a_refusal_has_its_status_on_every_path(
    client: Any, gateway: Gateway, fail: str, status: int
) -> None:
    gateway.fail = fail
    for ask in (client.models.list, lambda: chat(client, stream=True), lambda: embed(client)):
        with pytest.raises(openai.APIStatusError) as refused:
            ask()
        assert refused.value.status_code == status
        assert refused.value.response.headers.get("retry-after") == ("1" if fail == "429" else None)


def embed(client: Any) -> Any:
    return client.embeddings.create(model="double-embed", input="a")


def test_refused_embeddings_leave_the_chat_alone(client: Any, gateway: Gateway) -> None:
    gateway.fail = "refuse_embeddings"
    assert chat(client).choices[0].message.content == ANSWER
    with pytest.raises(openai.InternalServerError):
        embed(client)


def test_an_empty_stream_is_200_and_nothing(client: Any, gateway: Gateway) -> None:
    gateway.fail = "empty_stream"
    answer = chat(client, stream=True)
    assert answer.response.status_code == 200
    assert list(answer) == []


def test_a_cut_stream_breaks_in_mid_answer(client: Any, gateway: Gateway) -> None:
    gateway.fail = "cut"
    stream = chat(client, stream=True)
    said = next(stream).choices[0].delta.content
    assert said == "The"
    with pytest.raises(openai.APIConnectionError):
        list(stream)
    with pytest.raises(openai.APIConnectionError):
        chat(client)
    assert gateway.aborted == 0


def test_garbage_is_no_json(url: str, client: Any, gateway: Gateway) -> None:
    gateway.fail = "garbage"
    with pytest.raises(ValueError):  # noqa: PT011 - not UTF-8 or not JSON
        list(chat(client, stream=True))
    key = {"Authorization": "Bearer sk-double"}
    with pytest.raises(ValueError):  # noqa: PT011
        httpx.get(f"{url}/v1/models", headers=key).json()


def test_a_hanging_gateway_says_nothing(client: Any, gateway: Gateway) -> None:
    gateway.fail = "hang"
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).models.list()
    assert eventually(lambda: gateway.aborted == 1)


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_is_noticed(url: str, gateway: Gateway, streams: bool) -> None:
    gateway.tokens_per_second, gateway.first_token_s = 5, 0.05
    body = {"model": "double", "messages": QUESTION, "stream": streams}
    port = int(url.rsplit(":", 1)[1])
    request = httpx.Request("POST", url, json=body)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-double"
        length = len(request.content)
        connection.sendall(f"{head}\r\nContent-Length: {length}\r\n\r\n".encode() + request.content)
        assert eventually(lambda: gateway.active == 1)
        assert gateway.aborted == 0
    assert eventually(lambda: gateway.active == 0)
    assert gateway.aborted == 1


def test_a_finished_stream_is_not_aborted(client: Any, gateway: Gateway) -> None:
    list(chat(client, stream=True))
    assert eventually(lambda: gateway.active == 0)
    assert gateway.aborted == 0


def test_fifty_streams_at_once_keep_their_pace(url: str, gateway: Gateway) -> None:
    gateway.reply = "word " * 20
    gateway.tokens_per_second = 40

    async def all_of_them() -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-double") as client:
            await asyncio.gather(*(take(client) for _ in range(50)))

    async def take(client: Any) -> None:
        ask = {"model": "double", "messages": QUESTION, "stream": True}
        async for _ in await client.chat.completions.create(**ask):
            pass

    began = time.monotonic()
    asyncio.run(all_of_them())
    assert 0.5 <= time.monotonic() - began < 10


def test_a_double_is_told_to_fail_over_http(url: str, client: Any, gateway: Gateway) -> None:
    told = httpx.post(f"{url}/_double", json={"fail": "429", "tokens_per_second": 25}).json()
    assert (told["fail"], told["tokens_per_second"]) == ("429", 25)
    with pytest.raises(openai.RateLimitError):
        chat(client)
    assert httpx.get(f"{url}/_double").json()["requests"] == 1


@pytest.mark.parametrize("told", [{"fail": "never"}, {"fial": "429"}])
def test_what_a_double_does_not_know_is_refused(
    url: str, gateway: Gateway, told: dict[str, str]
) -> None:
    assert httpx.post(f"{url}/_double", json=told).status_code == 400
    with pytest.raises(ValueError, match="no failure of this double"):
        gateway.fail = "never"


def test_a_stopped_double_frees_its_port() -> None:
    with running(Gateway(key=None).app) as url:
        port = int(url.rsplit(":", 1)[1])
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    with running(Gateway(key=None).app, port) as again:
        assert again == url
        assert httpx.get(f"{url}/v1/models").status_code == 200


# Qdrant


@contextlib.asynccontextmanager
async def qdrant() -> AsyncIterator[tuple[Qdrant, Any]]:
    """The double and a client; a collection `docs` with a dense and a sparse vector."""
    from qdrant_client import AsyncQdrantClient

    double = Qdrant()
    with running(double.app) as url:
        client = AsyncQdrantClient(url=url, check_compatibility=False, timeout=5)
        await client.create_collection(
            "docs",
            {"dense": models.VectorParams(size=3, distance=models.Distance.COSINE)},
            sparse_vectors_config={
                "sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)
            },
        )
        try:
            yield double, client
        finally:
            await client.close()


def point(n: int, dense: list[float] | None, words: list[int], **payload: Any) -> Any:
    vector: dict[str, Any] = {"dense": dense} if dense else {}
    if words:
        vector["sparse"] = models.SparseVector(indices=words, values=[1.0] * len(words))
    return models.PointStruct(id=n, vector=vector, payload=payload)


POINTS = [
    point(1, [1, 0, 0], [1, 2], document="lease", page=None),
    point(2, [0, 1, 0], [2, 3], document="lease", page=2),
    point(3, [0, 0, 1], [4], document="nda", page=1),
    point(4, None, [], document="nda", nested={"a": [1, None]}),
]


def where(document: str) -> Any:
    match = models.MatchValue(value=document)
    return models.Filter(must=[models.FieldCondition(key="document", match=match)])


@in_a_loop
async def test_points_are_stored_found_changed_and_deleted() -> None:
    async with qdrant() as (_, client):
        await client.upsert("docs", POINTS)
        (first, bare) = await client.retrieve("docs", [1, 4], with_vectors=True)
        assert first.payload == {"document": "lease", "page": None}
        assert first.vector["dense"] == [1, 0, 0]
        assert first.vector["sparse"].indices == [1, 2]
        assert bare.payload == {"document": "nda", "nested": {"a": [1, None]}}
        assert not bare.vector
        await client.set_payload("docs", {"page": 9}, points=[2])
        await client.set_payload("docs", {"kind": "secret"}, points=where("nda"))
        assert (await client.retrieve("docs", [2]))[0].payload["page"] == 9
        assert (await client.retrieve("docs", [3]))[0].payload["kind"] == "secret"
        await client.delete("docs", [1])
        await client.delete("docs", where("nda"))
        assert (await client.count("docs", exact=True)).count == 1


@in_a_loop
async def test_scrolling_goes_on_where_it_stopped() -> None:
    async with qdrant() as (_, client):
        await client.upsert("docs", POINTS)
        page, following = await client.scroll("docs", limit=3)
        assert ([p.id for p in page], following) == ([1, 2, 3], 4)
        page, following = await client.scroll("docs", limit=3, offset=following)
        assert ([p.id for p in page], following) == ([4], None)
        page, _ = await client.scroll("docs", where("nda"))
        assert [p.id for p in page] == [3, 4]


@in_a_loop
async def test_dense_sparse_and_fused_queries_find_their_points() -> None:
    async with qdrant() as (_, client):
        await client.upsert("docs", POINTS)
        dense = models.Prefetch(query=[0.9, 0.1, 0.0], using="dense", limit=2)
        words = models.SparseVector(indices=[3], values=[1.0])
        sparse = models.Prefetch(query=words, using="sparse", limit=2)
        found = await client.query_points("docs", [0.9, 0.1, 0.0], using="dense", limit=1)
        assert found.points[0].payload["document"] == "lease"
        found = await client.query_points("docs", words, using="sparse", with_payload=False)
        assert [(p.id, p.payload) for p in found.points] == [(2, None)]
        for fusion, first in ((models.Fusion.RRF, 2), (models.Fusion.DBSF, 2)):
            query = models.FusionQuery(fusion=fusion)
            found = await client.query_points("docs", query, prefetch=[dense, sparse])
            assert [p.id for p in found.points] == [first, 1]
        found = await client.query_points(
            "docs", [1.0, 0.0, 0.0], using="dense", query_filter=where("nda")
        )
        assert [p.id for p in found.points] == [3]
        both = await client.query_batch_points(
            "docs",
            [models.QueryRequest(query=words, using="sparse"), models.QueryRequest(limit=1)],
        )
        assert [len(answer.points) for answer in both] == [1, 1]


@in_a_loop
async def test_facets_need_an_index_as_on_the_server() -> None:
    from qdrant_client.http.exceptions import UnexpectedResponse

    async with qdrant() as (double, client):
        await client.upsert("docs", POINTS)
        with pytest.raises(UnexpectedResponse, match="No appropriate index"):
            await client.facet("docs", "document")
        keyword = models.PayloadSchemaType.KEYWORD
        await client.create_payload_index("docs", "document", keyword)
        hits = (await client.facet("docs", "document", exact=True)).hits
        assert {hit.value: hit.count for hit in hits} == {"lease": 2, "nda": 2}
        assert (await client.get_collection("docs")).payload_schema["document"].points == 4
        assert double.indexes == {"docs": {"document": "keyword"}}


@in_a_loop
async def test_an_alias_moves_in_one_request() -> None:
    async with qdrant() as (_, client):
        await client.create_collection("docs-2", {})
        await client.update_collection_aliases([alias("docs")])
        await client.upsert("app", POINTS)
        assert (await client.count("docs")).count == 4
        gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="app"))
        await client.update_collection_aliases([gone, alias("docs-2")])
        aliases = (await client.get_aliases()).aliases
        assert [(a.alias_name, a.collection_name) for a in aliases] == [("app", "docs-2")]
        assert (await client.get_collection_aliases("docs")).aliases == []
        assert (await client.get_collection("app")).points_count == 0


def alias(collection: str) -> Any:
    create = models.CreateAlias(collection_name=collection, alias_name="app")
    return models.CreateAliasOperation(create_alias=create)


@in_a_loop
async def test_collections_are_listed_and_missing_ones_are_404() -> None:
    from qdrant_client.http.exceptions import UnexpectedResponse

    async with qdrant() as (_, client):
        assert [c.name for c in (await client.get_collections()).collections] == ["docs"]
        assert await client.collection_exists("docs")
        assert await client.delete_collection("docs")
        assert not await client.delete_collection("docs")
        assert not await client.collection_exists("docs")
        for ask in (client.get_collection("docs"), client.count("docs"), client.scroll("docs")):
            with pytest.raises(UnexpectedResponse, match="Not found: Collection") as missing:
                await ask
            assert missing.value.status_code == 404


@in_a_loop
async def test_a_wrong_request_is_400_and_a_second_create_409() -> None:
    from qdrant_client.http.exceptions import UnexpectedResponse

    async with qdrant() as (_, client):
        with pytest.raises(UnexpectedResponse, match="Wrong input"):
            await client.query_points("docs", [1.0, 0.0], using="dense")
        with pytest.raises(UnexpectedResponse, match="already exists") as twice:
            await client.create_collection("docs", {})
        assert twice.value.status_code == 409


@in_a_loop
async def test_what_qdrant_1_15_does_not_know_is_refused() -> None:
    from qdrant_client.http.exceptions import UnexpectedResponse

    async with qdrant() as (_, client):
        await client.upsert("docs", [point(5, None, [1], metadata={"memory": "is no field"})])
        text = models.FieldCondition(key="a", match=models.MatchTextAny(text_any="b"))
        sides = [models.Prefetch(query=[1.0, 0.0, 0.0], using="dense")]
        weighted = models.RrfQuery(rrf=models.Rrf(k=60))
        newer = [
            client.create_collection("other", {}, metadata={"model": "m"}),
            client.query_points("docs", weighted, prefetch=sides),
            client.scroll("docs", models.Filter(must=[text])),
            client.upsert("docs", POINTS, update_filter=where("nda")),
        ]
        for ask in newer:
            with pytest.raises(UnexpectedResponse, match=r"Qdrant 1\.15\.4 has no") as refused:
                await ask
            assert refused.value.status_code == 400
        assert not await client.collection_exists("other")


@in_a_loop
async def test_the_client_sees_version_1_15_4() -> None:
    from qdrant_client import AsyncQdrantClient

    with running(Qdrant().app) as url, warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        client = AsyncQdrantClient(url=url)
        assert (await client.info()).version == "1.15.4"
        assert await asyncio.to_thread(eventually, lambda: heard)
        assert "incompatible with server version 1.15.4" in str(heard[0].message)
        for path in ("healthz", "readyz", "livez"):
            assert httpx.get(f"{url}/{path}").status_code == 200
        await client.close()


@in_a_loop
async def test_a_failing_qdrant_refuses_hangs_or_is_slow() -> None:
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    async with qdrant() as (double, client):
        double.fail = "503"
        with pytest.raises(UnexpectedResponse) as refused:
            await client.count("docs")
        assert refused.value.status_code == 503
        double.fail = "hang"
        with pytest.raises((TimeoutError, ResponseHandlingException)):
            await asyncio.wait_for(client.count("docs"), 0.2)
        double.fail = "slow"
        began = time.monotonic()
        assert (await client.count("docs")).count == 0
        assert time.monotonic() - began >= 1
        assert double.requests[-1][:2] == ("POST", "/collections/docs/points/count")


# Langfuse


@pytest.fixture
def langfuse() -> Iterator[tuple[Langfuse, Any]]:
    sdk = pytest.importorskip("langfuse", minversion="4")
    from opentelemetry.sdk.trace import TracerProvider

    key = f"pk-{uuid.uuid4()}"  # the SDK gives a second client of a key the first one's threads
    receiver = Langfuse(public_key=key)
    with running(receiver.app) as url:
        client = sdk.Langfuse(
            public_key=key,
            secret_key="sk-lf-double",
            base_url=url,
            tracer_provider=TracerProvider(),
            otel_compression="gzip",
            timeout=1,
        )
        yield receiver, client
        receiver.fail = "401"  # nothing is left to retry at the end
        client.shutdown()


def test_spans_arrive_as_plain_dicts(langfuse: tuple[Langfuse, Any]) -> None:
    receiver, client = langfuse
    root = client.start_observation(name="answer", as_type="chain", input="Who pays?")
    step = root.start_observation(name="model", as_type="generation", model="llama3")
    step.update(usage_details={"input": 7}).end()
    root.update(output="Zoë.").end()
    client.flush()
    spans = {span["name"]: span for span in receiver.spans}
    answer, model = spans["answer"], spans["model"]
    assert answer["parent_id"] is None
    assert model["parent_id"] == answer["span_id"]
    assert model["trace_id"] == answer["trace_id"] == root.trace_id
    assert answer["attributes"]["langfuse.observation.output"] == "Zoë."
    assert model["attributes"]["langfuse.observation.model.name"] == "llama3"
    assert answer["start_ns"] <= model["start_ns"] <= model["end_ns"] <= answer["end_ns"]
    assert answer["scope"] == "langfuse-sdk"
    path, headers = receiver.requests[0]
    assert (path, headers["content-encoding"]) == ("/api/public/otel/v1/traces", "gzip")


def test_scores_arrive(langfuse: tuple[Langfuse, Any]) -> None:
    receiver, client = langfuse
    client.create_score(name="thumbs", value=1, trace_id="0" * 31 + "1")
    client.flush()
    assert eventually(lambda: receiver.scores)
    assert (receiver.scores[0]["name"], receiver.scores[0]["value"]) == ("thumbs", 1)


def test_keys_are_checked(langfuse: tuple[Langfuse, Any]) -> None:
    receiver, client = langfuse
    assert client.auth_check()
    assert client.api.health.health().version == "3.113.0"
    receiver.fail = "401"
    with pytest.raises(Exception, match="401"):
        client.auth_check()
    client.start_observation(name="lost").end()
    client.flush()
    assert receiver.spans == []


@pytest.mark.parametrize("fail", ["500", "hang"])
def test_a_broken_langfuse_keeps_no_span(fail: str) -> None:
    receiver = Langfuse(public_key="pk", secret_key="sk", fail=fail)
    with running(receiver.app) as url:
        traces, keys = f"{url}/api/public/otel/v1/traces", ("pk", "sk")
        limit_s = 0.2 if fail == "hang" else 5
        try:
            assert httpx.post(traces, auth=keys, timeout=limit_s).status_code == 500
        except httpx.ReadTimeout:
            assert fail == "hang"
        receiver.fail = None
        assert httpx.post(traces, auth=keys).status_code == 200
        assert httpx.post(traces, auth=("pk", "wrong")).status_code == 401


# The edge


DEADLINE_S = 2
"""Of the edge, where a test sets one: time enough for the first bytes on a busy machine."""


async def ticks(_: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        for n in range(20):
            yield f"data: {n}\n\n".encode()
            await asyncio.sleep(0.15)  # 3 s in all, longer than DEADLINE_S

    return StreamingResponse(body(), media_type="text/event-stream")


async def unbuffered(request: Request) -> Response:
    response = await ticks(request)
    response.headers["X-Accel-Buffering"] = "no"
    return response


async def mirror(request: Request) -> Response:
    body = len(await request.body())
    target = (request.scope["raw_path"] + b"?" + request.scope["query_string"]).decode()
    headers = dict(request.headers) | {"body": str(body), "target": target}
    return JSONResponse(headers, headers={"Set-Cookie": "a=b"})


async def big(_: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 70_000
        await asyncio.sleep(5)

    return StreamingResponse(body())


async def silent(_: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        await asyncio.sleep(5)
        yield b"late"

    return StreamingResponse(body(), headers={"X-Accel-Buffering": "no"})


async def away(_: Request) -> Response:
    return JSONResponse({"detail": "the model is away"}, 503)


APP = Starlette(
    routes=[
        Route("/ticks", ticks),
        Route("/unbuffered", unbuffered),
        Route("/mirror{rest:path}", mirror, methods=["GET", "POST"]),
        Route("/big", big),
        Route("/silent", silent),
        Route("/away", away),
    ]
)


@pytest.fixture(scope="module")
def behind() -> Iterator[str]:
    with running(APP) as url:
        yield url


@pytest.fixture(scope="module")
def proxy(behind: str) -> Iterator[tuple[Edge, httpx.Client]]:
    edge = Edge(behind)
    with running(edge.app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield edge, client


@pytest.fixture
def edge(proxy: tuple[Edge, httpx.Client], behind: str) -> Edge:
    """The running edge, as new."""
    edge, app = proxy[0], proxy[0].app
    edge.__init__(behind)  # type: ignore[misc]
    edge.app = app
    return edge


@pytest.fixture
def browser(proxy: tuple[Edge, httpx.Client]) -> httpx.Client:
    return proxy[1]


def taken(client: httpx.Client, path: str) -> tuple[int, bytes, float]:
    """Status, body until its end or its cut, seconds until its first byte."""
    began, body, first = time.monotonic(), b"", 0.0
    with client.stream("GET", path) as response, contextlib.suppress(httpx.RemoteProtocolError):
        for piece in response.iter_raw():
            first = first or time.monotonic() - began
            body += piece
    return response.status_code, body, first


def test_the_edge_passes_a_request_on_and_says_where_it_came_from(
    edge: Edge, browser: httpx.Client
) -> None:
    forged = {"Host": "app.example.org", "X-Forwarded-For": "10.1.1.1", "X-Own": "a"}
    answer = browser.post("/mirror/a%2Fb?q=1&q=2", content=b"12345", headers=forged)
    seen = answer.json()
    assert seen["host"] == "app.example.org"
    assert seen["x-forwarded-proto"] == "https"
    assert seen["x-forwarded-for"] == "10.1.1.1, 127.0.0.1"
    assert seen["target"] == "/mirror/a%2Fb?q=1&q=2"
    assert (seen["x-own"], seen["body"]) == ("a", "5")
    assert answer.headers["set-cookie"] == "a=b"


def test_the_deadline_cuts_a_stream_in_mid_body(edge: Edge, browser: httpx.Client) -> None:
    edge.deadline_s = DEADLINE_S
    with browser.stream("GET", "/unbuffered") as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    assert eventually(lambda: edge.cuts == 1)


def test_the_deadline_is_504_while_nothing_was_sent(edge: Edge, browser: httpx.Client) -> None:
    edge.deadline_s = DEADLINE_S
    assert browser.get("/ticks").status_code == 504
    assert edge.cuts == 1


def test_a_buffered_stream_comes_all_at_once(edge: Edge, browser: httpx.Client) -> None:
    status, body, first = taken(browser, "/ticks")
    assert (status, body.count(b"data:")) == (200, 20)
    assert first > 2.9


def test_a_buffer_that_is_full_is_passed_on(edge: Edge, browser: httpx.Client) -> None:
    edge.deadline_s = DEADLINE_S
    status, body, _ = taken(browser, "/big")
    assert (status, len(body)) == (200, 70_000)


@pytest.mark.parametrize(
    ("path", "buffer", "ignore_accel", "passes"),
    [
        ("/unbuffered", True, False, True),
        ("/unbuffered", True, True, False),
        ("/ticks", False, False, True),
    ],
)
def test_a_stream_passes_when_nothing_buffers_it(
    edge: Edge, browser: httpx.Client, path: str, buffer: bool, ignore_accel: bool, passes: bool
) -> None:
    edge.deadline_s, edge.buffer, edge.ignore_accel = DEADLINE_S, buffer, ignore_accel
    status, body, _ = taken(browser, path)
    assert status == (200 if passes else 504)
    assert (body.count(b"data:") > 1) == passes


def test_headers_pass_an_edge_that_does_not_buffer(edge: Edge, browser: httpx.Client) -> None:
    edge.deadline_s, edge.buffer = DEADLINE_S, False
    assert taken(browser, "/silent")[:2] == (200, b"")


def test_a_body_that_is_too_large_is_413(edge: Edge, browser: httpx.Client) -> None:
    edge.max_body = 1000
    assert browser.post("/mirror", content=b"x" * 1000).status_code == 200
    assert browser.post("/mirror", content=b"x" * 1001).status_code == 413
    assert browser.post("/mirror", content=iter([b"x" * 600] * 2)).status_code == 413


def test_a_503_loses_its_body_unless_the_edge_leaves_it(edge: Edge, browser: httpx.Client) -> None:
    answer = browser.get("/away")
    assert (answer.status_code, "model" in answer.text) == (503, False)
    edge.swallow_503 = False
    assert browser.get("/away").json() == {"detail": "the model is away"}


def test_websockets_and_dead_apps_are_refused(edge: Edge, browser: httpx.Client) -> None:
    asked = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert browser.get("/mirror", headers=asked).status_code == 501
    edge.target = "http://127.0.0.1:1"
    assert browser.get("/mirror").status_code == 502


def test_the_app_behind_the_edge_learns_that_its_client_left(
    edge: Edge, browser: httpx.Client, gateway: Gateway, url: str
) -> None:
    edge.target, edge.buffer = url, False
    gateway.tokens_per_second, gateway.key = 5, None
    body = {"model": "double", "messages": QUESTION, "stream": True}
    with browser.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_raw())
    assert eventually(lambda: gateway.aborted == 1)
