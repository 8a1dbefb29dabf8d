"""How the contract uses joblib's backend "poolwarden", over loky.

A pool is joblib's one reusable executor, together with the options of the
calls that go there; each submission is a ``Parallel`` call of its own. Nothing
of joblib is imported before a pool is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from tests.contract.binding import Answers, PoolBinding, Way
from tests.contract.waiting import DEADLINE, within


class Calls:
    """What ``Parallel`` is told, and how to end what it used."""

    def __init__(self, workers: int, backend: str, options: dict[str, Any]) -> None:
        self.workers = workers
        self.backend = backend
        self.options = options
        # joblib stops the tasks of a generator that is dropped.
        self.handles: list[Handle] = []

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown()

    def parallel(self, **options: Any) -> Any:
        """Return a new ``Parallel`` object."""
        joblib = importlib.import_module("joblib")
        with joblib.parallel_config(self.backend, n_jobs=self.workers, **self.options):
            return joblib.Parallel(**{"batch_size": 1, **options})

    def run(self, func: Callable[..., Any], items: Iterable[tuple[Any, ...]], **options: Any) -> Any:
        """Return what a call for these arguments returns."""
        delayed = importlib.import_module("joblib").delayed(func)
        return self.parallel(**options)(delayed(*item) for item in items)

    @property
    def executor(self) -> Any:
        """joblib's executor."""
        return importlib.import_module("joblib.externals.loky.reusable_executor")._executor


class Handle:
    """One task that was submitted, as a generator of one result."""

    def __init__(self, results: Iterator[Any]) -> None:
        self._results = results

    def result(self, timeout: float) -> Any:
        (value,) = within(timeout, list, self._results)
        return value


def _way(batch: int, **options: Any) -> Way:
    def call(pool: Calls, func: Callable[..., Any], items: list[Any]) -> Answers:
        answers, found = Answers(), Answers()
        found.collect(
            lambda: within(
                DEADLINE, lambda: list(pool.run(func, ((n,) for n in items), batch_size=batch, **options))
            )
        )
        answers.errors += found.errors
        for values in found.values:
            answers.values += values
        return answers

    return Way(call, separate=False, indexed=True, chunk=batch, cancels=True)


class BindJoblib(PoolBinding):
    """``parallel_config("poolwarden")`` and ``Parallel``."""

    start_methods = ("loky",)

    @property
    def host_error(self) -> type[BaseException]:  # type: ignore[override]
        """What users of joblib catch today."""
        error: type[BaseException] = importlib.import_module(
            "joblib.externals.loky.process_executor"
        ).TerminatedWorkerError
        return error

    ways: ClassVar = {
        "list": _way(1),
        "batches": _way(3),
        "generator": _way(2, return_as="generator"),
    }

    blocking: ClassVar = {
        "list": lambda pool, f, xs: pool.run(f, ((x,) for x in xs[:2])),
    }

    def _make(self, backend: str, workers: int, options: dict[str, Any]) -> Calls:
        # One job runs in the calling process, and would kill that.
        workers = max(2, workers)
        pool = Calls(workers, backend, options)
        # Starts all workers, as other pools do by themselves.
        within(DEADLINE, pool.run, int, [()] * workers)
        return pool

    def make_bare(self, workers: int = 2, start_method: str | None = None, **options: Any) -> Calls:
        return self._make("loky", workers, {})

    def make_pool(self, workers: int = 2, start_method: str | None = None, **options: Any) -> Calls:
        options.pop("nesting", None)
        return self._make("poolwarden", workers, options)

    def submit(self, pool: Calls, func: Callable[..., Any], *args: Any) -> Handle:
        handle = Handle(pool.run(func, [args], return_as="generator"))
        pool.handles.append(handle)
        return handle

    def result(self, handle: Handle, timeout: float = DEADLINE) -> Any:
        return handle.result(timeout)

    def iterate(self, pool: Calls, func: Callable[..., Any], items: Iterable[Any]) -> Any:
        return pool.run(func, ((item,) for item in items), return_as="generator")

    def worker_pids(self, pool: Calls) -> list[int]:
        return list(pool.executor._processes or ())

    def close(self, pool: Calls) -> None:
        pool.executor.shutdown()

    def terminate(self, pool: Calls) -> None:
        if pool.executor is not None:
            pool.executor.shutdown(kill_workers=True)
