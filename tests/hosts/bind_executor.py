"""How the contract uses `concurrent.futures.ProcessPoolExecutor`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar

from tests.contract.binding import Answers, PoolBinding, Way
from tests.contract.waiting import DEADLINE, eventually, within

_END = object()


def _submit(pool: Any, func: Callable[..., Any], items: list[Any]) -> Answers:
    """Make one call for each item."""
    submitted, answers = Answers(), Answers()
    for item in items:
        submitted.collect(lambda item=item: pool.submit(func, item))
    for future in submitted.values:
        answers.collect(lambda future=future: future.result(DEADLINE))
    answers.errors += submitted.errors
    return answers


def _map(chunk: int) -> Way:
    """Return a way that goes through a ``map``, which ends with the first error."""

    def call(pool: Any, func: Callable[..., Any], items: list[Any]) -> Answers:
        started, answers = Answers(), Answers()
        started.collect(lambda: pool.map(func, items, chunksize=chunk))
        answers.errors += started.errors
        for results in started.values:
            while not answers.errors and _END not in answers.values[-1:]:
                answers.collect(lambda results=results: within(DEADLINE, next, results, _END))
            if not answers.errors:
                answers.values.pop()
        return answers

    return Way(call, separate=False, indexed=True, chunk=chunk, cancels=True)


class BindExecutor(PoolBinding):
    """`ProcessPoolExecutor`, under fork; what else there is, `BindElsewhere` has."""

    start_methods = ("fork",)

    host_error = BrokenProcessPool

    ways: ClassVar = {"submit": Way(_submit, separate=True, indexed=False), "map": _map(1), "chunks": _map(3)}

    # Two items: more than there are workers would begin when these were interrupted, as in the bare executor.
    blocking: ClassVar = {
        "result": lambda pool, f, xs: [future.result() for future in [pool.submit(f, x) for x in xs[:2]]],
        "map": lambda pool, f, xs: list(pool.map(f, xs[:2])),
    }

    def make_bare(
        self,
        workers: int = 2,
        start_method: str | None = None,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        maxtasksperchild: int | None = None,
        nesting: bool = False,
    ) -> Any:
        context = multiprocessing.get_context(start_method or self.start_methods[0])
        recycling = {} if maxtasksperchild is None else {"max_tasks_per_child": maxtasksperchild}
        return ProcessPoolExecutor(workers, context, initializer, initargs, **recycling)

    def make_pool(self, workers: int = 2, start_method: str | None = None, **options: Any) -> Any:
        """Return a guarded executor that has started all its workers, as other pools do by themselves."""
        pool = super().make_pool(workers, start_method, **options)
        for _ in range(workers):
            self.submit(pool, int)
        return pool

    def submit(self, pool: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Return a future; an executor that is broken refuses, and that is its answer."""
        try:
            return pool.submit(func, *args)
        except BrokenProcessPool as error:
            refused: Future[Any] = Future()
            refused.set_exception(error)
            return refused

    def result(self, handle: Any, timeout: float = DEADLINE) -> Any:
        return handle.result(timeout)

    def iterate(self, pool: Any, func: Callable[..., Any], items: Iterable[Any]) -> Any:
        return pool.map(func, items)

    def worker_pids(self, pool: Any) -> list[int]:
        return list(pool._processes or ())

    def close(self, pool: Any) -> None:
        pool.shutdown()

    def terminate(self, pool: Any) -> None:
        """End its workers; before 3.14 the host has no call for that, and people kill them."""
        manager = pool._executor_manager_thread
        if hasattr(pool, "kill_workers"):
            pool.kill_workers()
        processes = pool._processes or {}
        pool.shutdown(wait=False, cancel_futures=True)

        def ended() -> bool:
            for pid in list(processes):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return manager is None or not manager.is_alive()

        eventually(ended, "the manager thread has ended")


class BindElsewhere(BindExecutor):
    """The start methods under which an executor starts its workers one by one, as they are needed."""

    start_methods = tuple(
        method for method in ("spawn", "forkserver") if method in multiprocessing.get_all_start_methods()
    )

    def make_pool(self, workers: int = 2, start_method: str | None = None, **options: Any) -> Any:
        pool = super().make_pool(workers, start_method, **options)
        for _ in range(5 * workers):
            # A worker that is idle again before the next task comes takes that one too, and none is started.
            if "initializer" in options or len(self.worker_pids(pool)) >= workers:
                break
            self.submit(pool, time.sleep, 0.05)
        return pool
