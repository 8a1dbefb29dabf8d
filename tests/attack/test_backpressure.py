"""Results that are made faster than anybody takes them.

Siblings of one fault: *many large results* behind a slow callback; *more than may wait*, so that some take
the host's own pipe, in pieces; *kept results* of a chunk's items that find no room; a worker that is killed
while it sends pieces. What waits is bounded, and no task learns of it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from poolwarden import WorkerLostError
from poolwarden.core import pool_memory
from tests.contract.base import ContractBase, Notes, Pools
from tests.contract.binding import PoolBinding
from tests.contract.tasks import Noted
from tests.contract.waiting import eventually, state_of
from tests.hosts.bind_executor import BindExecutor
from tests.hosts.bind_loky import BindLoky
from tests.hosts.bind_pool import BindPool

LARGE = 3 << 20


def make(number: int) -> bytes:
    return bytes([number]) * LARGE


def wait_for(path: str) -> str:
    """Hold up the thread that unpickles this, until a file is there."""
    Path(path + ".reached").touch()
    eventually(Path(path).exists, "the file")
    return "read"


class BlocksItsReader:
    """A result that holds up whoever reads it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return wait_for, (self.path,)


def make_when(gate: str, number: int) -> bytes:
    eventually(Path(gate + ".reached").exists, "the result thread blocked")
    return make(number)


def block_when(start: str, gate: str) -> BlocksItsReader:
    eventually(Path(start).exists, "the other task's begin")
    return BlocksItsReader(gate)


def make_or_die(number: int) -> bytes:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(number)


class Backpressure(ContractBase):
    binding: ClassVar[type[PoolBinding]]
    variations = 3

    @pytest.fixture(autouse=True)
    def little_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a megabyte wait, and no more."""
        monkeypatch.setattr(pool_memory, "_SHARE", 1 << 40)

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

    def test_a_death_in_the_middle_of_the_pieces_holds_up_nobody(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Path
    ) -> None:
        """The worker has the lock for sending results then."""
        pool = make_pool(2)
        host.idle_pids(pool)
        gate, start = tmp_path / "gate", tmp_path / "start"
        # Both are with the workers before their results are: an executor sends tasks by the thread that
        # is held up here.
        blocking = host.submit(pool, block_when, str(start), str(gate))
        large = host.submit(pool, Noted(notes.path, make_when), str(gate), 7)
        [pid] = notes.pids()
        start.touch()
        eventually(lambda: (tmp_path / "gate.reached").exists(), "the result thread blocked")
        eventually(lambda: state_of(pid) == "S", "the pipe full")
        os.kill(pid, signal.SIGKILL)
        gate.touch()
        assert host.result(blocking) == "read"
        with pytest.raises(WorkerLostError):
            host.result(large)
        # One that waited for that lock would be lost with it: its pieces are nowhere else.
        assert list(host.iterate(pool, make, range(4))) == [make(number) for number in range(4)]

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
