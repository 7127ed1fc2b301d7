"""How a question becomes an answer: one stream of events that page, API and command line read.

    question ─► what it means in the talk ─► passages ─┬─ enough ─► model ─► checked, cited
                                                       │    └─ none, or it fails ─► quotation
                                                       └─ too little, or too many ─► said so

Events: `passages` once, `token` many times, `citations` once, then `done`; or `error`. The answer
is what all tokens together say.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import convert_to_openai_messages
from langchain_core.prompts import ChatPromptTemplate

from agent import prompts
from agent.access import User
from agent.checking import Check, checked
from agent.citations import cite, known_only, numbered_text, quotation
from agent.confidence import by_meaning, by_words
from agent.conversation import Asked, follow
from agent.errors import Refused, Unavailable
from agent.gateway import ChatModel, Messages, Usage
from agent.harmless import harmless
from agent.logs import about
from agent.retriever import Found, find
from agent.runs import Event, Run
from agent.services import Services
from agent.store import Hit
from agent.tracing import Trace

HISTORY = 6
"""Messages of the conversation that are looked back at."""
NEAR = 0.5
"""Share of what is needed from which the nearest passage is worth showing."""
WHICH = 8
"""Documents that are named when the user is asked which one is meant."""

log = logging.getLogger(__name__)
_CONDENSE = ChatPromptTemplate.from_template(prompts.CONDENSE)
_ANSWER = ChatPromptTemplate.from_messages(
    [("system", prompts.ANSWER), ("placeholder", "{history}"), ("human", prompts.PASSAGES)]
)


@dataclass
class Question:
    text: str
    history: list[dict[str, str]] = field(default_factory=list)
    documents: Sequence[str] = ()
    session_id: str | None = None
    user: User = field(default_factory=User)
    door: str = "cli"
    """Where it was asked: page, api, v1, mcp or cli."""
    traceparent: str = ""
    """The header of a caller whose trace the answer goes on."""


def begin(services: Services, question: Question) -> Run:
    """Start a run that answers, where the user may; `Refused` says why not."""
    _allow(services, question.user, question.text)
    services.limits.run(question.user, services.runs)

    def work(run: Run) -> AsyncGenerator[Event, None]:
        return services.measures.answers(question.door, answer(services, question, run.id))

    return services.runs.start(work, services.settings.answer_timeout_s, question.user.id)


async def answer(
    services: Services, question: Question, run_id: str = ""
) -> AsyncGenerator[Event, None]:
    """Answer one question. Fails only by an `error` event, with one sentence for the user."""
    trace = services.tracing.start(
        "answer",
        question.text,
        session_id=question.session_id,
        user_id=question.user.name or question.user.id,
        door=question.door,
        parent=question.traceparent,
    )
    about(run_id=run_id, trace_id=trace.id)
    outcome = _Outcome("model" if services.model else "extractive", trace)
    try:
        found = await _retrieve(services, question, outcome)
        passages = [{"n": n} | asdict(hit) for n, hit in enumerate(found.hits, 1)]
        yield Event("passages", {"run_id": run_id, "passages": passages})
        async for text in _say(services, question, found, outcome):
            outcome.said += text
            yield Event("token", {"text": text})
        citations = cite(services.store.index, outcome.said, found.hits)
        yield Event("citations", {"citations": citations})
        borne_out = any(c.cited and c.status in ("supported", "plain") for c in outcome.checks)
        answered = bool(citations) and prompts.UNKNOWN not in outcome.said
        yield Event(
            "done",
            {
                "answer": outcome.said,
                "answered": answered and (borne_out or outcome.mode == "extractive"),
                "citations": citations,
                "checks": [check.as_data() for check in outcome.checks],
                "confidence": round(outcome.held, 3),
                "which": found.which,
                "mode": outcome.mode,
                "usage": outcome.usage.tokens,
                "run_id": run_id,
                "trace_id": trace.id,
                "session_id": question.session_id,
            },
        )
    except Unavailable as error:
        trace.end(level="ERROR", status_message=str(error))
        yield Event("error", {"run_id": run_id, "detail": str(error)})
    finally:
        trace.end(output=outcome.said)


async def passages(
    services: Services, user: User, query: str, k: int, documents: Sequence[str] = ()
) -> list[Hit]:
    """The `k` best passages without an answer, where the user may; `Refused` says why not."""
    _allow(services, user, query)
    return (await find(services.store, query, k, documents)).hits


def _allow(services: Services, user: User, text: str) -> None:
    limit = services.settings.max_question_chars
    if len(text) > limit:
        raise Refused(f"The question has {len(text)} characters; at most {limit} are taken.")
    services.limits.request(user)


@dataclass
class _Outcome:
    mode: str
    trace: Trace
    said: str = ""
    held: float = 0.0
    checks: list[Check] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


async def _say(
    services: Services,
    question: Question,
    found: Found,
    outcome: _Outcome,
) -> AsyncIterator[str]:
    """The answer in pieces: the model's, else the documents' own words, else why there is none."""
    settings, hits = services.settings, found.hits
    reason = "No model is connected"
    if found.which:
        documents = "\n".join(f"- {document}" for document in found.which[:WHICH])
        yield prompts.WHICH.format(count=len(found.which), documents=documents)
        return
    best = by_words(services.store.index, found.wanted, hits)
    outcome.held, enough = best.held if best else 0.0, settings.enough_to_ask
    if services.model and hits and outcome.held >= enough:
        tokens = _generate(services, services.model, question, hits, outcome)
        try:
            known = known_only(harmless(tokens), len(hits))
            async for text in checked(known, hits, outcome.checks, settings.mark_doubts):
                yield text
            return
        except Unavailable as error:
            log.warning("%s", error)
            outcome.mode, reason = "extractive", str(error).rstrip(".")
    if outcome.said:
        yield "\n\n"
    if outcome.mode == "extractive":
        best, enough = (
            await by_meaning(services.store, question.text, found),
            settings.enough_to_quote,
        )
        outcome.held = best.held if best else 0.0
    if best is None:
        yield prompts.UNKNOWN if outcome.mode == "model" else f"{reason}. {prompts.UNKNOWN}"
    elif outcome.mode == "extractive" and best.held >= enough:
        quote = quotation(best, hits)
        yield f"{reason}, so this is quoted from the documents:\n\n{quote} [{best.n}]"
    else:
        yield prompts.TOO_LITTLE.format(held=outcome.held, enough=enough)
        if outcome.held >= enough * NEAR:
            yield f" The nearest is in {quotation(best, hits)}"


async def _retrieve(services: Services, question: Question, outcome: _Outcome) -> Found:
    step = outcome.trace.step("retrieval", "retriever", input=question.text)
    asked = await _standalone(services, question, outcome)
    wanted = services.settings.passages
    found = await find(services.store, asked.text, wanted, asked.documents)
    step.end(output=[asdict(hit) for hit in found.hits])
    return found


async def _standalone(services: Services, question: Question, outcome: _Outcome) -> Asked:
    """The question with what it refers to put in: by the model, else by rule."""
    chosen = tuple(question.documents)
    if not question.history:
        return Asked(question.text, chosen)
    if services.model:
        talk = "\n".join(f"{m['role']}: {m['content']}" for m in question.history[-HISTORY:])
        messages = _sent(_CONDENSE, history=talk, question=question.text)
        tokens = _asked(services, services.model, "question", messages, outcome)
        try:
            return Asked("".join([text async for text in tokens]), chosen)
        except Unavailable as error:
            log.warning("the question is followed by rule: %s", error)
    before = [m["content"] for m in question.history if m["role"] == "user"]
    asked = await follow(services.store, [*before, question.text])
    return Asked(asked.text, chosen or asked.documents)


def _generate(
    services: Services, model: ChatModel, question: Question, hits: list[Hit], outcome: _Outcome
) -> AsyncIterator[str]:
    """The model's answer as it comes. The prompt is LangChain's; the tokens pass it by."""
    messages = _sent(
        _ANSWER,
        unknown=prompts.UNKNOWN,
        history=[(m["role"], m["content"]) for m in question.history[-HISTORY:]],
        passages=numbered_text(hits),
        question=question.text,
    )
    return _asked(services, model, "answer", messages, outcome)


async def _asked(
    services: Services, model: ChatModel, name: str, messages: Messages, outcome: _Outcome
) -> AsyncIterator[str]:
    """What the model says; the call is a step of the trace, and counts."""
    counted_there = services.settings.gateway_traces
    kind = "span" if counted_there else "generation"
    step = outcome.trace.step(name, kind, input=messages)
    said, first, failure, usage = "", None, {}, Usage()
    try:
        async for text in model.stream(messages, usage, step.traceparent):
            first = first or datetime.now(UTC)
            said += text
            yield text
    except Unavailable as error:
        failure = {"level": "ERROR", "status_message": str(error)}
        raise
    finally:
        outcome.usage.add(usage)
        counts = {} if counted_there else usage.as_fields()
        step.end(output=said, model=model.used, completion_start_time=first, **counts, **failure)


def _sent(prompt: ChatPromptTemplate, **texts: Any) -> Messages:
    """A filled-in prompt, as it goes to the gateway."""
    messages: Any = convert_to_openai_messages(prompt.format_messages(**texts))
    return list(messages)
