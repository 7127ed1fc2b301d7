"""vLLM 0.32's own server as a program: its start-up log on a GPU, then its HTTP interface.

    python tests/doubles/engine.py --model /models/one --port 8123 --double '{"step_s": 0.1}'

It takes vLLM's commonest flags, and `--double` with a JSON object of `Options`. Its `fail` is one
of these, which end the start:

    oom                   the weights do not fit: CUDA out of memory, code 1
    no_room               other processes hold the GPU's memory, code 1
    no_cache              the weights leave no memory for the KV cache, code 1
    unknown_architecture  Transformers does not know the model's type, code 1
    port_taken            the port is in use, code 1; so it ends also when the port really is
    hang                  silent for good while the model loads
    crash                 dies of SIGSEGV without a word once the weights are loaded

or one of these, which can also be set through `/_double` while it runs:

    503 500 429   that status, in vLLM's form
    dead          its core has died: 503 at /health, 500 elsewhere
    hang          takes the request and says nothing
    empty_stream  200 with an empty body
    cut           the connection closes in mid-answer
    garbage       200 with bytes that are no JSON

`503` concerns every path under /v1 and the running `hang` every path; others only answers.
At the start `hang` is the start's; to hang a running server, set it then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import secrets
import signal
import socket
import sys
import time
import zlib
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NoReturn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # it runs from any directory

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.doubles import chat
from tests.doubles.control import Double, hang
from tests.doubles.serve import Cut, Stream, send_at_once

VERSION = "0.32.0"
FINGERPRINT = f"vllm-{VERSION}-a8f6fda4"
GARBAGE = b'data: {"choices": [{"delta": \xff\xfe<html>not json\n\n'
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
BUSY = (
    "The engine is currently busy and cannot accept new requests. "
    "Please try again later or on a different instance."
)
ERRORS = {
    "503": (503, "Service Unavailable", BUSY),
    "500": (500, "InternalServerError", DEAD),
    "dead": (500, "InternalServerError", DEAD),
    "429": (429, "Too Many Requests", BUSY),
}
START_FAILURES = (
    "oom", "no_room", "no_cache", "unknown_architecture", "port_taken", "hang", "crash"
)  # fmt: skip
MEMORY = {"total": 23.68, "free": 23.3, "weights": 14.25, "cache": 5.1, "graphs": 0.62}
TOKENS_PER_GIB = 93_696 / 5.1
TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
LATENCY_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip


@dataclass
class Options:
    """What `--double` can say.

    fail: see above. fail_starts: only the first so many starts fail, by the count in `state`; 0
    means each. step_s: pause between the phases of the start. state: a JSON file written at the
    start, with the number of starts, pid, port, argv and env. deaf: SIGTERM is ignored.
    tokens_per_second: None is as fast as can be; a token is a word. reply: None repeats the last
    message of the user, or the prompt. memory: figures of MEMORY to change, in GiB; `no_room` has
    3.1 free unless told. runner: vLLM's model runner, 1 or 2, whose log lines differ a little.
    """

    fail: str | None = None
    fail_starts: int = 0
    step_s: float = 0
    state: str | None = None
    tokens_per_second: float | None = 50
    first_token_s: float = 0
    reply: str | None = None
    memory: dict[str, float] = field(default_factory=dict)
    deaf: bool = False
    runner: int = 1


# The command line


def parse(argv: list[str]) -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser(prog="api_server.py", allow_abbrev=False)
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add("--model", default="Qwen/Qwen3-0.6B")
    add("--served-model-name", nargs="+")
    add("--host")
    add("--port", type=int, default=8000)
    dtypes = ["auto", "bfloat16", "float", "float16", "float32", "half"]
    add("--dtype", choices=dtypes, default="auto")
    add("--max-model-len", type=int)
    add("--gpu-memory-utilization", type=float, default=0.92)
    add("--tensor-parallel-size", type=int, default=1)
    add("--tokenizer")
    add("--chat-template")
    add("--enforce-eager", action=switch, default=False)
    add("--enable-lora", action=switch)
    ranks = [1, 8, 16, 32, 64, 128, 256, 320, 512]
    add("--max-lora-rank", type=int, choices=ranks, default=16)
    add("--max-loras", type=int, default=1)
    add("--max-num-seqs", type=int)
    add("--quantization")
    add("--seed", type=int, default=0)
    add("--trust-remote-code", action=switch, default=False)
    add("--double", default="{}")
    args = parser.parse_args(argv)
    args.non_default = {
        name: value
        for name, value in vars(args).items()
        if name != "double" and value != parser.get_default(name)
    }
    options = Options(**_known(parser, json.loads(args.double)))
    if options.fail not in (None, *START_FAILURES, *Engine.failures):
        parser.error(f"argument --double: {options.fail!r} is no failure of this double")
    return args, options


def _known(parser: argparse.ArgumentParser, given: dict[str, Any]) -> dict[str, Any]:
    if unknown := set(given) - {f.name for f in fields(Options)}:
        parser.error(f"argument --double: unknown {sorted(unknown)}")
    return given


# The start


class Start:
    """The start-up log, phase by phase, and the ways it ends early."""

    after: ClassVar[dict[str, tuple[str, ...]]] = {
        "config": ("port_taken", "unknown_architecture"),
        "engine": ("no_room",),
        "load": ("hang",),
        "shards": ("oom",),
        "weights": ("crash",),
        "cache": ("no_cache",),
    }
    """The phase after which each failure comes."""

    def __init__(self, args: argparse.Namespace, options: Options) -> None:
        self.args, self.options = args, options
        self.config = _model_config(args.model)
        self.max_model_len: int = args.max_model_len or self.config["max_position_embeddings"]
        self.memory = MEMORY | ({"free": 3.1} if options.fail == "no_room" else {}) | options.memory
        self.kv_tokens = int(self.memory["cache"] * TOKENS_PER_GIB) // 16 * 16
        self.fails = self._record()

    def run(self) -> socket.socket:
        """Write the log; returns the socket, bound and not yet listening, as vLLM does it."""
        for name, phase in self._phases():
            for text in phase():
                _err(text) if text.startswith("\r") else print(text, flush=True)
            if name == "config" and self.fails != "port_taken":
                listener = self._bind()
            if self.fails in self.after.get(name, ()):
                self._fail()
            time.sleep(self.options.step_s)
        return listener

    def _record(self) -> str | None:
        """Write the state file; returns this start's failure."""
        starts, options = 1, self.options
        if options.state:
            path = Path(options.state)
            starts += json.loads(path.read_text())["starts"] if path.exists() else 0
            state = {"starts": starts, "pid": os.getpid(), "port": self.args.port}
            draft = path.with_name(path.name + ".new")
            draft.write_text(json.dumps(state | {"argv": sys.argv, "env": dict(os.environ)}))
            draft.replace(path)  # a reader finds a whole file
        late = options.fail_starts and starts > options.fail_starts
        return options.fail if options.fail in START_FAILURES and not late else None

    def _bind(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        send_at_once(listener)
        try:
            listener.bind((self.args.host or "0.0.0.0", self.args.port))
        except OSError:
            self.fails = "port_taken"
            self._fail()
        return listener

    def _phases(self) -> list[tuple[str, Callable[[], Iterator[str]]]]:
        eager = self.args.enforce_eager
        compiled = [] if eager else [("compile", self._compile)]
        captured = [] if eager else [("graphs", self._graphs)]
        return [
            ("config", self._banner), ("model", self._model), ("engine", self._engine),
            ("load", self._load), ("shards", self._shards), ("weights", self._weights), *compiled,
            ("cache", self._cache), *captured, ("ready", self._ready),
        ]  # fmt: skip

    def _banner(self) -> Iterator[str]:
        art = (
            "",
            "       █     █     █▄   ▄█",
            f" ▄▄ ▄█ █     █     █ ▀▄▀ █  version {VERSION}",
            f"  █▄█▀ █     █     █     █  model   {self.args.model}",
            "   ▀▀  ▀▀▀▀▀ ▀▀▀▀▀ ▀     ▀",
            "",
        )
        for line in art:
            yield _api("api_utils.py:347", line)
        yield _api("api_utils.py:286", f"non-default args: {self.args.non_default}")

    def _model(self) -> Iterator[str]:
        yield _api("model.py:733", f"Resolved architecture: {self.config['architectures'][0]}")
        yield _api("model.py:2152", f"Using max model len {self.max_model_len}")
        chunked = "Chunked prefill is enabled with max_num_batched_tokens=2048."
        yield _api("scheduler.py:307", chunked)
        if self.args.enforce_eager:
            eager = "Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup."
            yield _api("vllm.py:1703", eager, "WARNING")

    def _engine(self) -> Iterator[str]:
        args = self.args
        config = (
            f"model='{args.model}', speculative_config=None, "
            f"tokenizer='{args.tokenizer or args.model}', max_seq_len={self.max_model_len}, "
            f"tensor_parallel_size={args.tensor_parallel_size}, "
            f"quantization={args.quantization}, enforce_eager={args.enforce_eager}, "
            f"seed={args.seed}, served_model_name={(args.served_model_name or [args.model])[0]}"
        )
        engine = f"Initializing a V1 LLM engine (v{VERSION}) with config: {config}"
        yield _core("core.py:133", engine)
        size = args.tensor_parallel_size
        yield self._worker(
            "parallel_state.py:1906",
            f"world_size={size} rank=0 local_rank=0 "
            "distributed_init_method=tcp://127.0.0.1:41001 backend=nccl",
        )
        if self.options.runner == 2:
            yield self._worker("gpu_worker.py:518", "Using V2 Model Runner")

    def _load(self) -> Iterator[str]:
        if self.options.runner == 2:
            yield self._worker("model_runner.py:392", "Loading model from scratch...")
        else:
            line = f"Starting to load model {self.args.model}..."
            yield self._worker("gpu_model_runner.py:5039", line)

    def _shards(self) -> Iterator[str]:
        backend = "Using FLASH_ATTN attention backend out of potential backends: "
        names = "['FLASH_ATTN', 'FLASHINFER', 'TRITON_ATTN', 'FLEX_ATTENTION']."
        yield self._worker("cuda.py:506", backend + names)
        size = self.memory["weights"]
        files = f"Filesystem type for checkpoints: EXT4. Checkpoint size: {size:.2f} GiB. "
        yield self._worker("weight_utils.py:1108", files + "Available RAM: 21.77 GiB.")
        yield from map(_shard, range(3))

    def _weights(self) -> Iterator[str]:
        yield from map(_shard, (3, 4, 4))
        yield "\r\n"
        yield self._worker("default_loader.py:501", "Loading weights took 4.60 seconds")
        loaded = (
            f"Model loading took {_gib(self.memory['weights'])} GiB memory and 8.104913 seconds"
        )
        place = "model_runner.py:424" if self.options.runner == 2 else "gpu_model_runner.py:5149"
        yield self._worker(place, loaded)

    def _compile(self) -> Iterator[str]:
        cache = "/root/.cache/vllm/torch_compile_cache"
        lines = (
            ("monitor.py:42", "Starting torch.compile"),
            ("backends.py:1104", f"Using cache directory: {cache}/5be8a9b3d1/rank_0_0/backbone for"
             " vLLM's torch.compile"),
            ("backends.py:1166", "Dynamo bytecode transform time: 4.12 s"),
            ("backends.py:382", "Cache the graph of compile range (1, 2048) for later use"),
            ("backends.py:398", "Compiling a graph for compile range (1, 2048) takes 12.34 s"),
            ("decorators.py:743", f"saved AOT compiled function to {cache}/torch_aot_compile/5be8"),
            ("monitor.py:66", "torch.compile took 16.51 s in total"),
            ("monitor.py:89", "Initial profiling/warmup run took 0.62 s"),
        )  # fmt: skip
        for place, line in lines:
            yield self._worker(place, line)

    def _cache(self) -> Iterator[str]:
        free = -1.87 if self.fails == "no_cache" else self.memory["cache"]
        line = f"Available KV cache memory: {_gib(free)} GiB"
        yield self._worker("gpu_worker.py:759", line)
        if self.fails == "no_cache":
            return
        longest, tokens = self.max_model_len, self.kv_tokens
        yield _core(
            "kv_cache_utils.py:2327",
            f"GPU KV cache size: {tokens:,} tokens, Maximum concurrency for {longest:,} tokens"
            f" per request: {tokens / longest:.2f}x",
        )

    def _graphs(self) -> Iterator[str]:
        old = self.options.runner == 1
        for kind, of, total in (
            ("mixed prefill-decode, ", "PIECEWISE", 67),
            ("decode, ", "FULL", 35),
        ):
            title = f"Capturing CUDA graphs ({kind if old else ''}{of})"
            yield from (_bar(title, n, total) for n in (0, total // 2, total))
            yield "\r\n"
        took = f"Graph capturing finished in 7 secs, took {self.memory['graphs']:.2f} GiB"
        place = "gpu_model_runner.py:6581" if old else "model_runner.py:1127"
        yield self._worker(place, took)

    def _ready(self) -> Iterator[str]:
        compiling = "" if self.args.enforce_eager else " (compilation: 16.51 s)"
        init = "init engine (profile, create kv cache, warmup model) took 30.20 s" + compiling
        yield _core("core.py:395", init)
        yield _api("entry.py:136", "Supported tasks: ['generate']")
        if adapters_change():
            warning = (
                "LoRA dynamic loading & unloading is enabled in the API server. "
                "This should ONLY be used for local development!"
            )
            yield _api("api_router.py:33", warning, "WARNING")
        address = f"http://{self.args.host or '0.0.0.0'}:{self.args.port}"
        yield _api("entry.py:140", f"Starting vLLM server on {address}")
        yield _api("launcher.py:186", "Available routes are:")
        for path, methods in (("/health", "GET"), ("/v1/chat/completions", "POST")):
            yield _api("launcher.py:195", f"Route: {path}, Methods: {methods}")

    def _worker(self, place: str, line: str) -> str:
        """A line of the worker, which with one GPU lives in the engine's process."""
        return _core(place, line) if self.args.tensor_parallel_size == 1 else _line(
            "Worker_TP0", os.getpid() + 2, place, line
        )  # fmt: skip

    def _fail(self) -> NoReturn:
        failure, memory = self.fails, self.memory
        if failure == "hang":
            while True:
                signal.pause()
        if failure == "crash":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # leave no file behind
            os.kill(os.getpid(), signal.SIGSEGV)
        if failure == "port_taken":
            _end(
                "launcher.py", 348, "sock.bind(addr)", "OSError: [Errno 98] Address already in use"
            )
        if failure == "unknown_architecture":
            kind = self.config.get("model_type", "foo")
            _end("arg_utils.py", 1955, "return ModelConfig(", _unknown(kind))
        share, total = self.args.gpu_memory_utilization, memory["total"]
        _end_of_engine({
            "oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 130.00 MiB."
            f" GPU 0 has a total capacity of {_gib(total)} GiB of which 61.44 MiB is free."
            f" Including non-PyTorch memory, this process has {_gib(total - 0.06)} GiB memory in"
            f" use. Of the allocated memory {_gib(total - 0.4)} GiB is allocated by PyTorch, and"
            " 12.21 MiB is reserved by PyTorch but unallocated. If reserved but unallocated"
            " memory is large try"
            " setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See"
            " documentation for Memory Management  (https://docs.pytorch.org/docs/stable/notes/"
            "cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf)",
            "no_room": f"ValueError: Free memory on device cuda:0 ({_gib(memory['free'])}/"
            f"{_gib(total)} GiB) on startup is less than desired GPU memory utilization"
            f" ({share}, {_gib(share * total)} GiB). Decrease GPU memory utilization or reduce GPU"
            " memory used by other processes.",
            "no_cache": "ValueError: No available memory for the cache blocks. Try increasing"
            " `gpu_memory_utilization` when initializing the engine (this flag also controls CPU"
            " memory reservation on the CPU backend, despite its name). See"
            " https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details.",
        }[str(failure)])  # fmt: skip


def adapters_change() -> bool:
    """Whether adapters may be loaded while it runs."""
    return os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "0").lower() in ("1", "true")


def _model_config(folder: str) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    usual = {"architectures": ["Qwen3ForCausalLM"], "max_position_embeddings": 32768}
    return usual | (json.loads(path.read_text()) if path.exists() else {})


def _line(process: str, pid: int, place: str, text: str, level: str = "INFO") -> str:
    return f"({process} pid={pid}) {level} {time.strftime('%m-%d %H:%M:%S')} [{place}] {text}"


def _api(place: str, text: str, level: str = "INFO") -> str:
    return _line("APIServer", os.getpid(), place, text, level)


def _core(place: str, text: str, level: str = "INFO") -> str:
    return _line("EngineCore", os.getpid() + 1, place, text, level)


def _err(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _gib(number: float) -> str:
    return str(round(number, 2))


def _shard(n: int) -> str:
    """vLLM ends the lines of this bar itself, so that each has a return and a line feed."""
    rate = f"00:0{n}<00:0{4 - n},  1.15s/it" if n else "00:00<?, ?it/s"
    return f"\rLoading safetensors checkpoint shards: {25 * n:3}% Completed | {n}/4 [{rate}]\n"


def _bar(title: str, n: int, total: int) -> str:
    rate = f"00:0{n // 10}<00:0{(total - n) // 10},  9.90it/s" if n else "00:00<?, ?it/s"
    filled = "█" * (10 * n // total)
    return f"\r{title}: {100 * n // total:3}%|{filled:10}| {n}/{total} [{rate}]"


def _traceback(file: str, line: int, code: str, error: str) -> str:
    packages = "/usr/local/lib/python3.12/dist-packages/vllm"
    head = "Traceback (most recent call last):"
    return f'{head}\n  File "{packages}/{file}", line {line}, in <module>\n    {code}\n{error}\n'


def _end(file: str, line: int, code: str, error: str) -> NoReturn:
    _err(_traceback(file, line, code, error))
    sys.exit(1)


def _end_of_engine(error: str) -> NoReturn:
    start = "engine_core = EngineCoreProc(*args, engine_index=dp_rank, **kwargs)"
    trace = _traceback("v1/engine/core.py", 1482, start, error)
    for line in ("EngineCore failed to start.", *trace.splitlines()):
        print(_core("core.py:1510", line, "ERROR"), flush=True)
    _err("Process EngineCore:\n" + trace)
    failed = "RuntimeError: Engine core initialization failed. See root cause above."
    _end("v1/engine/utils.py", 1431, "raise RuntimeError(", failed + " Failed core proc(s): {}")


def _unknown(model_type: str) -> str:
    return (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        f"  Value error, The checkpoint you are trying to load has model type `{model_type}` but"
        " Transformers does not recognize this architecture. This could be because of an issue"
        " with the checkpoint, or because your version of Transformers is out of date.\n\n"
        "You can update Transformers with the command `pip install --upgrade transformers`. If"
        " this does not work, and the checkpoint is very new, then there may not be a release"
        " version that supports this model yet. In this case, you can get the most up-to-date code"
        " by installing Transformers from source with the command `pip install"
        " git+https://github.com/huggingface/transformers.git` [type=value_error,"
        " input_value=ArgsKwargs((), {'model': ...nderer_num_workers': 1}), input_type=ArgsKwargs]"
        "\n    For further information visit https://errors.pydantic.dev/2.14/v/value_error"
    )


# The server


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: Any = None


class Histogram:
    def __init__(self, name: str, buckets: tuple[float, ...]) -> None:
        self.name, self.buckets, self.sum = name, buckets, 0.0
        self.counts = [0] * (len(buckets) + 1)

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.buckets, seconds)] += 1
        self.sum += seconds

    def text(self, labels: str) -> str:
        total, lines = 0, [f"# TYPE {self.name} histogram"]
        for bound, count in zip((*self.buckets, "+Inf"), self.counts, strict=True):
            total += count
            engine, model = labels.split(",")
            lines.append(f'{self.name}_bucket{{{engine},le="{bound}",{model}}} {float(total)}')
        lines.append(f"{self.name}_count{{{labels}}} {float(total)}")
        return "\n".join([*lines, f"{self.name}_sum{{{labels}}} {self.sum}"])


class Refusal(Exception):
    def __init__(self, response: Response) -> None:
        self.response = response


class Engine(Double):
    """The server; `settable` can be changed while it runs.

    requests: what came under /v1 and to /tokenize, refused requests too. active: requests being
    answered. aborted: answers whose client left before the end.
    """

    failures = (*ERRORS, "hang", "cut", "garbage", "empty_stream")
    settable = ("fail", "tokens_per_second", "first_token_s", "reply")
    counters = ("requests", "active", "aborted")

    def __init__(self, start: Start) -> None:
        args, options = start.args, start.options
        super().__init__(None if options.fail in START_FAILURES else options.fail)
        self.tokens_per_second, self.first_token_s = (
            options.tokens_per_second,
            options.first_token_s,
        )
        self.reply = options.reply
        self.args, self.max_len, self.kv_tokens = args, start.max_model_len, start.kv_tokens
        self.names: list[str] = args.served_model_name or [args.model]
        self.key = os.environ.get("VLLM_API_KEY")
        self.adapters: dict[str, str] = {}
        self.requests: list[Received] = []
        self.active = self.aborted = self.held = self.waiting = 0
        self.prompted = self.generated = 0
        self.ended = dict.fromkeys(("stop", "length", "abort", "error", "repetition"), 0)
        self.first = Histogram("vllm:time_to_first_token_seconds", TTFT_BUCKETS)
        self.whole = Histogram("vllm:e2e_request_latency_seconds", LATENCY_BUCKETS)
        self.slots = asyncio.Semaphore(args.max_num_seqs or 256)
        self.routes = Starlette(routes=self._routes(), exception_handlers={
            HTTPException: _plain, Refusal: _refuse,
        })  # fmt: skip

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer: Any = self.routes
        if scope["type"] == "http" and scope["path"] != "/_double":
            request = Request(scope, receive)
            scope["received"] = Received(scope["path"], dict(request.headers))
            if scope["path"].startswith(("/v1", "/tokenize")):
                self.requests.append(scope["received"])
            if self.fail == "hang":
                answer = await self._hang(request)
            elif self.fail == "dead" and scope["path"] in ("/health", "/ping"):
                answer = Response(status_code=503)
            elif self.fail == "503" and scope["path"].startswith("/v1"):
                answer = _error(*ERRORS["503"])
            elif scope["path"].startswith("/v1") and not self._allowed(request):
                answer = _json({"error": "Unauthorized"}, 401)
        await answer(scope, receive, send)

    def _routes(self) -> list[Route]:
        routes = [
            self.control(),
            Route("/health", _nothing),
            Route("/ping", _nothing, methods=["GET", "POST"]),
            Route("/version", _version),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
        ]
        if self.args.enable_lora and adapters_change():
            routes += [
                Route("/v1/load_lora_adapter", self._load_adapter, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._unload_adapter, methods=["POST"]),
            ]
        return routes

    def _allowed(self, request: Request) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return not self.key or (scheme.lower() == "bearer" and key == self.key)

    async def _control(self, request: Request) -> Response:
        if request.method == "GET" and "requests" in request.query_params:
            return JSONResponse([asdict(one) for one in self.requests])
        return await super()._control(request)

    async def _hang(self, request: Request) -> Response:
        self.active += 1
        try:
            return await hang(request)
        finally:
            self.active -= 1
            self.aborted += 1

    # Models and adapters

    async def _models(self, _: Request) -> Response:
        base = [_card(name, self.args.model, None, self.max_len) for name in self.names]
        adapters = [_card(n, path, self.names[0], None) for n, path in self.adapters.items()]
        return _json({"object": "list", "data": [*base, *adapters]})

    async def _load_adapter(self, request: Request) -> Response:
        body = await _body(request, lora_name="string", lora_path="string")
        name, path = body["lora_name"], body["lora_path"]
        if not (name and path):
            return _wrong("Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.names:
            return _wrong(f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self.adapters and not body.get("load_inplace"):
            return _wrong(
                f"The lora adapter '{name}' has already been loaded. If you want to load the"
                " adapter in place, set 'load_inplace' to True."
            )
        config = Path(path) / "adapter_config.json"
        if not config.exists():
            message = f"Loading lora {name} failed: No adapter found for <path>"
            return _error(404, "NotFoundError", message)
        if problem := self._problem(json.loads(config.read_text())):
            message = (
                f"Call to add_lora method failed: Worker failed with error '{problem}', please"
            )
            more = " check the stack trace above for the root cause"
            return _error(500, "InternalServerError", message + more)
        self.adapters[name] = path
        print(
            _api("serving.py:226", f"Loaded new LoRA adapter: name '{name}', path '{path}'"),
            flush=True,
        )
        return Response(f"Success: LoRA adapter '{name}' added successfully.")

    def _problem(self, config: dict[str, Any]) -> str | None:
        if missing := {"r", "lora_alpha", "target_modules"} - set(config):
            return f"Missing required configuration fields: {missing}"
        if (rank := config["r"]) > (limit := self.args.max_lora_rank):
            return f"LoRA rank {rank} is greater than max_lora_rank {limit}."
        return None

    async def _unload_adapter(self, request: Request) -> Response:
        name = (await _body(request, lora_name="string"))["lora_name"]
        if not name:
            return _wrong("'lora_name' needs to be provided to unload a LoRA adapter.")
        if name not in self.adapters:
            return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        print(_api("serving.py:244", f"Removed LoRA adapter: name '{name}'"), flush=True)
        return Response(f"Success: LoRA adapter '{name}' removed successfully.")

    # Answers

    async def _chat(self, request: Request) -> Response:
        body = await _body(request, messages="list")
        model = self._model(body)
        if not (messages := body["messages"]):
            empty = "Cannot apply chat template to an empty conversation. Provide at least one"
            return _bad(f"{empty} message.")
        prompt = " ".join(chat.text(message) for message in messages)
        asked = [chat.text(m) for m in messages if m.get("role") == "user"]
        wanted = body.get("max_completion_tokens", body.get("max_tokens"))
        return await self._answer(Answer(body, model, prompt, chats=True), asked, wanted)

    async def _completions(self, request: Request) -> Response:
        body = await _body(request)
        model = self._model(body)
        if not (prompt := body.get("prompt")):
            missing = "Either prompt or prompt_embeds must be provided and non-empty."
            return _bad(f"{missing} (parameter=prompt)", "prompt")
        text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
        answer = Answer(body, model, text, chats=False)
        return await self._answer(answer, [text], body.get("max_tokens", 16))

    def _model(self, body: dict[str, Any]) -> str:
        """The name that the answer bears: the first served one, or the adapter's."""
        model = body.get("model") or self.names[0]
        if model in self.adapters:
            return str(model)
        if model not in self.names:
            valid = f"The model `{model}` does not exist. Valid aliases: {', '.join(self.names)}."
            raise Refusal(_error(404, "NotFoundError", valid, "model"))
        return self.names[0]

    def _limit(self, wanted: Any, prompt_tokens: int) -> int:
        room = self.max_len - prompt_tokens
        if wanted is not None and wanted < 1:
            least = f"max_tokens must be at least 1, got {wanted}."
            raise Refusal(_bad(f"{least} (parameter=max_tokens, value={wanted})", "max_tokens"))
        if wanted is not None and wanted > self.max_len:
            raise Refusal(_bad(
                f"max_tokens={wanted} cannot be greater than max_model_len={self.max_len}. Please"
                f" request fewer output tokens. (parameter=max_tokens, value={wanted})",
                "max_tokens",
            ))  # fmt: skip
        if room < 1:
            raise Refusal(_bad(
                f"This model's maximum context length is {self.max_len} tokens. However, your"
                f" prompt contains at least {self.max_len + 1} input tokens, which exceeds this"
                " limit even without any output tokens. Please reduce the length of the input"
                f" prompt. (parameter=input_tokens, value={self.max_len + 1})",
                "input_tokens",
            ))  # fmt: skip
        return min(room, wanted or room)

    async def _answer(self, answer: Answer, asked: list[str], wanted: Any) -> Response:
        limit = self._limit(wanted, answer.prompt_tokens)
        if self.fail in ERRORS:
            return _error(*ERRORS[self.fail])
        streams = bool(answer.body.get("stream"))
        kind = "text/event-stream" if streams else "application/json"
        if self.fail == "empty_stream":
            return Response(media_type=kind)
        said = self.reply if self.reply is not None else (asked or [""])[-1]
        answer.say(f"[{answer.model}] {said}" if answer.model in self.adapters else said, limit)
        pieces = answer.events() if streams else [*[b""] * (len(answer.words) - 1), answer.whole()]
        if self.fail == "garbage":
            pieces = [GARBAGE]
        elif self.fail == "cut":
            pieces = pieces[: len(pieces) // 2] if len(pieces) > 1 and streams else pieces[-1:]
            pieces[-1] = pieces[-1][: len(pieces[-1]) // 2]
        return Stream(self._paced(answer, pieces, streams), media_type=kind)

    async def _paced(
        self, answer: Answer, pieces: list[bytes], streams: bool
    ) -> AsyncGenerator[bytes, None]:
        """Each piece at its time since the start, so that delays do not add up, and counted."""
        began, end = time.monotonic(), "abort"
        if streams:
            yield b""  # the headers go at once
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        self.active += 1
        self.held += answer.prompt_tokens
        self.prompted += answer.prompt_tokens
        start, rate = time.monotonic() + self.first_token_s, self.tokens_per_second
        try:
            for n, piece in enumerate(pieces):
                due = start + (n / rate if rate else 0) - time.monotonic()
                await asyncio.sleep(max(0, due))
                self.generated += 1
                if n == 0:
                    self.first.observe(time.monotonic() - began)
                if piece:
                    yield piece
            end = "error" if self.fail == "cut" else answer.reason
            if self.fail == "cut":
                raise Cut
        finally:
            self.slots.release()
            self.active -= 1
            self.held -= answer.prompt_tokens
            self.aborted += end == "abort"
            self.ended[end] += 1
            self.whole.observe(time.monotonic() - began)

    async def _tokenize(self, request: Request) -> Response:
        body = await _body(request)
        if "prompt" not in body and "messages" not in body:
            here = _size(body)
            return _invalid(
                *(("missing", f"body.{n}", "Field required", here) for n in ("prompt", "messages"))
            )
        self._model(body)
        text = body.get("prompt") or " ".join(chat.text(m) for m in body.get("messages", []))
        words = _words(text)
        ids = [zlib.crc32(word.encode()) % 49152 for word in words]
        strings = words if body.get("return_token_strs") else None
        found = {"count": len(ids), "max_model_len": self.max_len}
        return _json(found | {"tokens": ids, "token_strs": strings})

    async def _metrics(self, _: Request) -> Response:
        labels = f'engine="0",model_name="{self.names[0]}"'
        gauges = (
            ("vllm:num_requests_running", self.active), ("vllm:num_requests_waiting", self.waiting),
            ("vllm:kv_cache_usage_perc", min(1, self.held / self.kv_tokens)),
        )  # fmt: skip
        counters = (
            ("vllm:prompt_tokens_total", self.prompted),
            ("vllm:generation_tokens_total", self.generated),
        )
        lines = [_process()]
        for kind, numbers in (("gauge", gauges), ("counter", counters)):
            for name, number in numbers:
                lines += [f"# TYPE {name} {kind}", f"{name}{{{labels}}} {float(number)}"]
        lines.append("# TYPE vllm:request_success_total counter")
        for why, count in self.ended.items():
            named = labels.replace(",", f',finished_reason="{why}",')
            lines.append(f"vllm:request_success_total{{{named}}} {float(count)}")
        lines += [self.first.text(labels), self.whole.text(labels), ""]
        return Response("\n".join(lines), media_type="text/plain; version=1.0.0; charset=utf-8")


class Answer:
    """A chat's or a completion's answer, whole and as the events of a stream."""

    def __init__(self, body: dict[str, Any], model: str, prompt: str, *, chats: bool) -> None:
        self.body, self.model, self.chats = body, model, chats
        self.prompt_tokens = len(prompt.split())
        self.words = [""]
        self.reason = "stop"

    def say(self, text: str, limit: int) -> None:
        words = _words(text) or [""]
        self.words, self.reason = words[:limit], "length" if limit < len(words) else "stop"

    def whole(self) -> bytes:
        text, nothing = "".join(self.words), {"logprobs": None, "finish_reason": self.reason}
        nothing |= {"stop_reason": None, "token_ids": None}
        usage = self._usage() | {"prompt_tokens_details": None, "completion_tokens_details": None}
        tail = {"service_tier": None, "system_fingerprint": FINGERPRINT, "usage": usage}
        if self.chats:
            message = {"role": "assistant", "content": text}
            keys = ("refusal", "annotations", "audio", "function_call", "reasoning")
            choice = {"index": 0, "message": message | dict.fromkeys(keys)} | nothing
            end = dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "prompt_text"))
        else:
            choice = {"index": 0, "text": text} | nothing
            choice |= dict.fromkeys(("prompt_logprobs", "prompt_token_ids"))
            end = {}
        choice["routed_experts"] = None
        end |= dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics"))
        kind = "chat.completion" if self.chats else "text_completion"
        return _bytes(self._head(kind) | {"choices": [choice]} | tail | end)

    def events(self) -> list[bytes]:
        """One a word; the first brings the role, the last the usage, if asked for, and [DONE]."""
        head = self._head("chat.completion.chunk" if self.chats else "text_completion")
        usage = (self.body.get("stream_options") or {}).get("include_usage")
        start, events = b"data: " + _bytes(head)[:-1], []
        for word in self.words[:-1]:
            events.append(start + self._chunk(word, None) + b"}\n\n")
        fingerprint = b',"system_fingerprint":"%b"' % FINGERPRINT.encode()
        last = start + self._chunk(self.words[-1], self.reason)
        last += (b"" if usage or not self.chats else fingerprint) + b"}\n\n"
        if usage:
            last += start + b',"choices":[],"usage":' + _bytes(self._usage()) + fingerprint
            last += b"}\n\n"
        events.append(last + b"data: [DONE]\n\n")
        if self.chats:
            role = {"index": 0, "delta": {"role": "assistant", "content": ""}}
            role |= {"logprobs": None, "finish_reason": None}
            first = head | {"choices": [role], "prompt_token_ids": None, "prompt_text": None}
            events[0] = b"data: " + _bytes(first) + b"\n\n" + events[0]
        return events

    def _chunk(self, word: str, reason: str | None) -> bytes:
        choice: dict[str, Any] = {"index": 0}
        choice |= {"delta": {"content": word}} if self.chats else {"text": word}
        choice |= {"logprobs": None, "finish_reason": reason}
        if reason or not self.chats:
            choice["stop_reason"] = None
        if not self.chats:
            choice["prompt_token_ids"] = None
        return b',"choices":[' + _bytes(choice | {"token_ids": None}) + b"]"

    def _head(self, kind: str) -> dict[str, Any]:
        number = f"{'chatcmpl' if self.chats else 'cmpl'}-{secrets.token_hex(8)}"
        return {"id": number, "object": kind, "created": int(time.time()), "model": self.model}

    def _usage(self) -> dict[str, Any]:
        asked, said = self.prompt_tokens, len(self.words)
        return {"prompt_tokens": asked, "total_tokens": asked + said, "completion_tokens": said}


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def _bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _json(value: Any, status: int = 200) -> Response:
    return Response(_bytes(value), status, media_type="application/json")


def _error(status: int, kind: str, message: str, param: str | None = None) -> Response:
    return _json(
        {"error": {"message": message, "type": kind, "param": param, "code": status}}, status
    )


def _bad(message: str, param: str | None = None) -> Response:
    return _error(400, "BadRequestError", message, param)


def _wrong(message: str) -> Response:
    return _error(400, "InvalidUserInput", message)


def _invalid(*problems: tuple[str, str, str, str], more: dict[str, Any] | None = None) -> Response:
    """Problems as (type, loc, msg, input), in the form that vLLM gives pydantic's."""
    shown = [
        dict(zip(("type", "loc", "msg", "input"), problem, strict=True)) | (more or {})
        for problem in problems
    ]
    count = f"{len(shown)} validation error{'s' if len(shown) > 1 else ''}:"
    message = "\n  ".join([count, *map(str, shown)])
    return _error(400, "Bad Request", message, problems[0][1])


async def _body(request: Request, **required: str) -> dict[str, Any]:
    """The JSON object of a request; a Refusal when it is none or lacks a field of that type."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        only = "Unsupported Media Type: Only 'application/json' is allowed"
        raise Refusal(_error(400, "Bad Request", f"1 validation error:\n  {only}"))
    raw = await request.body()
    if not raw:
        raise Refusal(_invalid(("missing", "body", "Field required", "None")))
    try:
        body = json.loads(raw)
    except json.JSONDecodeError as error:
        problem = ("json_invalid", f"body.{error.pos}", "JSON decode error", "<dict of 0 items>")
        raise Refusal(_invalid(problem, more={"ctx": {"error": error.msg}})) from None
    except UnicodeDecodeError:
        broken = "There was an error parsing the body"
        raise Refusal(_error(400, "Bad Request", broken)) from None
    request.scope["received"].body = body
    if not isinstance(body, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        raise Refusal(_invalid(("model_attributes_type", "body", text, _size(body))))
    for name, wanted in required.items():
        if name not in body:
            raise Refusal(_invalid(("missing", f"body.{name}", "Field required", _size(body))))
        if not isinstance(body[name], {"list": list, "string": str}[wanted]):
            text, given = f"Input should be a valid {wanted}", _size(body[name])
            raise Refusal(_invalid((f"{wanted}_type", f"body.{name}", text, given)))
    _types(body)
    _whole_numbers(body)
    return body


def _types(body: dict[str, Any]) -> None:
    """What the real server's models refuse, as far as an answer would stumble over it here."""
    wanted: dict[str, Any] = {
        "model": ("string", str), "stream": ("boolean", bool), "stream_options": ("dict", dict),
        "prompt": ("string", str | list),
    }  # fmt: skip
    for name, (words, kind) in wanted.items():
        if not isinstance(given := body.get(name), kind | None):
            text = f"Input should be a valid {words}"
            raise Refusal(_invalid((f"{words}_type", f"body.{name}", text, _size(given))))
    for n, message in enumerate(body.get("messages") or []):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            text, given = "Field required", _size(message)
            raise Refusal(_invalid(("missing", f"body.messages.{n}.role", text, given)))
        parts = message.get("content")
        whole = not isinstance(parts, list) or all(isinstance(part, dict) for part in parts)
        if not whole or not isinstance(parts, str | list | None):
            text, given = "Input should be a valid string", _size(message["content"])
            raise Refusal(_invalid(("string_type", f"body.messages.{n}.content", text, given)))


def _whole_numbers(body: dict[str, Any]) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        if not isinstance(given := body.get(name), int | None):
            text = "Input should be a valid integer, unable to parse string as an integer"
            raise Refusal(_invalid(("int_parsing", f"body.{name}", text, _size(given))))


def _size(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)


def _card(name: str, root: str, parent: str | None, max_len: int | None) -> dict[str, Any]:
    created = int(time.time())
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}", "object": "model_permission",
        "created": created, "allow_create_engine": False, "allow_sampling": True,
        "allow_logprobs": True, "allow_search_indices": False, "allow_view": True,
        "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False,
    }  # fmt: skip
    return {
        "id": name, "object": "model", "created": created, "owned_by": "vllm", "root": root,
        "parent": parent, "max_model_len": max_len, "permission": [permission],
    }  # fmt: skip


def _process() -> str:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    numbers = {
        "process_resident_memory_bytes": ("gauge", pages * resource.getpagesize()),
        "process_start_time_seconds": ("gauge", STARTED),
        "process_cpu_seconds_total": ("counter", time.process_time()),
        "process_open_fds": ("gauge", len(os.listdir("/proc/self/fd"))),
    }
    return "\n".join(f"# TYPE {n} {kind}\n{n} {float(v)}" for n, (kind, v) in numbers.items())


async def _nothing(_: Request) -> Response:
    return Response()


async def _version(_: Request) -> Response:
    return _json({"version": VERSION})


async def _plain(_: Request, error: Any) -> Response:
    answer = _json({"detail": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _refuse(_: Request, refusal: Any) -> Response:
    answer: Response = refusal.response
    return answer


# The program

STARTED = time.time()


class Server(uvicorn.Server):
    """Uvicorn without its own handling of signals, and without the line that vLLM suppresses."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _log_started_message(self, listeners: Any) -> None:
        pass


def main() -> None:
    args, options = parse(sys.argv[1:])
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else lambda *_: sys.exit(0))
    start = Start(args, options)
    listener = start.run()
    config = uvicorn.Config(
        Engine(start), ws="none", proxy_headers=False, timeout_graceful_shutdown=0
    )
    server = Server(config)

    def stop(*_: Any) -> None:
        print(_api("launcher.py:254", "[shutdown] API server: shutdown triggered"), flush=True)
        server.should_exit = True

    signal.signal(signal.SIGINT, stop)
    if not options.deaf:
        signal.signal(signal.SIGTERM, stop)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
