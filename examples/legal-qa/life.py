"""One legal question-answering agent, taken through its whole life.

    make legal-qa                 all steps; what is done already is passed over
    make legal-qa FRESH=1         from the beginning
    make legal-qa SAVE=1          keep the figures for the documentation too
    make legal-qa QUICK=1         less of everything: to see the road, not figures

Each step's output is the next one's input, in a folder of its own under .legal-qa/. A step that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import asking  # noqa: E402
import dataset  # noqa: E402
import gate  # noqa: E402
import plan as plans  # noqa: E402
import questions  # noqa: E402
import report  # noqa: E402
import serving  # noqa: E402
import tune  # noqa: E402
from plan import NAME, TRAIN_ON, Plan  # noqa: E402

from parts import apps, litellm, mlflow  # noqa: E402
from tests.doubles.gateway import Gateway  # noqa: E402
from tests.doubles.langfuse import Langfuse  # noqa: E402
from tests.doubles.serve import running  # noqa: E402

CANDIDATE = f"{NAME}-candidate"
"""The alias under which a model is asked before it passed the gate."""
FREE_GIB, MEMORY_GIB = 8, 8


class Life:
    """What the steps share: the two apps, the servers, and the questions."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.work = plan, plan.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.agent = apps.render("tkt-rag-agent", self.work / "apps", "agent")
        self.server = apps.render("tkt-vllm-gradio", self.work / "apps", "server")
        self.train, self.held_out = questions.split(questions.load(self.agent), plan)

    @property
    def base(self) -> Path | str:
        """The model before it is tuned."""
        if self.plan.model:
            return self.plan.model
        from parts import vllm_cpu

        return vllm_cpu.smollm2()

    @contextmanager
    def asked(
        self, model: litellm.Model, alias: str, langfuse: dict[str, str] | None = None
    ) -> Iterator[tuple[str, litellm.Proxy]]:
        """An agent that asks `alias` at LiteLLM, behind which `model` stands."""
        folder = self.work / "agent"
        folder.mkdir(exist_ok=True)
        with (
            litellm.proxy(folder, {alias: model}) as gateway,
            asking.started(self.agent, folder, self.plan, gateway, alias, langfuse or {}) as url,
        ):
            yield url, gateway

    @contextmanager
    def mlflow(self) -> Iterator[mlflow.Mlflow]:
        folder = self.work / "mlflow"
        folder.mkdir(exist_ok=True)
        with mlflow.server(folder) as here:
            yield here

    def registered(self, alias: str, here: mlflow.Mlflow, name: str) -> Any:
        """The server of a registered model, as the platform mounts it."""
        env = {"MLFLOW_TRACKING_URI": here.url, "MLFLOW_MODELS": here.artefacts}
        model = f"models:/{NAME}@{alias}"
        return serving.served(self.server, self.work / name, self.plan, model, **env)


def baseline(life: Life, folder: Path) -> None:
    """The agent, with the model as it came, is asked all held-out questions."""
    with (
        serving.served(life.server, life.work / "server", life.plan, life.base) as model,
        life.asked(model, NAME) as (url, _),
    ):
        asking.ask_all(url, life.held_out, folder / "answers.jsonl", life.plan, "Base model")


def examples(life: Life, folder: Path) -> None:
    """The prompts of the agent, from its traces, with the answers that should have come.

    Nobody reads the answers here, so that a stand-in gives them; on the platform traces come from
    the agent's real use."""
    silent = Gateway(models=["silent"], reply="-")
    with ExitStack() as stack:
        host, keys = langfuse(stack)
        env = {
            "LANGFUSE_HOST": host,
            "LANGFUSE_PUBLIC_KEY": keys[0],
            "LANGFUSE_SECRET_KEY": keys[1],
        }
        model = litellm.Model(
            f"{stack.enter_context(running(silent.app))}/v1", "sk-double", "silent"
        )
        url, _ = stack.enter_context(life.asked(model, NAME, env))
        file = folder / "asked.jsonl"
        file.unlink(missing_ok=True)  # their traces went with the stand-in that held them
        rows = asking.ask_all(url, life.train, file, life.plan, "Asking for prompts", TRAIN_ON)
        http = stack.enter_context(httpx.Client(base_url=host, auth=keys, timeout=30))
        found = dataset.from_traces(http, rows, life.train)
    found = dataset.balanced(found, life.plan.left_open)
    if wrong := dataset.troubles(found, life.held_out):
        raise RuntimeError(wrong[0])
    from transformers import AutoTokenizer

    counted = dataset.statistics(found, AutoTokenizer.from_pretrained(life.base))
    (folder / "statistics.json").write_text(json.dumps(counted))
    print(", ".join(f"{name} {value:.0f}" for name, value in counted.items()))
    dataset.write(found, folder / "train.jsonl")


