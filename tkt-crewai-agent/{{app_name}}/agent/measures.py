"""What Prometheus sees at `/metrics`: how runs go, what they cost, which service fails.

Nothing here is asked of another service when Prometheus comes. With several replicas each tells of
what it did itself; runs that wait are counted in what all of them share.
"""

import logging
from collections.abc import Iterator
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
from agent.records import Record

RUN_S = (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600)
CALL_S = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)

log = logging.getLogger(__name__)


class Measures:
    """The figures of one process, in a registry of their own."""

    def __init__(self, limits: Limits) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Counted(limits))
        about: dict[str, Any] = {"registry": registry}
        kinds = ["door", "process", "outcome"]
        self._runs = Counter("agent_runs", "Runs that ended", kinds, **about)
        self._seconds = Histogram(
            "agent_run_seconds", "Worked on a run", ["process"], buckets=RUN_S, **about
        )
        self._calls = Counter("agent_model_calls", "Calls of the model", ["outcome"], **about)
        self._call_s = Histogram(
            "agent_model_seconds", "One call of the model", buckets=CALL_S, **about
        )
        self._tokens = Counter("agent_tokens", "As the gateway counts", ["direction"], **about)
        self._dollars = Counter("agent_dollars", "As the gateway tells, or by PRICE_*", **about)
        tools = ["tool", "outcome"]
        self._tools = Counter("agent_tool_calls", "Calls of tools", tools, **about)
        self._again = Counter("agent_redelivered", "Runs taken up after a lost worker", **about)
        self._dead = Counter("agent_dead_letters", "Runs put aside", **about)
        self._up = Gauge("agent_service_up", "Whether it answered lately", ["service"], **about)
        self._states = {
            state: Gauge(f"agent_runs_{state}", f"Runs that are {state}", **about)
            for state in ("queued", "running", "waiting")
        }

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def looked(self, found: dict[str, dict[str, Any]]) -> None:
        """Keep what `health.probe` found of the services that are configured."""
        for name, service in found.items():
            if service["detail"] != "not configured":
                self._up.labels(name).set(bool(service["ok"]))

    def counted(self, states: dict[str, int]) -> None:
        """Keep how many runs are queued, running and waiting."""
        for state, gauge in self._states.items():
            gauge.set(states.get(state, 0))

    def model_call(self, outcome: str, seconds: float) -> None:
        self._calls.labels(outcome).inc()
        self._call_s.observe(seconds)

    def spent(self, input: int, output: int, dollars: float | None) -> None:
        self._tokens.labels("input").inc(input)
        self._tokens.labels("output").inc(output)
        self._dollars.inc(dollars or 0)

    def tool_call(self, tool: str, ok: bool) -> None:
        self._tools.labels(tool, "ok" if ok else "failed").inc()

    def redelivered(self) -> None:
        self._again.inc()

    def dead_letter(self) -> None:
        self._dead.inc()

    def ended(self, record: Record) -> None:
        self._runs.labels(record.door, record.process, record.state).inc()
        self._seconds.labels(record.process).observe(record.spent.seconds)
        spent = record.spent
        told = {"run": record.id, "state": record.state, "steps": spent.steps}
        log.info("run ended", extra=told | {"tokens": spent.tokens, "seconds": spent.seconds})


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
