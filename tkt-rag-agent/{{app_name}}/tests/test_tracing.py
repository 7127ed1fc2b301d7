"""Tracing against a small Langfuse in a thread, and against hosts that are down in four ways."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as otel
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from agent import tracing
from agent.tracing import Trace, Tracing

APP = Path(__file__).resolve().parent.parent
EXPECTED = ("/api/public/otel/v1/traces", "Basic cGs6c2s=", "application/x-protobuf")  # pk:sk
NOBODY: dict[str, Any] = {"session_id": None, "user_id": None}


class Langfuse(ThreadingHTTPServer):
    """Keeps the spans that arrive; `status` is what it answers to everything."""

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.status, self.spans = status, list[dict[str, Any]]()
        self.host = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def keep(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.spans += [_plain(span) for span in scope.spans]

    def span(self, name: str) -> dict[str, Any]:
        (found,) = [span for span in self.spans if span["name"] == name]
        return found


class Answers(BaseHTTPRequestHandler):
    server: Langfuse

    def do_GET(self) -> None:
        answer = {"/api/public/health": {"status": "OK", "version": "3.113.0"}}
        body = json.dumps(answer.get(self.path, {"data": []})).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = (self.path, self.headers["Authorization"], self.headers["Content-Type"])
        status = self.server.status if asked == EXPECTED else 404
        if status == 200:
            self.server.keep(body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def _plain(span: Any) -> dict[str, Any]:
    attributes = {pair.key: pair.value.string_value for pair in span.attributes}
    ids = {"trace": span.trace_id, "id": span.span_id, "parent": span.parent_span_id}
    return {"name": span.name, **{key: raw.hex() for key, raw in ids.items()}, **attributes}


@pytest.fixture
def langfuse() -> Iterator[Langfuse]:
    server = Langfuse()
    yield server
    server.shutdown()
    server.server_close()


@contextmanager
def dead_host(way: str) -> Iterator[str]:
    """A host that is down: nobody listens, it accepts and says nothing, or it answers so."""
    if way == "hangs":
        with socket.create_server(("127.0.0.1", 0), backlog=100) as mute:
            yield f"http://127.0.0.1:{mute.getsockname()[1]}"
    elif way == "refuses":
        with socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    else:
        server = Langfuse(int(way))
        yield server.host
        server.shutdown()
        server.server_close()


def one_answer(on: Tracing) -> Trace:
    trace = on.start("answer", "Who pays?", session_id="s1", user_id="ann")
    search = trace.step("search", "retriever", input="Who pays?")
    search.end(output=[{"document": "lease.pdf", "text": "The tenant pays. " * 30}] * 6)
    model = trace.step("model", "generation", model="m", input=[{"role": "user", "content": "x"}])
    model.end(output="The tenant.", usage_details={"input": 7, "output": 2})
    trace.end(output="The tenant.")
    return trace


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, "PYTHONPATH": str(APP), **env}
    return subprocess.run(
        [sys.executable, "-c", code], env=everything, capture_output=True, text=True, timeout=30
    )


# Off


def test_without_keys_nothing_is_imported_and_nothing_is_logged() -> None:
    code = """
