"""How well tkt-rag-agent finds passages, on public data: the template's own ingest and retriever.

    make bench-quality DATA=../shared/data        all of it, about 25 minutes on two cores
    python benchmarks/retrieval.py DATA contracts mini scifact speed      or some of it

Prints tables and keeps results/rag-quality.json (what the issue of quality asks for) and
results/rag-retrieval.json (every row). Without the data it says where that comes from.
"""

import asyncio
import gzip
import json
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import contracts
import house
from results import save
from statistics_of import Figures, mean, paired, said

from agent import index, naming, ranking, retriever, split
from agent.qdrant import Row, Search
from agent.retriever import find
from agent.store import Hit, Store

Way = Callable[[Store, contracts.Asked], Awaitable[Sequence[Hit]]]
DEEP = 100
"""Passages asked for: enough for 32,000 characters of 500 and for every cut."""
NO_LEARNING = {"LEARNED": 0}
NO_NEIGHBOURS = {"NEIGHBOUR": 0.0}


async def shipped(store: Store, asked: contracts.Asked) -> Sequence[Hit]:
    return (await find(store, asked.query, DEEP)).hits


async def told(store: Store, asked: contracts.Asked) -> Sequence[Hit]:
    return (await find(store, asked.struck, DEEP, [asked.document])).hits


async def struck(store: Store, asked: contracts.Asked) -> Sequence[Hit]:
    return (await find(store, asked.struck, DEEP)).hits


def baseline(words: bool, meaning: bool, query: str = "query") -> Way:
    """Plain search over everything: BM25, dense, or both by reciprocal rank (constant 60)."""

    async def way(store: Store, asked: contracts.Asked) -> Sequence[Hit]:
        text = getattr(asked, query)
        ids = store.index.words(text)
        searches = [Search("sparse", (ids, [1.0] * len(ids)), DEEP)] if words else []
        dense = await store.meaning(text) if meaning else None
        searches += [Search("dense", dense, DEEP)] if dense else []
        return await store.hits(_by_rank(await store.search(searches))[:DEEP]) or []

    return way


def _by_rank(sides: list[list[Row]]) -> list[Row]:
    if len(sides) == 1:
        return sides[0]
    total: dict[Any, float] = {}
    rows = {row.id: row for side in sides for row in side}
    for side in sides:
        for n, row in enumerate(side, 1):
            total[row.id] = total.get(row.id, 0) + 1 / (60 + n)
    return sorted((rows[i].scored(s) for i, s in total.items()), key=lambda row: -row.score)


