"""What Prometheus sees at `/metrics`: the engine's own figures, and beside them this app's.

vLLM counts tokens, queue and latency of all doors. Counted here: answers of the page and
/api/chat, what was handed on at /v1, and how the engine lives.
"""

import logging
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily

from agent import errors
from agent.limits import Limits
from agent.runs import Event, Runs

FIRST_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 40, 80)
WHOLE_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
PHASES = (
    "looking", "download", "starting", "weights", "compile", "graphs", "ready", "waiting",
    "failed", "ended",
)  # fmt: skip

log = logging.getLogger(__name__)


class Measures:
    """The figures of one process, in a registry of their own."""

    def __init__(self, runs: Runs, limits: Limits) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Counted(limits))
        about: dict[str, Any] = {"registry": registry}
        self._answers = Counter("agent_answers", "Answers that ended", ["door", "outcome"], **about)
        self._first = Histogram(
            "agent_first_token_seconds", "To the first word", buckets=FIRST_S, **about
        )
        self._whole = Histogram("agent_answer_seconds", "To the end", buckets=WHOLE_S, **about)
        self.passed = Counter("agent_passed", "Handed on at /v1", ["path", "status"], **about)
        self._up = Gauge("agent_service_up", "Whether it answered lately", ["service"], **about)
        self._phase = Gauge("agent_engine_phase", "1 for what it is doing", ["phase"], **about)
        self._lives = Gauge("agent_engine_lives", "How often it became ready", **about)
        running = Gauge("agent_runs_running", "Answers going on", **about)
        running.set_function(runs.running)

    def page(self, phase: str, lives: int, engine: str) -> bytes:
        """In Prometheus' text format; `engine` is what the engine shows."""
        for name in PHASES:
            self._phase.labels(name).set(name == phase)
        self._lives.set(lives)
        own = re.findall(r"^(?:# \w+ )?vllm:.*\n", engine, re.MULTILINE)
        return generate_latest(self._registry) + "".join(own).encode()

    def looked(self, found: dict[str, dict[str, Any]]) -> None:
        """Keep what `health.probe` found of the services that are configured."""
        for name, service in found.items():
            if service["detail"] != "not configured":
                self._up.labels(name).set(bool(service["ok"]))

    async def answers(
        self, door: str, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """The events of an answer, measured as they pass."""
        begin, first_s, end = time.monotonic(), 0.0, Event("cancelled", {})
        try:
            async with aclosing(events):
                async for event in events:
                    if event.type == "token":
                        first_s = first_s or time.monotonic() - begin
                    end = event if event.last else end
                    yield event
        finally:
            self._ended(door, first_s, end, time.monotonic() - begin)

    def _ended(self, door: str, first_s: float, end: Event, seconds: float) -> None:
        outcome = {"done": "answered", "error": "failed"}.get(end.type, "cancelled")
        self._answers.labels(door, outcome).inc()
        self._whole.observe(seconds)
        if first_s:
            self._first.observe(first_s)
        told = {"door": door, "outcome": outcome, "first_s": round(first_s, 3)}
        log.info("answer ended", extra=told | {"seconds": round(seconds, 3)})


class _Counted:
    """What others count for themselves."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def collect(self) -> Iterator[CounterMetricFamily]:
        failed = CounterMetricFamily("agent_service_errors", "Failures", labels=["service"])
        for service, count in errors.FAILURES.items():
            failed.add_metric([service], count)
        limited = CounterMetricFamily("agent_limited", "Requests refused", labels=["limit"])
        for limit, count in self._limits.refused.items():
            limited.add_metric([limit], count)
        yield failed
        yield limited
