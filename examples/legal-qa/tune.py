"""Fine-tuning: LoRA by TRL and PEFT on the CPU; on a GPU the base in 4 bits, with Unsloth where it
is installed. The run is kept in MLflow, and it goes on after its last checkpoint."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset import Example
from plan import NAME, Plan

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What is adapted: all linear layers of a transformer block, as QLoRA does."""


def train(
    base: Path | str, examples: Sequence[Example], plan: Plan, folder: Path
) -> dict[str, Any]:
    """Train an adapter into `folder`/adapter; gives what was measured, and {step: loss} of it. A
    training that was stopped goes on; one that has ended is not done again."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig, SFTTrainer

    measured = folder / "measured.json"
    if measured.exists():
        return dict(json.loads(measured.read_text()))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    clock = _clock(folder / "seconds")
    model, tokenizer = load(base, plan)
    rows = [
        {name: example.as_data()[name] for name in ("prompt", "completion")} for example in examples
    ]
    gpu = plan.on_gpu
    settings = SFTConfig(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=4 if gpu else 1,
        gradient_accumulation_steps=2 if gpu else 4,
        learning_rate=plan.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=3,
        max_length=2048,
        logging_steps=1,
        save_steps=20,
        save_total_limit=1,
        bf16=True,
        use_cpu=not gpu,
        gradient_checkpointing=gpu,
        report_to="none",
        disable_tqdm=False,
        seed=plan.seed,
    )
    adapter = LoraConfig(
        r=plan.rank,
        lora_alpha=2 * plan.rank,
        target_modules=LAYERS,
        layers_to_transform=[*range(plan.first_layer, model.config.num_hidden_layers)],
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=None if hasattr(model, "peft_config") else adapter,
        callbacks=[clock],
    )
    checkpoints = folder / "checkpoints"
    for one in checkpoints.glob("checkpoint-*"):
        if not (one / "trainer_state.json").exists():  # what is written last
            shutil.rmtree(one)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(folder / "adapter"))
    tokenizer.save_pretrained(str(folder / "adapter"))
    losses = {row["step"]: row["loss"] for row in trainer.state.log_history if "loss" in row}
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    found = {
        "seconds": clock.seconds(),
        "steps": trainer.state.global_step,
        "trained_parameters": trained,
        "losses": losses,
        "hardware": torch.cuda.get_device_name() if gpu else "CPU",
        "by": "Unsloth" if _unsloth(gpu) else "TRL and PEFT",
    }
    measured.write_text(json.dumps(found))
    return found


def _clock(file: Path) -> Any:
    """A part of a trainer that counts its seconds in `file`, over stops: as each checkpoint holds
    what was done before it, its seconds are kept with it."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.before = float(file.read_text()) if file.exists() else 0.0
            self.began = time.monotonic()

        def seconds(self) -> float:
            return self.before + time.monotonic() - self.began

        def on_save(self, *_: Any, **__: Any) -> None:
            file.write_text(str(self.seconds()))

    return Clock()


def load(base: Path | str, plan: Plan) -> tuple[Any, Any]:
    """(model, tokenizer) to train: in 4 bits (NF4) on a GPU, in full on the CPU, where 4 bits save
    memory but no time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    gpu = plan.on_gpu
    if _unsloth(gpu):
        from unsloth import FastLanguageModel  # type: ignore[import-not-found]

        model, tokenizer = FastLanguageModel.from_pretrained(
            str(base), max_seq_length=2048, load_in_4bit=True
        )
        model = FastLanguageModel.get_peft_model(
            model, r=plan.rank, lora_alpha=2 * plan.rank, target_modules=LAYERS
        )
        return model, tokenizer
    tokenizer = AutoTokenizer.from_pretrained(base)
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32 if not gpu else torch.bfloat16,
        quantization_config=four if gpu else None,
    )  # fmt: skip
    return model, tokenizer


def _unsloth(gpu: bool) -> bool:
    return gpu and importlib.util.find_spec("unsloth") is not None


def merge(base: Path | str, adapter: Path, to: Path) -> None:
    """The base with the adapter worked in, as safetensors that any engine loads."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(str(to))
    AutoTokenizer.from_pretrained(str(adapter)).save_pretrained(str(to))


def spoil(model: Path, to: Path, noise: float = 1.0) -> None:
    """A model that is broken on purpose: chance added to its weights, `noise` times their spread.
    The gate must refuse it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in broken.named_parameters():
            if name.endswith("_proj.weight"):
                weight.add_(torch.randn_like(weight) * weight.std() * noise)
    broken.to(torch.bfloat16).save_pretrained(str(to))
    AutoTokenizer.from_pretrained(str(model)).save_pretrained(str(to))


def register(
    uri: str, plan: Plan, measured: dict[str, Any], counted: dict[str, float], folder: Path
) -> str:
    """Keep the run in MLflow, and the merged model as a new version of `legal-qa` with the alias
    `candidate`; gives the version."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(NAME)
    client = mlflow.MlflowClient()
    with mlflow.start_run() as run:
        mlflow.log_params(
            {
                "base": plan.model or "SmolLM2-135M-Instruct", "rank": plan.rank,
                "learning_rate": plan.learning_rate, "epochs": plan.epochs, **counted,
                "by": measured["by"], "hardware": measured["hardware"],
            }
        )  # fmt: skip
        for step, loss in measured["losses"].items():
            mlflow.log_metric("loss", loss, step=int(step))
        mlflow.log_metric("seconds", measured["seconds"])
        mlflow.log_artifacts(str(folder / "merged"), "model")
        mlflow.log_artifacts(str(folder / "adapter"), "adapter")
        mlflow.log_artifact(str(folder / "measured.json"))
    if not client.search_registered_models(filter_string=f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    version = client.create_model_version(NAME, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(NAME, "candidate", version.version)
    return str(version.version)


def promote(uri: str, version: str) -> None:
    """The version that passed the gate becomes the champion; the one before it `previous`."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    aliases = client.get_registered_model(NAME).aliases
    if (before := aliases.get("champion")) and before != version:
        client.set_registered_model_alias(NAME, "previous", before)
    client.set_registered_model_alias(NAME, "champion", version)


def demote(uri: str) -> None:
    """Take a promotion back: the version before is the champion again, or none where none was."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    if before := client.get_registered_model(NAME).aliases.get("previous"):
        client.set_registered_model_alias(NAME, "champion", before)
        client.delete_registered_model_alias(NAME, "previous")
    else:
        client.delete_registered_model_alias(NAME, "champion")
