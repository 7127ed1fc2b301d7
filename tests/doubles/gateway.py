"""An OpenAI-compatible gateway as LiteLLM shows it: chat, streams at a set pace, embeddings.

    python -m tests.doubles.gateway --port 9999

It answers from the prompt: the first sentence of the passage that is numbered `[1]`, with its
citation. `fail` makes it do what gateways do on a bad day:

    401 429 500 503    that status, with LiteLLM's body; 429 carries Retry-After
    timeout            408, LiteLLM's answer when the model behind it was too slow
    hang               takes the request and says nothing
    empty_stream       200 with an empty body, as for a model that is mirrored and not loaded
    cut                the connection closes in mid-answer
    garbage            200 with bytes that are no JSON
    refuse_embeddings  embeddings answer 500; chat goes on

`empty_stream` concerns chat alone; the others, but for `refuse_embeddings`, every path under /v1.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles import chat, embedding, serve
from tests.doubles.control import Double, hang
from tests.doubles.serve import Cut, Stream

Handler = Callable[[dict[str, Any]], Response]
ERRORS = {
    "401": (401, "auth_error", "Authentication Error, the key has expired."),
    "429": (429, "throttling_error", "litellm.RateLimitError: too many requests."),
    "500": (500, "internal_server_error", "litellm.InternalServerError: the model failed."),
    "503": (503, "service_unavailable", "litellm.ServiceUnavailableError: no deployment."),
    "timeout": (408, "timeout_error", "litellm.Timeout: the model did not answer in time."),
}
NO_TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
GARBAGE = b'data: {"choices": [{"delta": \xff\xfe<html>not json\n\n'


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict[str, Any]


class Gateway(Double):
    """The gateway; all attributes can be changed while it runs.

    models, embedding_models: names that chat and that embed; /v1/models lists both, and an unknown
    one is refused with 400. deployable: listed too, but not loaded: 502, or an empty stream.
    reply: the answer, or a function of the messages that gives it: text, or a list of tool calls
    `[{"name": "search", "arguments": {"q": "x"}}]`.
    script: answers to use up first, in this order; tool calls wait for a request with tools.
    key: None checks nothing. tokens_per_second: None is as fast as can be; a token is a word.
    knows_tools: False refuses tools as vLLM does without a parser of tool calls.
    dim: dimensions of an embedding. cost: dollars of an answer, told as LiteLLM tells it where the
    answer is not streamed; None tells none.
    requests: what came, refused requests too. active: answers being sent. aborted: answers whose
    client left before the end.
    """

    failures = (*ERRORS, "hang", "empty_stream", "cut", "garbage", "refuse_embeddings")
    settable = (
        "fail", "tokens_per_second", "first_token_s", "script", "reply", "dim", "models",
        "embedding_models", "deployable", "key", "cost",
    )  # fmt: skip
    counters = ("requests", "active", "aborted")

    def __init__(
        self,
        *,
        models: list[str] | None = None,
        embedding_models: list[str] | None = None,
        deployable: list[str] | None = None,
        reply: str | Callable[[list[Any]], chat.Answer] | None = None,
        script: list[chat.Answer] | None = None,
        key: str | None = "sk-double",
        tokens_per_second: float | None = None,
        first_token_s: float = 0,
        dim: int = 256,
        cost: float | None = None,
        fail: str | None = None,
    ) -> None:
        super().__init__(fail)
        self.models = ["double"] if models is None else models
        self.embedding_models = ["double-embed"] if embedding_models is None else embedding_models
        self.deployable = deployable or []
        self.reply = reply
        self.script = script or []
        self.key = key
        self.tokens_per_second = tokens_per_second
        self.first_token_s = first_token_s
        self.dim = dim
        self.cost = cost
        self.knows_tools = True
        self.requests: list[Received] = []
        self.active = 0
        self.aborted = 0
        self.app = Starlette(
            debug=True,  # a 500 shows its traceback
            routes=[
                self.control(),
                Route("/health/liveliness", self._alive),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
                Route("/v1/embeddings", self._guarded(self._embed), methods=["POST"]),
            ],
        )

    async def _alive(self, request: Request) -> Response:
        return await hang(request) if self.fail == "hang" else JSONResponse("I'm alive!")

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """`handler` behind the key and the failures that all paths share."""

        async def guarded(request: Request) -> Response:
            body = json.loads(await request.body() or b"{}")
            self.requests.append(Received(request.url.path, dict(request.headers), body))
            if self.fail == "hang":
                return await self._hang(request)
            return self._refused(request) or handler(body)

        return guarded

    def _refused(self, request: Request) -> Response | None:
        if self.fail in ERRORS:
            return _error(*ERRORS[self.fail])
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if self.key is None or (scheme.lower() == "bearer" and key == self.key):
            return None
        return _wrong_key(key)

    def _models(self, _: dict[str, Any]) -> Response:
        names = [*self.models, *self.embedding_models, *self.deployable]
        data = [
            {"id": name, "object": "model", "created": 1677610602, "owned_by": "openai"}
            for name in names
        ]
        return self._send(json.dumps({"data": data, "object": "list"}).encode())

    def _chat(self, body: dict[str, Any]) -> Response:
        model, streams = body.get("model"), bool(body.get("stream"))
        if self.fail == "empty_stream" or (streams and model in self.deployable):
            return Response(media_type="text/event-stream")
        if refusal := self._unknown(model, self.models):
            return refusal
        if body.get("tools") and not self.knows_tools:
            return _error(400, "BadRequestError", NO_TOOLS)
        answer = chat.Completion(body, self._answer(body))
        if streams:
            return self._send_paced(answer.chunks(), "text/event-stream")
        nothing = [b""] * len(answer.pieces)
        response = self._send_paced([*nothing, answer.whole()], "application/json")
        if self.cost is not None:
            response.headers["x-litellm-response-cost"] = str(self.cost)
        return response

    def _embed(self, body: dict[str, Any]) -> Response:
        if self.fail == "refuse_embeddings":
            return _error(500, "internal_server_error", "The embedding model is not loaded.")
        if refusal := self._unknown(body.get("model"), self.embedding_models):
            return refusal
        return self._send(embedding.response(body, self.dim))

    def _unknown(self, model: Any, served: list[str]) -> Response | None:
        if model in self.deployable:
            return _error(502, "bad_gateway", f"The model {model} is not loaded.")
        if model in served:
            return None
        hint = "Call `/v1/models` to view available models for your key."
        message = f"Invalid model name passed in model={model}. {hint}"
        return _error(400, "invalid_request_error", message, "model")

    def _answer(self, body: dict[str, Any]) -> chat.Answer:
        if self.script and (isinstance(self.script[0], str) or body.get("tools")):
            return self.script.pop(0)
        if callable(self.reply):
            return self.reply(body["messages"])
        return chat.from_prompt(body["messages"]) if self.reply is None else self.reply

    def _send(self, body: bytes) -> Response:
        if self.fail in ("cut", "garbage"):
            return self._send_paced([body], "application/json")
        return Response(body, media_type="application/json")

    def _send_paced(self, pieces: list[bytes], media_type: str) -> Response:
        cut = self.fail == "cut"
        if self.fail == "garbage":
            pieces = [GARBAGE]
        paced = self._paced(_first_half(pieces) if cut else pieces, cut)
        return Stream(self._counted(paced), media_type=media_type)

    async def _paced(self, pieces: list[bytes], cut: bool) -> AsyncGenerator[bytes, None]:
        """Each piece at its time since the start, so that delays do not add up."""
        start = time.monotonic() + self.first_token_s
        for n, piece in enumerate(pieces):
            due = start + (n / self.tokens_per_second if self.tokens_per_second else 0)
            await asyncio.sleep(max(0, due - time.monotonic()))
            if piece:
                yield piece
        if cut:
            raise Cut

    async def _counted(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """`pieces`, counted as active, and as aborted when the client does not take them all."""
        self.active += 1
        left = True
        try:
            async for piece in pieces:
                yield piece
            left = False
        except Cut:
            left = False
            raise
        finally:
            self.active -= 1
            self.aborted += left

    async def _hang(self, request: Request) -> Response:
        self.active += 1
        try:
            return await hang(request)
        finally:
            self.active -= 1
            self.aborted += 1


@contextmanager
def told_to(gateway: Gateway, **how: Any) -> Iterator[None]:
    """The gateway as it is told to be, for a while."""
    before = {name: getattr(gateway, name) for name in how}
    for name, value in how.items():
        setattr(gateway, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(gateway, name, value)


def _first_half(pieces: list[bytes]) -> list[bytes]:
    """The first events of a stream; of a JSON body, which comes last and whole, its first bytes."""
    if sum(map(bool, pieces)) > 1:
        return pieces[: len(pieces) // 2]
    return [*pieces[:-1], pieces[-1][: len(pieces[-1]) // 2]]


def _error(status: int, kind: str, message: str, param: str | None = None) -> Response:
    body = {"message": message, "type": kind, "param": param, "code": str(status)}
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse({"error": body}, status, headers)


def _wrong_key(key: str) -> Response:
    if not key:
        return _error(401, "auth_error", "Authentication Error, No api key passed in.", "None")
    digest = hashlib.sha256(key.encode()).hexdigest()
    message = (
        "Authentication Error, Invalid proxy server token passed. Received API Key = "
        f"sk-...{key[-4:]}, Key Hash (Token) ={digest}. "
        "Unable to find token in cache or `LiteLLM_VerificationTokenTable`"
    )
    return _error(401, "token_not_found_in_db", message, "key")


if __name__ == "__main__":
    options = serve.arguments(__doc__, 4000)
    options.add_argument("--tokens-per-second", type=float)
    options.add_argument("--first-token-s", type=float, default=0)
    given = vars(options.parse_args())
    by_hand_port = given.pop("port")
    serve.by_hand(Gateway(**given).app, by_hand_port)