class Bench:
    """Runs ways of finding over questions, prints a row each and keeps them all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, Any] = {}

    async def contracts(
        self, label: str, way: Way, store: Store, questions: Sequence[contracts.Asked],
        **changed: dict[str, Any],
    ) -> Figures:  # fmt: skip
        modules = {"ranking": ranking, "retriever": retriever, "naming": naming}
        figures, seconds = [], []
        known: dict[str, Sequence[Hit]] = {}
        with ExitStack() as stack:
            for module, values in changed.items():
                stack.enter_context(house.Changed(modules[module], **values))
            for asked in questions:
                began = time.perf_counter()
                if way is not struck or asked.struck not in known:
                    known[asked.struck] = await way(store, asked)
                    seconds.append(time.perf_counter() - began)
                figures.append(contracts.score(asked, known[asked.struck]))
        self._print(label, figures, [q.held_out for q in questions], house.median_ms(seconds))
        return figures

    def _print(self, label: str, figures: Figures, held_out: list[bool], ms: float) -> None:
        apart = [row for row, held in zip(figures, held_out, strict=True) if held]
        for group, rows in (("all", figures), ("held out", apart)):
            if rows:
                cells = {name: said(rows, name) for name in rows[0]}
                self.rows[f"{label}, {group}"] = {"n": len(rows), "ms": ms} | cells
                shown = ("recall1", "recall8", "recall64", "precision1", "wrong_document",
                         "recall_4000_chars", "recall_32000_chars")  # fmt: skip
                print(f"{label:34} {group:8} {len(rows):5} {ms:6.1f} ms  "
                      + "  ".join(f"{cells[name]:>18}" for name in shown), flush=True)  # fmt: skip


async def full(data: Path) -> dict[str, object]:
    """All contracts, no embedding model, passages of 500 characters and of those that ship."""
    bench, kept = Bench("contracts"), {}
    questions = contracts.questions(data, mini=False)
    for size in (500, split.PASSAGE_CHARS):
        sizes = {"PASSAGE_CHARS": size, "SECTION_CHARS": size // 2}
        with house.Changed(split, **sizes):
            async with house.services(contracts.texts(data, mini=False), ".txt") as here:
                ours = await bench.contracts(f"{size}: shipped", shipped, here.store, questions)
                if size == 500:
                    kept = {
                        f"cuad_full_{name}": round(mean(ours, name), 4)
                        for name in ("recall8", "recall64", "precision1", "wrong_document")
                    }
                    await _ablation(bench, here.store, questions)
    await _contextual(bench, data, questions)
    save("rag-retrieval", {"contracts": bench.rows})
    return dict(kept)


async def _ablation(bench: Bench, store: Store, questions: Sequence[contracts.Asked]) -> None:
    async def run(label: str, way: Way, **changed: dict[str, Any]) -> None:
        await bench.contracts(f"500: {label}", way, store, questions, **changed)

    await run("without words of other documents", shipped, ranking=NO_LEARNING)
    await run("without neighbours", shipped, ranking=NO_NEIGHBOURS)
    await run("routed alone", shipped, ranking=NO_LEARNING | NO_NEIGHBOURS)
    await run("BM25 alone", baseline(True, False))
    await run("told the document", told)
    await run("names struck", struck)
    await run("names struck, BM25 alone", baseline(True, False, "struck"))
    asked_back = {q.struck: (await find(store, q.struck, 6)).which for q in questions}
    back = sum(map(bool, asked_back.values()))
    needless = sum([bool((await find(store, q.query, 6)).which) for q in questions[::10]])
    print(f"asked back: {back} of {len(asked_back)} struck questions, "
          f"{needless} of {len(questions[::10])} whole ones")  # fmt: skip
    bench.rows["asked back"] = {"struck": [back, len(asked_back)],
                                "whole": [needless, len(questions[::10])]}  # fmt: skip


async def _contextual(bench: Bench, data: Path, questions: Sequence[contracts.Asked]) -> None:
    """The usual remedy: each passage indexed with its document's name and opening."""
    texts = contracts.texts(data, mini=False)
    plain = Store._index_passages

    async def with_opening(
        self: Any, collection: str, entry: Any, passages: Any, model: Any
    ) -> Any:
        text = texts[entry.document][: index.OPENING_CHARS]
        about = self.index.words(naming.naming_text(entry.document, text))
        weigh = self.index._weigh

        def weighed(passage: Any) -> Any:
            own = dict(zip(*weigh(passage), strict=True))
            own |= {word: max(own.get(word, 0), 1.0) for word in about}
            return list(own), list(own.values())

        with house.Changed(self.index, _weigh=weighed):
            return await plain(self, collection, entry, passages, model)

    sizes = {"PASSAGE_CHARS": 500, "SECTION_CHARS": 250}
    with house.Changed(split, **sizes), house.Changed(Store, _index_passages=with_opening):
        async with house.services(texts, ".txt") as here:
            way = baseline(True, False)
            await bench.contracts("500: BM25 with openings", way, here.store, questions)
            way = baseline(True, False, "struck")
            await bench.contracts("500: struck, with openings", way, here.store, questions)


async def mini(data: Path) -> dict[str, object]:
    """The 29 contracts of the published small set, with the local embedding model."""
    bench = Bench("mini")
    questions = contracts.questions(data, mini=True)
    sizes = {"PASSAGE_CHARS": 500, "SECTION_CHARS": 250}
    texts = contracts.texts(data, mini=True)
    with house.Changed(split, **sizes):
        async with house.services(texts, ".txt", embedding_model="local") as here:
            run = bench.contracts
            ours = await run("local: shipped", shipped, here.store, questions)
            fusion = await run("local: rank fusion", baseline(True, True), here.store, questions)
            await run("local: dense alone", baseline(False, True), here.store, questions)
            await run("local: told the document", told, here.store, questions)
            await run("local: without words of others", shipped, here.store, questions,
                      ranking=NO_LEARNING)  # fmt: skip
            here.store.model = None
            await run("words: shipped", shipped, here.store, questions)
            await run("words: BM25 alone", baseline(True, False), here.store, questions)
    for name in ("recall8", "recall64", "precision1"):
        difference, low, high = paired(ours, fusion, name)
        print(f"{name} against rank fusion, paired: {difference:+.3f} ({low:+.3f} to {high:+.3f})")
        bench.rows[f"against rank fusion, {name}"] = [difference, low, high]
    save("rag-retrieval", {"mini": bench.rows})
    names = ("recall8", "recall64", "precision1")
    return {f"cuad_mini_{name}": round(mean(ours, name), 4) for name in names}


