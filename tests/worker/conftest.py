"""Fixtures for the tests of `poolwarden.worker`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from poolwarden.core.pool_memory import PoolMemory
from poolwarden.worker.member import Member
from tests.worker.members import member_of


@pytest.fixture
def memory() -> Iterator[PoolMemory]:
    """A pool's shared memory, as the parent makes it."""
    memory = PoolMemory(2, "multiprocessing.reduction:ForkingPickler")
    yield memory
    memory.close()


@pytest.fixture
def member(memory: PoolMemory) -> Iterator[Member]:
    """This process as a worker of the pool."""
    with member_of(memory) as member:
        yield member
