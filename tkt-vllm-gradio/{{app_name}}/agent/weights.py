"""Where a model's or an adapter's files are: a folder, MLflow, or the hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import Refused, Unavailable
from agent.hub import WEIGHTS, Hub, Tell
from agent.mlflow import Registry

CONFIGS = ("adapter_config.json", "config.json")


@dataclass(frozen=True)
class Weights:
    """`folder` is None for what the hub has yet to send; `size` counts bytes of weights."""

    name: str
    origin: str
    config: dict[str, Any]
    size: int
    folder: Path | None = None
    tokenizer: Path | None = None

    @property
    def rank(self) -> int:
        """Of an adapter; 0 for what is none."""
        rank = self.config.get("r")
        return rank if isinstance(rank, int) else 0


class Sources:
    """`registry` is None where there is no MLflow."""

    def __init__(self, hub: Hub, registry: Registry | None) -> None:
        self._hub = hub
        self.registry = registry

    async def look(self, source: str) -> Weights:
        """What a source names; nothing large is downloaded."""
        if source.startswith("models:/"):
            if self.registry is None:
                raise Refused(f"{source} is MLflow's, and no MLFLOW_TRACKING_URI is set.")
            folder, origin = await self.registry.folder(source)
            name = source.removeprefix("models:/").partition("/")[0].partition("@")[0]
            return in_folder(name, folder, f"MLflow: {origin}")
        if source.startswith(("/", "./", "~")):
            path = Path(source).expanduser()
            if not path.is_dir():
                raise Refused(f"There is no folder {source}; correct MODEL_ID or ADAPTERS.")
            return in_folder(path.name, path, f"folder {path}")
        if source.count("/") != 1:
            raise Refused(f"{source!r} is no owner/name of the hub, no folder and no models:/name.")
        if mirrored := await self._mirrored(source):
            return mirrored
        found = await self._hub.look(source)
        return Weights(source, "the hub", found["config"], found["weights"])

    async def folder(self, weights: Weights, tell: Tell) -> Path:
        """Its files on this machine, downloaded first where they are not."""
        return weights.folder or await self._hub.fetch(weights.name, tell)

    async def _mirrored(self, source: str) -> Weights | None:
        """A registry that is away, or has no model there, is no reason not to ask the hub."""
        try:
            found = await self.registry.mirror(source) if self.registry else None
            return in_folder(source, found[0], f"MLflow: {found[1]}") if found else None
        except (Refused, Unavailable):
            return None


def in_folder(name: str, folder: Path, origin: str) -> Weights:
    """A model as it was saved, or as MLflow's flavour for transformers lays it out."""
    for place in (folder, folder / "model"):
        if any((place / config).exists() for config in CONFIGS):
            config, size = read_folder(place)
            beside = folder / "components" / "tokenizer"
            return Weights(name, origin, config, size, place, beside if beside.is_dir() else None)
    raise Refused(f"{folder} holds neither {CONFIGS[1]} nor {CONFIGS[0]}: it is no model.")


def read_folder(folder: Path) -> tuple[dict[str, Any], int]:
    """(configuration, bytes of weights)"""
    config = next(folder / name for name in CONFIGS if (folder / name).exists())
    size = 0
    for kind in WEIGHTS:
        files = list(folder.glob(f"*{kind}"))
        shards = [path for path in files if not path.name.startswith("consolidated")]
        size = size or sum(path.stat().st_size for path in shards or files)
    try:
        found = json.loads(config.read_text())
    except ValueError as error:
        raise Refused(f"{config} is no JSON ({error}).") from None
    if not isinstance(found, dict):
        raise Refused(f"{config} is no JSON object.")
    return found, size