async def scifact(data: Path) -> dict[str, object]:
    """Claims against abstracts: nDCG@10 and recall@100 of documents, as BEIR has them."""
    with gzip.open(data / "scifact/corpus.jsonl.gz", "rt") as lines:
        texts = {
            f"{row['_id']}.md": f"# {row['title']}\n\n{row['text']}"
            for row in map(json.loads, lines)
        }
    claims = [json.loads(line) for line in (data / "scifact/queries_test.jsonl").open()]
    relevant: dict[str, dict[str, int]] = {}
    for line in (data / "scifact/qrels_test.tsv").read_text().splitlines():
        claim, document, grade = line.split("\t")[:3]
        if grade.isdigit():
            relevant.setdefault(claim, {})[f"{document}.md"] = int(grade)
    rows: dict[str, Any] = {}
    async with house.services(texts, ".md", embedding_model="local") as here:

        async def run(label: str, way: Callable[[str], Awaitable[Sequence[Hit]]]) -> Figures:
            figures = []
            for claim in claims:
                hits = await way(claim["text"])
                figures.append(_ranked(hits, relevant[claim["_id"]]))
            rows[label] = {name: said(figures, name) for name in figures[0]}
            print(f"{label:34} {rows[label]}", flush=True)
            return figures

        async def ours(text: str) -> Sequence[Hit]:
            return (await find(here.store, text, 2 * DEEP)).hits

        def plain(words: bool, meaning: bool) -> Callable[[str], Awaitable[Sequence[Hit]]]:
            async def way(text: str) -> Sequence[Hit]:
                asked = contracts.Asked(text, "", "", (), held_out=False)
                return await baseline(words, meaning)(here.store, asked)

            return way

        local = await run("local: shipped", ours)
        await run("local: rank fusion", plain(True, True))
        await run("local: dense alone", plain(False, True))
        here.store.model = None
        words = await run("words: shipped", ours)
        await run("words: BM25 alone", plain(True, False))
    save("rag-retrieval", {"scifact": rows})
    return {"scifact_ndcg10": round(mean(local, "ndcg10"), 4),
            "scifact_ndcg10_sparse": round(mean(words, "ndcg10"), 4)}  # fmt: skip


def _ranked(hits: Sequence[Hit], relevant: dict[str, int]) -> dict[str, float]:
    documents = list(dict.fromkeys(hit.document for hit in hits))
    gain = sum(relevant.get(name, 0) / math.log2(n + 1) for n, name in enumerate(documents[:10], 1))
    best = sum(1 / math.log2(n + 1) for n in range(1, min(10, len(relevant)) + 1))
    found = sum(name in relevant for name in documents[:100])
    return {"ndcg10": gain / best, "recall100": found / len(relevant)}


async def speed(data: Path) -> dict[str, object]:
    """Median of a question, without its embedding, at about 10,000 and 100,000 passages."""
    figures: dict[str, object] = {}
    texts = contracts.texts(data, mini=False)
    questions = random.Random(1).sample(contracts.questions(data, mini=False), 300)
    for name, documents, size in (("query_ms_10k", 175, 1200), ("query_ms_100k", 461, 335)):
        some = dict(list(texts.items())[:documents])
        with house.Changed(split, PASSAGE_CHARS=size, SECTION_CHARS=size // 2):
            async with house.services(some, ".txt") as here:
                count = sum(entry.passages for entry in await here.store.documents())
                seconds = []
                for asked in questions:
                    began = time.perf_counter()
                    await find(here.store, asked.query, here.settings.passages)
                    seconds.append(time.perf_counter() - began)
        figures[name] = house.median_ms(seconds)
        print(f"{count:,} passages: {figures[name]} ms", flush=True)
    return figures


PARTS = {"contracts": full, "mini": mini, "scifact": scifact, "speed": speed}


def main(data: str, *wanted: str) -> None:
    folder = Path(data)
    if not (folder / "cuad").is_dir():
        print(f"No public data in {data!r}: skipped. Contracts: {contracts.ORIGIN}; "
              "SciFact: BEIR (arXiv 2104.08663).")  # fmt: skip
        return
    for name in wanted or PARTS:
        print(f"\n== {name}")
        save("rag-quality", asyncio.run(PARTS[name](folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
