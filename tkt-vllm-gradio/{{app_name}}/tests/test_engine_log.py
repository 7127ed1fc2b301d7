"""The lines are vLLM's own: of its log, and of the tracebacks with which it ends."""

from __future__ import annotations

import pytest

from agent.engine_log import KV_CACHE, NOISE, phase, reason


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("(EngineCore pid=171) INFO 11-23 12:57:45 [gpu_model_runner.py:5039] Starting to load "
         "model /models/one...", ("weights", "")),
        ("Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]",
         ("weights", "0 %")),
        ("Loading safetensors checkpoint shards:  75% Completed | 3/4 [00:03<00:01,  1.15s/it]",
         ("weights", "75 %")),
        ("(EngineCore pid=171) INFO 11-23 12:57:45 [backends.py:1104] Using cache directory: "
         "/root/.cache/vllm/torch_compile_cache/5be8a9b3d1/rank_0_0/backbone for vLLM's "
         "torch.compile", ("compile", "")),
        ("(EngineCore pid=171) INFO 11-23 12:57:45 [backends.py:1166] Dynamo bytecode transform "
         "time: 4.12 s", ("compile", "")),
        ("(EngineCore pid=171) INFO 11-23 12:57:45 [backends.py:398] Compiling a graph for compile "
         "range (1, 2048) takes 12.34 s", ("compile", "")),
        ("(EngineCore pid=171) INFO 11-23 12:57:45 [monitor.py:66] torch.compile took 16.51 s in "
         "total", ("compile", "")),
        ("(EngineCore pid=171) INFO 11-23 12:57:45 [gpu_worker.py:759] Available KV cache memory: "
         "5.1 GiB", ("compile", "")),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  49%|████      | 33/67 "
         "[00:03<00:03,  9.90it/s]", ("graphs", "49 %")),
        ("Capturing CUDA graphs (FULL): 100%|██████████| 35/35 [00:03<00:00,  9.90it/s]",
         ("graphs", "100 %")),
        ("(APIServer pid=170) INFO 11-23 12:57:45 [entry.py:140] Starting vLLM server on "
         "http://127.0.0.1:8123", ("graphs", "")),
    ],
)  # fmt: skip
def test_a_line_tells_how_far_a_start_is(line: str, told: tuple[str, str]) -> None:
    assert phase(line) == told


@pytest.mark.parametrize(
    "line",
    [
        "",
        "(APIServer pid=170) INFO 11-23 12:32:05 [model.py:733] Resolved architecture: Qwen2ForCau",
        "(EngineCore pid=171) INFO 11-23 12:32:29 [default_loader.py:501] Loading weights took 1 s",
        "(APIServer pid=170) INFO 11-23 12:32:34 [launcher.py:195] Route: /health, Methods: GET",
    ],
)
def test_other_lines_tell_nothing(line: str) -> None:
    assert phase(line) is None


def test_how_many_tokens_fit_the_cards_memory_is_read() -> None:
    line = (
        "(EngineCore pid=171) INFO 11-23 12:57:45 [kv_cache_utils.py:2327] GPU KV cache size: "
        "93,696 tokens, Maximum concurrency for 512 tokens per request: 183.00x"
    )
    found = KV_CACHE.search(line)

    assert found
    assert found[1] == "93,696"


def test_lines_of_requests_and_empty_ones_are_noise() -> None:
    assert NOISE.search('INFO:     127.0.0.1:58990 - "GET /health HTTP/1.1" 200 OK')
    assert NOISE.search("  ")
    assert not NOISE.search("INFO:     Application startup complete.")
    assert not NOISE.search("torch.OutOfMemoryError: CUDA out of memory.")


CORE = "(EngineCore pid=171) ERROR 11-23 12:40:07 [core.py:1510] "
PYDANTIC = "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig"


