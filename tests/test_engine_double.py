"""The engine double, started as the program that an app starts: its log, its ends, its answers."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

PROGRAM = Path(__file__).parent / "doubles" / "engine.py"
ENV = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_API_KEY": "abc"}
FLAGS = ["--served-model-name", "smol", "alias", "--max-model-len", "512", "--enable-lora"]
HELLO = {"model": "smol", "messages": [{"role": "user", "content": "one two three four five"}]}
Launch = Callable[..., subprocess.Popen[str]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def launch(cwd: Path, *flags: str, port: int | None = None, **double: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), "--model", "/models/one", "--host", "127.0.0.1"]
    command += ["--port", str(port or free_port()), *flags, "--double", json.dumps(double)]
    pipe, out = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, cwd=cwd, env=ENV, stdout=pipe, stderr=out, text=True)


def eventually(condition: Callable[[], Any], limit_s: float = 5) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return True
        time.sleep(0.02)
    return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Launch]:
    """`launch` in an empty directory; kills what is left at the end."""
    begun: list[subprocess.Popen[str]] = []

    def one(*flags: str, **double: Any) -> subprocess.Popen[str]:
        begun.append(launch(tmp_path, *flags, **double))
        return begun[-1]

    yield one
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    port = free_port()
    process = launch(tmp_path_factory.mktemp("served"), *FLAGS, port=port, tokens_per_second=None)
    key = {"Authorization": "Bearer abc"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key, timeout=5) as client:
        assert eventually(lambda: client.get("/health").status_code == 200)
        yield client
    process.kill()
    process.communicate()


@pytest.fixture
def client(served: httpx.Client) -> httpx.Client:
    """The running server, with its settings as new."""
    as_new = {"fail": None, "tokens_per_second": None, "first_token_s": 0, "reply": None}
    served.post("/_double", json=as_new)
    return served


# The start


def test_the_log_goes_through_the_phases_before_the_port_opens(start: Launch) -> None:
    port = free_port()
    process = start(*FLAGS, port=port, step_s=0.1)
    log = ""
    assert process.stdout
    while "Loading weights took" not in log:
        log += process.stdout.readline()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
    assert eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200)
    process.terminate()
    log += process.stdout.read()
    assert process.wait(5) == 0
    phases = (
        r"version 0\.32\.0", r"non-default args: {", r"Resolved architecture: Qwen3ForCausalLM",
        r"\(EngineCore pid=\d+\) INFO [^\]]+\] Initializing a V1 LLM engine",
        r"Starting to load model /models/one\.\.\.", r"shards:  25% Completed \| 1/4",
        r"Loading weights took 4\.60 s", r"Model loading took 14\.25 GiB memory and 8\.104913 s",
        r"Dynamo bytecode transform time: 4\.12 s", r"torch\.compile took 16\.51 s in total",
        r"Available KV cache memory: 5\.1 GiB", r"KV cache size: 93,696 tokens, .* 183\.00x",
        r"Capturing CUDA graphs \(mixed prefill-decode, PIECEWISE\):  49%",
        r"Graph capturing finished in 7 secs, took 0\.62 GiB", r"init engine .* took 30\.20 s",
        r"Starting vLLM server on http://127\.0\.0\.1:\d+", r"INFO:     Application startup comp",
    )  # fmt: skip
    found = [re.search(phase, log) for phase in phases]
    assert [p for p, match in zip(phases, found, strict=True) if not match] == []
    places = [match.start() for match in found if match]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("fail", "code", "words"),
    [
        ("oom", 1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 130.00 MiB."),
        ("no_room", 1, r"cuda:0 (3.1/23.68 GiB) on startup is less than desired GPU memory"),
        ("no_cache", 1, "ValueError: No available memory for the cache blocks."),
        ("unknown_architecture", 1, "does not recognize this architecture"),
        ("port_taken", 1, "OSError: [Errno 98] Address already in use"),
        ("crash", -signal.SIGSEGV, "Model loading took"),
    ],
)
def test_a_failed_start_says_why_and_ends_with_its_code(
    start: Launch, fail: str, code: int, words: str
) -> None:
    process = start(fail=fail)
    log = process.communicate(timeout=5)[0]
    assert process.returncode == code
    assert words in log
    assert "Application startup complete" not in log
    of_engine = fail in ("oom", "no_room", "no_cache")
    assert of_engine == ("Failed core proc(s): {}" in log.splitlines()[-1])


def test_a_port_that_is_taken_ends_the_start(start: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start(port=listener.getsockname()[1])
        assert "Address already in use" in process.communicate(timeout=5)[0]
    assert process.returncode == 1


def test_a_flag_that_vllm_lacks_is_refused_in_its_words(start: Launch) -> None:
    process = start("--nonsense")
    log = process.communicate(timeout=5)[0]
    assert process.returncode == 2
    assert log.endswith("api_server.py: error: unrecognized arguments: --nonsense\n")


def test_only_the_first_starts_fail_when_told_so(start: Launch, tmp_path: Path) -> None:
    state, port = tmp_path / "state.json", free_port()
    told: dict[str, Any] = {"fail": "oom", "fail_starts": 1, "state": str(state)}
    assert start(**told).wait(5) == 1
    second = start(port=port, **told)
    assert eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200)
    written = json.loads(state.read_text())
    assert (written["starts"], written["pid"], written["port"]) == (2, second.pid, port)
    assert ENV.items() <= written["env"].items()
    assert not {"HOME", "PATH"} & set(written["env"])
    assert "--model" in written["argv"]


def test_a_start_that_hangs_ends_at_a_signal(start: Launch) -> None:
    process = start(fail="hang")
    assert process.stdout
    while "Starting to load model" not in process.stdout.readline():
        pass
    process.terminate()
    assert process.wait(10) == 0


def test_a_deaf_server_has_to_be_killed(start: Launch, tmp_path: Path) -> None:
    port = free_port()
    process = start(port=port, deaf=True)
    assert eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200)
    process.terminate()
    time.sleep(0.3)
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200


def test_a_signal_ends_a_server_in_mid_stream(start: Launch) -> None:
    port = free_port()
    process = start(port=port, tokens_per_second=0.1)  # by itself it would last for 50 s
    url, key = f"http://127.0.0.1:{port}", {"Authorization": "Bearer abc"}
    assert eventually(lambda: httpx.get(f"{url}/health").status_code == 200)
    ask = HELLO | {"model": "/models/one", "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=ask, headers=key) as stream:
        lines = stream.iter_lines()
        next(lines)
        process.terminate()
        assert process.wait(10) == 0


# The answers


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_only_the_key_opens_v1(client: httpx.Client) -> None:
    for headers in ({"Authorization": "Bearer no"}, {"Authorization": "abc"}):
        refused = client.get("/v1/models", headers=headers)
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
    for path in ("/health", "/version", "/metrics", "/ping"):
        assert httpx.get(client.base_url.join(path)).status_code == 200


def test_models_are_listed_as_vllm_lists_them(client: httpx.Client) -> None:
    first, second = client.get("/v1/models").json()["data"][:2]
    assert (first["id"], second["id"]) == ("smol", "alias")
    assert (first["root"], first["parent"], first["max_model_len"]) == ("/models/one", None, 512)
    assert first["permission"][0]["id"].startswith("modelperm-")


def test_a_chat_repeats_the_user_and_counts_words(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=HELLO | {"model": "alias"}).json()
    assert answer["model"] == "smol"
    assert answer["choices"][0]["message"]["content"] == "one two three four five"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 10


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts_an_answer_off(client: httpx.Client, limit: str) -> None:
    choice = client.post("/v1/chat/completions", json=HELLO | {limit: 2}).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")


def test_a_stream_brings_role_words_reason_and_usage(client: httpx.Client) -> None:
    ask = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    response = client.post("/v1/chat/completions", json=ask)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    chunks = events(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = [chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-1]]
    assert said == ["one", " two", " three", " four", " five"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_a_completion_goes_on_from_its_prompt(client: httpx.Client) -> None:
    ask = {"model": "smol", "prompt": "once upon a time", "max_tokens": 2}
    choice = client.post("/v1/completions", json=ask).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("once upon", "length")
    chunks = events(client.post("/v1/completions", json=ask | {"stream": True}))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["once", " upon"]


def test_a_stream_keeps_its_pace(client: httpx.Client) -> None:
    client.post("/_double", json={"first_token_s": 0.2, "tokens_per_second": 20})
    took = []
    for _ in range(3):  # this machine may delay one of them
        began = time.monotonic()
        client.post("/v1/chat/completions", json=HELLO | {"stream": True})
        took.append(time.monotonic() - began)
    assert 0.39 <= min(took) < 0.8


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        ({"model": "nope"}, 404, "NotFoundError",
         "The model `nope` does not exist. Valid aliases: smol, alias."),
        ({"messages": []}, 400, "BadRequestError",
         "Cannot apply chat template to an empty conversation. Provide at least one message."),
        ({"messages": "x"}, 400, "Bad Request",
         "1 validation error:\n  {'type': 'list_type', 'loc': 'body.messages', 'msg': "
         "'Input should be a valid list', 'input': 'x'}"),
        ({"max_tokens": 600}, 400, "BadRequestError",
         "max_tokens=600 cannot be greater than max_model_len=512. Please request fewer output "
         "tokens. (parameter=max_tokens, value=600)"),
    ],
)  # fmt: skip
def test_a_wrong_chat_is_refused_in_vllms_words(
    client: httpx.Client, body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    refused = client.post("/v1/chat/completions", json=HELLO | body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (status, status)
    assert (error["type"], error["message"]) == (kind, message)


def test_a_body_that_is_no_json_is_refused_in_vllms_words(client: httpx.Client) -> None:
    kind = {"Content-Type": "application/json"}
    error = client.post("/v1/chat/completions", content="{nonsense", headers=kind).json()["error"]
    assert error["param"] == "body.1"
    assert "Expecting property name enclosed in double quotes" in error["message"]
    missing = client.post("/v1/chat/completions", json={"model": "smol"}).json()["error"]
    assert missing["param"] == "body.messages"


def test_an_unknown_path_is_404(client: httpx.Client) -> None:
    refused = client.get("/nope")
    assert (refused.status_code, refused.json()) == (404, {"detail": "Not Found"})


def test_a_text_is_cut_into_tokens(client: httpx.Client) -> None:
    found = client.post("/tokenize", json={"prompt": "once upon a time"}).json()
    assert (found["count"], len(found["tokens"]), found["max_model_len"]) == (4, 4, 512)


def test_an_adapter_is_loaded_answers_and_is_unloaded(client: httpx.Client, tmp_path: Path) -> None:
    def load(**body: Any) -> tuple[int, str]:
        answer = client.post("/v1/load_lora_adapter", json={"lora_name": "legal"} | body)
        return answer.status_code, answer.text

    config = {"r": 64, "lora_alpha": 16, "target_modules": ["q_proj"]}
    here = {"lora_path": str(tmp_path)}
    assert load(**here)[0] == 404
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    status, text = load(**here)
    assert (status, "LoRA rank 64 is greater than max_lora_rank 16." in text) == (500, True)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    assert load(**here) == (200, "Success: LoRA adapter 'legal' added successfully.")
    assert load(**here)[0] == 400
    card = client.get("/v1/models").json()["data"][-1]
    assert (card["id"], card["parent"], card["root"]) == ("legal", "smol", str(tmp_path))
    answer = client.post("/v1/chat/completions", json=HELLO | {"model": "legal"}).json()
    assert answer["choices"][0]["message"]["content"].startswith("[legal] one two")
    assert answer["model"] == "legal"
    unload = {"lora_name": "legal"}
    assert client.post("/v1/unload_lora_adapter", json=unload).status_code == 200
    assert client.post("/v1/unload_lora_adapter", json=unload).status_code == 404


# The control


@pytest.mark.parametrize(
    ("fail", "status"),
    [("503", 503), ("500", 500), ("429", 429), ("empty_stream", 200), ("dead", 500)],
)
def test_a_told_failure_answers_with_its_status(
    client: httpx.Client, fail: str, status: int
) -> None:
    client.post("/_double", json={"fail": fail})
    answer = client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    assert answer.status_code == status
    assert (answer.text == "") == (fail == "empty_stream")
    assert client.get("/health").status_code == (503 if fail == "dead" else 200)


def test_cut_garbage_and_hang_break_answers(client: httpx.Client) -> None:
    client.post("/_double", json={"fail": "cut"})
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/chat/completions", json=HELLO | {"stream": True})
    client.post("/_double", json={"fail": "garbage"})
    with pytest.raises(ValueError):  # noqa: PT011 - not UTF-8 or not JSON
        client.post("/v1/chat/completions", json=HELLO).json()
    client.post("/_double", json={"fail": "hang"})
    with pytest.raises(httpx.ReadTimeout):
        client.get("/health", timeout=0.2)


def test_a_client_that_leaves_ends_its_answer(client: httpx.Client) -> None:
    client.post("/_double", json={"tokens_per_second": 2})
    before = client.get("/_double").json()["aborted"]
    with client.stream("POST", "/v1/chat/completions", json=HELLO | {"stream": True}) as stream:
        lines = stream.iter_lines()  # dropping it would close the stream
        next(lines)
        running = re.findall(r"^vllm:num_requests_running{.*} (.*)$", metrics(client), re.M)
        assert running == ["1.0"]

    def counted() -> tuple[int, int]:
        now = client.get("/_double").json()  # asked anew each time
        return now["active"], now["aborted"]

    assert eventually(lambda: counted() == (0, before + 1), 10)


def metrics(client: httpx.Client) -> str:
    return httpx.get(client.base_url.join("/metrics")).text


def test_metrics_count_requests_and_tokens(client: httpx.Client) -> None:
    def number(line: str) -> float:
        return float(re.findall(rf"^{re.escape(line)} (\S+)$", metrics(client), re.M)[0])

    labels = 'engine="0",model_name="smol"'
    said = f"vllm:generation_tokens_total{{{labels}}}"
    length = 'vllm:request_success_total{engine="0",finished_reason="length",model_name="smol"}'
    first = f"vllm:time_to_first_token_seconds_count{{{labels}}}"
    before = [number(line) for line in (said, length, first)]
    client.post("/v1/chat/completions", json=HELLO | {"max_tokens": 3})
    assert [number(line) for line in (said, length, first)] == [
        before[0] + 3, before[1] + 1, before[2] + 1
    ]  # fmt: skip
    assert number("process_resident_memory_bytes") > 1e6


def test_requests_can_be_read_back(client: httpx.Client) -> None:
    client.post("/v1/chat/completions", json=HELLO, headers={"X-Test": "here"})
    last = client.get("/_double?requests=1").json()[-1]
    assert (last["path"], last["body"]) == ("/v1/chat/completions", HELLO)
    assert last["headers"]["x-test"] == "here"
    assert client.get("/_double").json()["requests"] > 0


def test_what_the_double_does_not_know_is_refused(start: Launch) -> None:
    assert start(fail="never").wait(5) == 2
    assert start(fial="oom").wait(5) == 2
