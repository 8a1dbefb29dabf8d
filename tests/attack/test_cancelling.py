"""Cancelling a task that has not begun: at once, it never runs, and no worker pays for it.

The kind: whatever the place in which the task is found. Siblings: queued in the
parent behind a full pipe; in the pipe, sent and not begun; at the moment in
which a worker begins it; among the chunks of ``map`` and ``imap``; a call of
``Executor.map``; an unbegun one whose worker-to-be dies; twice; with the pool
closed; asyncio's future of ``run_in_executor`` and of ``wrap_future``. And a
running one, by cancelling asyncio's future, if the policy says so.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, ClassVar

import pytest

from poolwarden import ConfigurationError, Policy, cancel
from poolwarden.core.timeouts import Deadlines
from tests.contract.base import ContractBase
from tests.contract.tasks import HeldUntil, Noted, square
from tests.contract.waiting import DEADLINE, ENDING, eventually, within
from tests.hosts import bind_executor, bind_loky, bind_pool

AT_ONCE = 2.0  # far more than it takes, far less than what runs before it


class Unbegun(ContractBase):
    """What each host owes its users here."""

    @pytest.fixture
    def busy(self, host, make_pool, notes, tmp_path: Path):
        """Return a pool whose two workers run tasks until the file is there, the file, and these tasks."""
        pool = make_pool()
        may_go = tmp_path / "may go"
        running = [host.submit(pool, Noted(notes.path, HeldUntil(may_go)), n) for n in range(2)]
        self.workers = notes.pids(2)
        found = [pool, may_go, running]
        del pool, running
        yield found
        # Or it would live until the test is checked for what it leaves behind.
        found.clear()
        may_go.touch()

    def check(self, host, notes, busy, cancelled: list[int]) -> None:
        """Let the others run; check that what was cancelled never ran, and that no worker was lost."""
        pool, may_go, running = busy
        may_go.touch()
        assert [host.result(handle) for handle in running] == [0, 1]
        later = [host.submit(pool, square, n) for n in range(20)]
        assert [host.result(handle) for handle in later] == [n * n for n in range(20)]
        assert not {str(n) for n in cancelled} & set(notes.items())
        assert set(self.workers) <= set(host.worker_pids(pool))

    @pytest.mark.parametrize("count", [1, 40, 900], ids=["in-the-pipe", "queued", "behind-a-full-pipe"])
    def test_ends_at_once_and_never_runs(self, host, notes, busy, count: int) -> None:
        pool = busy[0]
        handles = [host.submit(pool, Noted(notes.path, square), 10 + n) for n in range(count)]
        chosen = handles[:: max(1, count // 20)]
        began = time.monotonic()

        assert all(map(cancel, chosen))

        for handle in chosen:
            with pytest.raises(CancelledError):
                host.result(handle, AT_ONCE)
        assert time.monotonic() - began < AT_ONCE
        assert not any(map(cancel, chosen)), "it has ended"
        cancelled = [10 + n for n in range(0, count, max(1, count // 20))]
        self.check(host, notes, busy, cancelled)
        others = [n for n in range(count) if 10 + n not in cancelled]
        assert [host.result(handles[n]) for n in others] == [(10 + n) ** 2 for n in others]

    def test_at_the_moment_in_which_it_begins(self, host, make_pool, notes) -> None:
        pool = make_pool()
        workers = set(host.idle_pids(pool))
        ended = []
        for n in range(100):
            handle = host.submit(pool, square, n)
            if n % 3:
                time.sleep(n % 7 * 5e-5)
            cancel(handle)
            try:
                ended.append(host.result(handle) == n * n)
            except CancelledError:
                ended.append(True)
        assert ended == [True] * 100
        later = [host.submit(pool, square, n) for n in range(20)]
        assert [host.result(handle) for handle in later] == [n * n for n in range(20)]
        eventually(lambda: not adapter_of(pool).guard.tickets.open, "every message is back")
        assert workers, "there were some"

    def test_nobody_polls_for_it(self, host, notes, busy, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = busy[0]
        handle = host.submit(pool, square, 5)
        cancel(handle)
        with pytest.raises(CancelledError):
            host.result(handle, AT_ONCE)
        looks = []
        monkeypatch.setattr(Deadlines, "look", lambda deadlines: looks.append(1))
        time.sleep(0.2)
        assert len(looks) <= 2
        monkeypatch.undo()
        self.check(host, notes, busy, [])

    def test_the_pool_ends_though_it_is_on_its_way(self, host, make_pool, notes, tmp_path: Path) -> None:
        pool, may_go = make_pool(usable_after=False), tmp_path / "may go"
        running = [host.submit(pool, Noted(notes.path, HeldUntil(may_go)), n) for n in range(2)]
        notes.pids(2)
        handles = [host.submit(pool, Noted(notes.path, square), 10 + n) for n in range(5)]
        assert all(map(cancel, handles))
        closing = threading.Timer(0.2, may_go.touch)
        closing.start()
        within(ENDING, host.close, pool)
        assert [host.result(handle) for handle in running] == [0, 1]
        assert set(notes.items()) == {"0", "1"}
        closing.join()


def adapter_of(pool: Any) -> Any:
    return pool._poolwarden


class TestPool(Unbegun):
    binding = bind_pool.BindPool

    @pytest.mark.parametrize("method", ["map_async", "starmap_async", "imap", "imap_unordered"])
    @pytest.mark.parametrize("chunksize", [1, 3])
    def test_a_call_for_many(self, host, notes, busy, method: str, chunksize: int) -> None:
        pool = busy[0]
        items = range(10, 40)
        given = [(n,) for n in items] if method.startswith("star") else items
        result = getattr(pool, method)(Noted(notes.path, square), given, chunksize)
        # An iterator of chunks is a generator over what can be cancelled.
        handle = result if hasattr(result, "_job") else result.gi_frame.f_locals[".0"]

        assert cancel(handle)

        with pytest.raises(CancelledError):
            result.get(AT_ONCE) if hasattr(result, "get") else within(AT_ONCE, next, result)
        self.check(host, notes, busy, list(items))


class TestExecutor(Unbegun):
    binding = bind_executor.BindExecutor

    @pytest.mark.parametrize("make", ["run_in_executor", "wrap_future"])
    def test_of_asyncio(self, host, notes, busy, make: str) -> None:
        pool = busy[0]

        async def main() -> None:
            loop, func = asyncio.get_running_loop(), Noted(notes.path, square)
            if make == "wrap_future":
                futures = [asyncio.wrap_future(pool.submit(func, 10 + n)) for n in range(9)]
            else:
                futures = [loop.run_in_executor(pool, func, 10 + n) for n in range(9)]
            assert all(map(cancel, futures))
            for future in futures:
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(future, AT_ONCE)
            assert not any(map(cancel, futures))

        within(DEADLINE, asyncio.run, main())
        self.check(host, notes, busy, list(range(10, 19)))

    @pytest.mark.parametrize("asked", [True, False])
    def test_a_running_one_by_cancelling_its_future(self, make_pool, notes, tmp_path, asked) -> None:
        pool = make_pool(cancel_running=asked)
        may_go = tmp_path / "go"

        async def main() -> None:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(pool, Noted(notes.path, HeldUntil(may_go)), 3)
            await asyncio.to_thread(notes.pids)
            with pytest.raises((TimeoutError, asyncio.TimeoutError)):
                await asyncio.wait_for(future, 0.05)

        within(DEADLINE, asyncio.run, main())
        (pid,) = notes.pids()
        if asked:
            eventually(lambda: pid not in pool._processes, "the worker is killed")
        else:
            time.sleep(0.1)
            assert pid in pool._processes
        may_go.touch()

    def test_a_future_cancelled_twice_or_done(self, host, make_pool, notes, tmp_path: Path) -> None:
        pool = make_pool(cancel_running=True)
        done = pool.submit(square, 3)
        assert done.result(DEADLINE) == 9
        assert not done.cancel()
        running = pool.submit(Noted(notes.path, HeldUntil(tmp_path / "never")), 3)
        notes.pids()
        assert running.cancel()
        with pytest.raises(CancelledError):
            running.result(DEADLINE)
        assert running.cancel(), "it is cancelled"
        assert "cancel" not in vars(running)


class TestLoky(Unbegun):
    binding = bind_loky.BindLoky
    variations: ClassVar[int] = 1

    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def _what_stays() -> None:
        pytest.importorskip("loky")
        host = bind_loky.BindLoky()
        host.close(host.make_pool(1))


@pytest.mark.parametrize("text", ["cancel_running=1", "cancel_running=True", "timeout=3,cancel_running=yes"])
def test_the_option_in_the_environment(text: str) -> None:
    policy = Policy.from_env(text)
    assert policy is not None
    assert policy.cancel_running is True


@pytest.mark.parametrize("value", [1, "yes", None])
def test_the_option_is_true_or_false(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="cancel_running must be True or False"):
        Policy(cancel_running=value)
