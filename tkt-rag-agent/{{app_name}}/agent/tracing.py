"""Traces of answers, sent to Langfuse over OpenTelemetry; without its keys nothing is imported.

The spans are those that Langfuse's SDK 4 sends, which adds 10 MiB, three threads, settings from
the environment and a hook that waits for a dead host at exit.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from datetime import datetime
from typing import Any

import httpx

from agent.errors import FAILURES

SEND_LIMIT_S = 5.0
CHECK_LIMIT_S = 2.0

log = logging.getLogger(__name__)


class Step:
    """A part of an answer; without a span (tracing is off) it does nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    @property
    def traceparent(self) -> dict[str, str]:
        """The header that makes the next service's spans children of this one."""
        if not self._span:
            return {}
        here = self._span.get_span_context()
        return {"traceparent": f"00-{here.trace_id:032x}-{here.span_id:016x}-01"}

    def end(self, **fields: Any) -> None:
        """Fields: output, usage_details {"input": 1, "output": 2}, cost_details {"total": 0.01} in
        dollars, completion_start_time (datetime), level ("ERROR"), status_message. Only the first
        call counts."""
        span, self._span = self._span, None
        if span:
            span.set_attributes(_attributes(fields))
            span.end()


class Trace(Step):
    """One answer. `id` is 32 hex digits, None when tracing is off."""

    def __init__(
        self,
        tracer: Any = None,
        name: str = "",
        labels: Any = None,
        input: Any = None,
        parent: str = "",
    ) -> None:
        super().__init__()
        self._tracer, self._labels, self._parent = tracer, labels, parent
        self._steps: list[Step] = []
        self._span = self._open(name, "chain", {"input": input}) if tracer else None
        self.id = f"{self._span.get_span_context().trace_id:032x}" if tracer else None

    def step(self, name: str, kind: str, under: Step | None = None, **fields: Any) -> Step:
        """Kind: retriever, generation, tool, span ...; fields: input, model, model_parameters,
        metadata. `under` a step that has not ended, else under the trace itself."""
        parent = under._span if under else None
        step = Step(self._open(name, kind, fields, parent) if self._span else None)
        self._steps.append(step)
        return step

    def end(self, **fields: Any) -> None:
        for step in self._steps:  # one left open by an error would never be sent
            step.end()
        super().end(**fields)

    def _open(self, name: str, kind: str, fields: dict[str, Any], parent: Any = None) -> Any:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Explicit, as answers are generators, and no span of this process may become the parent.
        context = Context()
        if parent or self._span:
            context = set_span_in_context(parent or self._span)
        elif self._parent:
            carrier = {"traceparent": self._parent}
            context = TraceContextTextMapPropagator().extract(carrier, context)
        attributes = {**self._labels, "langfuse.observation.type": kind, **_attributes(fields)}
        return self._tracer.start_span(name, context, attributes=attributes)


