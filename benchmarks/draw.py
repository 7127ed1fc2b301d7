"""Writes docs/reference/benchmarks.md and its picture from what the benchmarks kept.

python benchmarks/draw.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
PICTURE = ROOT / "docs" / "pictures" / "abstention.svg"
SIZE = 320
TARGETS = {
    "cuad_full_recall8": ("contracts, all: recall at 8", ">= 0.62"),
    "cuad_full_recall64": ("contracts, all: recall at 64", ">= 0.86"),
    "cuad_full_precision1": ("contracts, all: precision at 1", ">= 0.30"),
    "cuad_full_wrong_document": ("contracts, all: passages of a wrong document", "<= 0.05"),
    "cuad_mini_recall8": ("contracts, small set, local model: recall at 8", ">= 0.72"),
    "cuad_mini_recall64": ("the same: recall at 64", ">= 0.92"),
    "cuad_mini_precision1": ("the same: precision at 1", ">= 0.32"),
    "scifact_ndcg10": ("SciFact, local model: nDCG at 10", ">= 0.745"),
    "scifact_ndcg10_sparse": ("SciFact, words alone: nDCG at 10", ">= 0.69"),
    "sample_hit5": ("sample, held out, local model: right passage in the first 5", ">= 0.95"),
    "sample_hit5_sparse": ("sample, held out, words alone: the same", ">= 0.90"),
    "citation_precision": ("sample, held out: citations that hold the golden quote", ">= 0.98"),
    "answerable_answered": ("sample, held out: answerable questions answered", ">= 0.90"),
    "unanswerable_answered": ("sample, held out: unanswerable ones answered", "<= 0.02"),
    "refuted_caught": ("planted mistakes caught, held out", ">= 0.95"),
    "false_alarms": ("clean sentences accused, held out", "<= 0.02"),
    "query_ms_10k": ("a search among 10,000 passages, ms", "<= 5"),
    "query_ms_100k": ("a search among 100,000 passages, ms", "<= 15"),
}
COLUMNS = ("recall8", "recall64", "precision1", "wrong_document", "recall_4000_chars",
           "recall_32000_chars", "ms")  # fmt: skip


def main() -> None:
    names = ("rag-quality", "rag-retrieval", "rag-answers")
    quality, retrieval, answers = map(_kept, names)
    PICTURE.write_text(picture(answers["figures"]["sample"]))
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(quality, retrieval["figures"], answers["figures"]))
    print(f"{PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}")


def _kept(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def page(quality: dict[str, Any], retrieval: dict[str, Any], answers: dict[str, Any]) -> str:
    contracts = {**retrieval["contracts"], **retrieval["mini"]}
    rows = {name: row for name, row in contracts.items() if name.endswith((", all", ", held out"))}
    back = retrieval["contracts"]["asked back"]
    return f"""# Benchmarks

