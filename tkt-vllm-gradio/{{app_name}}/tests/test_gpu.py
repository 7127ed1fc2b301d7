"""Which cards there are, told by a driver that is made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agent.gpu import GIB, Card, _card, _shared, cards


class NVMLError(Exception):
    pass


def driver(memory: tuple[int, int] | None, capability: tuple[int, int] = (8, 9)) -> Any:
    """`memory`: total and free in bytes, None for a driver that does not say."""

    def info(_: Any) -> Any:
        if memory is None:
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=memory[0], free=memory[1])

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetCudaComputeCapability=lambda _: list(capability),
        nvmlDeviceGetMemoryInfo=info,
        nvmlDeviceGetName=lambda _: "NVIDIA GB10",
    )


def test_a_card_is_what_its_driver_says() -> None:
    found = _card(driver((24 * GIB, 20 * GIB), (7, 5)), 0, 0)

    assert found == Card("NVIDIA GB10", 24 * GIB, 20 * GIB, (7, 5))


def test_a_card_that_shares_the_machines_memory_has_what_the_machine_has() -> None:
    found = _card(driver(None), 0, 0)

    total, free = _shared()
    assert found.total == total
    assert found.free == pytest.approx(free, rel=0.2)


def test_a_card_that_does_not_say_has_what_the_settings_say() -> None:
    found = _card(driver(None), 0, 0.25)

    assert found.total == GIB // 4
    assert 0 < found.free <= GIB // 4


def test_what_the_settings_say_counts_only_where_the_driver_does_not() -> None:
    assert _card(driver((24 * GIB, GIB)), 0, 96).total == 24 * GIB


def test_the_machines_memory_is_read() -> None:
    total, free = _shared()

    assert GIB // 8 < free < total


def test_without_a_driver_there_is_no_card_and_no_error() -> None:
    assert isinstance(cards(), list)