class Tracing:
    """The connection to Langfuse, one a process; with keys its creation takes 0.1 s."""

    def __init__(self, public_key: str = "", secret_key: str = "", host: str = "") -> None:
        self.on = False
        self._host, self._keys = host.rstrip("/"), (public_key, secret_key)
        if host and public_key and secret_key:
            self._connect()
            self.on = True
        elif public_key or secret_key:
            log.warning("Tracing is off: it needs LANGFUSE_HOST, _PUBLIC_KEY and _SECRET_KEY.")

    def _connect(self) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._tls = httpx.create_ssl_context()
        sender: Any = _Sender(self._host, self._keys, self._tls)
        # All is said here, and the provider is private: no setting from the environment counts,
        # nobody else's spans are sent, and no hook at exit waits for a dead host.
        self._provider = TracerProvider(ALWAYS_ON, Resource({}), shutdown_on_exit=False)
        self._provider._disabled = False  # OTEL_SDK_DISABLED is meant for others' telemetry
        self._provider.add_span_processor(BatchSpanProcessor(sender, 2048, 5000, 100, 5000))
        # A full queue drops spans and says so each time; _Sender has said why, once.
        logging.getLogger("opentelemetry.sdk._shared_internal").setLevel(logging.CRITICAL)
        # From any other scope Langfuse 3 copies all attributes into the metadata.
        scope = {"public_key": self._keys[0]}
        self._tracer = self._provider.get_tracer("langfuse-sdk", attributes=scope)

    def start(
        self,
        name: str,
        input: Any,
        *,
        session_id: str | None,
        user_id: str | None,
        door: str = "",
        parent: str = "",
    ) -> Trace:
        """The trace of one answer, ended by the caller. Never raises, never waits. `door`: where it
        was asked; `parent`: the `traceparent` header of a caller whose trace this goes on."""
        if not self.on:
            return Trace()
        given = {"langfuse.trace.name": name, "session.id": session_id, "user.id": user_id}
        # On every span, as Langfuse counts tokens by session; it drops one of over 200 characters.
        labels: dict[str, Any] = {key: _text(value)[:200] for key, value in given.items() if value}
        if door:
            labels["langfuse.trace.tags"] = [door]
        return Trace(self._tracer, name, labels, input, parent)

    async def check(self) -> str:
        """Langfuse's version and address, or "off"; ConnectionError says what to check."""
        if not self.on:
            return "off"
        api = f"{self._host}/api/public"
        client = httpx.AsyncClient(auth=self._keys, verify=self._tls, timeout=None)
        try:
            async with asyncio.timeout(CHECK_LIMIT_S), client as http:
                health = (await http.get(f"{api}/health")).raise_for_status().json()
                (await http.get(f"{api}/projects")).raise_for_status()
                return f"Langfuse {health['version']} at {self._host}"
        except Exception as error:
            raise ConnectionError(_complaint(self._host, error)) from error

    async def fetch(self, path: str) -> dict[str, Any]:
        """What Langfuse has at `/api/public/PATH`; ConnectionError says what to check."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send `body` to `/api/public/PATH`; ConnectionError says what to check."""
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        if not self.on:
            raise ConnectionError("Langfuse is not configured; set LANGFUSE_HOST and its keys.")
        client = httpx.AsyncClient(auth=self._keys, verify=self._tls, timeout=SEND_LIMIT_S)
        try:
            async with client as http:
                url = f"{self._host}/api/public/{path}"
                answer = (await http.request(method, url, json=body)).raise_for_status()
                return dict(answer.json() or {})
        except (httpx.HTTPError, ValueError) as error:
            FAILURES["langfuse"] += 1
            raise ConnectionError(_complaint(self._host, error)) from error

    def flush(self, limit_s: float = 5.0) -> None:
        """Sends what waits now; blocks for `limit_s` seconds at most."""
        self._provider.force_flush(int(limit_s * 1000))

    def close(self, limit_s: float = 3.0) -> None:
        """Sends what waits, for `limit_s` seconds at most; later answers are not traced."""
        if self.on:
            self.on = False
            thread = threading.Thread(target=self._provider.shutdown, daemon=True)
            thread.start()
            thread.join(limit_s)


class _Sender:
    """An exporter of OpenTelemetry: posts spans from its thread, warns once an outage."""

    def __init__(self, host: str, keys: tuple[str, str], tls: Any) -> None:
        # Here, as this import would otherwise stall the first answer.
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        self._host, self._encode, self._failing = host, encode_spans, False
        # No kept connection: the server drops an idle one after 5 s, just when we send again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(auth=keys, timeout=SEND_LIMIT_S, limits=limits, verify=tls)

    def export(self, spans: Any) -> None:
        url = f"{self._host}/api/public/otel/v1/traces"
        headers = {"Content-Type": "application/x-protobuf"}
        try:
            body = self._encode(spans).SerializeToString()
            self._http.post(url, content=body, headers=headers).raise_for_status()
            self._failing = False
        except Exception as error:
            FAILURES["langfuse"] += 1
            if not self._failing:
                log.warning("%s; answers go on untraced.", _complaint(self._host, error))
            self._failing = True

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True

    def shutdown(self) -> None:
        self._http.close()


def _attributes(fields: dict[str, Any]) -> dict[str, str]:
    """Fields under Langfuse's names, as text: {"langfuse.observation.model.name": "m"}."""
    names = {"model": "model.name", "model_parameters": "model.parameters"}
    return {
        f"langfuse.observation.{names.get(name, name)}": _text(value)
        for name, value in fields.items()
        if value is not None
    }


def _text(value: Any) -> str:
    """Text as it is, but for what no UTF-8 can say; anything else as JSON."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=_plain)
    except Exception:
        text = f"(a {type(value).__name__} that is no JSON)"
    return text.encode("utf-8", "replace").decode()


def _plain(value: Any) -> str:
    """Langfuse drops an observation with a time that lacks the T or the zone."""
    return value.astimezone().isoformat() if isinstance(value, datetime) else str(value)


def _complaint(host: str, error: Exception) -> str:
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
    if status in (401, 403):
        keys = "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"
        return f"Langfuse at {host} refuses the keys ({status}): check {keys}"
    reason = status or type(error).__name__
    return f"Langfuse at {host} does not answer ({reason}): check LANGFUSE_HOST and the server"
