"""Fixtures for the tests of `poolwarden.core`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from poolwarden.core.pool_memory import PoolMemory


@pytest.fixture
def memory() -> Iterator[PoolMemory]:
    """A pool's shared memory."""
    memory = PoolMemory(2, "multiprocessing.reduction:ForkingPickler")
    yield memory
    memory.close()