def langfuse(stack: ExitStack) -> tuple[str, tuple[str, str]]:
    """(address, keys) of Langfuse. It cannot be installed from packages: without keys its double
    takes its place, which speaks the same protocol."""
    keys = os.environ.get("LANGFUSE_PUBLIC_KEY", ""), os.environ.get("LANGFUSE_SECRET_KEY", "")
    if all(keys):
        return os.environ.get("LANGFUSE_HOST", "https://cloud.langfuse.com"), keys
    if any(keys):
        raise RuntimeError("Langfuse wants both LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY.")
    return stack.enter_context(running(Langfuse().app)), ("pk-lf-double", "sk-lf-double")


def tuned(life: Life, folder: Path) -> None:
    """The model is tuned on them, merged, and registered in MLflow."""
    learned = life.work / "examples"
    measured = tune.train(life.base, dataset.read(learned / "train.jsonl"), life.plan, folder)
    tune.merge(life.base, folder / "adapter", folder / "merged")
    counted = json.loads((learned / "statistics.json").read_text())
    with life.mlflow() as here:
        version = tune.register(here.url, life.plan, measured, counted, folder)
    (folder / "version").write_text(version)


def gated(life: Life, folder: Path) -> None:
    """The candidate is asked the same questions, and so is a model that is broken on purpose."""
    base = asking.read(life.work / "baseline" / "answers.jsonl")
    with (
        life.mlflow() as here,
        life.registered("candidate", here, "server") as model,
        life.asked(model, CANDIDATE) as (url, _),
    ):
        file = folder / "candidate.jsonl"
        rows = asking.ask_all(url, life.held_out, file, life.plan, "Tuned model")
    decision = gate.decide(base, rows)
    tune.spoil(life.work / "tuned" / "merged", folder / "broken-model")
    some = life.held_out[: life.plan.broken]
    with (
        serving.served(
            life.server, life.work / "server", life.plan, folder / "broken-model"
        ) as model,
        life.asked(model, CANDIDATE) as (url, _),
    ):
        worse = asking.ask_all(url, some, folder / "broken.jsonl", life.plan, "Broken model")
    refused = gate.decide(base, worse)
    shutil.rmtree(folder / "broken-model")
    data = {"candidate": decision.as_data(), "broken": refused.as_data()}
    (folder / "decisions.json").write_text(json.dumps(data, indent=1))
    for name, said in (("The tuned model", decision), ("The broken model", refused)):
        print(f"{name} {'passes' if said.passed else 'is refused'}:")
        print("\n".join(f"  {reason}" for reason in said.reasons))


def deployed(life: Life, folder: Path) -> None:
    """The alias is moved to the tuned model, the agent asked again, and the alias moved back."""
    decision = json.loads((life.work / "gate" / "decisions.json").read_text())["candidate"]
    if not decision["passed"]:
        print("The gate refused the tuned model: the alias stays where it is.")
        return
    with ExitStack() as stack:
        here = stack.enter_context(life.mlflow())
        tune.promote(here.url, (life.work / "tuned" / "version").read_text())
        old = stack.enter_context(
            serving.served(life.server, life.work / "server-before", life.plan, life.base)
        )
        new = stack.enter_context(life.registered("champion", here, "server"))
        url, gateway = stack.enter_context(life.asked(old, NAME))
        some = [question for question in life.held_out if question.answerable][:3]
        # Alone and for a second time, as then the engine computes the same in the same order.
        alone = replace(life.plan, at_once=1)
        asking.ask_all(url, some, _new(folder / "first.jsonl"), alone, "Warming up")
        before = asking.ask_all(url, some, _new(folder / "before.jsonl"), alone, "Before")
        gateway.move({NAME: new})
        after = life.held_out[: life.plan.after]
        moved = asking.ask_all(url, after, folder / "after.jsonl", life.plan, "After the move")
        gateway.move({NAME: old})
        tune.demote(here.url)
        back = asking.ask_all(url, some, _new(folder / "back.jsonl"), alone, "Rolled back")
    same = sum(a["said"] == b["said"] for a, b in zip(before, back, strict=True))
    print(f"Rolled back: {same} of {len(some)} answers are the base model's again, word for word.")
    tuned_said = {row["question"]: row["said"] for row in moved}
    if all(row["said"] == tuned_said.get(row["question"]) for row in back):
        raise RuntimeError(f"After the roll-back the tuned model still answers: {folder}")
    (folder / "rolled-back.json").write_text(json.dumps({"same": same, "of": len(some)}))


def _new(file: Path) -> Path:
    file.unlink(missing_ok=True)
    return file


STEPS: dict[str, Callable[[Life, Path], None]] = {
    "baseline": baseline,
    "examples": examples,
    "tuned": tuned,
    "gate": gated,
    "deployed": deployed,
}
"""Folder of each step, in this order."""


