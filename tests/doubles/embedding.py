"""Embeddings without a model: words hashed to places, so that texts that share words are near."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from array import array
from collections import Counter
from functools import lru_cache
from typing import Any


def response(body: dict[str, Any], dim: int) -> bytes:
    """The answer to an embeddings request; honours `encoding_format` base64 and float."""
    texts = _texts(body["input"])
    encode = _base64 if body.get("encoding_format") == "base64" else list
    data = [
        {"object": "embedding", "index": n, "embedding": encode(embed(text, dim))}
        for n, text in enumerate(texts)
    ]
    tokens = sum(len(text.split()) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"object": "list", "data": data, "model": body["model"], "usage": usage}
    return json.dumps(answer).encode()


def embed(text: str, dim: int) -> list[float]:
    """A unit vector; the same for the same words on every machine."""
    vector = [0.0] * dim
    for word, times in Counter(re.findall(r"\w+", text.lower())).items():
        for place, sign in _places(word):
            vector[place % dim] += sign * math.sqrt(times)
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length else [1.0] + [0.0] * (dim - 1)


@lru_cache(100_000)
def _places(word: str) -> tuple[tuple[int, int], ...]:
    """Four places and signs: two words that share one place by chance stay apart."""
    digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=16).digest()
    numbers = [int.from_bytes(digest[n : n + 4], "little") for n in range(0, 16, 4)]
    return tuple((number >> 1, 1 if number & 1 else -1) for number in numbers)


def _texts(given: Any) -> list[str]:
    """Texts; token ids, which some clients send in place of a text, count as words."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        given = [given]
    return [item if isinstance(item, str) else " ".join(map(str, item)) for item in given]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()
