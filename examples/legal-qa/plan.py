"""What is to be done in this run: the model, how much of everything, and where it is kept.

make legal-qa                                     SmolLM2-135M on the CPU
make legal-qa MODEL=Qwen/Qwen2.5-7B-Instruct      on a GPU, with a model of the hub
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "legal-qa"
"""The alias at LiteLLM, and the registered model in MLflow."""
TRAIN_ON = (
    "employment-contract-marlowe.docx",
    "loan-agreement-northgate.pdf",
    "mutual-nda-kestrel-vantage.pdf",
    "retail-lease-mill-lane.docx",
    "services-agreement-brightwater.pdf",
    "warehouse-lease-tannery-row.pdf",
)
"""Documents that may be learned from; all questions about the others are held out."""


@dataclass(frozen=True)
class Plan:
    """Its figures were chosen for a model with 135 million parameters; a larger one wants a smaller
    learning rate, all its layers, and takes more passages."""

    model: str = ""
    """A model of the hub or a folder; "" is SmolLM2-135M-Instruct, from a package."""
    answerable: int = 150
    """Held-out questions that a held-out document answers."""
    unanswerable: int = 60
    """Held-out questions that nothing answers."""
    after: int = 60
    """Held-out questions that the agent is asked again after the move."""
    broken: int = 48
    """Held-out questions that the deliberately broken model is asked."""
    train_unanswerable: int = 50
    """Questions that nothing answers, to learn from."""
    left_open: float = 0.35
    """Most examples to be left open, for each one that has an answer: with more of them a small
    model learns to leave everything open."""
    at_once: int = 4
    """Questions asked at the same time: readers of the agent."""
    passages: int = 1
    """What the agent shows its model: more context, more time. Of three passages, the small one
    did not learn to find the sentence that answers."""
    answer_tokens: int = 72
    """Longest answer; a sentence of a contract and its citation."""
    epochs: float = 1.5
    rank: int = 16
    """Of the LoRA adapter."""
    first_layer: int = 12
    """The layers before it are left alone, which saves the way back through them: time."""
    learning_rate: float = 1e-3
    seed: int = 0

    @property
    def work(self) -> Path:
        """Where everything of this run is kept, so that it can stop and go on."""
        folder = os.environ.get("WORK") or ROOT / ".legal-qa"
        return Path(folder) / re.sub(r"[^\w.-]+", "-", self.model or "smollm2-135m").strip("-")

    @property
    def on_gpu(self) -> bool:
        return bool(shutil.which("nvidia-smi"))


def read() -> Plan:
    model = os.environ.get("MODEL", "").strip()
    return Plan(model=str(Path(model).resolve()) if model and Path(model).is_dir() else model)
