"""What Prometheus sees at `/metrics`: how answers go, what they cost, which service fails.

Answers are measured from the outside, by the events that a run gives. Nothing here is asked of
another service when Prometheus comes.
"""

import logging
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
FOUND_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

log = logging.getLogger(__name__)


class Measures:
    """The figures of one process, in a registry of their own."""

    def __init__(self, runs: Runs, limits: Limits) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Counted(limits))
        about: dict[str, Any] = {"registry": registry}
        kinds = ["door", "mode", "outcome"]
        self._answers = Counter("agent_answers", "Answers that ended", kinds, **about)
        self._first = Histogram(
            "agent_first_token_seconds", "To the first word", ["mode"], buckets=FIRST_S, **about
        )
        self._whole = Histogram(
            "agent_answer_seconds", "To the end", ["mode"], buckets=WHOLE_S, **about
        )
        self._found = Histogram(
            "agent_retrieval_seconds", "To the passages", buckets=FOUND_S, **about
        )
        self._tokens = Counter("agent_tokens", "As the gateway counts", ["direction"], **about)
        self._files = Counter("agent_ingested_files", "Files taken in", ["status"], **about)
        self._up = Gauge("agent_service_up", "Whether it answered lately", ["service"], **about)
        self.documents = Gauge("agent_documents", "Documents that are served", **about)
        running = Gauge("agent_runs_running", "Answers and uploads going on", **about)
        running.set_function(runs.running)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def looked(self, found: dict[str, dict[str, Any]]) -> None:
        """Keep what `health.probe` found of the services that are configured."""
        for name, service in found.items():
            if service["detail"] != "not configured":
                self._up.labels(name).set(bool(service["ok"]))

    async def answers(
        self, door: str, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """The events of an answer, measured as they pass."""
        begin, times, end = time.monotonic(), dict[str, float](), Event("cancelled", {})
        try:
            async with aclosing(events):
                async for event in events:
                    times.setdefault(event.type, time.monotonic() - begin)
                    if event.last:
                        end = event
                    yield event
        finally:
            self._ended(door, times, end, time.monotonic() - begin)

    async def files(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The events of an upload or a deletion, counted."""
        async with aclosing(events):
            async for event in events:
                if event.type == "file":
                    self._files.labels(event.data["status"]).inc()
                yield event

    def _ended(self, door: str, times: dict[str, float], end: Event, seconds: float) -> None:
        mode, outcome = end.data.get("mode", "model"), _outcome(end)
        self._answers.labels(door, mode, outcome).inc()
        self._whole.labels(mode).observe(seconds)
        if "passages" in times:
            self._found.observe(times["passages"])
        if "token" in times:
            self._first.labels(mode).observe(times["token"])
        for direction, count in end.data.get("usage", {}).items():
            self._tokens.labels(direction).inc(count)
        first_s = round(times.get("token", 0.0), 3)
        told = {"door": door, "mode": mode, "outcome": outcome, "first_s": first_s}
        log.info("answer ended", extra=told | {"seconds": round(seconds, 3)})


def _outcome(end: Event) -> str:
    if end.type != "done":
        return "cancelled" if end.type == "cancelled" else "failed"
    if end.data["which"]:
        return "asked_back"
    return "answered" if end.data["answered"] else "unanswered"


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
