"""What several tests are made of: services whose engine is ready and answers as a test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from agent.adapters import Adapters
from agent.engine import Engine, Launch
from agent.gpu import Card
from agent.hub import Hub
from agent.limits import Limits
from agent.measures import Measures
from agent.runs import Runs
from agent.services import Services
from agent.settings import Settings
from agent.weights import Sources, Weights

Answer = Callable[[httpx.Request], httpx.Response]


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def serving(answer: Answer, *, lora: bool = True, **values: Any) -> Services:
    """All but a process: the engine's client leads to `answer`."""
    chosen = settings(**values)
    sources = Sources(Hub(""), None)
    engine = Engine(chosen, sources, lambda *_: httpx.AsyncClient(), no_cards)
    origin = Weights("owner/model", "the hub", {}, 0, Path("/models/one"))
    command = ["vllm", *(["--enable-lora"] if lora else [])]
    engine.launch = Launch(command, ["owner/model", "alias"], origin, None)
    transport = httpx.MockTransport(answer)
    engine.client = httpx.AsyncClient(transport=transport, base_url="http://engine.test")
    engine.phase, engine.lives = "ready", 1
    runs, limits = Runs(), Limits(0, chosen.concurrent_runs, 0)
    adapters = Adapters(engine, sources, chosen.wanted_adapters)
    return Services(chosen, engine, adapters, sources, runs, limits, Measures(runs, limits))


def no_cards() -> list[Card]:
    return []
