"""CrewAI's own memory, which this app does not use, wants a package that left-out.txt names."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


@pytest.mark.skipif(find_spec("lancedb") is not None, reason="lancedb is installed")
def test_memory_names_the_package_that_is_left_out() -> None:
    from crewai.memory import Memory

    with pytest.raises(ModuleNotFoundError, match="No module named 'lancedb'"):
        Memory()
