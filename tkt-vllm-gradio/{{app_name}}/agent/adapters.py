"""LoRA adapters beside the model: loaded, listed and unloaded while the engine runs.

Those that are wanted are loaded again whenever the engine has been started anew. One that was added
while the app runs is forgotten when the app ends: ADAPTERS keeps it.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

import httpx

from agent.engine import Engine
from agent.errors import Refused, Unavailable
from agent.weights import Sources

NOT_YET = "The model is not ready yet."
AGAIN_S = 60
"""After this one that could not be loaded is tried again."""
LIMIT_S = 120
"""Loading takes seconds; the platform's share of files may be slow."""

log = logging.getLogger(__name__)


@dataclass
class Adapter:
    name: str
    source: str
    trouble: str = ""
    """Why it is not loaded; "" when it is."""
    rank: int = 0
    try_at: float = 0
    """When it may be tried, by the clock that nobody can set."""


class Adapters:
    def __init__(self, engine: Engine, sources: Sources, wanted: dict[str, str]) -> None:
        self._engine = engine
        self._sources = sources
        self._known = {name: Adapter(name, source, NOT_YET) for name, source in wanted.items()}
        self._life = 0
        self._lock = asyncio.Lock()

    def listed(self) -> list[Adapter]:
        if self._life != self._engine.lives or not self._engine.ready:
            for adapter in self._known.values():  # an engine that was started anew has none
                adapter.trouble, adapter.try_at = NOT_YET, 0
            self._life = self._engine.lives
        return list(self._known.values())

    def loaded(self) -> list[str]:
        return [adapter.name for adapter in self.listed() if not adapter.trouble]

    async def tend(self) -> None:
        """To be called now and then: load what an engine that was started anew lacks."""
        async with self._lock:
            for adapter in self.listed():
                if not self._engine.ready:
                    return
                if adapter.trouble and time.monotonic() >= adapter.try_at:
                    await self._try(adapter)

    async def _try(self, adapter: Adapter) -> None:
        try:
            adapter.rank = await self._load(adapter.name, adapter.source)
            adapter.trouble = ""
        except (Refused, Unavailable) as error:
            adapter.trouble, adapter.try_at = str(error), time.monotonic() + AGAIN_S
            log.error("The adapter %s is not loaded. %s", adapter.name, error)

    async def add(self, name: str, source: str) -> Adapter:
        """Load one; `Refused` says why not, and then nothing has changed."""
        await self.tend()
        async with self._lock:
            if name in self._known and not self._known[name].trouble:
                raise Refused(f"There is an adapter {name!r} already; unload it first.", 409)
            if name in (self._engine.launch.names if self._engine.launch else ()):
                raise Refused(f"{name!r} is the model's own name; choose another.", 409)
            rank = await self._load(name, source)
            self._known[name] = Adapter(name, source, "", rank)
            return self._known[name]

    async def remove(self, name: str) -> Adapter:
        await self.tend()
        async with self._lock:
            if name not in self._known:
                raise Refused(f"There is no adapter {name!r}; see /api/adapters.", 404)
            if not self._known[name].trouble:
                await self._post("unload_lora_adapter", {"lora_name": name})
            return self._known.pop(name)

    async def _load(self, name: str, source: str) -> int:
        self._engine.need()
        if "--enable-lora" not in (self._engine.launch.command if self._engine.launch else ()):
            raise Refused("The engine was started without room for adapters; set MAX_LORA_RANK.")
        weights = await self._sources.look(source)
        if not weights.rank:
            raise Refused(f"{source} is no LoRA adapter: it has no adapter_config.json with an r.")
        folder = await self._sources.folder(weights, lambda *_: None)
        await self._post("load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
        return weights.rank

    async def _post(self, path: str, body: dict[str, str]) -> None:
        try:
            answer = await self._engine.need().post(f"/v1/{path}", json=body, timeout=LIMIT_S)
        except httpx.HTTPError as error:
            raise Unavailable(f"The engine did not take the adapter ({error!r}).") from error
        if answer.is_error:
            raise Refused(f"The engine does not take the adapter: {said(answer)}")


def said(answer: httpx.Response) -> str:
    """The engine's own words for what is wrong."""
    try:
        error = answer.json()["error"]
        words = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        words = answer.text
    words = words.strip()[:500] or f"status {answer.status_code}"
    return words if words.endswith(".") else f"{words}."
