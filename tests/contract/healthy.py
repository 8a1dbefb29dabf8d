"""Nothing goes wrong, and nothing is different from the bare host."""

from __future__ import annotations

import os
import traceback
from typing import Any

import pytest

from poolwarden.testing import only_for
from tests.contract.base import ContractBase, Notes, Pools
from tests.contract.binding import PoolBinding, Way
from tests.contract.tasks import (
    HeldUntil,
    Noted,
    add,
    payload,
    pid_of_worker,
    raise_value_error,
    same,
    size_of,
    square,
)


class NothingChanges(ContractBase):
    """Results, order, exceptions and tracebacks are those of the bare host."""

    @pytest.mark.parametrize("count", [0, 1, 2, 50])
    def test_results_come_once_and_in_order(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way, count: int
    ) -> None:
        answers = way.call(make_pool(), Noted(notes.path, square), list(range(count)))

        assert answers.errors == []
        assert sorted(answers.values) == [n * n for n in range(count)]
        assert notes.items() == {str(n): 1 for n in range(count)}

    @pytest.mark.every_start_method
    def test_each_way_under_each_start_method(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool()
        for way in host.ways.values():
            answers = way.call(pool, square, list(range(10)))
            assert (sorted(answers.values), answers.errors) == ([n * n for n in range(10)], [])

    def test_an_exception_and_its_remote_traceback(
        self, host: PoolBinding, make_pool: Pools, way: Way
    ) -> None:
        func = only_for(1, raise_value_error, square)
        bare = host.make_bare()
        try:
            without = way.call(bare, func, [0, 1, 2])
        finally:
            host.terminate(bare)

        guarded = way.call(make_pool(), func, [0, 1, 2])

        assert type(guarded.error) is type(without.error) is ValueError
        assert guarded.error.args == without.error.args
        assert sorted(guarded.values) == sorted(without.values)
        remote = traceback.format_exception(guarded.error)
        assert type(guarded.error.__cause__).__name__ == type(without.error.__cause__).__name__
        texts = [str(answers.error.__cause__).splitlines() for answers in (guarded, without)]
        # Without what lies between: our frames are not those of the bare worker.
        assert texts[0][:3] + texts[0][-2:] == texts[1][:3] + texts[1][-2:]
        assert "in raise_value_error" in "".join(remote)

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("size", [0, 3_000, 4_000, 70_000, 3_000_000])
    def test_payloads_of_every_size_arrive_whole(
        self, host: PoolBinding, make_pool: Pools, size: int
    ) -> None:
        pool = make_pool()
        data = os.urandom(size)

        assert host.result(host.submit(pool, size_of, data)) == size
        assert host.result(host.submit(pool, payload, size)) == b"p" * size
        assert host.result(host.submit(pool, same, data)) == data

    def test_many_small_tasks(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool()
        handles = [host.submit(pool, add, n, 1) for n in range(2000)]

        assert [host.result(handle) for handle in handles] == list(range(1, 2001))

    def test_iteration_is_lazy_about_results(
        self, host: PoolBinding, make_pool: Pools, tmp_path: Any
    ) -> None:
        results = iter(host.iterate(make_pool(), only_for(1, HeldUntil(tmp_path / "go"), square), [2, 1, 3]))

        assert next(results) == 4  # although the second is not done
        (tmp_path / "go").touch()
        assert list(results) == [1, 9]

    @pytest.mark.every_start_method
    def test_workers_are_recycled_as_asked_and_nothing_is_lost(
        self, host: PoolBinding, make_pool: Pools
    ) -> None:
        pool = make_pool(2, maxtasksperchild=3)

        pids = [host.result(host.submit(pool, pid_of_worker)) for _ in range(15)]

        assert max(map(pids.count, pids)) <= 3
        assert len(set(pids)) >= 5

    @pytest.mark.every_start_method
    def test_initializer_arguments_reach_every_worker(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        make_pool(2, initializer=Noted(notes.path, same), initargs=("given",))

        notes.pids(2)
        assert notes.items() == {"given": 2}

    def test_a_healthy_run_is_no_event(
        self, host: PoolBinding, make_pool: Pools, way: Way, caplog: pytest.LogCaptureFixture
    ) -> None:
        events: list[Any] = []

        way.call(make_pool(on_event=events.append, timeout=20, grace=1, retries=1), square, list(range(9)))

        assert events == []
        assert not [record for record in caplog.records if record.name.startswith("poolwarden")]
