"""How a question becomes an answer: one stream of events that page, API and command line read.

    question ─► condense (only in a conversation) ─► passages ─► prompt ─► model ─► citations
                                                        └─ no model, or it fails ─► quotation

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
from langchain_core.runnables import Runnable, RunnableLambda

from agent import prompts
from agent.citations import cite, known_only, numbered_text, quotation
from agent.errors import Unavailable
from agent.gateway import ChatModel
from agent.retriever import find
from agent.runs import Event
from agent.services import Services
from agent.store import Hit
from agent.tracing import Trace

HISTORY = 6
"""Messages of the conversation that are looked back at."""

log = logging.getLogger(__name__)
_AS_SENT: Runnable[Any, Any] = RunnableLambda(convert_to_openai_messages)


@dataclass
class Question:
    text: str
    history: list[dict[str, str]] = field(default_factory=list)
    documents: Sequence[str] = ()
    session_id: str | None = None
    user_id: str | None = None


async def answer(
    services: Services, question: Question, run_id: str = ""
) -> AsyncGenerator[Event, None]:
    """Answer one question. Fails only by an `error` event, with one sentence for the user."""
    trace = services.tracing.start(
        "answer", question.text, session_id=question.session_id, user_id=question.user_id
    )
    said, citations = "", []
    mode, reason = ("model", "") if services.model else ("extractive", "No model is connected")
    try:
        hits = await _retrieve(services, question, trace)
        passages = [{"n": n} | asdict(hit) for n, hit in enumerate(hits, 1)]
        yield Event("passages", {"run_id": run_id, "passages": passages})
        if services.model and hits:
            tokens = _generate(services, services.model, question, hits, trace)
            try:
                async for text in known_only(tokens, len(hits)):
                    said += text
                    yield Event("token", {"text": text})
            except Unavailable as error:
                log.warning("run %s: %s", run_id, error)
                mode, reason = "extractive", str(error).rstrip(".")
        if mode == "extractive" or not hits:
            openings = await services.store.openings(hit.document for hit in hits)
            quoted = quotation(services.store.index, question.text, hits, openings, reason)
            text = f"\n\n{quoted}" if said else quoted
            said += text
            yield Event("token", {"text": text})
        citations = cite(services.store.index, said, hits)
        yield Event("citations", {"citations": citations})
        yield Event(
            "done",
            {
                "answer": said,
                "answered": bool(citations) and prompts.UNKNOWN not in said,
                "citations": citations,
                "mode": mode,
                "run_id": run_id,
                "trace_id": trace.id,
                "session_id": question.session_id,
            },
        )
    except Unavailable as error:
        trace.end(level="ERROR", status_message=str(error))
        yield Event("error", {"run_id": run_id, "detail": str(error)})
    finally:
        trace.end(output=said)


async def _retrieve(services: Services, question: Question, trace: Trace) -> list[Hit]:
    step = trace.step("retrieval", "retriever", input=question.text)
    hits: list[Hit] = await _retrieval(services, question.documents).ainvoke(question)
    step.end(output=[asdict(hit) for hit in hits])
    return hits


def _retrieval(services: Services, documents: Sequence[str]) -> Runnable[Question, list[Hit]]:
    async def standalone(question: Question) -> str:
        return await _standalone(services, question)

    async def passages(question: str) -> list[Hit]:
        return await find(services.store, question, services.settings.passages, documents)

    return RunnableLambda(standalone) | RunnableLambda(passages)


async def _standalone(services: Services, question: Question) -> str:
    """The question with what it refers to put in: by the model, else with the one before it."""
    if not question.history:
        return question.text
    if services.model:
        prompt = ChatPromptTemplate.from_template(prompts.CONDENSE)
        chain = prompt | _AS_SENT | RunnableLambda(services.model.complete)
        talk = "\n".join(f"{m['role']}: {m['content']}" for m in question.history[-HISTORY:])
        try:
            return await chain.ainvoke({"history": talk, "question": question.text})
        except Unavailable as error:
            log.warning("the question is searched with the one before it: %s", error)
    asked = [m["content"] for m in question.history if m["role"] == "user"]
    return " ".join([*asked[-1:], question.text])


async def _generate(
    services: Services, model: ChatModel, question: Question, hits: list[Hit], trace: Trace
) -> AsyncIterator[str]:
    """The model's answer as it comes. The prompt is LangChain's; the tokens pass it by."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", prompts.ANSWER), ("placeholder", "{history}"), ("human", prompts.PASSAGES)]
    )
    messages = await (prompt | _AS_SENT).ainvoke(
        {
            "unknown": prompts.UNKNOWN,
            "history": [(m["role"], m["content"]) for m in question.history[-HISTORY:]],
            "passages": numbered_text(hits),
            "question": question.text,
        }
    )
    step = trace.step("answer", "generation", input=messages)
    said, first, failure = "", None, {}
    usage: dict[str, int] = {}
    try:
        async for text in model.stream(messages, usage):
            first = first or datetime.now(UTC)
            said += text
            yield text
    except Unavailable as error:
        failure = {"level": "ERROR", "status_message": str(error)}
        raise
    finally:
        step.end(
            output=said,
            model=model.used,
            usage_details=usage,
            completion_start_time=first,
            **failure,
        )
