"""Runs the notebooks from top to bottom, each in the environment that it asks for.

    python tools/notebooks.py                       as on a laptop with nothing
    python tools/notebooks.py --platform            with the platform's variables, set to doubles
    python tools/notebooks.py --write               and keep their outputs and times
    python tools/notebooks.py 01 04-rag             only some of them

What a cell says must be what is committed, unless the cell is tagged `varies` (times, words of a
model). No notebook may reach another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from parts import mlflow, nats  # noqa: E402
from parts.environments import environment  # noqa: E402
from tests.doubles.gateway import Gateway  # noqa: E402
from tests.doubles.langfuse import Langfuse  # noqa: E402
from tests.doubles.qdrant_server import Qdrant  # noqa: E402
from tests.doubles.serve import running  # noqa: E402

REQUIREMENTS = {
    "notebooks": "notebooks/agent-dev/requirements.txt",
    "notebooks-crewai": "notebooks/agent-dev/requirements-crewai.txt",
    "fine-tuning": "examples/legal-qa/requirements.txt",
}
"""Of each environment."""
NOTEBOOKS = {
    "agent-dev/01-langchain-basics": "notebooks",
    "agent-dev/04-rag-pipeline": "notebooks",
    "agent-dev/05-crewai-agents": "notebooks-crewai",
    "fine-tuning/02-qlora-tuning": "fine-tuning",
    "fine-tuning/04-evaluation-deployment": "fine-tuning",
}
"""In this order, as the last one needs what the one before it made; with their environments."""
KEPT = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""Variables that a notebook sees of this shell, besides those of the families."""
FAMILIES = ("LC_", "OMP_", "PIP_", "UV_")
"""What such a name begins with."""
LIMIT_S = 600
"""For one cell."""
VARIES = "varies"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of their names; all without one")
    parser.add_argument("--platform", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    wanted = [name for name in NOTEBOOKS if _chosen(name, options.names)]
    seconds, troubles = {}, []
    with _platform() if options.platform else nullcontext({}) as variables:
        for name in wanted:
            pins = ["--requirement", ROOT / REQUIREMENTS[NOTEBOOKS[name]]]
            python = environment(NOTEBOOKS[name], pins, compiled=False) / "python"
            began = time.monotonic()
            print(f"{name} ...", flush=True)
            found = run(ROOT / "notebooks" / f"{name}.ipynb", python, variables, options.write)
            troubles += found
            seconds[name] = round(time.monotonic() - began, 1)
            print(f"    {seconds[name]:.0f} s", flush=True)
            print("".join(f"    {line}\n" for line in found), end="", flush=True)
    print(f"{len(wanted)} notebooks in {sum(seconds.values()):.0f} s")
    whole = len(wanted) == len(NOTEBOOKS) and not troubles
    if whole and options.write and not options.platform:
        sys.path.insert(0, str(ROOT / "benchmarks"))
        from results import save

        save("notebooks", {"notebooks_s": round(sum(seconds.values())), "each_s": seconds})
    return 1 if troubles else 0


def _chosen(name: str, parts: Sequence[str]) -> bool:
    return not parts or any(part in name for part in parts)


def run(file: Path, python: Path, variables: dict[str, str], write: bool) -> list[str]:
    """What went wrong, a sentence each; with `write` the outputs are kept in the file."""
    committed = nbformat.read(file, as_version=4)
    ran = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as scratch, _kernel(python, Path(scratch)) as kernel:
        refused = Path(scratch) / "refused"
        env = _kept() | {"PYTHONPATH": str(ROOT / "tests" / "guard"), "REFUSED_LOG": str(refused)}
        client = NotebookClient(
            ran,
            timeout=LIMIT_S,
            kernel_name=kernel,
            coalesce_streams=True,  # of a progress bar, its end
            resources={"metadata": {"path": str(file.parent)}},
        )
        try:
            client.execute(env=env | variables)
        except CellExecutionError as error:
            return [f"{file.name} stops: {error.ename}: {error.evalue}\n{error.traceback[-2000:]}"]
        finally:
            refusals = refused.read_text().split() if refused.exists() else []
    found = [f"{file.name} wanted to reach {place}." for place in sorted(set(refusals))]
    for cell in ran.cells:
        _tidy(cell)
    if write:
        ran.metadata = {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        nbformat.write(ran, file)
        return found
    if variables:  # doubles say other things than what a laptop has
        return found
    return found + _differences(file.name, committed, ran)


def _kept() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT or name.startswith(FAMILIES)
    }


def _differences(name: str, committed: Any, ran: Any) -> list[str]:
    found = []
    for number, (before, now) in enumerate(zip(committed.cells, ran.cells, strict=True)):
        if now.cell_type != "code" or VARIES in now.metadata.get("tags", []):
            continue
        if _said(before) != _said(now):
            found.append(
                f"{name}, cell {number} says otherwise than what is committed: "
                f"{_said(now)[:300]!r} instead of {_said(before)[:300]!r}; make notebooks WRITE=1 "
                "keeps it."
            )
    return found


def _said(cell: Any) -> str:
    texts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/plain", ""))
    return "".join(texts)


def _tidy(cell: Any) -> None:
    """What is written must not differ without a reason: no progress bars, no times of cells."""
    cell.metadata.pop("execution", None)
    if cell.cell_type == "code":
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]


@contextmanager
def _kernel(python: Path, folder: Path) -> Iterator[str]:
    """The name of a kernel that runs this Python."""
    home = folder / "kernels" / "theirs"
    home.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "theirs", "language": "python"}
    (home / "kernel.json").write_text(json.dumps(spec))
    os.environ["JUPYTER_PATH"] = str(folder)  # this process has no other kernels
    yield "theirs"


@contextmanager
def _platform() -> Iterator[dict[str, str]]:
    """The platform's variables, with doubles behind them, and real servers where they run here."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield {
            "LITELLM_ENDPOINT": stack.enter_context(running(Gateway().app)),
            "LITELLM_MASTER_KEY": "sk-double",
            "QDRANT_URL": stack.enter_context(running(Qdrant().app)),
            "LANGFUSE_HOST": stack.enter_context(running(Langfuse().app)),
            "LANGFUSE_PUBLIC_KEY": "pk-lf-double",
            "LANGFUSE_SECRET_KEY": "sk-lf-double",
            "NATS_URL": stack.enter_context(nats.server(folder)),
            "MLFLOW_TRACKING_URI": stack.enter_context(mlflow.server(folder)).url,
        }


if __name__ == "__main__":
    sys.exit(main())
