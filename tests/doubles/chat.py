"""The body of a chat completion, whole and as the events of a stream."""

from __future__ import annotations

import itertools
import json
import re
import time
from typing import Any

Answer = str | list[dict[str, Any]]
"""Text, or tool calls: [{"name": "search", "arguments": {"query": "rent"}}]."""
_numbers = itertools.count(1)


class Completion:
    """`answer` as the response to the request `body`, which may cut it off by `max_tokens`."""

    def __init__(self, body: dict[str, Any], answer: Answer) -> None:
        self._body = body
        self._calls = [] if isinstance(answer, str) else _numbered(answer)
        text = _as_json(answer, body) if isinstance(answer, str) else ""
        words = re.findall(r"\s*\S+|\s+$", text)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(words)
        self.pieces: list[str] = words[:limit]
        self._reason = "length" if limit < len(words) else "stop"
        if self._calls:
            self._reason = "tool_calls"

    def whole(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.pieces) or None}
        if self._calls:
            message["tool_calls"] = self._calls
        choice = {"index": 0, "message": message, "finish_reason": self._reason}
        head = self._head("chat.completion")
        return json.dumps(head | {"choices": [choice], "usage": self._usage()}).encode()

    def chunks(self) -> list[bytes]:
        """Server-sent events: one a word, then the reason for the end, usage if asked, [DONE]."""
        head = self._head("chat.completion.chunk")
        said: list[dict[str, Any]] = [{"content": piece} for piece in self.pieces]
        deltas = self._call_deltas() or said or [{}]
        deltas[0] = {"role": "assistant"} | deltas[0]
        ends: list[str | None] = [*([None] * len(deltas)), self._reason]
        events = [
            head | {"choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
            for delta, end in zip([*deltas, {}], ends, strict=True)
        ]
        if (self._body.get("stream_options") or {}).get("include_usage"):
            events.append(head | {"choices": [], "usage": self._usage()})
        return [f"data: {json.dumps(e)}\n\n".encode() for e in events] + [b"data: [DONE]\n\n"]

    def _head(self, kind: str) -> dict[str, Any]:
        created, model = int(time.time()), self._body["model"]
        number = f"chatcmpl-{next(_numbers)}"
        return {"id": number, "object": kind, "created": created, "model": model}

    def _usage(self) -> dict[str, int]:
        prompt = sum(len(text(m).split()) for m in self._body["messages"])
        said = len(self.pieces) + len(self._calls)
        return {
            "prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said
        }  # fmt: skip

    def _call_deltas(self) -> list[dict[str, Any]]:
        """Each call as providers send it: its name first, then the arguments in two parts."""
        parts: list[dict[str, Any]] = []
        for n, call in enumerate(self._calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            parts.append({"index": n, **call, "function": {"name": name, "arguments": ""}})
            half = len(arguments) // 2
            for part in (arguments[:half], arguments[half:]):
                parts.append({"index": n, "function": {"arguments": part}})
        return [{"tool_calls": [part]} for part in parts]


def from_prompt(messages: list[dict[str, Any]]) -> str:
    """The first sentence of passage `[1]` in the last message that has one, and its citation.

    A first line without a full stop is the passage's source. Without a passage the prompt's last
    line comes back, less its label ("Question: ").
    """
    for message in reversed(messages):
        passage = re.search(r"^\[1\] (.+?)(?=\n[| ]*\n|\n\[2\]|\Z)", text(message), re.S | re.M)
        if passage and message["role"] in ("user", "system"):
            return _first_sentence(passage[1]) + " [1]."
    last = text(messages[-1]).strip().rsplit("\n", 1)[-1]
    return re.sub(r"^[\w ]{1,30}: ", "", last)


def text(message: dict[str, Any]) -> str:
    """The text of a message, whose content may be a list of parts or nothing."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def _first_sentence(passage: str) -> str:
    source, _, rest = passage.partition("\n")
    if rest and source.rstrip()[-1:] not in ".!?":
        passage = rest
    passage = " ".join(re.sub(r"^\| ?", "", passage, flags=re.M).split())
    return re.split(r"(?<=[.!?])\s", passage, maxsplit=1)[0].rstrip(".!? ")


def _numbered(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{next(_numbers)}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for call in calls
    ]


def _as_json(answer: str, body: dict[str, Any]) -> str:
    """In JSON mode an answer that is no JSON becomes {"answer": …}."""
    if (body.get("response_format") or {}).get("type") not in ("json_object", "json_schema"):
        return answer
    try:
        json.loads(answer)
    except ValueError:
        return json.dumps({"answer": answer})
    return answer
