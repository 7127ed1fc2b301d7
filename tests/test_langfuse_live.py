"""An answer leaves one trace in Langfuse, and a Langfuse in trouble harms nobody."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from parts.programs import free_port
from tests.doubles.gateway import Gateway
from tests.doubles.langfuse import Langfuse
from tests.doubles.serve import running
from tests.live import KEY, App, ask, load, settled, started, wait_until
from tests.network import black_hole

pytestmark = pytest.mark.long
KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-double", "LANGFUSE_SECRET_KEY": "sk-lf-double"}
LEASE = {"lease.txt": "The rent is 900 pounds a month."}
QUESTION = "What is the rent a month?"


@pytest.fixture(scope="module")
def gateway() -> Iterator[dict[str, str]]:
    """The settings that lead to a model."""
    with running(Gateway().app) as url:
        yield {"LITELLM_ENDPOINT": url} | KEY


def test_an_answer_is_one_trace_with_retrieval_and_generation(gateway: dict[str, str]) -> None:
    langfuse = Langfuse()
    with running(langfuse.app) as url, started(LANGFUSE_HOST=url, **KEYS, **gateway) as app:
        load(app, LEASE)
        answer = ask(app, QUESTION, session_id="talk-7")
        wait_until(lambda: len(langfuse.spans) >= 3)
    spans = {span["name"] if span["parent_id"] else "root": span for span in langfuse.spans}
    assert len(langfuse.spans) == 3
    assert {span["trace_id"] for span in langfuse.spans} == {answer["trace_id"]}
    root = spans.pop("root")
    assert {span["parent_id"] for span in spans.values()} == {root["span_id"]}
    assert {span["attributes"]["session.id"] for span in langfuse.spans} == {"talk-7"}
    assert seen(root, "input") == QUESTION
    assert seen(root, "output") == answer["answer"]
    kinds = {seen(span, "type"): span for span in spans.values()}
    assert kinds.keys() == {"retriever", "generation"}
    assert json.loads(seen(kinds["retriever"], "output"))[0]["document"] == "lease.txt"
    assert seen(kinds["generation"], "model.name") == "double"
    usage = json.loads(seen(kinds["generation"], "usage_details"))
    assert usage["input"] > 20
    assert usage["output"] == len(answer["answer"].split())
    assert seen(kinds["generation"], "completion_start_time")


def seen(span: dict[str, Any], name: str) -> str:
    return str(span["attributes"][f"langfuse.observation.{name}"])


@pytest.mark.slow
def test_a_langfuse_in_trouble_delays_no_answer_and_warns_once(gateway: dict[str, str]) -> None:
    """All four apps at once, since a warning may take ten seconds: five until spans are sent,
    five until a silent host is given up."""
    with ExitStack() as stack:
        open_ = stack.enter_context
        hosts = {
            "no keys": {},
            "down": {"LANGFUSE_HOST": f"http://127.0.0.1:{free_port()}"} | KEYS,
            "silent": {"LANGFUSE_HOST": open_(black_hole())} | KEYS,
            "wrong keys": {"LANGFUSE_HOST": open_(running(Langfuse(secret_key="x").app))} | KEYS,
        }
        apps = {name: open_(started(**env, **gateway)) for name, env in hosts.items()}
        for app in apps.values():
            load(app, LEASE)
            settled(app)  # or its imports delay the answers
        # In turn, so that what else keeps this machine busy for a moment does not hit one alone.
        rounds = [{name: answer_s(app) for name, app in apps.items()} for _ in range(7)]
        medians = {name: statistics.median(took[name] for took in rounds) for name in apps}
        troubled = [app for name, app in apps.items() if name != "no keys"]
        for app in troubled:
            wait_until(lambda log=app: "answers go on untraced" in log.log)
            ask(app, QUESTION)
        with ThreadPoolExecutor() as threads:
            took = list(threads.map(lambda app: app.stop(), troubled))
        logs = [app.log for app in troubled]
    assert max(medians.values()) - medians["no keys"] < 0.2
    assert max(took) < 6
    for log in logs:
        assert log.count("answers go on untraced") == 1
        assert "Traceback" not in log


def answer_s(app: App) -> float:
    begin = time.perf_counter()
    assert ask(app, QUESTION)["mode"] == "model"
    return time.perf_counter() - begin
