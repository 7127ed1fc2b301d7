"""What agent/tracing.py puts on the wire is what Langfuse's own SDK 4 puts there.

The SDK is the reference for Langfuse 3.x, whose server needs more than a package manager; it is
installed for this test alone.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

langfuse = pytest.importorskip("langfuse", minversion="4")
service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

ROOT = Path(__file__).resolve().parent.parent
QUESTION = [{"role": "user", "content": "Who pays for Zoë's roof? 屋根"}]
PASSAGES = [{"document": "lease.pdf", "page": 3, "score": 0.5, "text": "The landlord."}]
FIRST_TOKEN = datetime(2025, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SEARCH = {"input": "Who pays?", "metadata": {"k": 6, "mode": "hybrid"}}
MODEL = {"input": QUESTION, "model": "llama3", "model_parameters": {"temperature": 0.2}}
ANSWERED = {
    "output": "The landlord [1].",
    "usage_details": {"input": 812, "output": 9},
    "completion_start_time": FIRST_TOKEN,
}
FAILED = {"level": "ERROR", "status_message": "The gateway does not answer."}


class Receiver(ThreadingHTTPServer):
    """Keeps each request: its path, headers and the spans by name with their scope."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receive)
        self.host = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, Any]] = []
        self.spans: dict[str, tuple[Any, Any]] = {}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _Receive(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers))
        for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans |= {span.name: (scope.scope, span) for span in scope.spans}
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def ours() -> Iterator[Receiver]:
    """An answer as agent/tracing.py sends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tkt-rag-agent" / "{{app_name}}")
        tracing = importlib.import_module("agent.tracing")
    server = Receiver()
    on = tracing.Tracing("pk", "sk", server.host)
    trace = on.start("answer", "Who pays?", session_id="s1", user_id="ann")
    trace.step("search", "retriever", **SEARCH).end(output=PASSAGES)
    trace.step("model", "generation", **MODEL).end(**ANSWERED)
    trace.step("tool", "tool", input={"q": 1}).end(**FAILED)
    trace.end(output="The landlord [1].")
    on.close()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def theirs() -> Iterator[Receiver]:
    """The same answer as Langfuse's SDK sends it, once: a second client with the same key would
    go on sending to the first one's host, and its shutdown would never return."""
    from opentelemetry.sdk.trace import TracerProvider

    server = Receiver()
    sdk = langfuse.Langfuse(
        public_key="pk", secret_key="sk", base_url=server.host, tracer_provider=TracerProvider()
    )
    labels = {"trace_name": "answer", "session_id": "s1", "user_id": "ann"}
    with langfuse.propagate_attributes(**labels):
        root = sdk.start_observation(name="answer", as_type="chain", input="Who pays?")
        search = root.start_observation(name="search", as_type="retriever", **SEARCH)
        search.update(output=PASSAGES).end()
        model = root.start_observation(name="model", as_type="generation", **MODEL)
        model.update(**ANSWERED).end()
        tool = root.start_observation(name="tool", as_type="tool", input={"q": 1})
        tool.update(**FAILED).end()
        root.update(output="The landlord [1].").end()
    sdk.shutdown()
    yield server
    server.shutdown()
    server.server_close()


def attributes(span: Any) -> dict[str, str]:
    """Without the SDK's own marks and without metadata, which may come whole or by key."""
    found = {pair.key: pair.value.string_value for pair in span.attributes}
    skip = ("langfuse.internal.", "langfuse.observation.metadata")
    return {key: value for key, value in found.items() if not key.startswith(skip)}


def test_each_span_says_what_the_sdk_says(ours: Receiver, theirs: Receiver) -> None:
    assert set(ours.spans) == set(theirs.spans) == {"answer", "search", "model", "tool"}
    for name, (_, span) in ours.spans.items():
        expected = attributes(theirs.spans[name][1])
        expected_time = expected.pop("langfuse.observation.completion_start_time", "")
        found = attributes(span)
        found_time = found.pop("langfuse.observation.completion_start_time", "")
        assert found == expected
        assert parsed(found_time) == parsed(expected_time)


def parsed(time: str) -> datetime | None:
    return datetime.fromisoformat(time.strip('"').replace("Z", "+00:00")) if time else None


def test_the_spans_are_one_tree_as_from_the_sdk(ours: Receiver, theirs: Receiver) -> None:
    for server in (ours, theirs):
        (root,) = [span for _, span in server.spans.values() if not span.parent_span_id]
        assert root.name == "answer"
        children = [span for _, span in server.spans.values() if span.parent_span_id]
        assert {span.parent_span_id for span in children} == {root.span_id}
        assert {span.trace_id for _, span in server.spans.values()} == {root.trace_id}


def test_the_request_is_the_sdks(ours: Receiver, theirs: Receiver) -> None:
    (path, headers), (their_path, their_headers) = ours.requests[0], theirs.requests[0]
    assert path == their_path
    for name in ("Authorization", "Content-Type"):
        assert headers[name] == their_headers[name]
    scope, their_scope = ours.spans["answer"][0], theirs.spans["answer"][0]
    assert scope.name == their_scope.name
    assert list(scope.attributes) == list(their_scope.attributes)