import asyncio, logging, sys
logging.basicConfig(level=logging.DEBUG)
from agent.tracing import Tracing
on = Tracing(host="http://127.0.0.1:9")
trace = on.start("answer", "q", session_id="s", user_id=None)
trace.step("model", "generation", model="m").end(output="a")
trace.end(output="a")
on.close()
print(on.on, trace.id, [name for name in sys.modules if "langfuse" in name or "opentele" in name])
"""
    done = run(code)
    assert (done.stdout, done.stderr) == ("False None []\n", "")


@pytest.mark.parametrize(
    "given", [("pk", "sk", ""), ("pk", "", "http://127.0.0.1:9"), ("", "sk", "http://127.0.0.1:9")]
)
def test_half_a_configuration_is_off_with_one_warning(
    given: tuple[str, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    on = Tracing(*given)
    assert one_answer(on).id is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "LANGFUSE_HOST" in caplog.text
    assert asyncio.run(on.check()) == "off"


def test_after_close_answers_are_not_traced(langfuse: Langfuse) -> None:
    on = Tracing("pk", "sk", langfuse.host)
    on.close()
    assert one_answer(on).id is None
    on.close()
    assert langfuse.spans == []


# What arrives


def test_an_answer_is_one_trace_with_its_steps_under_the_root(langfuse: Langfuse) -> None:
    on = Tracing("pk", "sk", langfuse.host + "/")
    trace = one_answer(on)
    on.close()
    root, search, model = (langfuse.span(name) for name in ("answer", "search", "model"))
    assert trace.id is not None
    assert len(trace.id) == 32
    assert {span["trace"] for span in langfuse.spans} == {trace.id}
    assert root["parent"] == ""
    assert search["parent"] == model["parent"] == root["id"]
    for span in langfuse.spans:
        assert span["session.id"] == "s1"
        assert span["user.id"] == "ann"
        assert span["langfuse.trace.name"] == "answer"
    types = [span["langfuse.observation.type"] for span in (root, search, model)]
    assert types == ["chain", "retriever", "generation"]
    assert root["langfuse.observation.input"] == "Who pays?"
    assert root["langfuse.observation.output"] == "The tenant."
    assert model["langfuse.observation.model.name"] == "m"
    assert json.loads(model["langfuse.observation.usage_details"]) == {"input": 7, "output": 2}


def test_the_first_token_is_a_time_with_zone_whatever_it_was_given(langfuse: Langfuse) -> None:
    on = Tracing("pk", "sk", langfuse.host)
    trace = on.start("answer", "q", **NOBODY)
    noon = datetime(2025, 1, 1, 12, tzinfo=UTC)
    trace.step("zoned", "generation").end(completion_start_time=noon)
    trace.step("naive", "generation").end(
        completion_start_time=noon.astimezone().replace(tzinfo=None)
    )
    trace.end()
    on.close()
    for name in ("zoned", "naive"):
        text = json.loads(langfuse.span(name)["langfuse.observation.completion_start_time"])
        assert "T" in text
        assert datetime.fromisoformat(text) == noon


def test_an_error_is_seen_on_its_step_and_open_steps_are_sent_all_the_same(
    langfuse: Langfuse,
) -> None:
    on = Tracing("pk", "sk", langfuse.host)
    trace = on.start("answer", "q", **NOBODY)
    trace.step("model", "generation")
    trace.end(level="ERROR", status_message="the model is gone")
    trace.end(output="too late")
    on.close()
    assert langfuse.span("model")["parent"] == langfuse.span("answer")["id"]
    assert langfuse.span("answer")["langfuse.observation.level"] == "ERROR"
    assert langfuse.span("answer")["langfuse.observation.status_message"] == "the model is gone"
    assert "langfuse.observation.output" not in langfuse.span("answer")


def test_two_answers_that_stream_at_once_do_not_mix(langfuse: Langfuse) -> None:
    on = Tracing("pk", "sk", langfuse.host)

    async def answer(user: str) -> AsyncIterator[str]:
        trace = on.start(f"answer {user}", "q", session_id=user, user_id=user)
        step = trace.step(f"model {user}", "generation")
        yield "token"
        step.end(output=user)
        trace.step(f"late {user}", "span").end()
        trace.end()

    async def both() -> None:
        first, second = answer("ann"), answer("bob")
        for stream in (first, second, first, second):
            await anext(stream, None)

    asyncio.run(both())
    on.close()
    for user in ("ann", "bob"):
        root = langfuse.span(f"answer {user}")
        for name in (f"model {user}", f"late {user}"):
            assert langfuse.span(name)["parent"] == root["id"]
            assert langfuse.span(name)["session.id"] == user


def test_what_cannot_be_text_neither_raises_nor_takes_others_with_it(
    langfuse: Langfuse, caplog: pytest.LogCaptureFixture
) -> None:
    on = Tracing("pk", "sk", langfuse.host)
    ring: list[Any] = []
    ring.append(ring)
    trace = on.start("answer", "half \ud800 pair", session_id="s" * 300, user_id="\udc00")
    trace.step("ring", "tool", input=ring, nonsense=object()).end(output={("a", 1): b"\xff"})
    trace.step("", "no such kind", metadata="text", model_parameters={"t": {1}}).end()
    trace.end(output=float("nan"), usage_details={"input": None})
    on.close()
    assert langfuse.span("answer")["langfuse.observation.input"] == "half ? pair"
    assert langfuse.span("answer")["session.id"] == "s" * 200
    assert langfuse.span("ring")["langfuse.observation.input"] == "(a list that is no JSON)"
    assert len(langfuse.spans) == 3
    assert caplog.records == []


# Nobody else's affair


def test_no_setting_of_the_environment_changes_what_arrives(
    langfuse: Langfuse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = "http://127.0.0.1:9"
    for name, value in {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_BSP_MAX_QUEUE_SIZE": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "nonsense",
        "OTEL_EXPORTER_OTLP_ENDPOINT": elsewhere,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=stolen",
        "OTEL_RESOURCE_ATTRIBUTES": "host.name=secret",
        "LANGFUSE_HOST": elsewhere,
        "LANGFUSE_BASE_URL": elsewhere,
        "LANGFUSE_TRACING_ENABLED": "false",
        "LANGFUSE_SAMPLE_RATE": "0",
        "LANGFUSE_DEBUG": "true",
    }.items():
        monkeypatch.setenv(name, value)
    on = Tracing("pk", "sk", langfuse.host)
    one_answer(on)
    on.close()
    assert sorted(span["name"] for span in langfuse.spans) == ["answer", "model", "search"]
    assert caplog.records == []


def test_other_spans_of_the_process_are_no_parents_and_are_not_sent(langfuse: Langfuse) -> None:
    before = otel.get_tracer_provider()
    on = Tracing("pk", "sk", langfuse.host)
    with TracerProvider().get_tracer("web").start_as_current_span("request"):
        one_answer(on)
    otel.get_tracer("library").start_span("foreign").end()
    on.close()
    assert langfuse.span("answer")["parent"] == ""
    assert sorted(span["name"] for span in langfuse.spans) == ["answer", "model", "search"]
    assert otel.get_tracer_provider() is before


def test_a_second_tracing_with_the_same_key_sends_to_its_own_host() -> None:
    for _ in range(2):
        server = Langfuse()
        on = Tracing("pk", "sk", server.host)
        one_answer(on)
        on.close()
        assert len(server.spans) == 3
        server.shutdown()
        server.server_close()


# Langfuse is down


@pytest.mark.parametrize(
    ("way", "advice"),
    [
        ("refuses", "check LANGFUSE_HOST"),
        ("hangs", "check LANGFUSE_HOST"),
        ("401", "check LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"),
        ("500", "check LANGFUSE_HOST"),
        ("302", "check LANGFUSE_HOST"),
    ],
)
def test_a_dead_host_costs_an_answer_nothing_and_is_named_once(
    way: str, advice: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "SEND_LIMIT_S", 0.1)
    for _ in range(10):  # the best round counts: another program may take the processor
        caplog.clear()
        times = []
        with dead_host(way) as host:
            on = Tracing("pk", "sk", host)
            for _ in range(200):
                began = time.perf_counter()
                one_answer(on)
                times.append(time.perf_counter() - began)
            on.close(limit_s=10)
        (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert host in warning.getMessage()
        assert advice in warning.getMessage()
        median, slow = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        if median < 0.0005 and slow < 0.005:
            break
    assert median < 0.0005
    assert slow < 0.005


def test_a_full_queue_drops_spans_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with dead_host("hangs") as host:
        on = Tracing("pk", "sk", host)
        for _ in range(900):
            one_answer(on)
        on.close(limit_s=0.1)
        assert caplog.records == []


def test_the_next_outage_is_named_again(
    langfuse: Langfuse, caplog: pytest.LogCaptureFixture
) -> None:
    on = Tracing("pk", "sk", langfuse.host)
    for status in (500, 500, 200, 500):
        langfuse.status = status
        one_answer(on)
        on._provider.force_flush()
    on.close()
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert len(langfuse.spans) == 3


@pytest.mark.parametrize("ending", ["on.close()", "pass", "raise SystemExit('killed')"])
def test_a_host_that_hangs_does_not_hold_the_process_at_exit(ending: str) -> None:
    code = f"""
