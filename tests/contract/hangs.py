"""Row 10: tasks that never end, and timeouts that count what they should."""

from __future__ import annotations

import multiprocessing
import signal
from functools import partial
from typing import Any

import pytest

from poolwarden import TaskTimeoutError, limits
from poolwarden.testing import block_in_c, deaf, hang, hold_gil, kill_self, only_for, spin
from tests.contract.base import ContractBase, Notes, Pools
from tests.contract.binding import PoolBinding, Way
from tests.contract.tasks import Both, Noted, catch_timeout, pid_of_worker, shrug_off, square, take
from tests.contract.waiting import all_gone, lines_of

#: Each way not to end, and what has to be seen in the stack; None where no code can run to show it.
ENDLESS = {
    "sleep": (hang(), "_hang"),
    "python-loop": (spin(), "_spin"),
    "blocked-in-C": (block_in_c(), "_block_in_c"),
    "GIL-held-in-C": (hold_gil(), "_hold_gil"),
    "signals-blocked": (deaf(hang()), None),
    "signals-blocked-GIL-held": (deaf(hold_gil()), None),
    "stopped": (Both(kill_self(signal.SIGSTOP), hang()), None),
}

#: Seconds of timeout where a task is meant to outrun it.
SHORT = 0.5

#: Seconds of timeout, and of one item of work that stays well below it though two do not.
LONG, ITEM = 1.5, 0.5


