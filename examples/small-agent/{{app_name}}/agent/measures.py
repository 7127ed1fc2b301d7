"""What Prometheus sees at `/metrics`: how answers go and which service fails.

Answers are measured from the outside, by the events that a run gives.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from agent.limits import Limits
from agent.runs import Event, Runs

WHOLE_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Measures:
    """The figures of one process, in a registry of their own."""

    def __init__(self, runs: Runs, limits: Limits) -> None:
        self._registry = registry = CollectorRegistry()
        about: dict[str, Any] = {"registry": registry}
        self._answers = Counter("agent_answers", "Answers that ended", ["door", "outcome"], **about)
        self._whole = Histogram("agent_answer_seconds", "To the end", buckets=WHOLE_S, **about)
        self._up = Gauge("agent_service_up", "Whether it answered lately", ["service"], **about)
        running = Gauge("agent_runs_running", "Answers going on", **about)
        running.set_function(runs.running)
        limited = Gauge("agent_limited", "Requests refused", **about)
        limited.set_function(lambda: sum(limits.refused.values()))

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
        begin, end = time.monotonic(), Event("cancelled", {})
        try:
            async with aclosing(events):
                async for event in events:
                    end = event if event.last else end
                    yield event
        finally:
            outcome = {"done": "answered", "error": "failed"}.get(end.type, "cancelled")
            self._answers.labels(door, outcome).inc()
            self._whole.observe(time.monotonic() - begin)