@pytest.mark.parametrize(
    ("lines", "sentence", "again"),
    [
        ([CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 130.00 MiB. GPU 0 "
          "has a total capacity of 23.68 GiB of which 61.44 MiB is free."],
         "The card ran out of memory while the model was loaded; free it of other programs, or "
         "take a smaller or quantised model.", True),
        ([CORE + "ValueError: Free memory on device cuda:0 (3.1/23.68 GiB) on startup is less than "
          "desired GPU memory utilization (0.9, 21.31 GiB). Decrease GPU memory utilization or "
          "reduce GPU memory used by other processes."],
         "Only 3.1 of the card's 23.68 GiB are free, which is less than vLLM was told to take; "
         "stop what else uses the card, or lower GPU_MEMORY_UTILIZATION.", True),
        ([CORE + "ValueError: No available memory for the cache blocks. Try increasing "
          "`gpu_memory_utilization` when initializing the engine"],
         "After the weights too little of the card's memory is left for a talk; lower "
         "MAX_MODEL_LEN or take a smaller or quantised model.", False),
        ([CORE + "ValueError: To serve at least one request with the model's max seq len (32768), "
          "(1.75 GiB KV cache is needed, which is larger than the available KV cache memory "
          "(0.61 GiB). Based on the available memory, the estimated maximum model length is 11376"],
         "After the weights too little of the card's memory is left for a talk; lower "
         "MAX_MODEL_LEN or take a smaller or quantised model.", False),
        (["    sock.bind(addr)", "OSError: [Errno 98] Address already in use"],
         "The port that was picked for the engine is taken.", True),
        ([PYDANTIC, "  Value error, The checkpoint you are trying to load has model type `foo` but "
          "Transformers does not recognize this architecture. This could be because of an issue"],
         "This vLLM does not know models of the kind foo; take another model, or a newer vLLM in "
         "requirements-engine.txt.", False),
        ([PYDANTIC, "  Value error, Model architectures ['FooForCausalLM'] are not supported for "
          "now. Supported architectures: dict_keys(['AfmoeForCausalLM'"],
         "This vLLM does not know models of the kind FooForCausalLM; take another model, or a "
         "newer vLLM in requirements-engine.txt.", False),
        (["api_server.py: error: unrecognized arguments: --no-such-flag 3"],
         "vLLM does not take --no-such-flag 3; correct ENGINE_ARGS.", False),
        (["api_server.py: error: argument --dtype: invalid choice: 'int2' (choose from auto, "
          "bfloat16, float, float16, float32, half)"],
         "vLLM does not take --dtype: invalid choice: 'int2' (choose from auto, bfloat16, float, "
         "float16, float32, half); correct ENGINE_ARGS.", False),
        ([PYDANTIC, "  Value error, User-specified max_model_len (40000) is greater than the "
          "derived max_model_len (max_position_embeddings=32768 or model_max_length=None in "
          "model's config.json)."],
         "MAX_MODEL_LEN=40000 is more than the model can read; lower it.", False),
        (["RuntimeError: Failed to infer device type, please set the environment variable "
          "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue."],
         "vLLM sees no GPU here; give the container one, or set ENGINE=small to try the page.",
         False),
        (["RuntimeError: No CUDA GPUs are available"],
         "vLLM sees no GPU here; give the container one, or set ENGINE=small to try the page.",
         False),
        (["/engine/bin/python: Error while finding module specification for "
          "'vllm.entrypoints.openai.api_server' (ModuleNotFoundError: No module named 'vllm')"],
         "There is no vLLM where ENGINE_COMMAND looks for it; install requirements-engine.txt.",
         False),
        ([CORE + "ValueError: GPT2LMHeadModel does not support LoRA yet."],
         "This model takes no adapters; leave ADAPTERS and MAX_LORA_RANK empty.", False),
    ],
)  # fmt: skip
def test_a_known_end_is_a_sentence_on_what_to_do(
    lines: list[str], sentence: str, again: bool
) -> None:
    found = reason(lines, 1)

    assert found.sentence == sentence
    assert found.again is again


def test_the_first_cause_counts_and_not_its_echo() -> None:
    lines = [
        "(APIServer pid=170) WARNING 11-23 12:32:05 [system_utils.py:255] Found ulimit of 20000 "
        "and failed to automatically increase. This can cause fd limit errors like "
        "`OSError: [Errno 24] Too many open files`.",
        CORE + "Traceback (most recent call last):",
        CORE + "safetensors_rust.SafetensorError: Error while deserializing header",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s)"
        ": {}",
    ]

    assert reason(lines, 1).sentence == (
        "The engine ended with code 1: SafetensorError: Error while deserializing header; its log "
        "says more."
    )


def test_what_is_wrong_with_the_models_configuration_is_said() -> None:
    lines = [
        "    s.__pydantic_validator__.validate_python(ArgsKwargs(args, kwargs), self_instance=s)",
        PYDANTIC,
        "  Value error, Unknown quantization method: abc. Must be one of ['awq', 'fp8']. "
        "[type=value_error, input_value=ArgsKwargs((), {'model': ...}), input_type=ArgsKwargs]",
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
    ]

    assert "Unknown quantization method: abc." in reason(lines, 1).sentence


@pytest.mark.parametrize(
    ("code", "ending"), [(1, "code 1"), (-9, "signal SIGKILL"), (-11, "signal SIGSEGV")]
)
def test_an_end_without_a_word_says_how_it_ended_and_is_worth_another_try(
    code: int, ending: str
) -> None:
    found = reason(["Loading safetensors checkpoint shards: 100% Completed"], code)

    assert found.sentence == f"The engine ended with {ending} without a word; its log says more."
    assert found.again
