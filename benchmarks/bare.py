"""The two small servers that load.py needs, both started as the app is:

uvicorn --factory benchmarks.bare:model    the gateway double; its answer carries the question's
                                           mark in every sentence of ten words
uvicorn --factory benchmarks.bare:passing  an app that hands on what the double sends, no more
"""

import os
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.applications import Starlette

from tests.doubles import chat
from tests.doubles.gateway import Gateway

KEY = "sk-double"
SENTENCE = "The tenant pays rent to the landlord for {mark} [1]."
"""Ten words, so that a stream that gets another one's words shows it."""
DOCUMENT = "The tenant pays rent to the landlord for the house."
"""What bears out the sentence."""
QUESTION = "What rent does the tenant pay for {mark}, in {words} words?"


def marked(mark: str, words: int) -> str:
    """The answer to the question with this mark; `words` are tens."""
    return " ".join([SENTENCE.format(mark=mark)] * (words // 10))


def model() -> Starlette:
    """The gateway double; POST /_double sets its pace."""
    return Gateway(reply=_reply, key=KEY).app


def _reply(messages: list[Any]) -> str:
    mark, words = re.findall(r"for (stream[a-j]+), in (\d+) words", chat.text(messages[-1]))[-1]
    return marked(mark, int(words))


def passing() -> Starlette:
    """The least that stands between a browser and a gateway."""
    from fastapi import FastAPI  # in the app's environment alone
    from fastapi.responses import StreamingResponse

    app = FastAPI()
    headers = {"Authorization": f"Bearer {KEY}"}
    http = httpx.AsyncClient(base_url=os.environ["LITELLM_ENDPOINT"], headers=headers, timeout=60)

    @app.post("/api/chat")
    async def answer(body: dict[str, Any]) -> StreamingResponse:
        messages = [{"role": "user", "content": body["question"]}]
        asked = {"model": "double", "messages": messages, "stream": True}
        return StreamingResponse(_passed_on(http, asked), media_type="text/event-stream")

    return app


async def _passed_on(http: httpx.AsyncClient, asked: dict[str, Any]) -> AsyncIterator[bytes]:
    async with http.stream("POST", "/v1/chat/completions", json=asked) as response:
        async for data in response.aiter_raw():
            yield data