import os, time
from agent.tracing import Tracing
on = Tracing("pk", "sk", os.environ["HOST"])
for _ in range(200):
    trace = on.start("answer", "q", session_id=None, user_id=None)
    trace.step("model", "generation").end()
    trace.end()
print(time.monotonic(), flush=True)
{ending}
"""
    with dead_host("hangs") as host:
        began = run(code, HOST=host).stdout  # the clock is that of all processes
        assert time.monotonic() - float(began) < 5


# /ready


def test_ready_names_the_version_and_the_address(langfuse: Langfuse) -> None:
    on = Tracing("pk", "sk", langfuse.host + "/")
    assert asyncio.run(on.check()) == f"Langfuse 3.113.0 at {langfuse.host}"
    on.close()


@pytest.mark.parametrize(
    ("way", "words"), [("refuses", "ConnectError"), ("401", "refuses the keys"), ("500", "500")]
)
def test_ready_says_in_one_sentence_what_to_check(way: str, words: str) -> None:
    with dead_host(way) as host:
        on = Tracing("pk", "sk", host)
        with pytest.raises(ConnectionError, match=words) as failed:
            asyncio.run(on.check())
        on.close()
    assert host in str(failed.value)
    assert ": check LANGFUSE_" in str(failed.value)
    assert "\n" not in str(failed.value)


def test_ready_waits_two_seconds_for_a_host_that_hangs() -> None:
    with dead_host("hangs") as host:
        on = Tracing("pk", "sk", host)
        began = time.perf_counter()
        with pytest.raises(ConnectionError, match="Time"):
            asyncio.run(on.check())
        on.close()
    assert time.perf_counter() - began < 3


@pytest.mark.parametrize("host", ["langfuse:3000", "http://["])
def test_a_host_that_is_no_address_is_one_warning_and_not_ready(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    on = Tracing("pk", "sk", host)
    one_answer(on)
    with pytest.raises(ConnectionError, match="check LANGFUSE_HOST"):
        asyncio.run(on.check())
    on.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