class TaskNeverEnds(ContractBase):
    """Row 10: the task is stopped and shows where it stood; others are fine."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("endless", ENDLESS)
    def test_an_endless_task_is_stopped_and_says_where_it_stood(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, endless: str
    ) -> None:
        func, stands_in = ENDLESS[endless]
        pool = make_pool(timeout=SHORT)
        late = host.submit(pool, Noted(notes.path, func))
        others = [host.submit(pool, square, n) for n in range(5)]

        with pytest.raises(TaskTimeoutError) as caught:
            host.result(late)

        assert [host.result(other) for other in others] == [0, 1, 4, 9, 16]
        error = caught.value
        assert isinstance(error, (TimeoutError, multiprocessing.TimeoutError))
        assert error.exit.pid == notes.pids()[0]
        assert error.exit.cause == "killed_by_guard"
        assert error.may_have_run is True
        if stands_in:
            assert stands_in in error.stack
            # Neither the worker's own frames nor those of the parent that forked it.
            assert "_bootstrap" not in error.stack
        all_gone(notes.pids())

    def test_only_the_item_that_hangs_is_stopped(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        pool = make_pool(timeout=SHORT)

        answers = way.call(pool, Noted(notes.path, only_for(4, hang(), square)), list(range(6)))

        assert isinstance(answers.error, TaskTimeoutError)
        assert "_hang" in answers.error.stack
        way.check_others(answers, notes.items(), 6, 4)
        if way.indexed:
            assert answers.error.task.index == 4

    def test_a_timed_out_item_can_take_its_place_in_the_result(
        self, host: PoolBinding, make_pool: Pools, way: Way
    ) -> None:
        if not way.indexed:
            pytest.skip("one call for each item: there is no place to take")
        pool = make_pool(timeout=SHORT, losses="return")

        answers = way.call(pool, only_for(1, hang(), square), [0, 1, 2])

        assert answers.errors == []
        late = [value for value in answers.values if isinstance(value, TaskTimeoutError)]
        assert [error.task.index for error in late] == [1]
        assert sorted(value for value in answers.values if value not in late) == [0, 4]

    def test_every_worker_can_be_stuck_at_once(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(3, timeout=SHORT)
        late = [host.submit(pool, hang()) for _ in range(6)]
        other = host.submit(pool, square, 3)

        for handle in late:
            with pytest.raises(TaskTimeoutError):
                host.result(handle)
        assert host.result(other) == 9

    def test_a_task_stopped_in_time_is_not_run_again(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool(timeout=SHORT, retries=2)

        with pytest.raises(TaskTimeoutError):
            host.result(host.submit(pool, Noted(notes.path, hang()), 1))

        assert notes.items() == {"1": 1}


class TimeoutCounts(ContractBase):
    """A timeout counts the running time of one item, and nothing else."""

    def test_each_item_of_a_chunk_has_it_for_itself(
        self, host: PoolBinding, make_pool: Pools, way: Way
    ) -> None:
        answers = way.call(make_pool(timeout=LONG), take, [ITEM] * 5)

        assert answers.errors == []
        assert answers.values == [ITEM] * 5

    def test_waiting_in_the_queue_does_not_count(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(1, timeout=LONG)

        handles = [host.submit(pool, take, ITEM) for _ in range(5)]

        assert [host.result(handle) for handle in handles] == [ITEM] * 5

    def test_idle_time_does_not_count(self, host: PoolBinding, make_pool: Pools, notes: Notes) -> None:
        pool = make_pool(1, timeout=SHORT)
        pid = host.result(host.submit(pool, pid_of_worker))

        assert take(2 * SHORT)

        assert host.result(host.submit(pool, pid_of_worker)) == pid


class SoftTimeout(ContractBase):
    """With `grace`, the error is raised inside the task first."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("endless", ["sleep", "python-loop", "blocked-in-C"])
    def test_an_interrupted_task_can_clean_up_and_the_worker_lives(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, endless: str
    ) -> None:
        pool = make_pool(1, timeout=SHORT, grace=15)
        pid = host.result(host.submit(pool, pid_of_worker))
        func = ENDLESS[endless][0]

        with pytest.raises(TaskTimeoutError) as caught:
            host.result(host.submit(pool, catch_timeout, str(notes.path), func))

        assert lines_of(notes.path) == ["cleaned up"]
        assert "catch_timeout" in f"{caught.value.stack}{caught.value.__cause__}"
        assert caught.value.task.function.endswith("catch_timeout")
        assert host.result(host.submit(pool, pid_of_worker)) == pid

    @pytest.mark.parametrize(
        "func",
        [partial(shrug_off, hang()), hold_gil(), deaf(hang())],
        ids=["shrugged-off", "GIL-held-in-C", "signals-blocked"],
    )
    def test_a_task_that_does_not_listen_is_killed_after_it(
        self, host: PoolBinding, make_pool: Pools, func: Any
    ) -> None:
        pool = make_pool(timeout=SHORT, grace=0.3)

        with pytest.raises(TaskTimeoutError) as caught:
            host.result(host.submit(pool, func))

        assert caught.value.exit.cause == "killed_by_guard"

    def test_a_stopped_task_is_woken_for_it_or_killed(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(timeout=SHORT, grace=0.3)

        with pytest.raises(TaskTimeoutError):
            host.result(host.submit(pool, Both(kill_self(signal.SIGSTOP), hang())))

    def test_a_soft_timeout_strikes_one_item_and_the_worker_goes_on(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        pool = make_pool(1, timeout=SHORT, grace=15)

        answers = way.call(pool, Noted(notes.path, only_for(2, hang(), square)), list(range(7)))

        assert isinstance(answers.error, TaskTimeoutError)
        way.check_others(answers, notes.items(), 7, 2)
        if way.indexed:
            assert answers.error.task.index == 2
        assert len(set(notes.pids(len(notes.items())))) == 1

    def test_a_soft_timeout_can_take_its_place_in_the_result(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, way: Way
    ) -> None:
        if not way.indexed:
            pytest.skip("one call for each item: there is no place to take")
        pool = make_pool(1, timeout=SHORT, grace=15, losses="return")

        answers = way.call(pool, Noted(notes.path, only_for(2, hang(), square)), list(range(5)))

        assert answers.errors == []
        late = [value for value in answers.values if isinstance(value, TaskTimeoutError)]
        assert [error.task.index for error in late] == [2]
        assert sorted(value for value in answers.values if value not in late) == [0, 1, 9, 16]
        assert notes.items() == {str(n): 1 for n in range(5)}


class LimitsOfATask(ContractBase):
    """`limits(f, ...)` overrides the pool's options in every way of submitting."""

    @pytest.mark.parametrize("wrap", [lambda f: f, partial], ids=["plain", "partial"])
    def test_limits_with_a_shorter_timeout(
        self, host: PoolBinding, make_pool: Pools, way: Way, wrap: Any
    ) -> None:
        func = wrap(limits(only_for(1, hang(), square), timeout=SHORT))

        answers = way.call(make_pool(), func, [0, 1, 2])

        assert isinstance(answers.error, TaskTimeoutError)

    def test_limits_with_a_longer_timeout(self, host: PoolBinding, make_pool: Pools, way: Way) -> None:
        answers = way.call(make_pool(timeout=SHORT / 2), limits(take, timeout=20), [SHORT])

        assert answers.values == [SHORT]

    def test_limits_without_a_timeout(self, host: PoolBinding, make_pool: Pools, way: Way) -> None:
        answers = way.call(make_pool(timeout=SHORT / 2), limits(take, timeout=None), [SHORT])

        assert answers.values == [SHORT]

    def test_limits_outside_a_pool_are_a_plain_call(self) -> None:
        assert limits(square, timeout=1)(3) == 9

    @pytest.mark.every_start_method
    def test_limits_bind_only_the_task_that_has_them(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool()
        late = host.submit(pool, limits(hang(), timeout=SHORT))
        slow = host.submit(pool, take, 2 * SHORT)

        with pytest.raises(TaskTimeoutError):
            host.result(late)
        assert host.result(slow) == 2 * SHORT
