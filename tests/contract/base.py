"""The fixtures that every theme of the contract shares."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.contract.binding import PoolBinding
from tests.contract.tasks import square
from tests.contract.waiting import ENDING, eventually, lines_of, within


class Pools:
    """Makes guarded pools for one test and, at its end, checks and ends them."""

    def __init__(self, host: PoolBinding, start_method: str, ending: str) -> None:
        self._host = host
        self._start_method = start_method
        self._ending = ending
        self._made: list[tuple[Any, bool]] = []

    def __call__(self, workers: int = 2, *, usable_after: bool = True, **options: Any) -> Any:
        """Return a new guarded pool.

        With `usable_after` the pool has to answer tasks at the end of the test
        and then end in the way this test was given; without it the test has
        broken or ended the pool, and terminating it must still work.
        """
        pool = self._host.make_pool(workers, self._start_method, **options)
        self._made.append((pool, usable_after))
        return pool

    def finish(self) -> None:
        """Check each pool once more and end it."""
        while self._made:
            pool, usable = self._made.pop()
            try:
                if usable:
                    serves(self._host, pool)
                end = self._host.endings()[self._ending if usable else "terminate"]
                within(ENDING, end, pool)
            except BaseException:
                within(ENDING, self._host.terminate, pool)
                raise


class ContractBase:
    """What each theme inherits; `binding` says how to use the host."""

    binding: ClassVar[type[PoolBinding]]

    @pytest.fixture
    def host(self) -> PoolBinding:
        return self.binding()

    @pytest.fixture
    def make_pool(
        self, host: PoolBinding, start_method: str, request: pytest.FixtureRequest
    ) -> Iterator[Pools]:
        """Make pools that are usable and end in time after whatever the test does to them."""
        # Which way is decided by the test's name: all three are used, and a failure happens again.
        endings = sorted(host.endings())
        pools = Pools(host, start_method, endings[zlib.crc32(request.node.nodeid.encode()) % len(endings)])
        yield pools
        pools.finish()

    @pytest.fixture
    def notes(self, tmp_path: Path) -> Notes:
        return Notes(tmp_path / "notes")


class Notes:
    """The file that `tasks.Noted` writes to, read by the test.

    Attributes
    ----------
    path : Path
        Give it to `tasks.Noted` and to `testing.once`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def pids(self, count: int = 1) -> list[int]:
        """Return the workers of the first `count` tasks noted, waiting until there are so many."""
        eventually(lambda: len(lines_of(self.path)) >= count, f"{count} tasks started")
        return [int(line.split()[0]) for line in lines_of(self.path)][:count]

    def items(self) -> dict[str, int]:
        """Return how often each item ran."""
        ran = [line.partition(" ")[2] for line in lines_of(self.path)]
        return {item: ran.count(item) for item in ran}


def serves(host: PoolBinding, pool: Any) -> None:
    """Check that a pool answers tasks, and rightly."""
    handles = [host.submit(pool, square, n) for n in range(4)]
    assert [host.result(handle) for handle in handles] == [0, 1, 4, 9]
