"""Models of Hugging Face's hub: looked up and downloaded, by a process of its own.

A download in a thread could not be stopped with the app, and one in the engine shows no progress.
The process, `python -m agent.hub look|fetch MODEL`, prints a line of JSON for whatever there is to
say; files go to the hub's own cache (HF_HOME), where a later start finds them.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.children import environment, killed, start
from agent.errors import Refused, Unavailable
from agent.fit import gib
from agent.settings import HERE

TEXT = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
"""Configuration, tokenizer, and code that --trust-remote-code lets run."""
WEIGHTS = (".safetensors", ".bin", ".pt")
"""The first kind that a model has is the one that is taken."""
SAID_EVERY_S = 1.0

Tell = Callable[[str, str], None]
"""Takes a phase, and how far it is."""


class Hub:
    """Asks the hub; `token` is for gated models."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def look(self, model: str) -> dict[str, Any]:
        """{"config": ..., "weights": bytes}, without its weights being downloaded."""
        return await self._run("look", model, lambda *_: None)

    async def fetch(self, model: str, tell: Tell) -> Path:
        """The folder of the whole model, downloaded where it is not there yet."""
        return Path((await self._run("fetch", model, tell))["folder"])

    async def _run(self, what: str, model: str, tell: Tell) -> dict[str, Any]:
        env = environment() | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if self._token:
            env["HF_TOKEN"] = self._token
        program = [sys.executable, "-m", "agent.hub", what, model]
        child = await start(program, HERE, env, stdout=asyncio.subprocess.PIPE, limit=2**24)
        said: dict[str, Any] = {}
        async with killed(child):
            assert child.stdout
            async for line in child.stdout:
                said = json.loads(line)
                if "done" in said:
                    tell("download", progress(said["done"], said["total"], said["seconds"]))
            await child.wait()
        if "refused" in said:
            raise Refused(said["refused"])
        if "folder" in said or "config" in said:
            return said
        raise Unavailable(said.get("away") or f"Looking {model} up at the hub failed.", "hub")


def progress(done: int, total: int, seconds: float) -> str:
    """How much is there, and how long the rest takes at that pace."""
    text = f"{gib(done)} of {gib(total)}"
    if 0 < done < total and seconds > 2:
        left = (total - done) * seconds / done
        text += f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left"
    return text


def _wanted(files: dict[str, int]) -> dict[str, int]:
    """Of all files {name: bytes} those that an engine reads: no folders, one kind of weights."""
    top = {name: size for name, size in files.items() if "/" not in name}
    weights: dict[str, int] = {}
    for kind in WEIGHTS:
        weights = weights or {n: s for n, s in top.items() if n.endswith(kind)}
    if len(shards := {n: s for n, s in weights.items() if not n.startswith("consolidated")}):
        weights = shards  # the same once more, in its maker's own form
    return {n: s for n, s in top.items() if n.endswith(TEXT)} | weights


def _look(model: str) -> dict[str, Any]:
    files = _files(model)
    if files is None:  # the hub is away, but the model may be here
        return _here(model)
    name = next((n for n in ("adapter_config.json", "config.json") if n in files), None)
    if name is None:
        raise Refused(f"{model} has no config.json at the hub: it is no model that vLLM reads.")
    weights = sum(size for file, size in _wanted(files).items() if file.endswith(WEIGHTS))
    if not weights:
        raise Refused(f"{model} has no weights that vLLM reads (.safetensors or .bin).")
    from huggingface_hub import hf_hub_download

    return {
        "config": json.loads(Path(hf_hub_download(model, name)).read_text()),
        "weights": weights,
    }


def _here(model: str) -> dict[str, Any]:
    from agent.weights import read_folder

    config, size = read_folder(_cached(model))
    return {"config": config, "weights": size}


def _fetch(model: str) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    files = _files(model)
    if files is None:
        return {"folder": str(_cached(model))}
    wanted = _wanted(files)
    stopped = threading.Event()
    telling = threading.Thread(
        target=_tell, args=(model, sum(wanted.values()), stopped), daemon=True
    )
    telling.start()
    try:
        return {"folder": snapshot_download(model, allow_patterns=list(wanted))}
    finally:
        stopped.set()
        telling.join()


def _tell(model: str, total: int, stopped: threading.Event) -> None:
    """Print how many bytes are on the disk, by looking there: libraries differ in what they say."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model") / "blobs"
    begin, before = time.monotonic(), _on_disk(blobs)
    while not stopped.wait(SAID_EVERY_S):
        now, seconds = _on_disk(blobs), time.monotonic() - begin
        pace = seconds * now / (now - before) if now > before else 0.0
        _say({"done": min(now, total), "total": total, "seconds": pace})


def _on_disk(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:  # it was renamed meanwhile
            continue
    return total


def _files(model: str) -> dict[str, int] | None:
    """{name: bytes} of a model; None while the hub is out of reach."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = HfApi().model_info(model, files_metadata=True, timeout=20)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            raise
        return None
    except Exception:  # whatever its library for HTTP raises, which is not always the same one
        return None
    return {file.rfilename: file.size or 0 for file in found.siblings or []}


def _cached(model: str) -> Path:
    """The folder of a model that was downloaded before."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError:
        raise Unavailable(
            f"The hub at {ENDPOINT} is out of reach, and {model} was not downloaded before; check "
            "the way there, or give a folder as MODEL_ID."
        ) from None


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def _main(what: str, model: str) -> None:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        _say(_look(model) if what == "look" else _fetch(model))
    except Refused as error:
        _say({"refused": str(error)})
    except Unavailable as error:
        _say({"away": str(error)})
    except HFValidationError:
        _say({"refused": f"{model!r} is no owner/name that the hub can have."})
    except GatedRepoError:
        terms = "accept its terms at the hub, and set HF_TOKEN to a token of that account"
        _say({"refused": f"{model} is gated: {terms}."})
    except RepositoryNotFoundError:
        where = "There is no such model at the hub, or HF_TOKEN may not see it"
        _say({"refused": f"{where} ({model}); correct MODEL_ID."})
    except HfHubHTTPError as error:
        _say(_answered(model, error.response.status_code))
    except Exception as error:  # whatever a library raises, with the words that it has
        _say({"away": f"{model} could not be downloaded ({_first_line(error)})."})


def _answered(model: str, status: int) -> dict[str, str]:
    if status == 401:
        return {"refused": "The hub does not take HF_TOKEN; make a new one there."}
    return {"away": f"The hub answers {status} for {model}."}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    _main(*sys.argv[1:3])
    sys.stdout.flush()
    os._exit(0)  # a thread of the hub's library may wait for a dead connection
