"""The template's own house (`agent/`), to be measured without its doors: import this first."""

import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "tkt-rag-agent" / "{{app_name}}"
sys.path[:0] = [str(APP), str(ROOT)]

from agent.ingest import Source, ingest  # noqa: E402
from agent.services import Services, connect  # noqa: E402
from agent.settings import Settings  # noqa: E402


@asynccontextmanager
async def empty(**settings: Any) -> AsyncIterator[Services]:
    """Services that hold nothing yet."""
    memory = Path("/dev/shm")  # what is measured is not the disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        here = connect(Settings(_env_file=None, data_dir=Path(folder), **settings))
        try:
            await here.store.tend()
            yield here
        finally:
            await here.close()


@asynccontextmanager
async def services(texts: dict[str, str], suffix: str, **settings: Any) -> AsyncIterator[Services]:
    """Services that hold `texts` by their names, taken in as files of the type `suffix`.

    A document's name ends in `suffix` too, if it does not already.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for n, (name, text) in enumerate(texts.items()):
            path = Path(folder) / f"{n}{suffix}"
            path.write_text(text)
            sources.append(Source(name if name.endswith(suffix) else name + suffix, path))
        async with empty(**settings) as here:
            await take_in(here, sources)
            yield here


async def take_in(here: Services, sources: list[Source]) -> None:
    began = time.monotonic()
    done = 0
    async for outcome in ingest(here, sources):
        if outcome.reason:
            raise RuntimeError(f"{outcome.document}: {outcome.reason}")
        done += 1
        if done % 100 == 0:
            left = (time.monotonic() - began) / done * (len(sources) - done)
            print(f"  {done} of {len(sources)} documents in, {left:.0f} s left", flush=True)


class Changed:
    """Constants of the house with other values for a while: `with Changed(ranking, LEARNED=0):`."""

    def __init__(self, module: Any, **values: Any) -> None:
        self._module, self._values = module, values

    def __enter__(self) -> None:
        self._before = {name: getattr(self._module, name) for name in self._values}
        for name, value in self._values.items():
            setattr(self._module, name, value)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            setattr(self._module, name, value)


def median_ms(seconds: list[float]) -> float:
    return round(sorted(seconds)[len(seconds) // 2] * 1000, 1)
