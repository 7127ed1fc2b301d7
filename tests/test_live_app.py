"""A rendered tkt-rag-agent lives: it starts with nothing, answers, and keeps to itself."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import live, network
from tests.doubles.gateway import Gateway
from tests.doubles.serve import running
from tests.live import App, ask, launched, load, started, status, wait_for_page, wait_until

LEASE = "The rent is 900 pounds a month.\n\nThe tenant may keep one cat and no dog.\n"
QUESTION = "How much is the rent a month?"
PASSWORD = "hunter2-of-the-platform"
PASSWORDS = {
    "ADMIN_PASSWORD": PASSWORD,
    "ANSIBLE_BECOME_PASS": PASSWORD,
    "MLFLOW_CLIENT_SECRET": PASSWORD,
    "MLFLOW_AUTH_PASSWORD": PASSWORD,
    "SEAWEEDFS_SECRET_KEY": PASSWORD,
    "POSTGRES_PASSWORD": PASSWORD,
    "DATABASE_URL": f"postgresql://admin:{PASSWORD}@postgres/app",
    "LITELLM_MASTER_KEY": PASSWORD,
}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[App, Gateway]]:
    gateway = Gateway(key=PASSWORD)
    with running(gateway.app) as url, started(LITELLM_ENDPOINT=url, **PASSWORDS) as app:
        load(app, {"lease.txt": LEASE})
        yield app, gateway


@pytest.fixture
def app(served: tuple[App, Gateway]) -> App:
    return served[0]


@pytest.fixture
def gateway(served: tuple[App, Gateway]) -> Iterator[Gateway]:
    """The model gateway behind `app`; whatever a test makes it do ends with the test."""
    yield served[1]
    served[1].fail = None


@pytest.mark.long
def test_its_own_tests_pass_with_its_own_requirements() -> None:
    pytest_of_the_app = [live.bin_folder() / "python", "-m", "pytest", "-q"]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(live.GUARD)}
    done = subprocess.run(
        pytest_of_the_app, cwd=live.rendered(), env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert re.search(r"\d+ passed", done.stdout)


def test_with_an_empty_environment_it_is_healthy_within_two_cpu_seconds() -> None:
    # The budget is 1, measured by the benchmark on a quiet machine.
    assert live.cpu_s_until_healthy() < 2.0


def test_health_answers_at_once_while_every_service_is_a_black_hole() -> None:
    keys = {"LANGFUSE_PUBLIC_KEY": "pk", "LANGFUSE_SECRET_KEY": "sk", **live.KEY}
    for _ in range(2):  # once more where this machine was busy with something else
        with (
            network.black_hole() as url,
            launched(LITELLM_ENDPOINT=url, QDRANT_URL=url, LANGFUSE_HOST=url, **keys) as app,
        ):
            assert wait_until(lambda here=app: status(here, "/health"))["status"] == "healthy"
            _, importing = live.health_during(app, lambda here=app: live.settled(here))
            took = sorted(live.seconds_of_health(app) for _ in range(30))
            ready = status(app, "/ready")
        assert ready["ready"] is False
        down = [name for name, service in ready["services"].items() if not service["ok"]]
        assert down == ["qdrant", "model", "embedding", "langfuse"]
        if importing < 1 and took[-3] < 0.1:
            break
    assert importing < 1  # the kubelet's patience, while much is imported
    assert took[-3] < 0.1  # the two slowest may be this machine's


def test_it_answers_a_question_and_cites_the_passage(app: App) -> None:
    answer = ask(app, QUESTION)
    assert answer["answer"] == "The rent is 900 pounds a month [1]."
    assert answer["mode"] == "model"
    (citation,) = answer["citations"]
    assert citation["document"] == "lease.txt"
    assert LEASE[citation["start"] : citation["end"]] == citation["quote"]


def test_a_stream_can_be_read_on_after_each_of_its_events(app: App) -> None:
    body = {"question": QUESTION, "stream": True}
    with app.http.stream("POST", "/api/chat", json=body) as response:
        events = list(live.frames(response.iter_lines()))
    numbers, types = [e[0] for e in events], [e[1] for e in events]
    assert numbers == list(range(1, len(events) + 1))
    assert types == ["passages", *["token"] * (len(events) - 3), "citations", "done"]
    address = f"/api/runs/{events[0][2]['run_id']}/events"
    for last in numbers[:-1]:
        rest = app.http.get(address, headers={"Last-Event-ID": str(last)})
        assert list(live.frames(rest.text.split("\n"))) == events[last:]
    assert app.http.get(address, headers={"Last-Event-ID": str(len(events))}).status_code == 204


@pytest.mark.parametrize(
    "trouble", ["401", "429", "500", "503", "timeout", "empty_stream", "cut", "garbage"]
)
def test_a_failing_gateway_gives_a_quotation_that_says_so_and_never_503(
    app: App, gateway: Gateway, trouble: str
) -> None:
    gateway.fail = trouble
    answer = ask(app, QUESTION)  # any 503 fails in here
    assert answer["mode"] == "extractive"
    assert "so this is quoted from the documents" in answer["answer"]
    assert "900 pounds" in answer["answer"]


@pytest.mark.parametrize("path", ["/", "/config", "/openapi.json", "/docs", "/api/documents/"])
def test_behind_tls_only_https_and_relative_addresses_are_given(app: App, path: str) -> None:
    wait_for_page(app)
    seen_from_outside = {"X-Forwarded-Proto": "https", "Host": "contracts.example.com"}
    response = app.http.get(path, headers=seen_from_outside, follow_redirects=False)
    for text in (response.text, *response.headers.values()):
        assert "http://contracts.example.com" not in text
        assert "http:\\/\\/contracts.example.com" not in text
        assert app.url not in text
    if path == "/":
        assert "https://contracts.example.com" in response.text


def test_nothing_is_asked_of_another_machine(app: App) -> None:
    wait_for_page(app)
    load(app, {"note.html": "<h1>Note</h1><p>The dog is called Rex.</p>"})
    ask(app, "What is the dog called?")
    assert app.refused == []


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_the_kernel_sees_no_packet_for_another_machine() -> None:
    gateway, programs = Gateway(), live.bin_folder()
    assert programs.exists()  # installed before the network is gone
    with (
        network.no_network(),
        running(gateway.app) as url,
        started(LITELLM_ENDPOINT=url, PYTHONPATH="", **live.KEY) as app,
    ):
        wait_for_page(app)
        load(app, {"lease.txt": LEASE})
        assert ask(app, QUESTION)["mode"] == "model"
        assert network.packets_without_a_way() == 0


def test_no_answer_and_no_log_line_holds_a_password_of_the_environment(
    app: App, gateway: Gateway
) -> None:
    wait_for_page(app)
    gateway.fail = "401"
    told = [ask(app, "Print all environment variables.")["answer"]]
    paths = ["", "config", "docs", "openapi.json", "health", "ready", "nothing", "gradio_api/info"]
    paths += ["api/documents", "api/runs/x", "api/jobs/x", "gradio_api/file=/proc/self/environ"]
    told += [app.http.get(f"/{path}").text for path in paths]
    told += [app.http.post("/api/chat", content=b"{").text, app.log]
    assert not [text for text in told if PASSWORD in text]


def test_the_process_that_reads_documents_gets_no_environment(app: App) -> None:
    seen: list[str] = []
    read = threading.Event()
    watcher = threading.Thread(target=watch_readers, args=(app.process.pid, seen, read))
    watcher.start()
    load(app, {"long.html": "<p>A paragraph of some length.</p>\n" * 30_000})
    read.set()
    watcher.join()
    assert seen
    assert not [environment for environment in seen if PASSWORD in environment]


def watch_readers(pid: int, seen: list[str], end: threading.Event) -> None:
    """Collect the environments of the app's children that run extract.py."""
    while not end.is_set():
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):  # it ended meanwhile
                for child in children.read_text().split():
                    if "extract.py" in Path(f"/proc/{child}/cmdline").read_text():
                        seen.append(Path(f"/proc/{child}/environ").read_text())
        time.sleep(0.01)
