"""Which cards there are, and how much memory they have. Read from the driver when asked.

A machine whose processor and card share one memory (DGX Spark) has a driver that does not say;
there the machine's own memory counts. Without a driver there is no card.
"""

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

GIB = 2**30
MODERN = (8, 0)
"""From this compute capability on a card knows bfloat16."""


@dataclass(frozen=True)
class Card:
    name: str
    total: int
    """Bytes."""
    free: int
    capability: tuple[int, int] = MODERN


def cards(assumed_gib: float = 0) -> list[Card]:
    """The cards of this machine; `assumed_gib` is the memory of one that does not say."""
    pynvml: Any = import_module("pynvml")  # it has no types
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_card(pynvml, n, assumed_gib) for n in _visible(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _visible(count: int) -> list[int]:
    """The numbers of those that the engine sees: CUDA_VISIBLE_DEVICES may name some of them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "").split(",")
    if not all(number.isdigit() for number in named):
        return list(range(count))  # none is named, or by an id
    return [int(number) for number in named if int(number) < count]


def _card(nvml: Any, number: int, assumed_gib: float) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(number)
    capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = memory.total, memory.free
    except nvml.NVMLError:
        total, free = _shared()
        if assumed_gib:
            total, free = int(assumed_gib * GIB), min(free, int(assumed_gib * GIB))
    return Card(str(nvml.nvmlDeviceGetName(handle)), total, free, tuple(capability))


def _shared() -> tuple[int, int]:
    """Bytes of the machine's memory, and of it what is free."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return found["MemTotal"], found["MemAvailable"]
