"""Run by a rendered app's Python in its folder: uses the app without its doors, API and page.

Reads {"documents": {name: text}, "delete": [name], "questions": [text], "k": 8} on stdin, does
that in this order, and prints {"embedded_by": [model], "hits": {question: [passage]}}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.ingest import Source, ingest
from agent.retriever import find
from agent.services import connect
from agent.settings import Settings
from agent.store import Entry


async def main(todo: dict[str, Any]) -> dict[str, Any]:
    services = connect(Settings())
    await services.store.tend()
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for name, text in todo["documents"].items():
            sources.append(Source(name, Path(folder) / name))
            sources[-1].path.write_text(text)
        async for outcome in ingest(services, sources):
            assert outcome.status in ("added", "replaced"), outcome
    for name in todo["delete"]:
        assert await services.store.delete(Entry(name).id)
    hits = {q: (await find(services.store, q, todo["k"])).hits for q in todo["questions"]}
    entries = await services.store.documents()
    await services.close()
    return {
        "embedded_by": [entry.embedding for entry in entries],
        "hits": {question: [asdict(hit) for hit in found] for question, found in hits.items()},
    }


print(json.dumps(asyncio.run(main(json.load(sys.stdin)))))
