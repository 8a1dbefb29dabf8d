"""Results that are made faster than anybody takes them.

Siblings of one fault: *many large results* behind a slow callback; *more than may wait*, so that some take
the host's own pipe, in pieces; *kept results* of a chunk's items that find no room; a worker that is killed
while it sends pieces. What waits is bounded, and no task learns of it.
"""

from __future__ import annotations

import os
import signal
from typing import Any, ClassVar

import pytest

from poolwarden import WorkerLostError
from poolwarden.core import memory
from tests.adapters.bind_executor import BindExecutor
from tests.adapters.bind_loky import BindLoky
from tests.adapters.bind_pool import BindPool
from tests.contract.base import ContractBase, Pools
from tests.contract.binding import PoolBinding

LARGE = 3 << 20


def make(number: int) -> bytes:
    return bytes([number]) * LARGE


def make_or_die(number: int) -> bytes:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(number)


class Backpressure(ContractBase):
    binding: ClassVar[type[PoolBinding]]
    variations = 2

    @pytest.fixture(autouse=True)
    def little_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a megabyte wait, and no more."""
        monkeypatch.setattr(memory, "_SHARE", 1 << 40)

    @pytest.mark.every_start_method
    def test_what_finds_no_room_takes_the_pipe(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(2)
        handles = [host.submit(pool, make, number) for number in range(12)]
        assert [host.result(handle) == make(number) for number, handle in enumerate(handles)] == [True] * 12

    def test_a_death_loses_its_own_task(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(2)
        handles = [host.submit(pool, make_or_die, number) for number in range(8)]
        for number, handle in enumerate(handles):
            if number == 3:
                with pytest.raises(WorkerLostError):
                    host.result(handle)
            else:
                assert host.result(handle) == make(number)

    def test_kept_results_take_it_as_well(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(2, retries=1)
        found: list[Any] = list(host.iterate(pool, make, range(6)))
        assert found == [make(number) for number in range(6)]


class TestPool(Backpressure):
    binding = BindPool


class TestExecutor(Backpressure):
    binding = BindExecutor


@pytest.mark.usefixtures("warm_loky")
class TestLoky(Backpressure):
    binding = BindLoky
