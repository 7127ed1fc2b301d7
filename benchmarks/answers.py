"""Whether tkt-rag-agent answers what it should and nothing else: the template's own chain.

    python benchmarks/answers.py DATA                      all of it, about 15 minutes on two cores
    python benchmarks/answers.py DATA sample claims squad dialogues      or some of it

Prints tables and keeps results/rag-quality.json and results/rag-answers.json. No chat model is
asked: answers are quoted from the documents, by words alone and with the local embedding model.
"""

import asyncio
import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import house
from results import save

from agent.confidence import by_meaning
from agent.conversation import follow
from agent.evaluate import ERROR, evaluate
from agent.golden import load
from agent.ingest import files_under
from agent.metrics import Case, curve, intervals, scores, threshold
from agent.retriever import find
from agent.services import Services
from agent.support import doubts

CORPUS = house.ROOT / "corpus"
NONE = "no chat model"


async def sample(_: Path) -> dict[str, object]:
    """The sample corpus: golden questions, half held out; thresholds from the other half."""
    figures: dict[str, object] = {}
    rows: dict[str, Any] = {}
    for model in ("none", "local"):
        async with house.empty(embedding_model=model) as here:
            await house.take_in(here, files_under(house.APP / "sample"))
            cases = await evaluate(here, load(house.APP / "golden.jsonl"))
        held_out = [case for case in cases if case.golden.held_out]
        tuned = [case for case in cases if not case.golden.held_out]
        print(f"\nembedding: {model}, {NONE}, {len(held_out)} of {len(cases)} held out")
        for name, group in (("all", cases), ("held out", held_out)):
            rows[f"{model}, {name}"] = _scores(name, group)
        at = threshold(tuned, ERROR)
        rows[f"{model}, curve"] = _curve(f"{model}, threshold of the other half", held_out, at)
        hit5 = round(scores(held_out)["hit5"], 4)
        figures["sample_hit5" if model == "local" else "sample_hit5_sparse"] = hit5
        if model == "local":
            found = scores(held_out)
            figures |= {
                "citation_precision": round(found["citation_precision"], 4),
                "unanswerable_answered": round(found["unanswerable_answered"], 4),
                "answerable_answered": round(found["answered"], 4),
            }
    save("rag-answers", {"sample": rows})
    return figures


def _scores(name: str, cases: Sequence[Case]) -> dict[str, Any]:
    found, ranges = scores(cases), intervals(cases)
    for score, value in found.items():
        print(f"  {name:9} {score:24} {value:.3f} ({ranges[score][0]:.3f}-{ranges[score][1]:.3f})")
    return {score: [value, *ranges[score]] for score, value in found.items()}


def _curve(label: str, cases: Sequence[Case], at: float) -> dict[str, Any]:
    points = [[round(x, 3) for x in point] for point in curve(cases)]
    answered, wrong = next(([a, w] for t, a, w in points if t >= round(at, 3)), [0.0, 0.0])
    print(
        f"  {label} {at:.3f}: {answered:.3f} of the answerable answered, {wrong:.3f} of the others"
    )
    return {"threshold": at, "answered": answered, "unanswerable": wrong, "points": points}


async def claims(_: Path) -> dict[str, object]:
    """Sentences against passages: how many refuted ones are caught, how many clean ones accused."""
    rows: dict[str, Any] = {}
    caught: dict[str, float] = {}
    for name in ("claims-dev", "claims-dev-2", "claims-held-out"):
        lines = (CORPUS / f"{name}.jsonl").read_text().splitlines()
        seen: Counter[str] = Counter()
        doubted: Counter[str] = Counter()
        for claim in map(json.loads, lines):
            seen[claim["kind"]] += 1
            doubted[claim["kind"]] += bool(doubts(claim["claim"], claim["passage"]))
        bad = seen.total() - seen["clean"]
        caught = {
            "refuted_caught": round((doubted.total() - doubted["clean"]) / bad, 4),
            "false_alarms": round(doubted["clean"] / seen["clean"], 4),
        }
        rows[name] = {kind: [doubted[kind], seen[kind]] for kind in sorted(seen)} | caught
        print(f"{name}: {rows[name]}")
    save("rag-answers", {"claims": rows})
    return dict(caught)