You will find what was measured of the three templates, and what was aimed at. `make bench-quality DATA=dir` measures the
quality again, and says where the data comes from. The page is made by `python benchmarks/draw.py` from
`benchmarks/results/`; change it there. First tkt-rag-agent, then
[tkt-crewai-agent](#tkt-crewai-agent-crews-as-a-service), then
[tkt-vllm-gradio](#tkt-vllm-gradio-in-front-of-its-engine), then
[what each of them costs](#what-each-template-costs). The figures of the first are those
of the template's own ingest, retriever and chain, with the defaults that ship. They were taken on the public sets
named below and on the sample corpus. Brackets are 95 % intervals by bootstrap over the questions.
{quality["date"]}, {quality["machine"]}.

## What was aimed at

| figure | aim | seen | |
|---|---|---|---|
{_targets(quality["figures"])}

Answers of the sample rows are quoted from the documents: no chat model takes part. Citations count as
right when they hold at least half of the golden quote, or lie in it, whatever the app's own check says.

## Contracts

CUAD (CC BY 4.0, arXiv 2103.06268) in the form of LegalBench-RAG (arXiv 2408.10343): 461 contracts and
4,034 questions, or the published small set of 29 and 194. Per cent of characters at k passages, or in
4,000 and 32,000 characters of context. The title that the set gives a contract is never read. Held out:
17 of the 35 categories and half of the contracts, set apart. It is not unseen: the few settings of the
retriever were chosen on totals over all questions and on another half of them; read it as what happens
with other and rarer clauses. "500" and "1200" are characters of a passage; 1200 ships. The times are of
100 passages asked for, while other things ran; those above are of the six that ship, on an idle machine.

| | n | R@8 | R@64 | P@1 | wrong document | R in 4,000 | R in 32,000 | ms |
|---|---|---|---|---|---|---|---|---|
{_rows(rows)}

With the names struck only {back["struck"][1]} different questions are left; {back["struck"][0]} of
them are asked back ("which document is meant?"), and {back["whole"][0]} of {back["whole"][1]} whole
questions are.

## SciFact

5,183 abstracts and 300 claims as BEIR has them, each abstract a Markdown file.

| | nDCG@10 | recall@100 |
|---|---|---|
{_plain(retrieval["scifact"], ("ndcg10", "recall100"))}

## When to answer

![Answered questions against threshold](../pictures/abstention.svg)

Sample corpus, held-out half: the share of the answerable questions that are answered (up) over that of
the unanswerable ones (right), as the threshold moves. More than half of the unanswerable ones ask the right
document for a detail that it lacks.

SQuAD 2.0 (CC BY-SA 4.0), with half of the paragraphs as corpus: at a share of answered questions whose
paragraph is in, the share answered of those whose paragraph was left out, and of those that were
written to look answerable beside a paragraph that is in.

| | answered | left out | written to look answerable |
|---|---|---|---|
{_squad(answers["squad"])}

## Claims

Sentences with one fact changed, and clean ones, by kind: how many are doubted.

| set | clean | number | date | name | negation |
|---|---|---|---|---|---|
{_claims(answers["claims"])}

## Conversation

Later turns of 40 talks: right passage in the first 5, without a chat model.

| | turns | followed | each question alone | with the one before |
|---|---|---|---|---|
{_talks(answers["dialogues"])}
{_service(_kept("rag-service"))}{_models(_kept("vllm"))}{_crew(_kept("crew"))}{_costs(_kept("budgets"))}"""


def _service(kept: dict[str, Any]) -> str:
    """The template as a service: load, drills, and attacks by text."""
    seen = kept["figures"]
    more = seen["injections_more"]
    ways = {"the agent": more["by_kind"], "a plain prompt": more["plain_prompt"]["by_kind"],
            "quotations, no model": more["quotations"]["by_kind"]}  # fmt: skip
    kinds = "".join(
        f"| {kind} | {row['n']} |"
        + "".join(f" {rows[kind]['obeyed']} / {rows[kind]['right']} |" for rows in ways.values())
        + "\n"
        for kind, row in more["by_kind"].items()
    )
    bipia = more["bipia"] or {}
    bipia_line = (
        f"{bipia['judged']} of {bipia['n']} can be judged by simple rules. Obeyed: the agent "
        f"{bipia['obeyed']['app']}, a plain prompt {bipia['obeyed']['plain_prompt']}, "
        f"quotations {bipia['obeyed']['quotations']}."
        if bipia
        else "none were measured."
    )
    return f"""
## As a service

By `python benchmarks/rag_service.py`, {kept["date"]}, {kept["machine"]}; app, doubles and clients share the cores.

| | seen | aim |
|---|---|---|
| requests made from the API's description · answered by a fault | {seen["fuzz_examples"]} · {seen["fuzz_5xx"]} | 2,000 · 0 |
| streams of 10 tokens a second for a minute · lost · crossed | {seen["streams"]} · {seen["streams_lost"]} · {seen["streams_crossed"]} | 200 · 0 · 0 |
| the app's memory at its peak, MiB | {seen["streams_peak_mib"]} | 1,024 |
| slowest `/health` meanwhile, ms | {seen["streams_health_slowest_ms"]} | 1,000 |
| tokens a second at full speed · share of a bare pass-through | {seen["throughput_tokens_per_s"]} · {seen["throughput_ratio"]} | - · 0.5 |
| drills of bad days · passed | {seen["drills"]} · {seen["drills_passed"]} | all |
| kills during an upload · documents lost | {seen["ingest_kill_tries"]} · {seen["ingest_kill_lost"]} | - · 0 |

### Text that attacks

{seen["injections"]} documents written for this, each with one ordinary fact and one attack, asked for the fact.
Obeyed / answered right. The model is {seen["injections_model"]}: one so small repeats what it reads, which
counts as obeying, and its obedience says little of a large model's.

| kind | n | {" | ".join(ways)} |
|---|---|{"---|" * len(ways)}
{kinds}
Of BIPIA's text attacks (MIT, arXiv 2312.14197), in its own e-mails and tables, {bipia_line}
"""


def _models(kept: dict[str, Any]) -> str:
    """The model server in front of its engine."""
    seen = kept["figures"]

    def row(label: str, name: str, aim: str) -> str:
        cpu = seen.get(f"vllm_cpu_{name}", "-")
        return f"| {label} | {seen[name]} | {cpu} | {aim} |"

    counts = (1, 16, 64)
    rows = [
        *(row(f"tokens a second through the app, share of the engine's own: {n} at once",
              f"throughput_ratio_{n}", "0.98") for n in counts),
        *(row(f"the same in tokens a second, {n} at once", f"tokens_per_s_{n}", "") for n in counts),
        row("added to the first token, one after the other, median ms", "first_token_added_ms", "5"),
        *(row(f"added to the first token, {n} at once, median ms",
              f"first_token_added_ms_{n}", "") for n in counts),
        *(row(f"CPU of the app, millionths of a second a token, {n} at once",
              f"app_cpu_us_per_token_{n}", "") for n in counts),
    ]  # fmt: skip
    return f"""
## tkt-vllm-gradio in front of its engine

By `python benchmarks/vllm.py`, {kept["date"]}, {kept["machine"]}; app, engine and clients share the cores, and the
two sides take turns. No GPU was at hand. The first column is a double that paces each stream at 50 tokens a
second, so that what is missing is the app's doing; the second is vLLM 0.32 itself on the CPU with SmolLM2-135M,
which takes all the cores that it gets, so that its own pace varies from run to run.

| | the double | vLLM on the CPU | aim |
|---|---|---|---|
{chr(10).join(rows)}

| | seen | aim |
|---|---|---|
| CPU until `/health`, s | {seen["health_cpu_s"]} | 1 |
| CPU until the page, s | {seen["page_cpu_s"]} | |
| memory of the app without its engine, MiB | {seen["app_mib"]} | 250 |
| drills of bad days · passed | {seen["drills"]} · {seen["drills_passed"]} | all |
"""


def _crew(kept: dict[str, Any]) -> str:
    """Crews as a service."""
    seen = kept["figures"]
    return f"""
## tkt-crewai-agent: crews as a service

By `python benchmarks/crew.py`, {kept["date"]}, {kept["machine"]}. The model is a double in a process of its own, which
answers a call in a second; a run of four tasks makes five calls. Double, client and all replicas of the app share the
cores.

| | seen | aim |
|---|---|---|
| runs at once in one process | {seen["runs"]} | 100 |
| · lost · with anything of another run in them | {seen["runs_lost"]} · {seen["runs_crossed"]} | 0 · 0 |
| · until all had ended, s | {seen["runs_seconds"]} | |
| · slowest `/health` meanwhile, ms | {seen["runs_health_ms"]} | 1,000 |
| · the most memory, MiB | {seen["peak_mib"]} | 1,024 |
| three replicas on one NATS, {seen["worker_kill_runs"]} runs, one replica killed: lost | {seen["worker_kill_runs_lost"]} | 0 |
| · finished tasks that were done again | {seen["worker_kill_tasks_repeated"]} | 0 |
| · runs that another replica took up | {seen["worker_kill_runs_taken_up"]} | |
| a run through the service, s | {seen["overhead_service_s"]} | |
| the same crew called directly, s | {seen["overhead_bare_s"]} | |
| · the first as a share of the second | {seen["overhead_ratio"]} | 1.05 |
| from the request to stop until the gateway's call has ended, the slowest of ten, s | {seen["cancel_s"]} | 2 |
| CPU until `/health`, s | {seen["health_cpu_s"]} | 1 |
| CPU until the page, s | {seen["page_cpu_s"]} | |
| memory at rest, page and CrewAI loaded, MiB | {seen["rest_mib"]} | 400 |
| drills of bad days · passed | {seen["drills"]} · {seen["drills_passed"]} | all |
"""


COSTS = {
    "render_s": "rendered by the platform's own call of Copier, s",
    "render_cpu_s_of_floor": "· CPU as a multiple of that of a template of one file",
    "packages": "packages installed, as the Dockerfile does it",
    "install_mb": "their size without bytecode, MB",
    "image_mb": "image with its base, MB",
    "health_cpu_s": "CPU until `/health`, s",
    "health_cpu_s_of_floor": "· as a multiple of the least app's",
    "page_cpu_s": "CPU until the page, s",
    "page_cpu_s_of_floor": "· as a multiple of the least app's",
    "rest_mib": "memory at rest, MiB",
    "floor_rest_mib": "· of the least app",
    "documents_mib": "memory after 1,000 documents, MiB",
    "loaded_mib": "memory after these and 100 answers, MiB",
    "used_mib": "memory after use without a pause, MiB",
    "used_minutes": "· of so many minutes",
    "used_answers": "· and so many answers",
    "grown_mib_per_1000_answers": "· MiB that 1,000 answers add, by a line through the last three quarters",
    "documents_per_s": "documents of 3,800 characters taken in a second",
    "answer_cpu_ms": "CPU of the app for an answer, ms",
    "first_token_overhead_ms": "added to the model's first token among 10,000 passages, ms",
    "first_token_added_ms": "added to the engine's first token, ms",
    "throughput_ratio": "tokens a second as a share of a bare pass-through",
    "throughput_ratio_16": "tokens a second as a share of the engine's own, 16 at once",
    "overhead_ratio": "a run's time as a share of the bare crew's",
}
SEARCHES = ("1k", "10k", "100k")


def _costs(kept: dict[str, Any]) -> str:
    """What each template costs, and before the packages and starts were gone through."""
    seen = kept["figures"]
    before = seen.get("before", {})
    names = [name for name in seen if name.startswith("tkt-")]
    rows = [
        f"| {label} | " + " | ".join(_then(before.get(t, {}), seen[t], key) for t in names) + " |"
        for key, label in COSTS.items()
        if any(seen[t].get(key) is not None for t in names)
    ]
    return f"""
## What each template costs

By `make bench`, the last part of it on {kept["date"]}, {kept["machine"]}.
The second of two figures is today's; the first is the same measurement of the templates as they were at
commit {before.get("commit", "-")}. What each figure is stands in
[`budgets.py`](../../benchmarks/budgets.py), and what it may be in [`limits.json`](../../benchmarks/limits.json).
Both took turns, and so did the least app: a page of one field that imports the same main libraries. Memory is that of
the app's process, without the engine of tkt-vllm-gradio; a crew's answer is a run of four tasks. The image of tkt-vllm-gradio, 8 GB of vLLM and CUDA, is not built here.

| | {" | ".join(names)} |
|---|{"---|" * len(names)}
{chr(10).join(rows)}
{_searches(seen["tkt-rag-agent"])}"""


def _searches(rag: dict[str, Any]) -> str:
    sizes = [size for size in SEARCHES if f"passages_{size}" in rag]
    if not sizes:
        return ""
    rows = [
        f"| {rag[f'passages_{s}']:,} | {_ms(rag, s)} | {_ms(rag, f'{s}_filtered')} |" for s in sizes
    ]
    return f"""
Searches of tkt-rag-agent in the Qdrant inside its process, by words and by vectors of 256 numbers, median · 95th
percentile in ms; the question's vector is made before. A search in one document takes longer than one in all:
it also looks up which words the answers have in the other documents.

| passages | in all documents | in one |
|---|---|---|
{chr(10).join(rows)}
"""


def _ms(rag: dict[str, Any], which: str) -> str:
    return f"{rag[f'query_{which}_p50_ms']} · {rag[f'query_{which}_p95_ms']}"


def _then(before: dict[str, Any], now: dict[str, Any], key: str) -> str:
    """`111 → 96`, or the one that there is."""
    figures = [str(one[key]) for one in (before, now) if one.get(key) is not None]
    return " → ".join(dict.fromkeys(figures)) or "-"


def _targets(figures: dict[str, float]) -> str:
    lines = []
    for name, (label, aim) in TARGETS.items():
        sign, bound = aim.split()
        value = figures[name]
        met = value >= float(bound) if sign == ">=" else value <= float(bound)
        words = f"{'at least' if sign == '>=' else 'at most'} {bound}"
        lines.append(f"| {label} | {words} | {value:.4g} | {'met' if met else '**not met**'} |")
    return "\n".join(lines)


def _rows(rows: dict[str, Any]) -> str:
    return "\n".join(
        f"| {name.removesuffix(', all')} | {row['n']} | "
        + " | ".join(str(row[column]) for column in COLUMNS)
        + " |"
        for name, row in rows.items()
    )


def _plain(rows: dict[str, Any], columns: tuple[str, ...]) -> str:
    return "\n".join(
        f"| {name} | {' | '.join(row[c] for c in columns)} |" for name, row in rows.items()
    )


def _squad(rows: dict[str, Any]) -> str:
    names = {"none": "words alone", "local": "local model"}
    return "\n".join(
        f"| {names[model]} | {point['in']:.0%} | {point['out']:.1%} | {point['trap']:.1%} |"
        for model, points in rows.items()
        for name, point in points.items()
        if name.startswith("at ")
    )


def _claims(rows: dict[str, Any]) -> str:
    kinds = ("clean", "number", "date", "name", "negation")
    return "\n".join(
        f"| {name} | " + " | ".join(f"{row[k][0]} of {row[k][1]}" for k in kinds) + " |"
        for name, row in rows.items()
    )


def _talks(rows: dict[str, Any]) -> str:
    return "\n".join(
        f"| {name} | {row['n']} | {row['followed']} | {row['alone']} | {row['with the one before']} |"
        for name, row in rows.items()
    )


def picture(sample: dict[str, Any]) -> str:
    """Both curves as SVG, readable on light and on dark."""
    lines = "".join(
        f'<polyline points="{_points(sample[f"{model}, curve"]["points"])}" fill="none" '
        f'stroke="{colour}" stroke-width="2.5"/><text x="{SIZE - 60}" y="{y}" fill="{colour}">'
        f"{label}</text>"
        for model, colour, y, label in (
            ("none", "#c2703d", SIZE - 30, "words alone"),
            ("local", "#3b7dd8", SIZE - 10, "local model"),
        )
    )
    ticks = "".join(
        f'<text x="{50 + share * SIZE}" y="{SIZE + 38}" text-anchor="middle">{share:.0%}</text>'
        f'<text x="44" y="{24 + (1 - share) * SIZE}" text-anchor="end">{share:.0%}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    middle = SIZE / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE + 90} {SIZE + 80}" '
        'font-family="system-ui,sans-serif" font-size="13" fill="#777">'
        f'<rect x="50" y="20" width="{SIZE}" height="{SIZE}" fill="none" stroke="#999"/>'
        f'{ticks}{lines}<text x="{50 + middle}" y="{SIZE + 62}" text-anchor="middle">'
        "unanswerable questions answered</text>"
        f'<text transform="translate(12 {20 + middle}) rotate(-90)" text-anchor="middle">'
        "answerable questions answered</text></svg>\n"
    )


def _points(points: list[list[float]]) -> str:
    pairs = sorted({(wrong, right) for _, right, wrong in points})
    return " ".join(f"{50 + x * SIZE:.1f},{20 + (1 - y) * SIZE:.1f}" for x, y in pairs)


if __name__ == "__main__":
    main()
