"""How a text becomes a summary: one stream of events that page, API and command line read.

Events: `token` many times, then `done`; or `error`. The answer is what all tokens together say.
"""

import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from agent import prompts
from agent.access import User
from agent.errors import Refused, Unavailable
from agent.gateway import ChatModel, Usage
from agent.harmless import harmless
from agent.logs import about
from agent.runs import Event, Run
from agent.services import Services
from agent.tracing import Trace

HISTORY = 6
"""Messages of the conversation that the model sees again."""

log = logging.getLogger(__name__)


@dataclass
class Question:
    text: str
    history: list[dict[str, str]] = field(default_factory=list)
    user: User = field(default_factory=User)
    door: str = "cli"
    """Where it was asked: page, api, v1, mcp or cli."""
    traceparent: str = ""
    """The header of a caller whose trace the answer goes on."""


@dataclass
class _Outcome:
    mode: str
    trace: Trace
    said: str = ""
    usage: Usage = field(default_factory=Usage)


def begin(services: Services, question: Question) -> Run:
    """Start a run that answers, where the user may; `Refused` says why not."""
    limit = services.settings.max_question_chars
    if len(question.text) > limit:
        raise Refused(f"The text has {len(question.text)} characters; at most {limit} are taken.")
    services.limits.request(question.user)
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
        session_id=None,
        user_id=question.user.name or question.user.id,
        door=question.door,
        parent=question.traceparent,
    )
    about(run_id=run_id, trace_id=trace.id)
    outcome = _Outcome("model" if services.model else "extractive", trace)
    try:
        async for text in _say(services, question, outcome):
            outcome.said += text
            yield Event("token", {"text": text})
        yield Event("done", _done(outcome, run_id))
    except Unavailable as error:
        trace.end(level="ERROR", status_message=str(error))
        yield Event("error", {"run_id": run_id, "detail": str(error)})
    finally:
        trace.end(output=outcome.said)


def _done(outcome: _Outcome, run_id: str) -> dict[str, Any]:
    """What the doors show of an answer: the fields of `schemas.Answer`."""
    return {
        "answer": outcome.said,
        "mode": outcome.mode,
        "usage": outcome.usage.tokens,
        "run_id": run_id,
        "trace_id": outcome.trace.id,
    }


async def _say(services: Services, question: Question, outcome: _Outcome) -> AsyncIterator[str]:
    """The model's words; without them, and only before the first of them, the text's own."""
    reason = "No model is connected"
    if services.model:
        try:
            async for text in harmless(_asked(services, services.model, question, outcome)):
                yield text
            return
        except Unavailable as error:
            if outcome.said:
                raise
            log.warning("%s", error)
            outcome.mode, reason = "extractive", str(error).rstrip(".")
    first = " ".join(sentences(question.text)[: services.settings.sentences])
    yield prompts.NO_MODEL.format(reason=reason, first=first)


async def _asked(
    services: Services, model: ChatModel, question: Question, outcome: _Outcome
) -> AsyncIterator[str]:
    """What the model says; the call is a step of the trace."""
    told = prompts.SUMMARY.format(sentences=services.settings.sentences)
    messages = [{"role": "system", "content": told}, *question.history[-HISTORY:]]
    messages.append({"role": "user", "content": question.text})
    step = outcome.trace.step("answer", "generation", input=messages)
    said = ""
    try:
        async for text in model.stream(messages, outcome.usage, step.traceparent):
            said += text
            yield text
    finally:
        step.end(output=said, model=model.used, **outcome.usage.as_fields())


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