async def squad(data: Path) -> dict[str, object]:
    """SQuAD 2: of questions whose paragraph was left out, how many are answered, at 70 % of those
    whose paragraph is in; and of those written to look answerable beside a paragraph that is."""
    with gzip.open(data / "squad2_dev/dev-v2.0-cs224n.json.gz", "rt") as file:
        articles = json.load(file)["data"]
    draw = random.Random(5)
    texts, asked = {}, []
    for article in articles:
        paragraphs = article["paragraphs"]
        kept = set(draw.sample(range(len(paragraphs)), len(paragraphs) // 2))
        parts = [p["context"] for n, p in enumerate(paragraphs) if n in kept]
        texts[article["title"]] = "\n\n".join(parts)
        for n, paragraph in enumerate(paragraphs):
            for question in paragraph["qas"]:
                kind = "trap" if question["is_impossible"] else "in" if n in kept else "out"
                if kind != "trap" or n in kept:
                    asked.append((kind, question["question"]))
    rows: dict[str, Any] = {}
    for model, limit in (("none", len(asked)), ("local", 1500)):
        async with house.services(texts, ".txt", embedding_model=model) as here:
            held: dict[str, list[float]] = {"in": [], "out": [], "trap": []}
            for kind, question in random.Random(1).sample(asked, limit):
                held[kind].append(await _held(here, question))
        rows[model] = {"questions": {kind: len(values) for kind, values in held.items()}}
        for share in (0.5, 0.6, 0.7, 0.8, 0.9):
            at = sorted(held["in"])[int((1 - share) * len(held["in"]))]
            point = {kind: round(sum(v >= at for v in values) / len(values), 3)
                     for kind, values in held.items()}  # fmt: skip
            rows[model][f"at {share:.0%}"] = point
            print(f"{model}: {point}")
    save("rag-answers", {"squad": rows})
    return {}


async def _held(here: Services, question: str) -> float:
    found = await find(here.store, question, 6)
    window = await by_meaning(here.store, question, found)
    return window.held if window else 0.0


async def dialogues(_: Path) -> dict[str, object]:
    """Later turns of dialogues: right passage in the first 5, against two simple ways."""
    lines = (CORPUS / "dialogues.jsonl").read_text().splitlines()
    talks = [json.loads(line) for line in lines]
    rows: dict[str, Any] = {}
    for model in ("none", "local"):
        async with house.empty(embedding_model=model) as here:
            await house.take_in(here, files_under(house.APP / "sample"))
            for half, some in (("looked at", talks[::2]), ("held out", talks[1::2])):
                found = [turn for talk in some for turn in await _turns(here, talk["turns"])]
                share = [round(sum(way) / len(found), 3) for way in zip(*found, strict=True)]
                names = ("followed", "alone", "with the one before")
                rows[f"{model}, {half}"] = dict(zip(names, share, strict=True)) | {"n": len(found)}
                print(f"{model:6} {half:10} {rows[f'{model}, {half}']}", flush=True)
    save("rag-answers", {"dialogues": rows})
    return {}


async def _turns(here: Services, turns: list[dict[str, str]]) -> list[tuple[bool, bool, bool]]:
    found = []
    for n in range(1, len(turns)):
        questions = [turn["question"] for turn in turns[: n + 1]]
        asked = await follow(here.store, questions)
        ways = [(asked.text, asked.documents), (questions[-1], ()), (" ".join(questions[-2:]), ())]
        found.append([
            _holds(turns[n], (await find(here.store, text, 5, documents)).hits)
            for text, documents in ways
        ])  # fmt: skip
    return [(a, b, c) for a, b, c in found]


def _holds(turn: dict[str, str], hits: Sequence[Any]) -> bool:
    wanted = "".join(turn["quote"].split())
    texts = ["".join(hit.text.split()) for hit in hits if hit.document == turn["document"]]
    return any(wanted[:60] in text or wanted[-60:] in text for text in texts)


PARTS = {"sample": sample, "claims": claims, "squad": squad, "dialogues": dialogues}


def main(data: str, *wanted: str) -> None:
    folder = Path(data)
    for name in wanted or PARTS:
        print(f"\n== {name}")
        if name == "squad" and not (folder / "squad2_dev").is_dir():
            print(f"No public data in {data!r}: skipped. SQuAD 2.0: CC BY-SA 4.0, "
                  "rajpurkar.github.io/SQuAD-explorer.")  # fmt: skip
        elif figures := asyncio.run(PARTS[name](folder)):
            save("rag-quality", figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