def run(life: Life) -> None:
    """Do what is not done yet; a step whose making has changed is done anew, and all after it."""
    made_of, stale = _made_of(life.plan), False
    usual = {} if life.plan.quick else report.usual_seconds()
    for number, (name, step) in enumerate(STEPS.items(), 1):
        folder = life.work / name
        kept = _state(folder)
        head = f"[{number}/{len(STEPS)}] {name}: {(step.__doc__ or '').splitlines()[0]}"
        same = kept["made_of"] == made_of and not stale
        if same and kept["done"]:
            print(f"{head} Done already.", flush=True)
            continue
        if not same:
            shutil.rmtree(folder, ignore_errors=True)
            kept = {"made_of": made_of, "seconds": 0, "done": False}
            _keep(folder, kept)
        left = sum(usual.get(later, 0) for later in [*STEPS][number - 1 :])
        print(head + (f" About {left / 60:.0f} min are left." if left else ""), flush=True)
        began = time.monotonic()
        try:
            step(life, folder)
            kept["done"] = stale = True
            kept |= {"date": datetime.now(UTC).date().isoformat(), "machine": report.machine()}
        finally:
            kept["seconds"] = round(kept["seconds"] + time.monotonic() - began, 1)
            _keep(folder, kept)
        print(f"    {kept['seconds']:.0f} s", flush=True)


def _state(folder: Path) -> dict[str, Any]:
    """What is known of a step: what it was made of, its seconds so far, and whether it is done."""
    file = folder / report.STATE
    return json.loads(file.read_text()) if file.exists() else {"made_of": "", "done": False}


def _keep(folder: Path, state: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / report.STATE).write_text(json.dumps(state))


def _made_of(plan: Plan) -> str:
    """What the results depend on, beside the apps: the plan and this folder's code."""
    digest = hashlib.sha256(json.dumps(asdict(plan)).encode())
    for path in sorted(HERE.glob("*.py")):
        if path.name != "report.py":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def check(plan: Plan) -> None:
    """What would fail after minutes is said at once."""
    if plan.model and not plan.on_gpu and not Path(plan.model).is_dir():
        raise RuntimeError(
            f"There is no GPU here for {plan.model}: leave MODEL out, and SmolLM2-135M is taken."
        )
    if plan.on_gpu:
        import torch

        if not torch.cuda.is_available():
            raise RuntimeError("nvidia-smi is here, but PyTorch sees no GPU: look at the driver.")
    billions = _billions(plan.model) if plan.model else 0
    disk, ram = FREE_GIB + 8 * billions, MEMORY_GIB + 5 * billions
    folder = next(path for path in (plan.work, *plan.work.parents) if path.exists())
    if (free := shutil.disk_usage(folder).free / 2**30) < disk:
        raise RuntimeError(
            f"{folder} has {free:.0f} GiB free, and {disk:.0f} are needed: make room, or set WORK."
        )
    if (memory := psutil.virtual_memory().available / 2**30) < ram:
        raise RuntimeError(
            f"{memory:.0f} GiB of memory are free, and {ram:.0f} are needed: end something else."
        )
    with ExitStack() as stack:
        host, keys = langfuse(stack)
        _look_for(host, keys)


def _billions(model: str) -> float:
    """Of its parameters. They lie on the disk four times in 16 bits, and once in memory in 32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise RuntimeError(f"{model} cannot be had ({said}): check MODEL or HF_TOKEN.") from None
    with torch.device("meta"):  # its shape, without its weights
        return float(AutoModelForCausalLM.from_config(config).num_parameters() / 1e9)


def _look_for(langfuse: str, keys: tuple[str, str]) -> None:
    """RuntimeError when Langfuse is not there, or does not know these keys."""
    try:
        answer = httpx.get(f"{langfuse}/api/public/projects", auth=keys, timeout=30)
    except httpx.HTTPError as error:
        raise RuntimeError(
            f"Langfuse at {langfuse} does not answer ({error}): set LANGFUSE_HOST, or unset "
            "LANGFUSE_PUBLIC_KEY, and a stand-in takes its place."
        ) from None
    if answer.status_code in (401, 403):
        raise RuntimeError(
            f"Langfuse at {langfuse} does not know these keys: check LANGFUSE_PUBLIC_KEY and "
            "LANGFUSE_SECRET_KEY."
        )
    if answer.status_code != 200 or "json" not in answer.headers.get("content-type", ""):
        raise RuntimeError(
            f"At {langfuse} is no Langfuse (it answers {answer.status_code}): check LANGFUSE_HOST."
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="from the beginning")
    parser.add_argument(
        "--save", action="store_true", help="keep the figures in benchmarks/results"
    )
    options = parser.parse_args()
    plan = plans.read()
    if plan.quick and options.save:
        parser.error("figures of QUICK=1 are not kept: leave out QUICK, or SAVE")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or its servers would outlive it
    try:
        check(plan)
        if options.fresh:
            shutil.rmtree(plan.work, ignore_errors=True)
        life = Life(plan)
        run(life)
        report.write(plan, [*STEPS], options.save)
    except (RuntimeError, httpx.HTTPError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
