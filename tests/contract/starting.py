"""Row 9: the initializer raises, exits, or takes too long."""

from __future__ import annotations

from typing import Any

import pytest

from poolwarden import PoolBrokenError
from poolwarden.testing import die, fail, hang, kill_self, once
from tests.contract.base import ContractBase, Notes, Pools, serves
from tests.contract.binding import PoolBinding, Way
from tests.contract.tasks import FailsOnceThere, Noted, square
from tests.contract.waiting import all_gone, lines_of

#: Starts of workers that may be needed to see that it will not get better.
HANDFUL = 12

#: Starts where a kill from outside is as likely, which another start may well survive.
MORE = 60

#: What goes wrong, a word of it that the error has to say, and how many starts it may take.
FAILURES = {
    "raises": (fail(ValueError("initializer says no")), "initializer says no", HANDFUL),
    "raises-SystemExit": (fail(SystemExit("initializer leaves")), "initializer leaves", HANDFUL),
    "exits": (die(7), "7", HANDFUL),
    "killed": (kill_self(), "SIGKILL", MORE),
}


class InitializerFails(ContractBase):
    """Row 9: every task, later ones too, ends in the same error; no fork storm."""

    @pytest.mark.every_start_method
    @pytest.mark.parametrize("failure", FAILURES)
    def test_every_task_is_told_why_no_worker_starts(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, failure: str
    ) -> None:
        initializer, word, starts = FAILURES[failure]
        pool = make_pool(usable_after=False, initializer=Noted(notes.path, initializer))
        unguarded = len(lines_of(notes.path))  # a bare pool starts one after the other without end
        handles = [host.submit(pool, square, n) for n in range(5)]

        for handle in handles:
            with pytest.raises(PoolBrokenError) as caught:
                host.result(handle)
            assert word in f"{caught.value}\n{caught.value.__cause__}"
            assert isinstance(caught.value, host.host_error)
            assert caught.value.may_have_run is False

        with pytest.raises(PoolBrokenError):
            host.result(host.submit(pool, square, 1))
        assert len(lines_of(notes.path)) <= unguarded + starts

    def test_the_initializers_traceback_is_shown(self, host: PoolBinding, make_pool: Pools) -> None:
        pool = make_pool(usable_after=False, initializer=fail(ValueError("initializer says no")))

        with pytest.raises(PoolBrokenError) as caught:
            host.result(host.submit(pool, square, 1))

        told = f"{caught.value}\n{caught.value.__cause__}"
        assert "Traceback (most recent call last)" in told
        assert "in _fail" in told

    def test_every_way_of_submitting_is_told_why(self, host: PoolBinding, make_pool: Pools, way: Way) -> None:
        pool = make_pool(usable_after=False, initializer=fail(ValueError("initializer says no")))

        for _ in ("pending", "later"):
            answers = way.call(pool, square, [1, 2, 3, 4])
            assert answers.values == []
            assert all(isinstance(error, PoolBrokenError) for error in answers.errors)
            assert answers.errors

    @pytest.mark.every_start_method
    def test_an_initializer_that_outlasts_its_time_is_stopped(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool(usable_after=False, initializer=Noted(notes.path, hang()), startup_timeout=0.5)

        for handle in [host.submit(pool, square, n) for n in range(3)]:
            with pytest.raises(PoolBrokenError):
                host.result(handle)

        assert sum(notes.items().values()) <= HANDFUL
        host.terminate(pool)
        all_gone([int(pid) for pid in notes.pids(2)])

    @pytest.mark.every_start_method
    def test_one_failed_start_alone_breaks_nothing(
        self, host: PoolBinding, make_pool: Pools, tmp_path: Any
    ) -> None:
        pool = make_pool(initializer=once(tmp_path / "count", kill_self()))

        serves(host, pool)

    def test_replacements_whose_initializer_fails_break_the_pool_too(
        self, host: PoolBinding, make_pool: Pools, notes: Notes, tmp_path: Any
    ) -> None:
        fails_later = FailsOnceThere(tmp_path / "broken")
        pool = make_pool(usable_after=False, initializer=Noted(notes.path, fails_later))
        serves(host, pool)
        (tmp_path / "broken").touch()

        handles = [host.submit(pool, kill_self()) for _ in range(2)] + [host.submit(pool, square, 1)]

        for handle in handles[:2]:
            with pytest.raises(host.host_error):
                host.result(handle)
        with pytest.raises(PoolBrokenError) as caught:
            host.result(handles[2])
        assert "no longer" in f"{caught.value}\n{caught.value.__cause__}"
        assert sum(notes.items().values()) <= 2 + HANDFUL

    def test_a_healthy_initializer_runs_once_in_each_worker(
        self, host: PoolBinding, make_pool: Pools, notes: Notes
    ) -> None:
        pool = make_pool(3, initializer=Noted(notes.path, square), initargs=(3,), startup_timeout=20)
        serves(host, pool)

        assert len(set(notes.pids(3))) == 3
        assert notes.items() == {"3": 3}
