"""How long tkt-rag-agent searches among 1,000, 10,000 and 100,000 passages, in one and in all.

    python benchmarks/budgets.py retrieval      which runs this where the app's packages are

Qdrant is the one inside the process, on a disk in memory; every passage has words and a vector of
256 numbers, which the gateway double at the given address makes. The vectors of the questions are
kept from a first round, so that what is timed in a second one is the search alone. Filtered is: in
one document of a hundred
passages. Prints the figures as JSON.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import house
from budgets_text import document, question

from agent.ingest import Source
from agent.retriever import find

SIZES = {"1k": 1_000, "10k": 10_000, "100k": 100_000}
QUESTIONS = 100
"""Each is asked twice; the second time counts."""
PARAGRAPHS = 230
"""Of a document: about a hundred passages."""


async def main(gateway: str, *sizes: str) -> None:
    figures: dict[str, Any] = {}
    key = {"litellm_endpoint": gateway, "litellm_master_key": "sk-double", "chat_model": "none"}
    async with house.empty(**key) as here:
        assert here.store.model, "there are no vectors"
        for name in sizes or SIZES:
            count = await _grow(here, SIZES[name])
            figures[f"passages_{name}"] = count
            documents = [entry.document for entry in await here.store.documents()]
            with house.Changed(here.store, meaning=_remembering(here.store.meaning)):
                figures |= await _asked(here, f"query_{name}", [])
                figures |= await _asked(here, f"query_{name}_filtered", documents)
            print({k: v for k, v in figures.items() if name in k}, file=sys.stderr, flush=True)
    print(json.dumps(figures))


async def _grow(here: Any, passages: int) -> int:
    """Take documents in until there are so many passages; gives how many there are."""
    with tempfile.TemporaryDirectory() as folder:
        while True:
            entries = await here.store.documents()
            count = sum(entry.passages for entry in entries)
            if count >= passages:
                return count
            each = count / len(entries) if entries else passages
            wanted = max(1, round((passages - count) / each))
            sources = []
            for n in range(len(entries), len(entries) + wanted):
                path = Path(folder) / str(n)
                path.write_text(document(n, PARAGRAPHS))
                sources.append(Source(f"lease-{n}.txt", path))
            await house.take_in(here, sources)


async def _asked(here: Any, name: str, documents: Sequence[str]) -> dict[str, float]:
    """Milliseconds of a question, in one of `documents` where there are some."""
    seconds = []
    for n in [*range(QUESTIONS), *range(QUESTIONS)]:
        told = [documents[n % len(documents)]] if documents else []
        began = time.perf_counter()
        hits = (await find(here.store, question(n), here.settings.passages, told)).hits
        seconds.append(time.perf_counter() - began)
        assert hits, f"nothing was found for {question(n)!r}"
    ms = [second * 1000 for second in seconds[QUESTIONS:]]
    return {
        f"{name}_p50_ms": round(statistics.median(ms), 1),
        f"{name}_p95_ms": round(statistics.quantiles(ms, n=20)[-1], 1),
    }


def _remembering(ask: Callable[[str], Awaitable[Any]]) -> Callable[[str], Awaitable[Any]]:
    known: dict[str, Any] = {}

    async def meaning(text: str) -> Any:
        if text not in known:
            known[text] = await ask(text)
        return known[text]

    return meaning


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
