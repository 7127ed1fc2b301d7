"""What is to be done in this run: the model, how much of everything, and where it is kept.

make legal-qa                                     SmolLM2-135M on the CPU
make legal-qa MODEL=Qwen/Qwen2.5-7B-Instruct      on a GPU, with a model of the hub
make legal-qa QUICK=1                             less of everything: to see the road, not figures
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
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
    answerable: int = 145
    """Held-out questions that a held-out document answers."""
    unanswerable: int = 60
    """Held-out questions that nothing answers."""
    after: int = 40
    """Held-out questions that the agent is asked again after the move."""
    broken: int = 44
    """Held-out questions that the deliberately broken model is asked."""
    train_unanswerable: int = 50
    """Questions that nothing answers, to learn from."""
    left_open: float = 0.08
    """Most examples to be left open, for each one that has an answer: with more of them a small
    model learns to leave everything open."""
    at_once: int = 4
    """Questions asked at the same time: readers of the agent."""
    passages: int = 1
    """What the agent shows its model: more context, more time. Of three passages, the small one
    did not learn to find the sentence that answers."""
    answer_tokens: int = 56
    """Longest answer; a sentence of a contract and its citation."""
    epochs: float = 2.0
    rank: int = 16
    """Of the LoRA adapter."""
    first_layer: int = 12
    """The layers before it are left alone, which saves the way back through them: time."""
    learning_rate: float = 1e-3
    seed: int = 0
    quick: bool = False

    @property
    def work(self) -> Path:
        """Where everything of this run is kept, so that it can stop and go on."""
        folder = os.environ.get("WORK") or ROOT / ".legal-qa"
        name = re.sub(r"[^\w.-]+", "-", self.model or "smollm2-135m").strip("-")
        return Path(folder) / (f"{name}-quick" if self.quick else name)

    @property
    def on_gpu(self) -> bool:
        return bool(shutil.which("nvidia-smi"))


def read() -> Plan:
    model = os.environ.get("MODEL", "").strip()
    plan = Plan(model=str(Path(model).resolve()) if model and Path(model).is_dir() else model)
    if not os.environ.get("QUICK"):
        return plan
    asked = {"answerable": 32, "unanswerable": 10, "after": 4, "broken": 40, "answer_tokens": 28}
    return replace(plan, **asked, epochs=0.25, quick=True)
