"""What the engine's output means: how far a start is, and why it failed.

The lines are those of vLLM 0.32; where a later one words them otherwise, the phases are coarser
and the reason is the last error that it wrote.
"""

import re
import signal
from dataclasses import dataclass

PHASES = (
    (r"Starting to load model|Loading model from scratch", "weights"),
    (r"Loading safetensors checkpoint shards:\s+(\d+)%", "weights"),
    (r"Using cache directory: .* torch\.compile|Dynamo bytecode transform", "compile"),
    (r"Compiling a graph|torch\.compile took|Available KV cache memory", "compile"),
    (r"Capturing CUDA graphs.*?:\s+(\d+)%", "graphs"),
    (r"Starting vLLM server", "graphs"),
)
"""Pattern of a line, with a percentage where it has one, and what the engine then does."""
NOISE = re.compile(r'^INFO:\s+[\d.]+:\d+ - "|^\s*$')
"""Lines that nobody needs: its log of requests."""
KV_CACHE = re.compile(r"KV cache size: ([\d,]+) tokens")


@dataclass(frozen=True)
class Reason:
    """Why a start failed, and whether another one may do better."""

    sentence: str
    again: bool


REASONS = (
    (
        r"OutOfMemoryError|CUDA out of memory",
        "The card ran out of memory while the model was loaded; free it of other programs, or take "
        "a smaller or quantised model.",
        True,
    ),
    (
        r"Free memory on device \S+ \(([\d.]+)/([\d.]+) GiB\)",
        "Only {0} of the card's {1} GiB are free, which is less than vLLM was told to take; stop "
        "what else uses the card, or lower GPU_MEMORY_UTILIZATION.",
        True,
    ),
    (
        r"No available memory for the cache blocks|KV cache is needed, which is larger than",
        "After the weights too little of the card's memory is left for a talk; lower MAX_MODEL_LEN "
        "or take a smaller or quantised model.",
        False,
    ),
    (r"Address already in use", "The port that was picked for the engine is taken.", True),
    (
        r"model type `(\S+)` but Transformers does not recognize|"
        r"Model architectures \['(\w+)'\] (?:are not supported|failed)",
        "This vLLM does not know models of the kind {0}; take another model, or a newer vLLM in "
        "requirements-engine.txt.",
        False,
    ),
    (
        r"error: unrecognized arguments: (.+)|error: argument (.+)",
        "vLLM does not take {0}; correct ENGINE_ARGS.",
        False,
    ),
    (
        r"User-specified max_model_len \((\d+)\) is greater",
        "MAX_MODEL_LEN={0} is more than the model can read; lower it.",
        False,
    ),
    (
        r"Failed to infer device type|No CUDA GPUs are available|"
        r"Found no NVIDIA driver|Device string must not be empty",
        "vLLM sees no GPU here; give the container one, or set ENGINE=small to try the page.",
        False,
    ),
    (
        r"No module named '?vllm",
        "There is no vLLM where ENGINE_COMMAND looks for it; install requirements-engine.txt.",
        False,
    ),
    (
        r"does not support LoRA",
        "This model takes no adapters; leave ADAPTERS and MAX_LORA_RANK empty.",
        False,
    ),
)
_ERROR = re.compile(
    r"(?:^|[\s.])(\w*(?:Error|Exception)\b: (?!\d+ validation errors? for ).+)|"
    r"^  ((?:Value error|Assertion failed), .+?)(?: \[type=|$)"
)


def phase(line: str) -> tuple[str, str] | None:
    """(phase, "42 %" or "") that a line tells of."""
    for pattern, name in PHASES:
        if found := re.search(pattern, line):
            return name, f"{found[1]} %" if found.groups() else ""
    return None


def reason(lines: list[str], code: int) -> Reason:
    """Of an engine that wrote `lines` and ended with `code`. The first cause counts: what follows
    is its echo."""
    for line in lines:
        for pattern, sentence, again in REASONS:
            if found := re.search(pattern, line):
                return Reason(sentence.format(*(group for group in found.groups() if group)), again)
    errors = [found[1] or found[2] for line in lines if (found := _ERROR.search(line))]
    said = f": {errors[0][:300].rstrip('.')}" if errors else " without a word"
    return Reason(f"The engine ended with {_ending(code)}{said}; its log says more.", True)


def _ending(code: int) -> str:
    known = {number.value: number.name for number in signal.Signals}
    return f"signal {known.get(-code, -code)}" if code < 0 else f"code {code}"
